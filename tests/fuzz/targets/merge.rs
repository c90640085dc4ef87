//! Siblings and contexts under stories of writes on a few replicas.
//!
//! An input is a story: writes with contexts of any age, reads, retries, restarts, new histories.
//! Three groups live through it: one as it is, one that restarts from stored bytes behind every
//! command, and a naive one that knows only sets: a write is a number, a context the numbers that
//! its holder has seen. All leave the same values standing. At the end the laws of merging are
//! asked of what is left: writes that did not know of each other commute, and what was done again
//! changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use devicedb::{
    base::{
        error::Result,
        ids::{GroupId, Lineage, RequestId, SiteGeneration, SiteId, Topology},
        limits,
    },
    data::{
        Bucket, Command, Context, Key, Machine, Place, Query, Read, Remembered, Reply, Row, RowKey,
        Rows, Stamp, State, Step, Value, VersionVector, Write,
    },
    entry::{Position, Record},
    wire,
};

use super::Feed;

/// Fewer than the values that a key may have, so that no write is refused.
const ACTS_MAX: usize = 48;
const KEYS: usize = 2;

/// Rows as a store has them: bytes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stored(BTreeMap<Vec<u8>, Bytes>);

impl Rows for Stored {
    fn get(&self, key: &RowKey) -> Result<Option<Row>> {
        self.0.get(&key.encode()).map(|bytes| wire::decode_row(&key.place, bytes)).transpose()
    }

    fn set(&mut self, key: &RowKey, row: Option<Row>) -> Result<()> {
        match row {
            Some(row) => self.0.insert(key.encode(), wire::encode_row(&row)),
            None => self.0.remove(&key.encode()),
        };
        Ok(())
    }

    fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
    ) -> Result<()> {
        for (key, bytes) in self.0.range(from.to_vec()..to.to_vec()) {
            let key = RowKey::decode(key)?;
            let row = wire::decode_row(&key.place, bytes)?;
            if !each(key, row)? {
                break;
            }
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Group {
    machine: Machine,
    rows: Stored,
    slots: BTreeMap<u32, Bytes>,
}

impl Group {
    fn found() -> Group {
        let state = State { lineage: Lineage(1), ..State::default() };
        let machine =
            Machine::open(topology(), GroupId(0), state, []).expect("nothing is remembered");
        let mut group = Group { machine, rows: Stored::default(), slots: BTreeMap::new() };
        group.apply(None, &Command::AddSite { site: shop(), generation: SiteGeneration(1) });
        group
    }

    fn apply(&mut self, request: Option<RequestId>, command: &Command) -> Reply {
        let reply =
            self.machine.apply(request, command, &mut self.rows).expect("memory does not fail");
        self.slots.extend(
            self.machine
                .take_remembered()
                .iter()
                .map(|(slot, r)| (*slot, wire::encode_remembered(r))),
        );
        reply
    }

    /// Goes on with what is stored.
    fn restart(&mut self) {
        let record = Record {
            applied: Position { index: 1, term: 1 },
            data: self.machine.state(),
            ..Record::default()
        };
        let record =
            wire::decode_record(&wire::encode_record(&record)).expect("it was just written");
        let remembered: Vec<(u32, Remembered)> = self
            .slots
            .iter()
            .map(|(slot, r)| (*slot, wire::decode_remembered(r).expect("it was just written")))
            .collect();
        self.machine = Machine::open(topology(), GroupId(0), record.data, remembered)
            .expect("every slot was stored");
    }

    /// The values that a reader sees, and the context that it is handed.
    fn read(&self, bucket: Bucket, key: &Key) -> (BTreeSet<Bytes>, Context) {
        let query = Query { site: shop(), bucket, read: Read::Get { key: key.clone() } };
        let Ok(Reply::Found(view)) = query.answer(topology(), &self.rows) else {
            panic!("the site is there")
        };
        let values: Vec<Bytes> = view
            .versions
            .into_iter()
            .map(|v| v.value.expect("a reader sees values").into_bytes())
            .collect();
        let context = Context::decode(&view.context, &shop(), bucket, key)
            .expect("what a read returned is taken back");
        assert_eq!(context.encode(), view.context);
        let distinct: BTreeSet<Bytes> = values.iter().cloned().collect();
        assert_eq!(distinct.len(), values.len(), "a value stands beside itself");
        (distinct, context)
    }
}

fn topology() -> Topology {
    Topology::new(64, 1).expect("a shape that can be")
}

fn shop() -> SiteId {
    SiteId::new("shop").expect("a plain name")
}

fn key(number: usize) -> Key {
    Key::new(format!("key-{number}")).expect("a plain name")
}

/// A place in the story: a bucket and a key.
type At = (Bucket, usize);

/// What a client holds of a place: the context, and what the naive model says that it has seen.
type Held = (Context, BTreeSet<u64>);

struct Story {
    plain: Group,
    restarted: Group,
    held: BTreeMap<At, Vec<Held>>,
    /// The values that stand and all that ever stood, by the naive model.
    naive: BTreeMap<At, (BTreeSet<u64>, BTreeSet<u64>)>,
    stamps: BTreeMap<usize, Vec<(u64, u64)>>,
    commands: Vec<(RequestId, Command, Reply)>,
    lineage: u64,
}

pub fn merge(input: &[u8]) -> bool {
    let mut feed = Feed(input);
    let mut story = Story {
        plain: Group::found(),
        restarted: Group::found(),
        held: BTreeMap::new(),
        naive: BTreeMap::new(),
        stamps: BTreeMap::new(),
        commands: Vec::new(),
        lineage: 1,
    };
    for number in 1..=ACTS_MAX as u64 {
        if feed.is_empty() {
            break;
        }
        story.act(number, &mut feed);
        assert_eq!(story.plain.rows, story.restarted.rows, "a restart changed rows");
        assert_eq!(story.plain.machine.state(), story.restarted.machine.state());
    }
    story.concurrent_writes_commute();
    story.vectors_merge();
    story.commands.len() > 1
}

impl Story {
    fn act(&mut self, number: u64, feed: &mut Feed<'_>) {
        let (kind, at) = (feed.below(16), (Bucket::ALL[feed.below(3)], feed.below(KEYS)));
        match kind {
            0 => self.hold(at),
            1 => self.retry(feed.byte()),
            2 => self.new_history(),
            _ => self.write(number, at, kind < 6, feed),
        }
    }

    /// Somebody reads, and keeps what the read returned.
    fn hold(&mut self, at: At) {
        let (_, context) = self.plain.read(at.0, &key(at.1));
        let seen = self.naive.entry(at).or_default().1.clone();
        self.held.entry(at).or_default().push((context, seen));
    }

    fn retry(&mut self, which: u8) {
        let Some((request, command, reply)) =
            self.commands.get(usize::from(which) % self.commands.len().max(1))
        else {
            return;
        };
        let before = self.plain.rows.clone();
        for group in [&mut self.plain, &mut self.restarted] {
            assert_eq!(
                group.apply(Some(*request), command),
                *reply,
                "a retry is answered as the request was"
            );
        }
        assert_eq!(self.plain.rows, before, "a retry had an effect of its own");
    }

    fn new_history(&mut self) {
        self.lineage += 1;
        let command = Command::SetLineage { lineage: Lineage(self.lineage) };
        assert_eq!(self.plain.apply(None, &command), self.restarted.apply(None, &command));
    }

    fn write(&mut self, number: u64, at: At, deletes: bool, feed: &mut Feed<'_>) {
        let (bucket, k) = (at.0, key(at.1));
        let choice = usize::from(feed.byte());
        let held = self.held.entry(at).or_default();
        let held: Option<Held> = match choice % (held.len() + 2) {
            0 => None,
            1 => Some((Context::nothing(&shop(), bucket, &k), BTreeSet::new())),
            i => Some(held[i - 2].clone()),
        };
        let chosen = (choice >= 128).then(|| u64::from(feed.byte() % 16));
        let stamp = chosen.map_or(Stamp::Floor(u64::from(choice as u8 % 16)), Stamp::Chosen);
        let value = (!deletes).then(|| Value::new(number.to_string()).expect("a small value"));
        let step =
            Step { key: k.clone(), value, context: held.as_ref().map(|h| h.0.clone()), stamp };
        let command =
            Command::Write(Write::new(shop(), bucket, vec![step]).expect("one small step"));
        let request = RequestId(u128::from(number).to_be_bytes());
        let reply = self.plain.apply(Some(request), &command);
        assert_eq!(
            self.restarted.apply(Some(request), &command),
            reply,
            "a restarted replica answers otherwise"
        );
        self.restarted.restart();
        let Reply::Written(steps) = &reply else { panic!("it is within all bounds: {reply:?}") };
        let after = Context::decode(&steps[0].context, &shop(), bucket, &k)
            .expect("what a write returned is taken back");
        self.sound(at);
        if bucket == Bucket::Lww {
            assert_eq!(
                steps[0].superseded,
                chosen.is_some_and(|ms| self
                    .stamps
                    .entry(at.1)
                    .or_default()
                    .last()
                    .is_some_and(|(stood, _)| ms < *stood))
            );
            self.newest_stands(at, steps[0].superseded, (!deletes).then_some(number));
        } else {
            self.naive_agrees(at, number, deletes, held, after);
        }
        self.commands.push((request, command, reply));
    }

    fn naive_agrees(
        &mut self,
        at: At,
        number: u64,
        deletes: bool,
        held: Option<Held>,
        after: Context,
    ) {
        let (standing, ever) = self.naive.entry(at).or_default();
        standing.retain(|other| held.as_ref().is_some_and(|held| !held.1.contains(other)));
        let mut knows = held.map_or(BTreeSet::new(), |held| held.1);
        if !deletes {
            standing.insert(number);
            ever.insert(number);
            knows.insert(number);
        }
        let standing: BTreeSet<Bytes> =
            standing.iter().map(|n| Bytes::from(n.to_string())).collect();
        assert_eq!(
            self.plain.read(at.0, &key(at.1)).0,
            standing,
            "contexts were not obeyed by write {number}"
        );
        self.held.entry(at).or_default().push((after, knows));
    }

    /// In `lww` what was not superseded stands alone.
    fn newest_stands(&mut self, at: At, superseded: bool, value: Option<u64>) {
        let (values, _) = self.plain.read(at.0, &key(at.1));
        if !superseded {
            assert_eq!(values, value.map(|n| Bytes::from(n.to_string())).into_iter().collect());
            let stamp = self.versions(at).map_or(0, |versions| versions[0]);
            let stamps = self.stamps.entry(at.1).or_default();
            assert!(stamps.last().is_none_or(|(last, _)| *last <= stamp), "time went back");
            if self.plain.rows.get(&row_key(at)).is_ok_and(|row| row.is_some()) {
                stamps.push((stamp, value.unwrap_or(0)));
            }
        }
    }

    fn versions(&self, at: At) -> Option<Vec<u64>> {
        let Ok(Some(Row::Key(versions))) = self.plain.rows.get(&row_key(at)) else { return None };
        Some(versions.versions().iter().map(|v| v.timestamp_ms).collect())
    }

    /// The invariants of a key's row.
    fn sound(&self, at: At) {
        let Some(row) = self.plain.rows.get(&row_key(at)).expect("it can be read") else { return };
        let Row::Key(versions) = row else { panic!("a key has a key's row") };
        assert!(
            !versions.versions().is_empty() && versions.versions().len() <= limits::SIBLINGS_MAX
        );
        assert!(versions.clock().pairs().len() <= limits::LINEAGES_MAX);
        assert!(
            versions.versions().iter().all(|v| versions.clock().covers(v.dot)),
            "a value that its clock does not cover"
        );
        assert!(
            versions.versions().len() == 1 || versions.versions().iter().all(|v| v.value.is_some()),
            "a tombstone beside values"
        );
    }

    /// Two writes whose writers had seen the same leave the same values in either order, and doing
    /// both again adds none that was not there.
    fn concurrent_writes_commute(&self) {
        for (at, held) in self.held.iter().filter(|(at, _)| at.0 != Bucket::Lww) {
            let [Some(first), Some(last)] = [held.first(), held.last()] else { continue };
            let write = |context: &Context, value: Option<&str>| {
                let value = value.map(|v| Value::new(v.to_owned()).expect("a small value"));
                let step = Step {
                    key: key(at.1),
                    value,
                    context: Some(context.clone()),
                    stamp: Stamp::Floor(0),
                };
                Command::Write(Write::new(shop(), at.0, vec![step]).expect("one small step"))
            };
            let [one, two, three] =
                [write(&first.0, Some("one")), write(&last.0, Some("two")), write(&last.0, None)];
            let ends: Vec<BTreeSet<Bytes>> = [
                [&one, &two, &three],
                [&two, &one, &three],
                [&three, &two, &one],
                [&one, &three, &two],
            ]
            .iter()
            .map(|order| {
                let mut group = self.plain.clone();
                order.iter().for_each(|command| drop(group.apply(None, command)));
                group.read(at.0, &key(at.1)).0
            })
            .collect();
            assert!(
                ends.windows(2).all(|pair| pair[0] == pair[1]),
                "concurrent writes do not commute: {ends:?}"
            );
            assert!(
                ends[0].contains(&b"one"[..]) && ends[0].contains(&b"two"[..]),
                "a value was removed that its remover had not seen"
            );
        }
    }

    /// Vectors that see each other's dots: commutative, associative, idempotent.
    fn vectors_merge(&self) {
        let vectors: Vec<&VersionVector> =
            self.held.values().flatten().map(|(context, _)| context.vector()).take(6).collect();
        let merged = |of: &[&VersionVector]| {
            let mut all = VersionVector::default();
            for (lineage, counter) in of.iter().flat_map(|v| v.pairs()) {
                all.see(devicedb::data::Dot { lineage, counter });
            }
            all
        };
        for trio in vectors.windows(3) {
            let [a, b, c] = [trio[0], trio[1], trio[2]];
            assert_eq!(merged(&[a, b]), merged(&[b, a]));
            assert_eq!(merged(&[&merged(&[a, b]), c]), merged(&[a, &merged(&[b, c])]));
            assert_eq!((&merged(&[a, a]), &merged(&[&merged(&[a, b]), b])), (a, &merged(&[a, b])));
        }
    }
}

fn row_key(at: At) -> RowKey {
    RowKey {
        partition: topology().partition_of(&shop()),
        site: shop(),
        place: Place::Key { bucket: at.0, key: key(at.1) },
    }
}
