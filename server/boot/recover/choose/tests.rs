//! What is chosen, told one by one, and held to a model of elections and losses.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    base::{clock::Random, error::Kind, ids::SiteGeneration},
    cluster::{
        Away, Command, Node,
        level::Level,
        sites::{Site, SiteState},
        snapshots::Stage,
        state::Settings,
    },
    wire,
};

const GROUP: GroupId = GroupId(0);

fn uuid(seed: u64) -> uuid::Uuid {
    Random::seeded(seed).uuid()
}

fn node(id: u64) -> Node {
    Node {
        id: NodeId(id),
        address: format!("n{id}:1"),
        capacity_percent: 100,
        version: "1".into(),
        snapshot_store: true,
        lineage: Lineage(5),
        level: Level::DEPARTURE,
        leaving: false,
        draining: false,
        certificate_name: None,
    }
}

/// A cluster of so many nodes with a site, and one group of all data.
fn state(nodes: u64) -> State {
    let settings = Settings {
        level: Level::DEPARTURE,
        ..Settings::founding(ClusterId(uuid(1)), Lineage(5), 3, Topology::new(64, 1).unwrap())
            .unwrap()
    };
    let mut state = State::found(settings, node(1)).unwrap();
    for id in 2..=nodes {
        assert!(state.apply(&Command::AnnounceNode(node(id))).reply.is_ok());
    }
    let site = site();
    let generation = SiteGeneration(1);
    assert!(state.apply(&Command::AddSite(site.clone())).reply.is_ok());
    assert!(state.apply(&Command::SiteAdded { site, generation }).reply.is_ok());
    state
}

fn site() -> SiteId {
    SiteId::new("shop").unwrap()
}

fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn voters(nodes: &[u64]) -> Membership {
    Membership { voters: set(nodes), learners: BTreeSet::new() }
}

fn replica(term: u64, index: u64, members: &[Membership]) -> Replica {
    Replica {
        last: Position { term, index },
        members: members.to_vec(),
        mark: SnapshotSeq(0),
        unfit: None,
    }
}

/// What a node of a cluster of three has left, both groups up to the same place.
fn copied(id: u64, state: &State, term: u64, index: u64) -> Copied {
    let members = [voters(&[1, 2, 3])];
    let one = replica(term, index, &members);
    Copied {
        node: NodeId(id),
        cluster: ClusterId(uuid(1)),
        lineage: Lineage(5),
        restored_from: None,
        topology: Topology::new(64, 1).unwrap(),
        meta: Some(state.clone()),
        replicas: [(GROUP, one.clone()), (GroupId::META, one)].into(),
    }
}

fn terms() -> Terms {
    Terms { give_up: BTreeSet::new(), id: SnapshotId(uuid(9)), at_ms: 77 }
}

fn refused(copies: &[Copied], terms: &Terms, kind: Kind, says: &str) {
    let e = choose(copies, terms).unwrap_err();
    assert_eq!(e.kind, kind, "{e}");
    assert!(e.message.contains(says), "{e}");
}

#[test]
fn the_log_that_ends_in_the_newest_term_is_kept_then_the_longest_in_whatever_order_they_come() {
    let state = state(5);
    let members = voters(&[1, 2, 3, 4, 5]);
    let with = |id: u64, term: u64, index: u64| {
        let mut copy = copied(id, &state, term, index);
        copy.replicas.values_mut().for_each(|r| r.members = vec![members.clone()]);
        copy
    };
    for (ends, kept) in [
        ([(1, 7, 10), (2, 8, 4)], 2),
        ([(1, 7, 10), (2, 7, 11)], 2),
        ([(1, 7, 11), (2, 7, 11)], 1),
        ([(1, 9, 3), (2, 7, 900)], 1),
    ] {
        let copies = ends.map(|(id, term, index)| with(id, term, index));
        let backwards: Vec<_> = copies.iter().rev().cloned().collect();
        let choice = choose(&copies, &terms()).unwrap();
        assert_eq!(choice.groups[&GROUP].on, NodeId(kept), "{ends:?}");
        assert_eq!(choice.meta.on, NodeId(kept), "{ends:?}");
        assert_eq!(choose(&backwards, &terms()).unwrap(), choice);
    }
}

#[test]
fn what_is_left_of_three_becomes_a_cluster_of_one_that_adds_its_sites_once_more() {
    let state = state(3);
    let choice = choose(&[copied(2, &state, 7, 10)], &terms()).unwrap();
    let fate = &choice.groups[&GROUP];
    assert_eq!((fate.on, fate.may_lack), (NodeId(2), true));
    assert_eq!(fate.kept, Some(Position { term: 7, index: 10 }));
    assert_eq!((fate.lost.clone(), fate.sites.clone()), (set(&[1, 3]), vec![site()]));
    let now = &choice.state;
    assert_eq!(now.nodes().keys().copied().collect::<BTreeSet<_>>(), set(&[2]));
    assert_eq!(now.removed().keys().copied().collect::<BTreeSet<_>>(), set(&[1, 3]));
    assert_eq!(now.removed()[&NodeId(1)].address, "n1:1");
    assert_eq!(now.assignments()[&GROUP], [NodeId(2)]);
    assert_eq!(now.assignments()[&GroupId::META], [NodeId(2)]);
    assert_eq!(now.settings().lineage, Lineage::PENDING);
    assert_eq!(now.settings().restored_from, Some(terms().id));
    let generation = SiteGeneration(1 + crate::base::limits::RECOVERY_GENERATIONS + 1);
    assert_eq!(
        now.sites().site(&site()),
        Some(Site { state: SiteState::Adding, generation }),
        "the lost nodes may have removed the site and added it again"
    );
    assert_eq!(now.settings().site_generations, generation);
    let told = choice.told();
    for words in [
        "node 1 at n1:1, node 3 at n3:1",
        "group 0: kept from node 2 up to entry 10 of term 7; members lost: 1, 3; may lack \
         acknowledged writes: yes; sites: shop",
        "1 of 1 groups may lack acknowledged writes, and the configuration may lack changes",
    ] {
        assert!(told.contains(words), "{told}");
    }
    // What is stored can be loaded.
    let rows = crate::boot::recover::forms::encode_rows(now);
    assert_eq!(&crate::boot::recover::forms::decode_rows(&rows).unwrap(), now);
}

#[test]
fn a_majority_counts_only_if_it_is_one_in_every_membership_that_the_log_knows() {
    let state = state(5);
    let (old, new) = (voters(&[1, 2, 3]), voters(&[2, 3, 4]));
    let mut with_learner = old.clone();
    with_learner.learners = set(&[4]);
    let lacks = |survivors: &[u64], members: &[Membership]| {
        let copies: Vec<_> = survivors
            .iter()
            .map(|id| {
                let mut copy = copied(*id, &state, 7, 10);
                // Of the meta group a majority is lost, so there is something to recover.
                copy.replicas.insert(GroupId::META, replica(7, 10, &[voters(&[1, 2, 3, 4, 5])]));
                copy.replicas.insert(GROUP, replica(7, 10, members));
                copy
            })
            .collect();
        choose(&copies, &terms()).unwrap().groups[&GROUP].may_lack
    };
    assert!(!lacks(&[1, 2], std::slice::from_ref(&old)));
    assert!(lacks(&[1, 2], &[old.clone(), with_learner.clone(), new.clone()]));
    assert!(!lacks(&[2, 3], &[old.clone(), with_learner.clone(), new.clone()]));
    assert!(lacks(&[1, 4], std::slice::from_ref(&old)), "a node that is no voter has no say");
    assert!(lacks(&[1, 2], &[voters(&[1, 2, 3, 4])]), "half is no majority");
}

#[test]
fn a_learner_is_kept_where_it_knows_most_and_a_replica_that_is_not_whole_never_is() {
    let state = state(5);
    let members = Membership { voters: set(&[1, 2, 3]), learners: set(&[4]) };
    let mut behind = copied(1, &state, 7, 10);
    behind.replicas.insert(GROUP, replica(7, 9, std::slice::from_ref(&members)));
    let mut learner = copied(4, &state, 7, 10);
    learner.replicas.insert(GROUP, replica(7, 12, std::slice::from_ref(&members)));
    let choice = choose(&[behind.clone(), learner.clone()], &terms()).unwrap();
    assert_eq!(choice.groups[&GROUP].on, NodeId(4));

    assert!(choice.groups[&GROUP].old, "node 4 was not to hold it yet, or not any more");
    assert!(choice.told().contains("up to entry 12 of term 7, which was to give it up"));

    let broken = learner.replicas.get_mut(&GROUP).unwrap();
    broken.unfit = Some("its log lacks entry 11".into());
    let choice = choose(&[behind.clone(), learner.clone()], &terms()).unwrap();
    assert_eq!(choice.groups[&GROUP].on, NodeId(1));

    behind.replicas.remove(&GROUP);
    refused(&[behind, learner], &terms(), Kind::Conflict, "--give-up-groups 0");
}

#[test]
fn a_group_of_which_nothing_is_left_begins_empty_only_if_it_is_named() {
    let state = state(3);
    let mut copy = copied(2, &state, 7, 10);
    copy.replicas.remove(&GROUP);
    refused(std::slice::from_ref(&copy), &terms(), Kind::Conflict, "these sites is in them: shop");
    let named = Terms { give_up: [GROUP].into(), ..terms() };
    let choice = choose(std::slice::from_ref(&copy), &named).unwrap();
    let fate = &choice.groups[&GROUP];
    assert_eq!((fate.on, fate.kept, fate.may_lack), (NodeId(2), None, true));
    assert_eq!(fate.lost, set(&[1, 3]));
    assert!(choice.told().contains("group 0: begins empty on node 2"), "{}", choice.told());
    refused(&[copied(2, &state, 7, 10)], &named, Kind::Invalid, "take it out of --give-up-groups");
}

#[test]
fn copies_that_do_not_belong_together_are_refused() {
    let state = state(3);
    let one = || copied(1, &state, 7, 10);
    refused(&[], &terms(), Kind::Invalid, "name their files");
    refused(&[one(), one()], &terms(), Kind::Invalid, "is there twice");
    let other = Copied { cluster: ClusterId(uuid(2)), ..copied(2, &state, 7, 10) };
    refused(&[one(), other], &terms(), Kind::Conflict, "a plan is for one cluster");
    for other in [
        Copied { lineage: Lineage(6), ..copied(2, &state, 7, 10) },
        Copied { restored_from: Some(SnapshotId(uuid(3))), ..copied(2, &state, 7, 10) },
    ] {
        refused(&[one(), other], &terms(), Kind::Conflict, "their logs must never mix");
    }
    refused(&[one(), copied(4, &state, 7, 10)], &terms(), Kind::Conflict, "joined after all");
    let mut without = state.clone();
    let (removed_ms, seen) = (1, without.etag());
    let remove =
        Command::RemoveNode { node: NodeId(3), removed_ms, seen, by: None, away: Away::new() };
    assert!(without.apply(&remove).reply.is_ok());
    let removed = [copied(3, &without, 7, 10)];
    refused(&removed, &terms(), Kind::Conflict, "node 3 was removed from the cluster");

    let mut blank = one();
    blank.replicas.get_mut(&GroupId::META).unwrap().unfit = Some("it lacks entry 8".into());
    refused(&[blank], &terms(), Kind::Conflict, "node 1: it lacks entry 8");
    let enough = [one(), copied(2, &state, 7, 9)];
    refused(&enough, &terms(), Kind::Conflict, "recover is not needed");
}

#[test]
fn an_open_snapshot_is_aborted_and_numbers_go_on_behind_the_newest_mark() {
    let mut state = state(3);
    let begin = Command::BeginSnapshot { id: SnapshotId(uuid(7)), created_ms: 1 };
    assert!(state.apply(&begin).reply.is_ok());
    for (mark, newest) in [(0, 1), (1, 1), (4, 4)] {
        let mut copy = copied(1, &state, 7, 10);
        copy.replicas.get_mut(&GROUP).unwrap().mark = SnapshotSeq(mark);
        let now = choose(&[copy], &terms()).unwrap().state;
        let settings = now.settings();
        assert_eq!((settings.begun.0, settings.resolved.0), (newest, newest));
        assert!(now.open_snapshot().is_none());
        let aborted = now.snapshot_named(SnapshotId(uuid(7))).unwrap();
        assert_eq!(aborted.stage, Stage::Aborted);
        assert!(aborted.reason.contains("most nodes were lost"), "{}", aborted.reason);
        let row = wire::encode_meta_row(&now, &crate::cluster::Changed::Settings);
        assert!(row.is_some());
    }
}

#[test]
fn a_deletion_waits_for_no_lost_node_and_its_snapshot_is_forgotten_when_nobody_is_left() {
    let id = SnapshotId(uuid(7));
    let mut state = state(3);
    for command in [
        Command::BeginSnapshot { id, created_ms: 1 },
        Command::SealSnapshot { seq: SnapshotSeq(1) },
        Command::BeginDeletion { id, lineage: None },
    ] {
        assert!(state.apply(&command).reply.is_ok());
    }
    let waits = choose(&[copied(1, &state, 7, 10)], &terms()).unwrap().state;
    assert!(waits.snapshot_named(id).unwrap().awaits_deletion(NodeId(1)));
    let done = Command::ReportDeletion { id, node: NodeId(1), reason: String::new() };
    assert!(state.apply(&done).reply.is_ok());
    let gone = choose(&[copied(1, &state, 7, 10)], &terms()).unwrap().state;
    assert!(gone.snapshot_named(id).is_none());
    assert_eq!(gone.settings().deleted, [id]);
}

#[test]
fn a_cluster_at_a_level_without_removals_only_forgets_the_lost_nodes() {
    let state = state(3);
    let rows = crate::boot::recover::forms::encode_rows(&state);
    let settings = Settings { level: Level::FIRST, ..state.settings().clone() };
    let mut rows: BTreeMap<String, String> = rows;
    let plain: String = prost::Message::encode_to_vec(&wire::settings_record(&settings))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    rows.insert("73".into(), plain);
    let first = crate::boot::recover::forms::decode_rows(&rows).unwrap();
    assert_eq!(first.settings().level, Level::FIRST);
    let now = choose(&[copied(1, &first, 7, 10)], &terms()).unwrap().state;
    assert_eq!((now.nodes().len(), now.removed().len()), (1, 0));
}

/// A group whose leaders follow each other, whose entries are told apart by term and index.
#[derive(Clone, Debug, Default)]
struct Model {
    /// The terms of each replica's entries.
    logs: Vec<Vec<u64>>,
    term: u64,
    /// Entries that were acknowledged, by index: their term, and that of who acknowledged them.
    acknowledged: BTreeMap<u64, (u64, u64)>,
}

impl Model {
    fn end(&self, replica: usize) -> (u64, usize) {
        (self.logs[replica].last().copied().unwrap_or(0), self.logs[replica].len())
    }

    /// A leader is elected if a majority is not ahead of it, appends, and reaches some others.
    fn lead(&mut self, leader: usize, entries: usize, reached: &[(usize, usize)]) {
        let all = self.logs.len();
        let willing = (0..all).filter(|other| self.end(*other) <= self.end(leader)).count();
        if willing * 2 <= all {
            return;
        }
        self.term += 1;
        let term = self.term;
        self.logs[leader].extend(std::iter::repeat_n(term, entries));
        let log = self.logs[leader].clone();
        for (other, length) in reached.iter().filter(|(other, _)| other % all != leader) {
            let (other, length) = (other % all, length % (log.len() + 1));
            let own = &mut self.logs[other];
            let agree = own.iter().zip(&log).take_while(|(a, b)| a == b).count();
            if length > agree {
                own.truncate(agree);
                own.extend_from_slice(&log[agree..length]);
            }
        }
        // A leader commits by entries of its own term, and all before them.
        let holds = |index: usize| {
            let there = self.logs.iter().filter(|own| own.get(..index) == log.get(..index));
            log[index - 1] == term && there.count() * 2 > all
        };
        let committed = (1..=log.len()).filter(|index| holds(*index)).max().unwrap_or(0);
        for index in 1..=committed {
            self.acknowledged.entry(index as u64).or_insert((log[index - 1], term));
        }
    }
}

/// The leader of term 4 has acknowledged an entry of term 1 and repeated it to a survivor, but
/// nothing of its own; the other survivor ends with what the leader of term 3 had alone.
#[test]
fn an_entry_is_lost_if_nobody_is_left_that_has_one_of_the_term_in_which_it_was_acknowledged() {
    let mut model = Model { logs: vec![Vec::new(); 5], ..Model::default() };
    model.lead(1, 3, &[(0, 1)]);
    model.lead(1, 1, &[]);
    model.lead(0, 1, &[]);
    model.lead(1, 3, &[(3, 2), (2, 5), (4, 5)]);
    assert_eq!(model.acknowledged[&2], (1, 4));
    assert_eq!((&model.logs[0], &model.logs[3]), (&vec![1, 3], &vec![1, 1]));
    let state = state(5);
    let copy = |at: usize| {
        let (term, index) = model.end(at);
        let mut copy = copied(at as u64 + 1, &state, 7, 10);
        copy.replicas.insert(GROUP, replica(term, index as u64, &[voters(&[1, 2, 3, 4, 5])]));
        copy
    };
    let fate = choose(&[copy(0), copy(3)], &terms()).unwrap().groups[&GROUP].clone();
    assert_eq!((fate.on, fate.may_lack), (NodeId(1), true));
}

proptest! {
    #[test]
    fn no_acknowledged_entry_that_a_survivor_has_is_lost_and_none_where_a_majority_is_left(
        nodes in 3_usize..=5,
        leaders in prop::collection::vec(
            (0_usize..5, 0_usize..4, prop::collection::vec((0_usize..5, 0_usize..40), 0..5)),
            1..12,
        ),
        left in prop::collection::btree_set(0_usize..5, 1..5),
    ) {
        let mut model = Model { logs: vec![Vec::new(); nodes], ..Model::default() };
        for (leader, entries, reached) in &leaders {
            model.lead(leader % nodes, *entries, reached);
        }
        let left: BTreeSet<usize> = left.iter().map(|node| node % nodes).collect();
        let all: Vec<u64> = (1..=nodes as u64).collect();
        let state = state(nodes as u64);
        let copies: Vec<Copied> = left.iter().map(|at| {
            let (term, index) = model.end(*at);
            let mut copy = copied(*at as u64 + 1, &state, 7, 10);
            copy.replicas.insert(GROUP, replica(term, index as u64, &[voters(&all)]));
            // A majority of the meta group is always lost.
            copy.replicas.insert(GroupId::META, replica(7, 10, &[voters(&[91, 92, 93])]));
            copy
        }).collect();
        let choice = choose(&copies, &terms()).unwrap();
        let fate = &choice.groups[&GROUP];
        let kept = &model.logs[fate.on.0 as usize - 1];
        let has = |log: &[u64], index: u64, term: u64| {
            log.get(index as usize - 1) == Some(&term)
        };
        prop_assert_eq!(fate.may_lack, left.len() * 2 <= nodes);
        for (index, (term, by)) in &model.acknowledged {
            let known = left.iter().any(|at| has(&model.logs[*at], *index, *term))
                && left.iter().any(|at| model.end(*at).0 >= *by);
            if known || !fate.may_lack {
                prop_assert!(has(kept, *index, *term), "entry {} of term {}", index, term);
            }
        }
    }
}
