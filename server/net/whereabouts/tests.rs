//! Whereabouts by themselves, and many of them in a small world that has addresses and nothing
//! else.

use super::*;
use crate::base::clock::Random;

const N: NodeId = NodeId(7);

fn word(address: &str, incarnation: u64) -> Word {
    Word { address: address.into(), incarnation }
}

fn known(address: &str) -> Whereabouts {
    let mut whereabouts = Whereabouts::new(NodeId(1), "me");
    assert!(whereabouts.listed(N, address));
    whereabouts
}

#[test]
fn places_are_tried_in_turn_and_those_that_were_not_tried_yet_first() {
    let mut whereabouts = known("old");
    assert_eq!(whereabouts.place(N), Some("old"));
    whereabouts.failed(N, "old", "nobody is there");
    assert!(whereabouts.told(N, &word("elsewhere", 3)));
    assert!(whereabouts.told(N, &word("new", 4)));
    assert_eq!(whereabouts.place(N), Some("new"));
    for next in ["elsewhere", "old", "new", "elsewhere"] {
        let tried = whereabouts.place(N).unwrap().to_owned();
        whereabouts.failed(N, &tried, "nobody is there");
        assert_eq!(whereabouts.place(N), Some(next));
    }
    assert!(!whereabouts.is_fresh(N));
    assert!(!whereabouts.told(N, &word("new", 4)), "what has been tried is no news");
    assert!(whereabouts.told(N, &word("new", 5)), "another process may be there now");
    assert!(whereabouts.is_fresh(N) && whereabouts.place(N) == Some("new"));
}

#[test]
fn the_registry_never_wins_over_what_a_node_says_of_itself() {
    let mut whereabouts = known("old");
    assert!(whereabouts.heard(N, word("new", 3)));
    for _ in 0..2 {
        assert!(!whereabouts.listed(N, "old"));
        assert_eq!(whereabouts.place(N), Some("new"));
    }
    assert!(whereabouts.listed(N, "announced"));
    assert_eq!(whereabouts.place(N), Some("new"));
    whereabouts.failed(N, "new", "nobody is there");
    assert_eq!(
        whereabouts.place(N),
        Some("announced"),
        "what the registry listed before is forgotten"
    );
}

#[test]
fn words_leave_a_stream_that_stands_alone_until_another_process_of_its_node_speaks() {
    let mut whereabouts = known("old");
    whereabouts.answered(N, word("old", 3));
    assert!(
        !whereabouts.told(N, &word("rumour", 2))
            && !whereabouts.listed(N, "announced")
            && !whereabouts.heard(N, word("old", 3))
    );
    assert!(whereabouts.place(N) == Some("old") && !whereabouts.is_superseded(N));
    assert!(whereabouts.heard(N, word("new", 4)) && whereabouts.is_superseded(N));
    whereabouts.closed(N);
    assert_eq!(whereabouts.place(N), Some("new"));
}

#[test]
fn what_is_passed_on_is_what_nodes_say_now_and_each_word_once() {
    let mut whereabouts = known("old");
    whereabouts.told(N, &word("rumour", 2));
    assert_eq!(whereabouts.passed_on(0), (vec![], 0));
    whereabouts.heard(N, word("here", 3));
    whereabouts.heard(N, word("here", 3));
    let (heard, now) = whereabouts.passed_on(0);
    assert_eq!(heard, [(N, word("here", 3))]);
    assert_eq!(whereabouts.passed_on(now), (vec![], now));
    whereabouts.gone(N);
    assert_eq!(whereabouts.passed_on(0), (vec![], now));
    whereabouts.heard(N, word("here", 3));
    assert_eq!(whereabouts.passed_on(now).0.len(), 1);
}

#[test]
fn an_address_that_was_named_is_asked_until_its_node_is_reached_and_naming_oneself_is_harmless() {
    let mut whereabouts = Whereabouts::new(NodeId(1), "me");
    whereabouts.aim("named");
    whereabouts.aim("myself");
    assert!(whereabouts.is_unmet("named") && whereabouts.is_unmet("myself"));
    whereabouts.missed("named", "named: nobody is there");
    assert_eq!(whereabouts.missing().unwrap(), "nobody found at --join named: nobody is there");
    assert!(whereabouts.met("named", N, &word("advertised", 3)));
    assert!(!whereabouts.met("myself", NodeId(1), &word("me", 4)));
    assert_eq!((whereabouts.is_unmet("named"), whereabouts.is_unmet("myself")), (true, false));
    assert_eq!(whereabouts.place(N), Some("advertised"));
    whereabouts.failed(N, "advertised", "nobody is there");
    assert_eq!(
        whereabouts.place(N),
        Some("named"),
        "where it answered it can be reached, whatever it says of itself"
    );
    whereabouts.answered(N, word("named", 3));
    assert!(!whereabouts.is_unmet("named") && whereabouts.missing().is_none());
    whereabouts.closed(N);
    assert!(whereabouts.is_unmet("named"));
}

#[test]
fn nothing_grows_without_bound() {
    let mut whereabouts = known("listed");
    for n in 0..100 {
        whereabouts.told(N, &word(&format!("rumour{n}"), n + 1));
        whereabouts.failed(N, "listed", "nobody is there");
    }
    assert_eq!(whereabouts.trails[&N].places.len(), limits::PLACES_MAX);
    assert!(whereabouts.trails[&N].places.iter().any(|place| place.address == "listed"));
    for n in 0..2 * limits::NODES_MAX as u64 {
        whereabouts.told(NodeId(100 + n), &word("somewhere", 1));
        whereabouts.failed(NodeId(100 + n), "somewhere", "nobody is there");
    }
    assert_eq!(whereabouts.trails.len(), limits::NODES_MAX);
    assert!(!whereabouts.told(NodeId(2), &word(&"a".repeat(limits::ADDRESS_BYTES_MAX + 1), 1)));
    assert!(!whereabouts.heard(N, word("", 1)));
    let told = whereabouts.missing().unwrap();
    assert!(
        told.ends_with(&format!(
            "and for {} more nodes",
            limits::NODES_MAX - limits::SOUGHT_TOLD_MAX
        )) && told.len() < 1000,
        "{told}"
    );
}

/// Nodes that dial each other, and tell what they have heard: no time passes but in turns, and an
/// answer comes at once or never.
struct Small {
    rng: Random,
    nodes: Vec<Whereabouts>,
    /// Where each is; none while it is down.
    at: Vec<Option<String>>,
    incarnations: Vec<u64>,
    told: BTreeMap<(usize, usize), u64>,
    dials: u64,
}

impl Whereabouts {
    fn told_all(&mut self, heard: Vec<(NodeId, Word)>) {
        for (node, word) in heard {
            self.told(node, &word);
        }
    }
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

impl Small {
    fn whose(&self, address: &str) -> Option<usize> {
        self.at.iter().position(|at| at.as_deref() == Some(address))
    }

    fn word(&self, node: usize) -> Word {
        word(self.at[node].as_deref().unwrap(), self.incarnations[node])
    }

    /// One node's turn: it asks where it was told to, and dials whom it has no stream to, once
    /// each.
    fn turn(&mut self, node: usize) {
        let targets: Vec<String> =
            self.nodes[node].targets.iter().map(|target| target.address.clone()).collect();
        for target in targets
            .into_iter()
            .filter(|target| self.nodes[node].is_unmet(target))
            .collect::<Vec<_>>()
        {
            match self.whose(&target) {
                Some(other) => {
                    let word = self.word(other);
                    self.nodes[node].met(&target, id(other), &word);
                }
                None => self.nodes[node].missed(&target, "nobody is there"),
            }
        }
        for other in self.nodes[node].unreached() {
            self.dial(node, other);
        }
    }

    fn dial(&mut self, node: usize, other: NodeId) {
        self.dials += 1;
        let address = self.nodes[node].place(other).unwrap().to_owned();
        let Some(there) = self.whose(&address) else {
            return self.nodes[node].failed(other, &address, "nobody is there");
        };
        let word = self.word(there);
        if id(there) == other {
            self.nodes[node].answered(other, Word { address, ..word });
            let mine = self.word(node);
            self.nodes[there].heard(id(node), mine);
        } else {
            self.nodes[node].failed(other, &address, "somebody else is there");
            self.nodes[node].told(id(there), &word);
        }
        // Both the answer of a stream and that of a refusal say who speaks there.
        let (heard, _) = self.nodes[there].passed_on(0);
        self.nodes[node].told_all(heard);
    }

    /// Streams carry news.
    fn gossip(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            let open =
                self.nodes[node].trails.get(&id(other)).is_some_and(|trail| trail.open.is_some());
            if self.at[other].is_some() && open {
                let told = self.told.entry((node, other)).or_default();
                let (heard, now) = self.nodes[node].passed_on(*told);
                *told = now;
                self.nodes[other].told_all(heard);
            }
        }
    }

    fn start(&mut self, node: usize, at: String, listed: &[String], join: Option<String>) {
        self.incarnations[node] = self.rng.nonzero();
        self.nodes[node] = Whereabouts::new(id(node), &at);
        for (other, address) in listed.iter().enumerate() {
            self.nodes[node].listed(id(other), address);
        }
        join.into_iter().for_each(|join| self.nodes[node].aim(join));
        self.at[node] = Some(at);
        // Its streams, and those to it, are of its last process.
        self.told.retain(|(from, to), _| *from != node && *to != node);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.nodes[other].gone(id(node));
            self.nodes[other].closed(id(node));
        }
    }

    fn found_all(&self) -> bool {
        let up: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.at[*node].is_some()).collect();
        let open = |node: usize, other: usize| {
            self.nodes[node].trails.get(&id(other)).is_some_and(|trail| trail.open.is_some())
        };
        up.iter().all(|node| up.iter().all(|other| node == other || open(*node, *other)))
    }

    /// Turns until all have found all; `what` and the seed say which story it is when they do not.
    fn settle(&mut self, what: &str) {
        for _ in 0..40 {
            if self.found_all() {
                return;
            }
            let mut order: Vec<usize> =
                (0..self.nodes.len()).filter(|node| self.at[*node].is_some()).collect();
            for at in (1..order.len()).rev() {
                order.swap(at, self.rng.below(at as u64 + 1) as usize);
            }
            order.iter().for_each(|node| self.turn(*node));
            order.iter().for_each(|node| self.gossip(*node));
        }
        let lost: Vec<_> = self.nodes.iter().map(|node| node.missing()).collect();
        panic!("{what}: {lost:#?}");
    }
}

#[test]
fn whoever_reaches_any_other_finds_all_wherever_they_are_and_whenever_they_come() {
    for seed in 0..2000 {
        let mut rng = Random::seeded(seed);
        let size = 2 + rng.below(6) as usize;
        let old: Vec<String> = (0..size).map(|node| format!("old{node}")).collect();
        let mut new: Vec<String> = (0..size).map(|node| format!("new{node}")).collect();
        let moved = rng.below(3);
        if moved < 2 {
            // Permuted: at each other's old addresses, or some of them at their own.
            new = old.clone();
            for at in (1..size).rev() {
                new.swap(at, rng.below(at as u64 + 1) as usize);
            }
        }
        let joins = rng.below(3);
        let target = |node: usize, rng: &mut Random| match joins {
            _ if node == 0 => None,
            0 => Some(new[0].clone()),
            1 => Some(new[node - 1].clone()),
            _ => Some(new[rng.below(node as u64) as usize].clone()),
        };
        let mut order: Vec<usize> = (0..size).collect();
        for at in (1..size).rev() {
            order.swap(at, rng.below(at as u64 + 1) as usize);
        }
        let nodes = (0..size).map(|node| Whereabouts::new(id(node), "")).collect();
        let mut small = Small {
            rng: Random::seeded(seed + 1),
            nodes,
            at: vec![None; size],
            incarnations: vec![0; size],
            told: BTreeMap::new(),
            dials: 0,
        };
        let at_once = rng.below(2) == 0;
        for node in &order {
            let join = target(*node, &mut rng);
            small.start(*node, new[*node].clone(), &old, join);
            if !at_once {
                small.turn(*node);
            }
        }
        small.settle(&format!("seed {seed}: restored"));
        // One moves while the others are up, and knows them from the registry as it is now.
        let mover = rng.below(size as u64) as usize;
        small.start(mover, "moved".into(), &new, None);
        small.settle(&format!("seed {seed}: moved"));
        // At rest nobody dials anybody.
        let dials = small.dials;
        (0..size).for_each(|node| small.turn(node));
        assert_eq!(small.dials, dials, "seed {seed}");
    }
}

#[test]
fn two_that_have_changed_places_find_each_other_where_they_were_themselves() {
    let mut whereabouts = Whereabouts::new(NodeId(1), "theirs");
    whereabouts.listed(NodeId(1), "mine");
    whereabouts.listed(N, "theirs");
    assert_eq!(whereabouts.place(N), Some("theirs"));
    whereabouts.failed(N, "theirs", "this node is there now");
    assert_eq!((whereabouts.place(N), whereabouts.is_fresh(N)), (Some("mine"), true));

    // The registry may list this node last, and where it is.
    let mut whereabouts = Whereabouts::new(NodeId(3), "here");
    whereabouts.listed(N, "there");
    whereabouts.listed(NodeId(3), "here");
    whereabouts.failed(N, "there", "nobody is there");
    assert_eq!(
        whereabouts.place(N),
        Some("there"),
        "where this node is, nobody else is looked for"
    );
    whereabouts.listed(NodeId(3), "left");
    assert_eq!((whereabouts.place(N), whereabouts.is_fresh(N)), (Some("there"), false));
    whereabouts.failed(N, "there", "nobody is there");
    assert_eq!(whereabouts.place(N), Some("left"));
}
