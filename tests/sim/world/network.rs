//! How messages travel between nodes, and who may speak to whom.

use std::{collections::BTreeSet, hash::Hash as _, sync::Arc, time::Duration};

use bytes::Bytes;
use devicedb::{
    engine::Input,
    entry::Identity,
    ids::{Lineage, NodeId},
    peer::{self, Verdict},
    proto::internal::v1::{Hello, PeerMessage},
};

use super::{Event, Moment, Speaker, World};

/// How messages travel.
#[derive(Clone, Debug)]
pub struct Network {
    pub delay: (Duration, Duration),
    pub lost_permille: u64,
    pub doubled_permille: u64,
    /// Now and then a message takes very long.
    pub late_permille: u64,
    pub late: Duration,
    /// One-way: from, to.
    pub cut: BTreeSet<(usize, usize)>,
}

impl Network {
    /// One in which nothing is wrong.
    pub fn whole() -> Network {
        let delay = (Duration::from_micros(100), Duration::from_millis(2));
        Network { delay, lost_permille: 0, doubled_permille: 0, late_permille: 0, late: Duration::ZERO, cut: BTreeSet::new() }
    }
}

impl World {
    pub(super) fn send(&mut self, from: usize, at: Moment, to: NodeId, message: PeerMessage) {
        let Some(target) = self.nodes.iter().position(|n| n.id == to) else { return };
        self.messages += 1;
        (from, target, at.as_nanos(), prost::Message::encode_to_vec(&message)).hash(&mut self.trace);
        let Some(identity) = self.engine(from).map(|e| Arc::new(e.identity().clone())) else { return };
        if let Err(broken) = self.oaths.hear(from, identity.lineage, &message) {
            self.broken.push(broken);
        }
        let speaker = Speaker { identity, incarnation: self.nodes[from].incarnation };
        let network = &self.network;
        if network.cut.contains(&(from, target)) || self.chance.below(1000) < network.lost_permille {
            return;
        }
        let copies = 1 + u64::from(self.chance.below(1000) < self.network.doubled_permille);
        for _ in 0..copies {
            let (least, most) = self.network.delay;
            let late = if self.chance.below(1000) < self.network.late_permille { self.network.late } else { Duration::ZERO };
            let late = Duration::from_micros(self.chance.below(late.as_micros() as u64 + 1));
            let arrives = at + self.below(least, most) + late;
            let event = Event::Message { from, speaker: speaker.clone(), message: Box::new(message.clone()) };
            self.plan_node(target, arrives, 0, event);
        }
    }

    /// Judges the other side once for each pair of processes, as the first messages of a stream do, in both directions.
    pub(super) fn may_speak(&mut self, from: usize, speaker: &Speaker, to: usize) -> bool {
        let known = self.nodes[to].running.as_ref().is_some_and(|r| r.met.get(&from) == Some(&speaker.incarnation));
        if known {
            return true;
        }
        let ours = self.engine(to).expect("it is up").identity().clone();
        let theirs = &speaker.identity;
        let verdict = peer::judge(&ours, &hello(theirs, ours.node, speaker.incarnation));
        if matches!(verdict, Verdict::Refuse(_)) || (verdict == Verdict::Newcomer && self.has_met(theirs.node, ours.lineage)) {
            return false;
        }
        // The answer's hello, as the caller judges it, if that process is still there.
        if self.nodes[from].incarnation == speaker.incarnation {
            match peer::judge(theirs, &hello(&ours, theirs.node, self.nodes[to].incarnation)) {
                Verdict::Refuse(_) => return false,
                Verdict::Newcomer if self.has_met(ours.node, theirs.lineage) => return false,
                Verdict::Adopt(lineage) => self.input(from, Input::Adopt(lineage)),
                Verdict::Newcomer | Verdict::Welcome => {}
            }
        }
        if let Some(running) = &mut self.nodes[to].running {
            running.met.insert(from, speaker.incarnation);
        }
        true
    }

    /// Whether a node has taken part in a lineage, as a linearizable look at the registry would tell.
    fn has_met(&self, node: NodeId, lineage: Lineage) -> bool {
        self.up().into_iter().filter_map(|n| self.engine(n)).any(|e| e.meta().node(node).is_some_and(|n| n.lineage == lineage))
    }
}

fn hello(theirs: &Identity, to: NodeId, incarnation: u64) -> Hello {
    let bytes = |id: &[u8; 16]| Bytes::copy_from_slice(id);
    Hello {
        protocol: peer::PROTOCOL,
        node_id: theirs.node.0,
        to: to.0,
        cluster_id: bytes(theirs.cluster.0.as_bytes()),
        lineage: theirs.lineage.0,
        restored_from: theirs.restored_from.map_or(Bytes::new(), |id| bytes(id.0.as_bytes())),
        address: String::new(),
        incarnation,
    }
}
