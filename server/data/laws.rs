//! Laws of the machine, by property: random stories, and what must hold in all of them.
//!
//! The model of causality is the naive one: a write is a number, a context is the set of numbers
//! that its holder has read or written. The dots and vectors must leave the same values standing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::{memory::Memory, *};
use crate::base::{
    error::Kind,
    ids::{GroupId, Lineage, RequestId, SiteGeneration, SiteId, Topology},
    limits,
};

struct Group {
    machine: Machine,
    rows: Memory,
    slots: BTreeMap<u32, Remembered>,
}

impl Group {
    fn found() -> Group {
        let state = State { lineage: Lineage(1), ..State::default() };
        let mut group = Group {
            machine: Machine::open(topology(), GroupId(0), state, []).unwrap(),
            rows: Memory::default(),
            slots: BTreeMap::new(),
        };
        group.apply(None, &Command::AddSite { site: shop(), generation: SiteGeneration(1) });
        group
    }

    fn apply(&mut self, request: Option<RequestId>, command: &Command) -> Reply {
        self.machine.apply(request, command, &mut self.rows).unwrap()
    }

    fn restart(&mut self) {
        self.slots.extend(self.machine.take_remembered());
        self.machine =
            Machine::open(topology(), GroupId(0), self.machine.state(), self.slots.clone())
                .unwrap();
    }

    fn write(
        &mut self,
        bucket: Bucket,
        step: Step,
    ) -> Result<WrittenStep, crate::base::error::Error> {
        match self.apply(None, &write(bucket, vec![step])) {
            Reply::Written(steps) => Ok(steps[0].clone()),
            Reply::Refused(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn get(&self, bucket: Bucket, key: &Key) -> (Vec<Bytes>, Context) {
        let query = Query { site: shop(), bucket, read: Read::Get { key: key.clone() } };
        let Reply::Found(found) = query.answer(topology(), &self.rows).unwrap() else {
            panic!("the site is there")
        };
        let values = found.versions.into_iter().map(|v| v.value.unwrap().into_bytes()).collect();
        (values, Context::decode(&found.context, &shop(), bucket, key).unwrap())
    }

    fn page(&self, scan: Scan) -> (Vec<Bytes>, Option<Key>) {
        let query = Query { site: shop(), bucket: Bucket::Default, read: Read::Scan(scan) };
        let Reply::Page { keys, resume } = query.answer(topology(), &self.rows).unwrap() else {
            panic!("the site is there")
        };
        (keys.into_iter().map(|view| view.key).collect(), resume)
    }
}

fn topology() -> Topology {
    Topology::new(64, 1).unwrap()
}

fn shop() -> SiteId {
    SiteId::new("shop").unwrap()
}

fn key(number: impl ToString) -> Key {
    Key::new(number.to_string()).unwrap()
}

fn value(number: impl ToString) -> Option<Value> {
    Some(Value::new(number.to_string()).unwrap())
}

fn write(bucket: Bucket, steps: Vec<Step>) -> Command {
    Command::Write(Write::new(shop(), bucket, steps).unwrap())
}

fn step(key: &Key, value: Option<Value>, context: Option<Context>) -> Step {
    Step { key: key.clone(), value, context, stamp: Stamp::Floor(0) }
}

fn request(number: u128) -> Option<RequestId> {
    Some(RequestId(number.to_be_bytes()))
}

/// One step of a random story. The context is any that was handed out for the key before, or that
/// of a key where nothing was seen.
#[derive(Clone, Debug)]
struct Act {
    key: u8,
    deletes: bool,
    context: Option<Index>,
    timestamp: Option<u64>,
    reads_first: bool,
}

fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
    let act = (
        0..2u8,
        prop::bool::weighted(0.3),
        option::of(any::<Index>()),
        option::of(0..9u64),
        prop::bool::weighted(0.3),
    );
    vec(
        act.prop_map(|(key, deletes, context, timestamp, reads_first)| Act {
            key,
            deletes,
            context,
            timestamp,
            reads_first,
        }),
        1..most,
    )
}

/// What can be picked from: contexts by key, with what the model's holder knows.
type Pool = BTreeMap<u8, Vec<(Context, BTreeSet<u64>)>>;

fn pool() -> Pool {
    (0..2)
        .map(|k| (k, vec![(Context::nothing(&shop(), Bucket::Default, &key(k)), BTreeSet::new())]))
        .collect()
}

/// The naive history of one key.
#[derive(Default)]
struct Naive {
    standing: BTreeSet<u64>,
    ever: BTreeSet<u64>,
}

impl Naive {
    fn act(&mut self, write: Option<u64>, knows: Option<&BTreeSet<u64>>) {
        self.standing.retain(|other| knows.is_some_and(|knows| !knows.contains(other)));
        self.standing.extend(write);
        self.ever.extend(write);
    }
}

/// Plays the acts, checks each against the model if there is one, and returns the commands they
/// became.
fn play(
    group: &mut Group,
    acts: &[Act],
    pool: &mut Pool,
    model: &mut BTreeMap<u8, Naive>,
) -> Vec<Command> {
    let mut commands = Vec::new();
    let first =
        model.values().filter_map(|naive| naive.ever.last()).max().map_or(0, |last| last + 1);
    for (number, act) in (first..).zip(acts) {
        let (k, naive) = (key(act.key), model.entry(act.key).or_default());
        if act.reads_first {
            pool.get_mut(&act.key)
                .unwrap()
                .push((group.get(Bucket::Default, &k).1, naive.ever.clone()));
        }
        let held = act.context.map(|at| at.get(&pool[&act.key]).clone());
        let written = (!act.deletes).then_some(number);
        let command = write(
            Bucket::Default,
            vec![step(&k, written.and_then(value), held.as_ref().map(|held| held.0.clone()))],
        );
        let Reply::Written(steps) = group.apply(None, &command) else {
            panic!("it is within bounds")
        };
        commands.push(command);
        naive.act(written, held.as_ref().map(|held| &held.1));
        let mut knows = held.map_or(BTreeSet::new(), |held| held.1);
        knows.extend(written);
        pool.get_mut(&act.key).unwrap().push((
            Context::decode(&steps[0].context, &shop(), Bucket::Default, &k).unwrap(),
            knows,
        ));
        let standing: BTreeSet<Bytes> =
            naive.standing.iter().map(|n| Bytes::from(n.to_string())).collect();
        assert_eq!(
            group.get(Bucket::Default, &k).0.into_iter().collect::<BTreeSet<_>>(),
            standing,
            "after act {number}"
        );
    }
    commands
}

/// Random batches on both kinds of bucket, with contexts that may be stale.
fn batches(acts: &[Act], sizes: &[usize]) -> Vec<Command> {
    let mut group = Group::found();
    let mut contexts = pool();
    let mut acts = acts.iter();
    let batch = |size: &usize| {
        let acts: Vec<&Act> = acts.by_ref().take(*size).collect();
        let bucket = acts
            .first()
            .filter(|act| act.timestamp.is_some())
            .map_or(Bucket::Default, |_| Bucket::Lww);
        let steps = acts.iter().map(|act| Step {
            key: key(act.key),
            value: (!act.deletes).then(|| value(*size).unwrap()),
            context: act
                .context
                .filter(|_| bucket == Bucket::Default)
                .map(|at| at.get(&contexts[&act.key]).0.clone()),
            stamp: act.timestamp.map_or(Stamp::Floor(3), Stamp::Chosen),
        });
        let command = Command::Write(Write::new(shop(), bucket, steps.collect()).ok()?);
        group.apply(None, &command);
        for (k, contexts) in contexts.iter_mut() {
            contexts.push((group.get(Bucket::Default, &key(k)).1, BTreeSet::new()));
        }
        Some(command)
    };
    sizes.iter().map_while(batch).collect()
}

proptest! {
    #[test]
    fn dots_and_vectors_leave_the_same_values_as_sets_of_everything_seen(acts in acts(40)) {
        play(&mut Group::found(), &acts, &mut pool(), &mut BTreeMap::new());
    }

    #[test]
    fn a_put_with_a_fresh_context_leaves_one_value_and_one_with_a_stale_context_leaves_both(
        acts in acts(20),
    ) {
        let mut group = Group::found();
        play(&mut group, &acts, &mut pool(), &mut BTreeMap::new());
        let (before, fresh) = group.get(Bucket::Default, &key(0));
        group.write(Bucket::Default, step(&key(0), value("first"), Some(fresh.clone()))).unwrap();
        prop_assert_eq!(&group.get(Bucket::Default, &key(0)).0, &["first"]);
        group.write(Bucket::Default, step(&key(0), value("second"), Some(fresh))).unwrap();
        prop_assert_eq!(
            &group.get(Bucket::Default, &key(0)).0,
            &["first", "second"],
            "where {:?} stood",
            before
        );
    }

    #[test]
    fn what_a_read_returns_covers_all_that_is_there(acts in acts(30)) {
        let mut group = Group::found();
        play(&mut group, &acts, &mut pool(), &mut BTreeMap::new());
        for row in group.rows.rows.values() {
            let Row::Key(versions) = row else { continue };
            let context = Context::of(versions.clock().clone(), &shop(), Bucket::Default, &key(0));
            prop_assert!(versions.versions().iter().all(|v| context.covers(v.dot)));
            prop_assert_eq!(
                &Versions::from_parts(versions.versions().to_vec(), versions.clock().clone())
                    .unwrap(),
                versions
            );
        }
    }

    #[test]
    fn a_context_never_covers_what_a_later_history_wrote(
        before in acts(15),
        lost in acts(15),
        after in acts(15),
    ) {
        let (mut group, mut contexts, mut model) = (Group::found(), pool(), BTreeMap::new());
        play(&mut group, &before, &mut contexts, &mut model);
        let (rows, state) = (group.rows.clone(), group.machine.state());
        play(&mut group, &lost, &mut contexts, &mut model);
        group.rows = rows;
        group.machine =
            Machine::open(topology(), GroupId(0), State { lineage: Lineage(0), ..state }, [])
                .unwrap();
        group.apply(None, &Command::SetLineage { lineage: Lineage(2) });
        for act in &after {
            let context = act.context.map(|at| at.get(&contexts[&act.key]).0.clone());
            group.write(Bucket::Default, step(&key(act.key), value("new"), context)).unwrap();
            let rows = group.rows.rows.values().filter_map(|row| {
                if let Row::Key(versions) = row { Some(versions.versions()) } else { None }
            });
            let mut minted = rows.flatten().filter(|v| v.dot.lineage == Lineage(2));
            let known: Vec<_> = contexts.values().flatten().map(|held| &held.0).collect();
            prop_assert!(minted.all(|v| v.dot.counter > state.dots
                && known.iter().all(|context| !context.covers(v.dot))));
        }
    }

    /// Each history is restored from a snapshot of the one before, which may have gone on: what it
    /// wrote then is lost, and known to whoever wrote it.
    #[test]
    fn a_key_of_seventy_restores_forgets_the_oldest_histories_and_never_a_newer_one(
        lost in vec(0..3usize, 70),
        others in vec(0..4u64, 70),
    ) {
        let (mut group, k) = (Group::found(), key(0));
        let mut known =
            group.write(Bucket::Default, step(&k, value("first"), None)).unwrap().context;
        for (number, (lost, others)) in lost.into_iter().zip(others).enumerate() {
            for other in 0..others {
                group
                    .write(Bucket::Default, step(&key(1 + other), value("another key"), None))
                    .unwrap();
            }
            let (rows, state) = (group.rows.clone(), group.machine.state());
            for _ in 0..lost {
                let seen = Context::decode(&known, &shop(), Bucket::Default, &k).unwrap();
                known = group
                    .write(Bucket::Default, step(&k, value("lost"), Some(seen)))
                    .unwrap()
                    .context;
            }
            group.rows = rows;
            let lineage = Lineage(u64::MAX / 71 * (number as u64 * 37 % 71 + 1));
            // As `restore` begins a group of a part.
            group.machine = Machine::open(
                topology(),
                GroupId(0),
                State { lineage: Lineage::PENDING, requests: 0, ..state },
                [],
            )
            .unwrap();
            group.apply(None, &Command::SetLineage { lineage });
            let seen = Context::decode(&known, &shop(), Bucket::Default, &k).unwrap();
            known =
                group.write(Bucket::Default, step(&k, value(number), Some(seen))).unwrap().context;
            let clock = group.get(Bucket::Default, &k).1;
            let ages: BTreeMap<u64, Lineage> =
                clock.vector().pairs().map(|(lineage, counter)| (counter, lineage)).collect();
            prop_assert_eq!(
                ages.last_key_value().unwrap().1,
                &lineage,
                "the newest history has the highest counter"
            );
            prop_assert_eq!(ages.len(), (number + 2).min(limits::LINEAGES_MAX));
            let kept: Vec<u64> = (0..=number as u64)
                .rev()
                .take(ages.len().min(number + 1))
                .map(|n| u64::MAX / 71 * (n * 37 % 71 + 1))
                .collect();
            prop_assert_eq!(
                ages.values().rev().take(kept.len()).map(|l| l.0).collect::<Vec<_>>(),
                kept,
                "those that are kept are the newest"
            );
        }
    }

    #[test]
    fn chosen_timestamps_win_in_whatever_order_they_arrive(
        writes in vec((any::<bool>(), 0..100u64), 1..12).prop_shuffle(),
        order in any::<u64>(),
    ) {
        let mut chosen: Vec<_> = writes
            .iter()
            .map(|(deletes, ms)| (*ms, (!deletes).then(|| value(ms).unwrap())))
            .collect();
        chosen.sort_by_key(|(ms, _)| *ms);
        chosen.dedup_by_key(|(ms, _)| *ms);
        let newest = chosen.last().unwrap().clone();
        let mut rng = crate::base::clock::Random::seeded(order);
        chosen.sort_by_cached_key(|_| rng.next_u64());
        let mut group = Group::found();
        for (ms, value) in chosen {
            let superseded = group
                .write(Bucket::Lww, Step { stamp: Stamp::Chosen(ms), ..step(&key(0), value, None) })
                .unwrap()
                .superseded;
            prop_assert!(!(superseded && ms == newest.0));
        }
        prop_assert_eq!(
            group.get(Bucket::Lww, &key(0)).0,
            newest.1.into_iter().map(Value::into_bytes).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_write_without_a_chosen_timestamp_always_wins(
        stored in any::<u64>(),
        floor in any::<u64>(),
    ) {
        let mut group = Group::found();
        group
            .write(
                Bucket::Lww,
                Step { stamp: Stamp::Chosen(stored), ..step(&key(0), value("old"), None) },
            )
            .unwrap();
        group
            .write(
                Bucket::Lww,
                Step { stamp: Stamp::Floor(floor), ..step(&key(0), value("new"), None) },
            )
            .unwrap();
        prop_assert_eq!(&group.get(Bucket::Lww, &key(0)).0, &["new"]);
    }

    #[test]
    fn the_same_commands_give_the_same_rows_and_replies_also_across_restarts(
        acts in acts(40),
        sizes in vec(1..5usize, 1..20),
        restarts in vec(any::<Index>(), 0..4),
    ) {
        let commands = batches(&acts, &sizes);
        let restarts: BTreeSet<usize> =
            restarts.iter().map(|at| at.index(commands.len())).collect();
        let (mut one, mut other) = (Group::found(), Group::found());
        for (number, command) in commands.iter().enumerate() {
            prop_assert_eq!(
                one.apply(request(number as u128), command),
                other.apply(request(number as u128), command)
            );
            if restarts.contains(&number) {
                other.restart();
            }
        }
        one.restart();
        other.restart();
        prop_assert_eq!(
            (&one.rows, &one.slots, one.machine.state()),
            (&other.rows, &other.slots, other.machine.state())
        );
    }

    #[test]
    fn a_retry_has_the_same_answer_and_no_effect_wherever_it_comes(
        acts in acts(40),
        sizes in vec(1..5usize, 1..20),
        of in any::<Index>(),
        at in any::<Index>(),
    ) {
        let commands = batches(&acts, &sizes);
        let of = of.index(commands.len());
        let at = of + at.index(commands.len() - of);
        let (mut plain, mut retried) = (Group::found(), Group::found());
        let mut replies = Vec::new();
        for (number, command) in commands.iter().enumerate() {
            replies.push(plain.apply(request(number as u128), command));
            prop_assert_eq!(&retried.apply(request(number as u128), command), &replies[number]);
            if number == at {
                retried.machine.take_touched();
                prop_assert_eq!(&retried.apply(request(of as u128), &commands[of]), &replies[of]);
                prop_assert!(retried.machine.take_touched().is_empty());
            }
        }
        prop_assert_eq!(
            (plain.rows, plain.machine.state()),
            (retried.rows, retried.machine.state())
        );
    }

    #[test]
    fn a_refused_batch_changes_nothing(acts in acts(20), at in any::<Index>()) {
        let mut group = Group::found();
        let full = key("full");
        let nothing = Context::nothing(&shop(), Bucket::Default, &full);
        for number in 0..limits::SIBLINGS_MAX {
            group
                .write(Bucket::Default, step(&full, value(number), Some(nothing.clone())))
                .unwrap();
        }
        let mut steps: Vec<_> = acts
            .iter()
            .map(|act| step(&key(act.key), (!act.deletes).then(|| value("x").unwrap()), None))
            .collect();
        let at = at.index(steps.len() + 1);
        steps.insert(at, step(&full, value("one too many"), Some(nothing)));
        group.machine.take_touched();
        let (rows, dots) = (group.rows.clone(), group.machine.state().dots);
        let refused = group.apply(request(1), &write(Bucket::Default, steps.clone()));
        prop_assert!(
            matches!(&refused, Reply::Refused(e)
                if e.kind == Kind::Conflict && e.message.contains("\"full\""))
        );
        prop_assert_eq!((&group.rows, group.machine.state().dots), (&rows, dots));
        prop_assert!(group.machine.take_touched().is_empty());
        steps.remove(at);
        prop_assert!(
            steps.is_empty()
                || matches!(
                    group.apply(request(2), &write(Bucket::Default, steps)),
                    Reply::Written(_)
                )
        );
    }

    #[test]
    fn pages_of_any_size_show_every_key_once_and_in_order(
        live in vec(any::<bool>(), 1..40),
        limit in 1..7u32,
    ) {
        let mut group = Group::found();
        for (number, live) in live.iter().enumerate() {
            let k = key(format!("{number:03}"));
            group.write(Bucket::Default, step(&k, value(number), None)).unwrap();
            if !live {
                group.write(Bucket::Default, step(&k, None, None)).unwrap();
            }
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (keys, resume) =
                group.page(Scan { prefix: Prefix::default(), after, limit, keys_only: false });
            prop_assert!(keys.len() <= limit as usize);
            seen.extend(keys);
            after = resume;
            if after.is_none() {
                break;
            }
        }
        let wanted: Vec<_> = live
            .iter()
            .enumerate()
            .filter(|(_, live)| **live)
            .map(|(number, _)| Bytes::from(format!("{number:03}")))
            .collect();
        prop_assert_eq!(seen, wanted);
    }
}

#[test]
fn a_page_is_bounded_in_bytes_and_in_the_deleted_keys_behind_it() {
    let mut group = Group::found();
    let all = |after| Scan { prefix: Prefix::default(), after, limit: 0, keys_only: false };
    for number in 0..limits::PAGE_ROWS_MAX + 10 {
        let k = key(format!("a{number:05}"));
        group.apply(
            None,
            &write(Bucket::Default, vec![step(&k, value(""), None), step(&k, None, None)]),
        );
    }
    let large = Some(Value::new(vec![0; limits::VALUE_BYTES_MAX]).unwrap());
    for number in 0..20 {
        group
            .write(Bucket::Default, step(&key(format!("b{number:05}")), large.clone(), None))
            .unwrap();
    }
    let (keys, resume) = group.page(all(None));
    assert_eq!(
        (keys.len(), resume.clone()),
        (0, Some(key(format!("a{:05}", limits::PAGE_ROWS_MAX - 1))))
    );
    let (keys, resume) = group.page(all(resume));
    assert_eq!((keys.len(), resume.clone()), (1, Some(key("b00000"))));
    let (keys, resume) = group.page(Scan { keys_only: true, ..all(resume) });
    assert_eq!(
        (keys.len(), resume),
        (15, Some(key("b00015"))),
        "16 MiB of rows are read for a page, and their keys are bytes too"
    );
}

#[test]
fn concurrent_values_that_no_message_could_carry_are_refused() {
    let mut group = Group::found();
    let nothing = Some(Context::nothing(&shop(), Bucket::Default, &key(0)));
    let large = Some(Value::new(vec![0; limits::VALUE_BYTES_MAX]).unwrap());
    for _ in 0..4 {
        group.write(Bucket::Default, step(&key(0), large.clone(), nothing.clone())).unwrap();
    }
    assert_eq!(
        group.write(Bucket::Default, step(&key(0), value("x"), nothing)).unwrap_err().kind,
        Kind::Conflict
    );
    group.write(Bucket::Default, step(&key(0), value("settled"), None)).unwrap();
}

#[test]
fn a_write_touches_the_partition_of_its_site_if_it_changes_anything() {
    let mut group = Group::found();
    assert_eq!(group.machine.take_touched(), [topology().partition_of(&shop())].into());
    group.write(Bucket::Default, step(&key(0), None, None)).unwrap();
    assert!(group.machine.take_touched().is_empty());
    group.write(Bucket::Default, step(&key(0), value(1), None)).unwrap();
    assert_eq!(group.machine.take_touched().len(), 1);
}

#[test]
fn a_request_is_forgotten_when_as_many_as_are_remembered_came_after_it() {
    let mut group = Group::found();
    let put = |group: &mut Group, number: u64| {
        group.apply(
            request(number.into()),
            &write(Bucket::Default, vec![step(&key(number), value(1), None)]),
        )
    };
    let first = put(&mut group, 0);
    for number in 1..limits::REQUESTS_REMEMBERED {
        put(&mut group, number);
    }
    assert_eq!(put(&mut group, 0), first);
    put(&mut group, limits::REQUESTS_REMEMBERED);
    assert_ne!(put(&mut group, 0), first);
}

#[test]
fn a_late_drop_does_not_touch_a_later_life_of_the_site() {
    let mut group = Group::found();
    let drop = |generation| Command::DropSite {
        site: shop(),
        generation: SiteGeneration(generation),
        rows_max: 100,
    };
    let add =
        |generation| Command::AddSite { site: shop(), generation: SiteGeneration(generation) };
    assert_eq!(group.apply(None, &drop(1)), Reply::SiteDropped { more: false });
    assert_eq!(group.apply(None, &add(2)), Reply::Done { changed: true });
    group.write(Bucket::Default, step(&key(0), value("second"), None)).unwrap();
    let before = group.rows.rows.clone();
    assert_eq!(group.apply(None, &drop(1)), Reply::Done { changed: false });
    assert_eq!(group.apply(None, &add(1)), Reply::Done { changed: false });
    assert_eq!(group.rows.rows, before);
    assert_eq!(group.apply(None, &drop(2)), Reply::SiteDropped { more: false });
    let left: Vec<_> = group.rows.rows.values().collect();
    assert_eq!(
        left,
        [&Row::Site(SiteRow { stage: SiteStage::Removed, generation: SiteGeneration(2) })]
    );
}

#[test]
fn a_site_of_another_group_is_refused() {
    let topology = Topology::new(64, 64).unwrap();
    let home = topology.group_of_site(&shop());
    let mut machine = Machine::open(
        topology,
        GroupId((home.0 + 1) % 64),
        State { lineage: Lineage(1), ..State::default() },
        [],
    )
    .unwrap();
    let reply = machine
        .apply(
            None,
            &Command::AddSite { site: shop(), generation: SiteGeneration(1) },
            &mut Memory::default(),
        )
        .unwrap();
    assert!(
        matches!(reply, Reply::Refused(e) if e.message.contains(&format!("lies in group {home}")))
    );
}

#[test]
fn a_key_forgets_its_oldest_histories_and_never_one_that_it_holds_values_of() {
    let mut group = Group::found();
    let nothing = Some(Context::nothing(&shop(), Bucket::Default, &key(0)));
    group.write(Bucket::Default, step(&key(0), value("oldest"), None)).unwrap();
    for lineage in 2..100 {
        group.apply(None, &Command::SetLineage { lineage: Lineage(lineage) });
        let context = group
            .write(Bucket::Default, step(&key(0), value(lineage), nothing.clone()))
            .unwrap()
            .context;
        let own = Context::decode(&context, &shop(), Bucket::Default, &key(0)).unwrap();
        group.write(Bucket::Default, step(&key(0), None, Some(own))).unwrap();
    }
    let (values, context) = group.get(Bucket::Default, &key(0));
    assert_eq!(
        (values, context.vector().pairs().len()),
        (vec![Bytes::from("oldest")], limits::LINEAGES_MAX)
    );
    assert!(context.covers(Dot { lineage: Lineage(1), counter: 1 }));
    assert!(context.covers(Dot { lineage: Lineage(99), counter: 1 }));
    assert!(!context.covers(Dot { lineage: Lineage(2), counter: 1 }));
}
