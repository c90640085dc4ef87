//! Clients: what they ask, how they retry, and what they write down.
//!
//! Each works on its own kind of keys, so that each promise has a history that can be checked: registers with many writers, counters with one writer that go
//! through sites A, B and C in turn, values side by side with contexts that may be stale, and pairs of keys that only batches write.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use devicedb::{
    clock::Chance,
    data::{self, Bucket, Context, Key, Prefix, Query, Read, Reply, Scan, Stamp, Step, Value, Write},
    engine::{Body, Token},
    entry::{Action, Command},
    error::{Error, Kind, Result},
    ids::{RequestId, SiteId},
};

use crate::{
    history::{Counter, Op, Register, Sibling, linearizable, obey_contexts},
    world::{Moment, World},
};

pub const COLUMNS: usize = 3;
const REGISTERS: u64 = 4;
const SIBLINGS: u64 = 3;
const PAIRS: u64 = 2;

/// A key, and what is promised of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Register(u64),
    Sibling(u64),
    /// One of two keys that batches write together.
    Pair(u64, bool),
    Counter(usize, usize),
}

impl Place {
    pub fn site(self) -> SiteId {
        let name = match self {
            Place::Register(n) => format!("register{}", n % 3),
            Place::Sibling(n) => format!("sibling{}", n % 2),
            Place::Pair(n, _) => format!("pair{n}"),
            Place::Counter(column, turn) => format!("column{column}{}", ["a", "b", "c"][turn]),
        };
        SiteId::new(name).unwrap()
    }
    pub fn key(self) -> Key {
        let name = match self {
            Place::Register(n) | Place::Sibling(n) => format!("key{n}"),
            Place::Pair(n, second) => format!("pair{n}{}", if second { "y" } else { "x" }),
            Place::Counter(..) => "counter".into(),
        };
        Key::new(name).unwrap()
    }
    pub fn bucket(self) -> Bucket {
        match self {
            Place::Register(n) if n % 2 == 0 => Bucket::Lww,
            Place::Sibling(_) => Bucket::Cloud,
            _ => Bucket::Default,
        }
    }

    pub fn all() -> Vec<Place> {
        let mut all: Vec<Place> = (0..REGISTERS).map(Place::Register).collect();
        all.extend((0..SIBLINGS).map(Place::Sibling));
        all.extend((0..PAIRS).flat_map(|n| [Place::Pair(n, false), Place::Pair(n, true)]));
        all.extend((0..COLUMNS).flat_map(|column| (0..3).map(move |turn| Place::Counter(column, turn))));
        all
    }
}

#[derive(Clone, Debug)]
enum Doing {
    Put { place: Place, value: u64 },
    Get { place: Place },
    PutBeside { place: Place, value: u64, covers: BTreeSet<u64>, context: Option<Context> },
    PutPair { pair: u64, value: u64 },
    ScanPair { pair: u64 },
    Count { column: usize, turn: usize, number: u64 },
}

#[derive(Debug)]
struct Asked {
    doing: Doing,
    request: RequestId,
    called: Moment,
    /// When the client has no more patience; none for counters.
    until: Option<Moment>,
    /// An attempt may have had its effect.
    maybe: bool,
    token: Option<Token>,
}

#[derive(Debug)]
struct Client {
    chance: Chance,
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
}

#[derive(Default)]
pub struct History {
    pub registers: BTreeMap<Place, Vec<Op<Register>>>,
    pub siblings: BTreeMap<Place, Vec<Op<Sibling>>>,
    pub counters: BTreeMap<(usize, usize), Counter>,
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
        let mut chance = Chance::seeded(seed);
        let role = |number: usize| if number < COLUMNS { Role::Counts { column: number, turn: 0 } } else { Role::Any };
        let mut client = |number: usize| Client { chance: Chance::seeded(chance.next_u64()), asked: None, role: role(number), seen: BTreeMap::new(), next: 0 };
        let clients = (0..COLUMNS + count).map(&mut client).collect();
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
            let until = if matches!(doing, Doing::Count { .. }) { None } else { Some(world.now + Duration::from_millis(300 + client.chance.below(6000))) };
            let request = RequestId(*client.chance.uuid().as_bytes());
            client.asked = Some(Asked { doing, request, called: world.now, until, maybe: false, token: None });
        }
        self.attempt(number, world);
    }

    fn attempt(&mut self, number: usize, world: &mut World) {
        let client = &mut self.clients[number];
        let Some(asked) = client.asked.as_mut().filter(|a| a.token.is_none()) else { return };
        let node = client.chance.below(world.nodes.len() as u64) as usize;
        let left = asked.until.map_or(Duration::from_secs(5), |until| until.saturating_sub(world.now));
        let wait = left.min(Duration::from_millis(200 + client.chance.below(4000)));
        let site = asked.doing.place().site();
        asked.token = Some(world.request(node, world.topology.group_of_site(&site), asked.body(), wait));
    }

    /// Whether the answer was for one of them.
    pub fn on_answer(&mut self, token: Token, answer: Result<Reply>, world: &mut World) -> bool {
        let Some(number) = self.clients.iter().position(|c| c.asked.as_ref().is_some_and(|a| a.token == Some(token))) else { return false };
        let client = &mut self.clients[number];
        let asked = client.asked.as_mut().expect("it was just found");
        asked.token = None;
        match answer {
            Ok(reply) => self.succeed(number, reply, world.now),
            Err(Error { kind: Kind::Unavailable | Kind::Exhausted, .. }) => {}
            Err(Error { kind: Kind::Unknown, .. }) => asked.maybe = true,
            // The only refusal there is for what these clients ask.
            Err(Error { kind: Kind::Conflict, .. }) if matches!(asked.doing, Doing::PutBeside { .. }) => client.asked = None,
            Err(e) => {
                self.broken.push(format!("{:?} was refused: {e}", asked.doing));
                client.asked = None;
            }
        }
        let client = &mut self.clients[number];
        let give_up = client.asked.as_ref().is_some_and(|a| a.until.is_some_and(|until| until <= world.now));
        if give_up && let Some(asked) = client.asked.take() {
            self.history.give_up(&asked);
        }
        let client = &mut self.clients[number];
        let pause = if client.asked.is_some() {
            Duration::from_millis(5 + client.chance.below(60))
        } else {
            Duration::from_micros(client.chance.below(2 * self.think.as_micros() as u64 + 1))
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
            (Doing::Put { place, value }, Reply::Written(_)) => history.register(*place, called, answered, Register::Write(*value)),
            (Doing::PutPair { pair, value }, Reply::Written(_)) => {
                for second in [false, true] {
                    history.register(Place::Pair(*pair, second), called, answered, Register::Write(*value));
                }
            }
            (Doing::Get { place: place @ Place::Sibling(_) }, Reply::Found(view)) => {
                let values: BTreeSet<u64> = view.versions.iter().filter_map(|v| v.value.as_ref()).map(parse).collect();
                let context = Context::decode(&view.context, &place.site(), place.bucket(), &place.key()).unwrap();
                client.seen.insert(*place, (values.clone(), context));
                history.siblings.entry(*place).or_default().push(Op { called, answered, kind: Sibling::Read(values) });
            }
            (Doing::Get { place: Place::Counter(column, turn) }, Reply::Found(view)) => {
                if let Some(value) = single(&view.versions) {
                    history.counters.entry((*column, *turn)).or_default().know(value, now);
                }
            }
            (Doing::Get { place }, Reply::Found(view)) => {
                if view.versions.len() > 1 {
                    self.broken.push(format!("{place:?} was only ever overwritten and has siblings: {view:?}"));
                }
                history.register(*place, called, answered, Register::Read(single(&view.versions)));
            }
            (Doing::PutBeside { place, value, covers, .. }, Reply::Written(_)) => {
                let kind = Sibling::Write { value: *value, covers: covers.clone() };
                history.siblings.entry(*place).or_default().push(Op { called, answered, kind });
            }
            (Doing::ScanPair { pair }, Reply::Page { keys, .. }) => {
                let values: Vec<Option<u64>> = [false, true]
                    .map(|second| keys.iter().find(|k| k.key == Place::Pair(*pair, second).key().into_bytes()).and_then(|k| single(&k.versions)))
                    .into();
                if values[0] != values[1] {
                    self.broken.push(format!("a batch was seen in part at {now:?}: {values:?}"));
                }
                for (second, value) in [false, true].into_iter().zip(values) {
                    history.register(Place::Pair(*pair, second), called, answered, Register::Read(value));
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

fn parse(value: &Value) -> u64 {
    u64::from_be_bytes(value.as_bytes().try_into().expect("clients write numbers"))
}

fn single(versions: &[data::Version]) -> Option<u64> {
    versions.first().and_then(|v| v.value.as_ref()).map(parse)
}

impl Client {
    fn choose(&mut self, number: usize, now: Moment, history: &mut History) -> Doing {
        if let Role::Counts { column, turn } = self.role {
            return Doing::Count { column, turn, number: history.counters.entry((column, turn)).or_default().call(now) };
        }
        self.next += 1;
        let value = (number as u64) << 32 | self.next;
        let chance = &mut self.chance;
        match chance.below(100) {
            0..25 => Doing::Put { place: Place::Register(chance.below(REGISTERS)), value },
            25..50 => Doing::Get { place: Place::Register(chance.below(REGISTERS)) },
            50..65 => Doing::Get { place: Place::Sibling(chance.below(SIBLINGS)) },
            65..80 => {
                let place = Place::Sibling(chance.below(SIBLINGS));
                let stale = chance.below(4) == 0;
                let (covers, context) =
                    self.seen.get(&place).cloned().unwrap_or_else(|| (BTreeSet::new(), Context::nothing(&place.site(), place.bucket(), &place.key())));
                if !stale {
                    self.seen.remove(&place);
                }
                Doing::PutBeside { place, value, covers, context: Some(context) }
            }
            80..87 => Doing::PutPair { pair: chance.below(PAIRS), value },
            87..94 => Doing::ScanPair { pair: chance.below(PAIRS) },
            _ => Doing::Get { place: Place::Counter(chance.below(COLUMNS as u64) as usize, chance.below(3) as usize) },
        }
    }
}

impl Doing {
    fn place(&self) -> Place {
        match self {
            Doing::Put { place, .. } | Doing::Get { place } | Doing::PutBeside { place, .. } => *place,
            Doing::PutPair { pair, .. } | Doing::ScanPair { pair } => Place::Pair(*pair, false),
            Doing::Count { column, turn, .. } => Place::Counter(*column, *turn),
        }
    }
}

impl Asked {
    fn body(&self) -> Body {
        let place = self.doing.place();
        let step = |place: Place, value: u64, context: Option<Context>| Step {
            key: place.key(),
            value: Some(Value::new(value.to_be_bytes().to_vec()).unwrap()),
            context,
            stamp: Stamp::Floor(0),
        };
        let steps = match &self.doing {
            Doing::Put { place, value } => vec![step(*place, *value, None)],
            Doing::Count { number, .. } => vec![step(place, *number, None)],
            Doing::PutBeside { place, value, context, .. } => vec![step(*place, *value, context.clone())],
            Doing::PutPair { pair, value } => [false, true].map(|second| step(Place::Pair(*pair, second), *value, None)).into(),
            Doing::Get { place } => return read(*place, Read::Get { key: place.key() }),
            Doing::ScanPair { .. } => {
                let scan = Scan { prefix: Prefix::default(), after: None, limit: 0, keys_only: false };
                return read(place, Read::Scan(scan));
            }
        };
        let write = Write::new(place.site(), place.bucket(), steps).unwrap();
        Body::Propose(Command { request: Some(self.request), action: Action::Data(data::Command::Write(write)) })
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
            Doing::Put { place, value } => self.register(*place, called, None, Register::Write(*value)),
            Doing::PutPair { pair, value } => {
                for second in [false, true] {
                    self.register(Place::Pair(*pair, second), called, None, Register::Write(*value));
                }
            }
            Doing::PutBeside { place, value, covers, .. } => {
                let kind = Sibling::Write { value: *value, covers: covers.clone() };
                self.siblings.entry(*place).or_default().push(Op { called, answered: None, kind });
            }
            _ => {}
        }
    }

    pub fn check(&self) -> Vec<String> {
        let registers = self.registers.iter().filter_map(|(place, history)| linearizable(history).err().map(|e| format!("{place:?}: {e}")));
        let siblings = self.siblings.iter().filter_map(|(place, history)| obey_contexts(history).err().map(|e| format!("{place:?}: {e}")));
        registers.chain(siblings).collect()
    }
}
