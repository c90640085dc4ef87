//! The promises, tried on real processes: `devicedb` nodes on loopback ports, `ddbctl` and gRPC
//! clients beside them. One binary, so that it links once.

mod harness;

mod adoptions;
mod backups;
mod bench;
mod cares;
mod charts;
mod connections;
mod cut;
mod cuts;
mod departures;
mod disks;
mod drains;
mod drills;
mod durability;
mod fewer_parts;
mod founding;
mod guide;
mod identities;
mod log;
mod members;
mod moves;
mod objects;
mod operations;
mod packages;
mod parts;
mod quorum;
mod readme;
mod recover;
mod replacements;
mod requests;
mod schedules;
mod scrapes;
mod sealed;
mod seeds;
mod signals;
mod signatures;
mod snapshots;
mod starts;
mod stores;
mod strangers;
mod tls;
mod together;
mod uploads;
mod vaults;
