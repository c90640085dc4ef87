//! The promises, tried on real processes: `devicedb` nodes on loopback ports, `ddbctl` and gRPC clients beside them. One binary, so that it links once.

mod harness;

mod bench;
mod connections;
mod cut;
mod cuts;
mod durability;
mod guide;
mod moves;
mod parts;
mod requests;
mod snapshots;
mod starts;
