//! Clients: what they ask, how they retry, and what they write down.
//!
//! Each works on its own kind of keys, so that each promise has a history that can be checked:
//! registers with many writers, counters with one writer that go through sites A, B and C in turn,
//! values side by side with contexts that may be stale, values with timestamps of their writers'
//! choice, pairs of keys that only batches write, and a site that is added, used and removed again
//! and again.

mod place;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use devicedb::{
    base::{
        clock::Random,
        error::{Error, Kind, Result},
        ids::{GroupId, RequestId},
    },
    cluster,
    data::{self, Context, Prefix, Query, Read, Reply, Scan, Stamp, Step, Value, Versions, Write},
    engine::{Body, Token},
    entry::{Action, Command},
};

pub use self::place::{COLUMNS, Place};
use self::place::{NEWEST, PAIRS, REGISTERS, SIBLINGS};
use crate::{
    history::{Counter, Newest, Op, Register, Sibling, linearizable, newest_stands, obey_contexts},
    world::{Moment, World},
};

/// So often a site that was added may be unknown to its group before it is added once more: an old
/// request to remove it may have come late.
const UNKNOWN_SITE_MAX: u32 = 20;

#[derive(Clone, Debug)]
enum Doing {
    Put {
        place: Place,
        value: u64,
    },
    Get {
        place: Place,
    },
    /// A value, or none: a deletion.
    PutBeside {
        place: Place,
        value: Option<u64>,
        covers: BTreeSet<u64>,
        context: Context,
    },
    PutNewest {
        place: Place,
        value: Option<u64>,
        stamp: u64,
    },
    PutPair {
        pair: u64,
        value: u64,
    },
    ScanPair {
        pair: u64,
    },
    Count {
        column: usize,
        turn: usize,
        number: u64,
    },
    Live {
        life: u64,
        deed: Deed,
    },
}

/// What is done to the site that comes and goes, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Add,
    Put,
    Scan,
    /// Until it is gone.
    Remove,
}

#[derive(Debug)]
struct Asked {
    doing: Doing,
    request: RequestId,
    called: Moment,
    /// When the client has no more patience; none for counters and lives.
    until: Option<Moment>,
    /// An attempt may have had its effect.
    maybe: bool,
    token: Option<Token>,
}

#[derive(Debug)]
struct Client {
    rng: Random,
    asked: Option<Asked>,
    role: Role,
    /// What was last seen of each key with siblings.
    seen: BTreeMap<Place, (BTreeSet<u64>, Context)>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Any,
    Counts { column: usize, turn: usize },
    Lives { life: u64, deed: Deed, unknown: u32 },
}

#[derive(Default)]
pub struct History {
    pub registers: BTreeMap<Place, Vec<Op<Register>>>,
    pub siblings: BTreeMap<Place, Vec<Op<Sibling>>>,
    pub counters: BTreeMap<(usize, usize), Counter>,
    pub newest: BTreeMap<Place, Vec<Op<Newest>>>,
    pub operations: u64,
    pub unknown: u64,
}

pub struct Clients {
    clients: Vec<Client>,
    pub history: History,
    pub stopping: bool,
    think: Duration,
    pub broken: Vec<String>,
}

impl Clients {
    pub fn new(seed: u64, count: usize, think: Duration) -> Clients {
        let mut rng = Random::seeded(seed);
        let role = |number: usize| match number {
            0 => Role::Lives { life: 0, deed: Deed::Add, unknown: 0 },
            column if column <= COLUMNS => Role::Counts { column: column - 1, turn: 0 },
            _ => Role::Any,
        };
        let mut client = |number: usize| Client {
            rng: Random::seeded(rng.next_u64()),
            asked: None,
            role: role(number),
            seen: BTreeMap::new(),
            next: 0,
        };
        let clients = (0..1 + COLUMNS + count).map(&mut client).collect();
        Clients { clients, history: History::default(), stopping: false, think, broken: Vec::new() }
    }

    pub fn count(&self) -> usize {
        self.clients.len()
    }

    pub fn idle(&self) -> bool {
        self.clients.iter().all(|c| c.asked.is_none())
    }

    /// What still waits, for the message when nothing moves any more.
    pub fn waiting(&self) -> Vec<String> {
        self.clients.iter().filter_map(|c| c.asked.as_ref()).map(|a| format!("{a:?}")).collect()
    }

    /// A client's alarm: it begins something, or tries again.
    pub fn wake(&mut self, number: usize, world: &mut World) {
        let client = &mut self.clients[number];
        if client.asked.is_none() {
            if self.stopping {
                return;
            }
            let doing = client.choose(number, world.now, &mut self.history);
            let until = if matches!(doing, Doing::Count { .. } | Doing::Live { .. }) {
                None
            } else {
                Some(world.now + Duration::from_millis(300 + client.rng.below(6000)))
            };
            let request = RequestId(*client.rng.uuid().as_bytes());
            client.asked =
                Some(Asked { doing, request, called: world.now, until, maybe: false, token: None });
        }
        self.attempt(number, world);
    }

    fn attempt(&mut self, number: usize, world: &mut World) {
        let client = &mut self.clients[number];
        let Some(asked) = client.asked.as_mut().filter(|a| a.token.is_none()) else { return };
        let node = client.rng.below(world.nodes.len() as u64) as usize;
        let left =
            asked.until.map_or(Duration::from_secs(5), |until| until.saturating_sub(world.now));
        let wait = left.min(Duration::from_millis(200 + client.rng.below(4000)));
        let group = match asked.doing {
            Doing::Live { deed: Deed::Add | Deed::Remove, .. } => GroupId::META,
            _ => world.topology.group_of_site(&asked.doing.place().site()),
        };
        let body = asked.body(&mut client.rng);
        asked.token = Some(world.request(node, group, body, wait));
    }

    /// Whether the answer was for one of them.
    pub fn on_answer(&mut self, token: Token, answer: Result<Reply>, world: &mut World) -> bool {
        let Some(number) = self
            .clients
            .iter()
            .position(|c| c.asked.as_ref().is_some_and(|a| a.token == Some(token)))
        else {
            return false;
        };
        let client = &mut self.clients[number];
        let asked = client.asked.as_mut().expect("it was just found");
        asked.token = None;
        match answer {
            Ok(reply) => self.succeed(number, reply, world.now),
            Err(Error { kind: Kind::Unavailable | Kind::Exhausted, .. }) => {}
            Err(Error { kind: Kind::Unknown, .. }) => asked.maybe = true,
            // The only refusal there is for what these clients ask.
            Err(Error { kind: Kind::Conflict, .. })
                if matches!(asked.doing, Doing::PutBeside { .. }) =>
            {
                client.asked = None
            }
            Err(Error { kind: Kind::Conflict | Kind::NotFound, .. })
                if matches!(asked.doing, Doing::Live { .. }) =>
            {
                client.live_on()
            }
            Err(e) => {
                self.broken.push(format!("{:?} was refused: {e}", asked.doing));
                client.asked = None;
            }
        }
        let client = &mut self.clients[number];
        let give_up =
            client.asked.as_ref().is_some_and(|a| a.until.is_some_and(|until| until <= world.now));
        if give_up && let Some(asked) = client.asked.take() {
            self.history.give_up(&asked);
        }
        let client = &mut self.clients[number];
        let pause = if client.asked.is_some() {
            Duration::from_millis(5 + client.rng.below(60))
        } else {
            Duration::from_micros(client.rng.below(2 * self.think.as_micros() as u64 + 1))
        };
        world.alarm(pause, number as u64);
        true
    }

    fn succeed(&mut self, number: usize, reply: Reply, now: Moment) {
        let client = &mut self.clients[number];
        let asked = client.asked.take().expect("a success answers something");
        let history = &mut self.history;
        history.operations += 1;
        let (called, answered) = (asked.called, Some(now));
        match (&asked.doing, reply) {
            (Doing::Put { place, value }, Reply::Written(_)) => {
                history.register(*place, called, answered, Register::Write(*value))
            }
            (Doing::PutPair { pair, value }, Reply::Written(_)) => {
                for second in [false, true] {
                    history.register(
                        Place::Pair(*pair, second),
                        called,
                        answered,
                        Register::Write(*value),
                    );
                }
            }
            (Doing::Get { place: place @ Place::Sibling(_) }, Reply::Found(view)) => {
                let values: BTreeSet<u64> =
                    view.versions.iter().filter_map(|v| v.value.as_ref()).map(parse).collect();
                let context =
                    Context::decode(&view.context, &place.site(), place.bucket(), &place.key())
                        .unwrap();
                client.seen.insert(*place, (values.clone(), context));
                history.siblings.entry(*place).or_default().push(Op {
                    called,
                    answered,
                    kind: Sibling::Read(values),
                });
            }
            (Doing::Get { place: Place::Counter(column, turn) }, Reply::Found(view)) => {
                if let Some(value) = single(&view.versions) {
                    history.counters.entry((*column, *turn)).or_default().know(value, now);
                }
            }
            (Doing::Get { place: place @ Place::Newest(_) }, Reply::Found(view)) => {
                let found = view.versions.first().map(|v| {
                    (v.timestamp_ms, v.value.as_ref().map(parse).expect("tombstones are not shown"))
                });
                history.newest.entry(*place).or_default().push(Op {
                    called,
                    answered,
                    kind: Newest::Read(found),
                });
            }
            (Doing::Get { place }, Reply::Found(view)) => {
                if view.versions.len() > 1 {
                    self.broken.push(format!(
                        "{place:?} was only ever overwritten and has siblings: {view:?}"
                    ));
                }
                history.register(*place, called, answered, Register::Read(single(&view.versions)));
            }
            (Doing::PutBeside { place, value, covers, .. }, Reply::Written(_)) => {
                let kind = Sibling::Write { value: *value, covers: covers.clone() };
                history.siblings.entry(*place).or_default().push(Op { called, answered, kind });
            }
            (Doing::PutNewest { place, value, stamp }, Reply::Written(_)) => {
                let kind = Newest::Write { stamp: *stamp, value: *value };
                history.newest.entry(*place).or_default().push(Op { called, answered, kind });
            }
            (
                Doing::Live { deed: Deed::Add | Deed::Put, .. },
                Reply::Done { .. } | Reply::Written(_),
            ) => client.asked_next(&asked),
            // It is being removed; whether it is gone is told by a refusal.
            (Doing::Live { deed: Deed::Remove, .. }, Reply::Done { .. }) => {}
            (Doing::Live { life, deed: Deed::Scan }, Reply::Page { keys, .. }) => {
                let own = Place::Life(*life).key().into_bytes();
                if let Some(other) = keys.iter().find(|k| k.key != own) {
                    self.broken.push(format!(
                        "a site that was removed and added again still has {:?} in life {life}",
                        other.key
                    ));
                }
                client.asked_next(&asked);
            }
            (Doing::ScanPair { pair }, Reply::Page { keys, .. }) => {
                let values: Vec<Option<u64>> = [false, true]
                    .map(|second| {
                        keys.iter()
                            .find(|k| k.key == Place::Pair(*pair, second).key().into_bytes())
                            .and_then(|k| single(&k.versions))
                    })
                    .into();
                if values[0] != values[1] {
                    self.broken.push(format!("a batch was seen in part at {now:?}: {values:?}"));
                }
                for (second, value) in [false, true].into_iter().zip(values) {
                    history.register(
                        Place::Pair(*pair, second),
                        called,
                        answered,
                        Register::Read(value),
                    );
                }
            }
            (Doing::Count { column, turn, number: n }, Reply::Written(_)) => {
                history.counters.entry((*column, *turn)).or_default().answer(*n, now);
                client.role = Role::Counts { column: *column, turn: (turn + 1) % 3 };
            }
            (doing, reply) => self.broken.push(format!("{doing:?} was answered {reply:?}")),
        }
    }
}

/// What a key holds where a history begins that goes on from another.
#[derive(Clone, Debug)]
pub struct Held {
    pub place: Place,
    pub versions: Versions,
}

impl Clients {
    /// All servers are gone: nobody gets an answer any more.
    pub fn cut_off(&mut self) {
        for client in &mut self.clients {
            if let Some(asked) = client.asked.take() {
                let maybe = asked.maybe || asked.token.is_some();
                self.history.give_up(&Asked { maybe, ..asked });
            }
        }
    }

    /// Goes on with what a restored cluster holds. Contexts stay: who holds one has seen values
    /// that may be gone, and others that are back.
    pub fn go_on_from(&mut self, held: &[Held], now: Moment) {
        let before = std::mem::take(&mut self.history);
        let history = &mut self.history;
        (history.operations, history.unknown) = (before.operations, before.unknown);
        let answered = Some(now);
        for Held { place, versions } in held {
            let value = || {
                versions.visible().next().map(|v| parse(v.value.as_ref().expect("it is visible")))
            };
            match place {
                Place::Register(_) | Place::Pair(..) => value().into_iter().for_each(|value| {
                    history.register(*place, now, answered, Register::Write(value))
                }),
                Place::Counter(column, turn) => {
                    let counter = history.counters.entry((*column, *turn)).or_default();
                    while value().is_some_and(|number| counter.call(now) < number) {}
                    value().into_iter().for_each(|number| counter.answer(number, now));
                }
                Place::Newest(_) => {
                    for version in versions.versions() {
                        let kind = Newest::Write {
                            stamp: version.timestamp_ms,
                            value: version.value.as_ref().map(parse),
                        };
                        history.newest.entry(*place).or_default().push(Op {
                            called: now,
                            answered,
                            kind,
                        });
                    }
                }
                Place::Sibling(_) => {
                    for version in versions.visible() {
                        let value = version.value.as_ref().map(parse);
                        let kind = Sibling::Write { value, covers: BTreeSet::new() };
                        history.siblings.entry(*place).or_default().push(Op {
                            called: now,
                            answered,
                            kind,
                        });
                        for (covers, context) in
                            self.clients.iter_mut().filter_map(|c| c.seen.get_mut(place))
                        {
                            covers.extend(value.filter(|_| context.covers(version.dot)));
                        }
                    }
                }
                Place::Life(_) => {}
            }
        }
        for (number, client) in self.clients.iter_mut().enumerate() {
            client.role = match client.role {
                Role::Any => Role::Any,
                Role::Counts { column, .. } => Role::Counts { column, turn: 0 },
                // What the site holds is of any life.
                Role::Lives { life, .. } => Role::Lives { life, deed: Deed::Remove, unknown: 0 },
            };
            assert!(client.asked.is_none(), "client {number} was cut off");
        }
    }
}

fn parse(value: &Value) -> u64 {
    u64::from_be_bytes(value.as_bytes().try_into().expect("clients write numbers"))
}

fn single(versions: &[data::Version]) -> Option<u64> {
    versions.first().and_then(|v| v.value.as_ref()).map(parse)
}

impl Client {
    /// After a deed that has succeeded.
    fn asked_next(&mut self, asked: &Asked) {
        let Doing::Live { life, deed } = asked.doing else { return };
        let next = match deed {
            Deed::Add => Deed::Put,
            Deed::Put => Deed::Scan,
            Deed::Scan | Deed::Remove => Deed::Remove,
        };
        self.role = Role::Lives { life, deed: next, unknown: 0 };
    }

    /// After a refusal: the site is not there yet, not there any more, or is still being removed.
    fn live_on(&mut self) {
        let (Some(Asked { doing: Doing::Live { life, deed }, .. }), Role::Lives { unknown, .. }) =
            (self.asked.take(), self.role)
        else {
            return;
        };
        self.role = match deed {
            Deed::Remove => Role::Lives { life: life + 1, deed: Deed::Add, unknown: 0 },
            _ if unknown == UNKNOWN_SITE_MAX => Role::Lives { life, deed: Deed::Add, unknown: 0 },
            _ => Role::Lives { life, deed, unknown: unknown + 1 },
        };
    }

    fn choose(&mut self, number: usize, now: Moment, history: &mut History) -> Doing {
        match self.role {
            Role::Counts { column, turn } => {
                return Doing::Count {
                    column,
                    turn,
                    number: history.counters.entry((column, turn)).or_default().call(now),
                };
            }
            Role::Lives { life, deed, .. } => return Doing::Live { life, deed },
            Role::Any => {}
        }
        self.next += 1;
        let value = (number as u64) << 32 | self.next;
        let rng = &mut self.rng;
        match rng.below(115) {
            100..106 => Doing::Get { place: Place::Newest(rng.below(NEWEST)) },
            106..115 => {
                // Within some seconds of one another, so that the later write often is the older
                // one.
                let stamp = (now.as_millis() as u64 + rng.below(4000)) << 24
                    | (number as u64) << 16
                    | self.next & 0xFFFF;
                let value = (rng.below(4) > 0).then_some(value);
                Doing::PutNewest { place: Place::Newest(rng.below(NEWEST)), value, stamp }
            }
            0..25 => Doing::Put { place: Place::Register(rng.below(REGISTERS)), value },
            25..50 => Doing::Get { place: Place::Register(rng.below(REGISTERS)) },
            50..65 => Doing::Get { place: Place::Sibling(rng.below(SIBLINGS)) },
            65..80 => {
                let place = Place::Sibling(rng.below(SIBLINGS));
                let stale = rng.below(4) == 0;
                let (covers, context) = self.seen.get(&place).cloned().unwrap_or_else(|| {
                    (BTreeSet::new(), Context::nothing(&place.site(), place.bucket(), &place.key()))
                });
                if !stale {
                    self.seen.remove(&place);
                }
                let value = (rng.below(5) > 0).then_some(value);
                Doing::PutBeside { place, value, covers, context }
            }
            80..87 => Doing::PutPair { pair: rng.below(PAIRS), value },
            87..94 => Doing::ScanPair { pair: rng.below(PAIRS) },
            _ => Doing::Get {
                place: Place::Counter(rng.below(COLUMNS as u64) as usize, rng.below(3) as usize),
            },
        }
    }
}

impl Doing {
    fn place(&self) -> Place {
        match self {
            Doing::Put { place, .. }
            | Doing::Get { place }
            | Doing::PutBeside { place, .. }
            | Doing::PutNewest { place, .. } => *place,
            Doing::Live { life, .. } => Place::Life(*life),
            Doing::PutPair { pair, .. } | Doing::ScanPair { pair } => Place::Pair(*pair, false),
            Doing::Count { column, turn, .. } => Place::Counter(*column, *turn),
        }
    }
}

impl Asked {
    fn body(&self, rng: &mut Random) -> Body {
        let place = self.doing.place();
        let step =
            |place: Place, value: Option<u64>, context: Option<Context>, stamp: Stamp| Step {
                key: place.key(),
                value: value.map(|value| Value::new(value.to_be_bytes().to_vec()).unwrap()),
                context,
                stamp,
            };
        // The clocks of servers are anywhere.
        let clock = Stamp::Floor(rng.below(1 << 41));
        let plain = |place: Place, value: u64| step(place, Some(value), None, clock);
        let steps = match &self.doing {
            Doing::Put { place, value } => vec![plain(*place, *value)],
            Doing::Count { number, .. } => vec![plain(place, *number)],
            Doing::PutBeside { place, value, context, .. } => {
                vec![step(*place, *value, Some(context.clone()), clock)]
            }
            Doing::PutNewest { place, value, stamp } => {
                vec![step(*place, *value, None, Stamp::Chosen(*stamp))]
            }
            Doing::PutPair { pair, value } => {
                [false, true].map(|second| plain(Place::Pair(*pair, second), *value)).into()
            }
            Doing::Get { place } => return read(*place, Read::Get { key: place.key() }),
            Doing::ScanPair { .. } | Doing::Live { deed: Deed::Scan, .. } => {
                let scan =
                    Scan { prefix: Prefix::default(), after: None, limit: 0, keys_only: false };
                return read(place, Read::Scan(scan));
            }
            Doing::Live { deed: Deed::Put, life } => vec![plain(place, *life)],
            Doing::Live { deed: Deed::Add, .. } => {
                return Body::Propose(cluster::Command::AddSite(place.site()).into());
            }
            Doing::Live { deed: Deed::Remove, .. } => {
                return Body::Propose(cluster::Command::RemoveSite(place.site()).into());
            }
        };
        let write = Write::new(place.site(), place.bucket(), steps).unwrap();
        Body::Propose(Command {
            request: Some(self.request),
            action: Action::Data(data::Command::Write(write)),
        })
    }
}

fn read(place: Place, read: Read) -> Body {
    Body::Read { query: Query { site: place.site(), bucket: place.bucket(), read }, stale: false }
}

impl History {
    fn register(&mut self, place: Place, called: Moment, answered: Option<Moment>, kind: Register) {
        self.registers.entry(place).or_default().push(Op { called, answered, kind });
    }

    /// A client has lost its patience: a read was nothing, a write may be anything.
    fn give_up(&mut self, asked: &Asked) {
        if !asked.maybe {
            return;
        }
        self.unknown += 1;
        let called = asked.called;
        match &asked.doing {
            Doing::Put { place, value } => {
                self.register(*place, called, None, Register::Write(*value))
            }
            Doing::PutPair { pair, value } => {
                for second in [false, true] {
                    self.register(
                        Place::Pair(*pair, second),
                        called,
                        None,
                        Register::Write(*value),
                    );
                }
            }
            Doing::PutBeside { place, value, covers, .. } => {
                let kind = Sibling::Write { value: *value, covers: covers.clone() };
                self.siblings.entry(*place).or_default().push(Op { called, answered: None, kind });
            }
            Doing::PutNewest { place, value, stamp } => {
                let kind = Newest::Write { stamp: *stamp, value: *value };
                self.newest.entry(*place).or_default().push(Op { called, answered: None, kind });
            }
            _ => {}
        }
    }

    pub fn check(&self) -> Vec<String> {
        let registers = self.registers.iter().filter_map(|(place, history)| {
            linearizable(history).err().map(|e| format!("{place:?}: {e}"))
        });
        let siblings = self.siblings.iter().filter_map(|(place, history)| {
            obey_contexts(history).err().map(|e| format!("{place:?}: {e}"))
        });
        let newest = self.newest.iter().filter_map(|(place, history)| {
            newest_stands(history).err().map(|e| format!("{place:?}: {e}"))
        });
        registers.chain(siblings).chain(newest).collect()
    }
}
