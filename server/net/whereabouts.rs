//! Where the other nodes are, and where else to look for one that is not where it was.
//!
//! News of a node's address comes from three sides. The node itself names it in the hello of its
//! stream to this one. Other nodes pass on what the node has told them directly, never hearsay, and
//! they forget it when its stream ends, so old news dies with its process. And the registry lists
//! the address that the node announced last, which may be older than a change of all addresses.
//!
//! News only names a place to look; what counts is which node answers there. So neither a clock nor
//! a counter has to tell which news is newer. The places of a node are tried in turn until the node
//! itself answers at one: untried places first, the node's own last word before the registry's.
//! While a stream to it is open, news only changes where to look next time. So two nodes that have
//! changed places are found once, each at the other's address, however often the registry names the
//! old ones.
//!
//! If the registry lists this node at an address that it has left, another node may have moved
//! there; that address is a place to look for every other node.
//!
//! So a node that reaches any other one finds all: each node that it reaches passes on which nodes
//! talk to it, and those are reached next. This file only decides; `streams` dials.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::{ids::NodeId, limits};

/// Where a node says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub address: String,
    /// The random number of the process that said so.
    pub incarnation: u64,
}

/// See the module.
pub struct Whereabouts {
    me: NodeId,
    /// Where this node is.
    address: String,
    /// Where the registry has listed it, if that is elsewhere.
    left: Option<String>,
    trails: BTreeMap<NodeId, Trail>,
    /// Nodes that were removed from the cluster: nobody looks for them.
    removed: BTreeSet<NodeId>,
    targets: Vec<Target>,
    /// How many words were news at first hand.
    news: u64,
}

/// What leads to one node.
#[derive(Default)]
struct Trail {
    /// What the node itself says on a stream to this one, and the number of that news.
    heard: Option<(Word, u64)>,
    /// The incarnation and address that a stream of this node stands to.
    open: Option<Word>,
    /// Where it may be, the next to be tried first. Never empty.
    places: VecDeque<Place>,
    listed: String,
    /// Why it refused this one.
    refusal: Option<String>,
}

struct Place {
    address: String,
    /// The random number of the process that was last said to be there; 0 if only the registry
    /// names the place.
    incarnation: u64,
    /// Why the last attempt to reach the node there failed; none if there was no attempt since the
    /// place was last named.
    failed: Option<String>,
}

/// An address that an operator named, where some node of the cluster should be.
struct Target {
    address: String,
    found: Option<NodeId>,
    failed: Option<String>,
}

/// A node that there is no stream to, and the places where it was looked for, with what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    pub node: NodeId,
    pub tried: Vec<(String, String)>,
}

impl Whereabouts {
    pub fn new(me: NodeId, address: impl Into<String>) -> Whereabouts {
        Whereabouts {
            me,
            address: address.into(),
            left: None,
            trails: BTreeMap::new(),
            removed: BTreeSet::new(),
            targets: Vec::new(),
            news: 0,
        }
    }

    /// The trail of another node, new ones up to as many as a cluster may have.
    fn trail(&mut self, node: NodeId) -> Option<&mut Trail> {
        let full = self.trails.len() >= limits::NODES_MAX && !self.trails.contains_key(&node);
        let gone = node == self.me || self.removed.contains(&node);
        if gone || full { None } else { Some(self.trails.entry(node).or_default()) }
    }

    /// A node was removed from the cluster. Whether that is news.
    pub fn remove(&mut self, node: NodeId) -> bool {
        self.trails.remove(&node);
        self.removed.insert(node)
    }

    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    // ---- Words. Each says whether it is a reason to dial now. ----

    /// The registry lists a node. An address that is listed still is no news, whatever has been
    /// found out about it.
    pub fn listed(&mut self, node: NodeId, address: &str) -> bool {
        if !is_address(address) {
            return false;
        }
        if node == self.me {
            if address != self.address {
                self.left = Some(address.to_owned());
                self.trails.values_mut().for_each(|trail| trail.perhaps(address));
            }
            return false;
        }
        let left = self.left.clone();
        let Some(trail) = self.trail(node).filter(|trail| trail.listed != address) else {
            return false;
        };
        let before = std::mem::replace(&mut trail.listed, address.to_owned());
        trail.places.retain(|place| place.incarnation != 0 || place.address != before);
        if trail.places.iter().all(|place| place.address != address) {
            // Behind what the node itself may have said, before what was of no use.
            let at = trail
                .places
                .iter()
                .position(|place| place.failed.is_some())
                .unwrap_or(trail.places.len());
            trail
                .places
                .insert(at, Place { address: address.to_owned(), incarnation: 0, failed: None });
            trail.forget_most();
        }
        left.into_iter().for_each(|left| trail.perhaps(&left));
        trail.open.is_none()
    }

    /// A node says on a stream to this one where it is.
    pub fn heard(&mut self, node: NodeId, word: Word) -> bool {
        let number = self.news + 1;
        if !is_address(&word.address) {
            return false;
        }
        let Some(trail) = self.trail(node) else { return false };
        let wanted = trail.open.as_ref().is_none_or(|open| open.incarnation != word.incarnation);
        // It lives, so what failed before may work now.
        trail.first(&word);
        if trail.heard.as_ref().is_none_or(|(before, _)| *before != word) {
            trail.heard = Some((word, number));
            self.news = number;
        }
        wanted
    }

    /// A node's last stream to this one has ended.
    pub fn gone(&mut self, node: NodeId) {
        if let Some(trail) = self.trails.get_mut(&node) {
            trail.heard = None;
        }
    }

    /// Another node passes on what a node says of itself, or answers in its place.
    pub fn told(&mut self, node: NodeId, word: &Word) -> bool {
        is_address(&word.address)
            && self.trail(node).is_some_and(|trail| trail.said(word) && trail.open.is_none())
    }

    /// What to pass on that was not yet at the number `since`, and the number of now.
    pub fn passed_on(&self, since: u64) -> (Vec<(NodeId, Word)>, u64) {
        let heard = self.trails.iter().filter_map(|(node, trail)| {
            trail.heard.as_ref().map(|(word, number)| (*node, word, *number))
        });
        (
            heard
                .filter(|(.., number)| *number > since)
                .map(|(node, word, _)| (node, word.clone()))
                .collect(),
            self.news,
        )
    }

    // ---- Dialling. ----

    /// Where to dial a node, or where a stream to it stands.
    pub fn place(&self, node: NodeId) -> Option<&str> {
        let trail = self.trails.get(&node)?;
        trail
            .open
            .as_ref()
            .map(|open| open.address.as_str())
            .or_else(|| trail.places.front().map(|place| place.address.as_str()))
    }

    /// Whether the next place has not been tried since there was word of it.
    pub fn is_fresh(&self, node: NodeId) -> bool {
        self.trails
            .get(&node)
            .and_then(|trail| trail.places.front())
            .is_some_and(|place| place.failed.is_none())
    }

    /// Whether another process of the node speaks than the one that the stream to it stands to.
    pub fn is_superseded(&self, node: NodeId) -> bool {
        let of = |trail: &Trail| {
            trail
                .open
                .as_ref()
                .zip(trail.heard.as_ref())
                .is_some_and(|(open, (heard, _))| open.incarnation != heard.incarnation)
        };
        self.trails.get(&node).is_some_and(of)
    }

    /// Notes that the node did not answer at an address, or that another node did.
    pub fn failed(&mut self, node: NodeId, address: &str, why: impl Into<String>) {
        let Some(trail) = self.trails.get_mut(&node) else { return };
        trail.open = None;
        if let Some(at) = trail.places.iter().position(|place| place.address == address) {
            let place = trail.places.remove(at).expect("it was just found");
            trail.places.push_back(Place { failed: Some(why.into()), ..place });
        }
    }

    /// The node itself answered there and takes no stream of this one.
    pub fn refused(&mut self, node: NodeId, address: &str, why: &str) {
        self.failed(node, address, why);
        if let Some(trail) = self.trails.get_mut(&node) {
            trail.refusal = Some(why.to_owned());
        }
    }

    /// The node itself answered there, and a stream to it stands.
    pub fn answered(&mut self, node: NodeId, at: Word) {
        if let Some(trail) = self.trails.get_mut(&node) {
            trail.first(&at);
            trail.refusal = None;
            trail.open = Some(at);
        }
    }

    /// The stream to a node has ended. It is looked for where it was first, or where it has said
    /// meanwhile that it is.
    pub fn closed(&mut self, node: NodeId) {
        if let Some(trail) = self.trails.get_mut(&node) {
            trail.open = None;
        }
    }

    // ---- What an operator named. ----

    pub fn aim(&mut self, address: impl Into<String>) {
        self.targets.push(Target { address: address.into(), found: None, failed: None });
    }

    /// Whether to ask who is at an address of `--join`: while that is unknown, and again while no
    /// stream leads to the node that was found there.
    pub fn is_unmet(&self, target: &str) -> bool {
        let reached = |node: NodeId| {
            node == self.me || self.trails.get(&node).is_some_and(|trail| trail.open.is_some())
        };
        self.targets.iter().any(|t| t.address == target && !t.found.is_some_and(reached))
    }

    /// A node of the cluster answered at an address that was named: this one itself, perhaps.
    pub fn met(&mut self, target: &str, node: NodeId, word: &Word) -> bool {
        for t in self.targets.iter_mut().filter(|t| t.address == target) {
            (t.found, t.failed) = (Some(node), None);
        }
        // Where it answered it can be reached, whatever it says of itself.
        let here =
            self.told(node, &Word { address: target.to_owned(), incarnation: word.incarnation });
        self.told(node, word) || here
    }

    pub fn missed(&mut self, target: &str, why: impl Into<String>) {
        let why = why.into();
        for t in self.targets.iter_mut().filter(|t| t.address == target) {
            (t.found, t.failed) = (None, Some(why.clone()));
        }
    }

    /// The nodes that there is no stream to.
    pub fn unreached(&self) -> Vec<NodeId> {
        self.trails
            .iter()
            .filter(|(_, trail)| trail.open.is_none())
            .map(|(node, _)| *node)
            .collect()
    }

    // ---- What is told to people. ----

    pub fn sought(&self) -> Vec<Sought> {
        let lost =
            self.trails.iter().filter(|(_, trail)| trail.open.is_none() && trail.refusal.is_none());
        let tried = |trail: &Trail| {
            trail
                .places
                .iter()
                .filter_map(|place| Some((place.address.clone(), place.failed.clone()?)))
                .collect()
        };
        lost.map(|(node, trail)| Sought { node: *node, tried: tried(trail) })
            .filter(|sought| !sought.tried.is_empty())
            .collect()
    }

    pub fn refusals(&self) -> Vec<&str> {
        self.trails.values().filter_map(|trail| trail.refusal.as_deref()).collect()
    }

    /// Whom this node looks for and where it has tried, in one line; none when it misses nobody.
    pub fn missing(&self) -> Option<String> {
        let mut told = Vec::new();
        let sought = self.sought();
        for Sought { node, tried } in sought.iter().take(limits::SOUGHT_TOLD_MAX) {
            let tried: Vec<String> = tried
                .iter()
                .map(|(address, why)| format!("{address}: {}", without(address, why)))
                .collect();
            told.push(format!("looking for node {node} ({})", tried.join("; ")));
        }
        if let Some(more) =
            sought.len().checked_sub(limits::SOUGHT_TOLD_MAX).filter(|more| *more > 0)
        {
            told.push(format!("and for {more} more nodes"));
        }
        let unmet = self.targets.iter().filter_map(|t| {
            Some(format!(
                "nobody found at --join {}: {}",
                t.address,
                without(&t.address, t.failed.as_ref()?)
            ))
        });
        told.extend(unmet);
        if told.is_empty() { None } else { Some(told.join("; ")) }
    }
}

impl Trail {
    /// Takes note of a place that a word names. False when it was known that this process was
    /// there, whatever has come of it.
    fn said(&mut self, word: &Word) -> bool {
        let known = self
            .places
            .iter()
            .any(|place| place.address == word.address && place.incarnation == word.incarnation);
        if !known {
            self.first(word);
        }
        !known
    }

    /// The place that is tried next, as if it had not been tried before.
    fn first(&mut self, word: &Word) {
        self.places.retain(|place| place.address != word.address);
        self.places.push_front(Place {
            address: word.address.clone(),
            incarnation: word.incarnation,
            failed: None,
        });
        self.forget_most();
    }

    /// A place that nobody has named for this node, behind all others.
    fn perhaps(&mut self, address: &str) {
        if self.places.len() < limits::PLACES_MAX
            && self.places.iter().all(|place| place.address != address)
        {
            self.places.push_back(Place {
                address: address.to_owned(),
                incarnation: 0,
                failed: None,
            });
        }
    }

    /// Keeps as many places as are worth it: the registry's, and the last that were said.
    fn forget_most(&mut self) {
        while self.places.len() > limits::PLACES_MAX {
            let oldest =
                self.places.iter().rposition(|place| place.address != self.listed).unwrap_or(0);
            self.places.remove(oldest);
        }
    }
}

fn is_address(address: &str) -> bool {
    !address.is_empty() && address.len() <= limits::ADDRESS_BYTES_MAX
}

/// What came of an address, without the address, which stands before it.
fn without<'a>(address: &str, why: &'a str) -> &'a str {
    why.strip_prefix(address).map_or(why, |rest| rest.trim_start_matches([':', ' ']))
}

#[cfg(test)]
mod tests;
