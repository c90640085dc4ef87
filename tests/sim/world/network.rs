//! How messages travel between nodes: where one is looked for, who answers there or that nobody
//! does, and who may speak to whom.
//!
//! A message goes to the machine at the address where its sender believes the receiver to be
//! (`net::Whereabouts`, the product's own). Hellos and news of who is where take no time and are
//! not lost while both sides are up and nothing is cut between them; streams, their queues and
//! their time-outs are not played.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash as _,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use devicedb::{
    base::{
        ids::{Lineage, NodeId},
        limits,
    },
    engine::Input,
    entry::Identity,
    net::{self, Verdict, Word},
    proto::internal::v1::{Hello, PeerMessage, RaftMessage, RaftMessageType, peer_message::Body},
};

use super::{Event, FIRST_PORT, Moment, Speaker, World};

/// What members have acknowledged: who, to whom, and of which group.
pub type Acknowledged = BTreeMap<(usize, usize, u32), Said>;

#[derive(Clone, Debug, Default)]
pub struct Said {
    last: Option<(Speaker, PeerMessage)>,
    /// As what the leader has spoken to the member since.
    tenure: u64,
}

/// How messages travel.
#[derive(Clone, Debug)]
pub struct Network {
    pub delay: (Duration, Duration),
    pub lost_permille: u64,
    pub doubled_permille: u64,
    /// Now and then a message takes very long.
    pub late_permille: u64,
    pub late: Duration,
    /// Requests for marks take so long to reach this node.
    pub marks_late: Option<(usize, Duration)>,
    /// What a member has acknowledged comes again when a leader speaks to it as one that has left
    /// and come back.
    pub acks_again: Option<Acknowledged>,
    /// No entry reaches this node.
    pub starves: Option<usize>,
    /// The next vote for another node is the last that anybody says.
    pub fails_at_vote: bool,
    /// One-way: from, to.
    pub cut: BTreeSet<(usize, usize)>,
}

impl Network {
    /// One in which nothing is wrong.
    pub fn whole() -> Network {
        let delay = (Duration::from_micros(100), Duration::from_millis(2));
        Network {
            delay,
            lost_permille: 0,
            doubled_permille: 0,
            late_permille: 0,
            late: Duration::ZERO,
            marks_late: None,
            starves: None,
            acks_again: None,
            fails_at_vote: false,
            cut: BTreeSet::new(),
        }
    }
}

impl World {
    pub(super) fn send(&mut self, from: usize, at: Moment, to: NodeId, message: PeerMessage) {
        let Some(target) = self.reach(from, to) else { return };
        self.messages += 1;
        (from, target, at.as_nanos(), prost::Message::encode_to_vec(&message))
            .hash(&mut self.trace);
        let Some(identity) = self.engine(from).map(|e| Arc::new(e.identity().clone())) else {
            return;
        };
        if let Err(broken) = self.raft_invariants.hear(from, identity.lineage, &message) {
            self.broken.push(broken);
        }
        let speaker = Speaker { identity, incarnation: self.nodes[from].incarnation };
        let network = &self.network;
        if network.cut.contains(&(from, target)) || self.rng.below(1000) < network.lost_permille {
            return;
        }
        let votes = |raft: &RaftMessage| {
            raft.r#type() == RaftMessageType::RequestVoteResponse && !raft.reject
        };
        let voted = matches!(&message.body, Some(Body::Raft(raft)) if votes(raft));
        if voted && std::mem::take(&mut self.network.fails_at_vote) {
            self.power_fails = true;
            return;
        }
        if self.network.starves == Some(target)
            && matches!(&message.body, Some(Body::Raft(raft)) if !raft.entries.is_empty())
        {
            return;
        }
        let asks_for_marks = matches!(message.body, Some(Body::MarkRequest(_)));
        let held_up = self.network.marks_late.filter(|(node, _)| asks_for_marks && *node == target);
        let at = at + held_up.map_or(Duration::ZERO, |(_, late)| late);
        self.acknowledge_again((from, target), &speaker, &message, at);
        let copies = 1 + u64::from(self.rng.below(1000) < self.network.doubled_permille);
        for _ in 0..copies {
            let (least, most) = self.network.delay;
            let late = if self.rng.below(1000) < self.network.late_permille {
                self.network.late
            } else {
                Duration::ZERO
            };
            let late = Duration::from_micros(self.rng.below(late.as_micros() as u64 + 1));
            let arrives = at + self.below(least, most) + late;
            let event = Event::Message {
                from,
                speaker: speaker.clone(),
                message: Box::new(message.clone()),
            };
            self.plan_node(target, arrives, 0, event);
        }
    }

    fn acknowledge_again(
        &mut self,
        (from, to): (usize, usize),
        speaker: &Speaker,
        message: &PeerMessage,
        at: Moment,
    ) {
        let Some(Body::Raft(raft)) = &message.body else { return };
        let Some(acknowledged) = &mut self.network.acks_again else { return };
        match raft.r#type() {
            RaftMessageType::AppendResponse if !raft.reject => {
                let said = acknowledged.entry((from, to, message.group)).or_default();
                said.last = Some((speaker.clone(), message.clone()));
            }
            RaftMessageType::Append => {
                let said = acknowledged.entry((to, from, message.group)).or_default();
                let before = std::mem::replace(&mut said.tenure, raft.tenure);
                if before == raft.tenure {
                    return;
                }
                let Some((speaker, message)) = said.last.clone() else { return };
                let arrives = at + self.below(Duration::ZERO, Duration::from_millis(20));
                let message = Box::new(message);
                self.plan_node(from, arrives, 0, Event::Message { from: to, speaker, message });
            }
            _ => {}
        }
    }

    // ---- Where they are. ----

    pub fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[node].port)
    }

    /// Whether there is a machine where none was at the beginning. Which of those a machine is at
    /// does not count.
    pub fn anybody_has_moved(&self) -> bool {
        self.nodes.iter().any(|node| node.port >= FIRST_PORT + self.nodes.len())
    }

    /// From its next start on a node is where nobody was before.
    pub fn moves_away(&mut self, node: usize) {
        self.nodes[node].port =
            1 + self.nodes.iter().map(|n| n.port).max().expect("there are nodes");
    }

    /// An operator names addresses to a node, now and for its further starts.
    pub fn aim(&mut self, node: usize, addresses: Vec<String>) {
        self.nodes[node].joins = addresses;
        self.begin_looking(node);
    }

    pub(super) fn begin_looking(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if let Some(running) = &mut this.running {
            this.joins.iter().for_each(|address| running.whereabouts.aim(address));
        }
    }

    /// Whom a node looks for, and where it has.
    pub fn missing(&self, node: usize) -> Option<String> {
        self.nodes[node].running.as_ref()?.whereabouts.missing()
    }

    fn own_word(&self, node: usize) -> Word {
        Word { address: self.address(node), incarnation: self.nodes[node].incarnation }
    }

    /// The machine where a node believes another one to be. None when it has found out that this
    /// one is not there, and waits before it looks again.
    pub(super) fn reach(&mut self, from: usize, to: NodeId) -> Option<usize> {
        let now = self.now;
        let running = self.nodes[from].running.as_ref()?;
        if running.pauses.get(&to).is_some_and(|(until, _)| now < *until)
            && !running.whereabouts.is_fresh(to)
        {
            return None;
        }
        let address = running.whereabouts.place(to)?.to_owned();
        let there = (0..self.nodes.len()).find(|node| self.address(*node) == address);
        if there.is_some_and(|there| self.nodes[there].id == to) {
            return there;
        }
        let why = match there.filter(|there| self.answers(from, *there)) {
            None => "nobody is there",
            Some(there) => {
                if self.are_one_cluster(from, there) {
                    let (id, word, heard) =
                        (self.nodes[there].id, self.own_word(there), self.heard_by(there));
                    let whereabouts = &mut self.nodes[from]
                        .running
                        .as_mut()
                        .expect("it looks for others")
                        .whereabouts;
                    whereabouts.told(id, &word);
                    heard.iter().for_each(|(node, word)| {
                        whereabouts.told(*node, word);
                    });
                }
                "another node is there"
            }
        };
        let running = self.nodes[from].running.as_mut().expect("it looks for others");
        running.whereabouts.failed(to, &address, why);
        let (_, pause) = running.pauses.get(&to).copied().unwrap_or((now, limits::PEER_RETRY_MIN));
        running.pauses.insert(to, (now + pause, (pause * 2).min(limits::PEER_RETRY_MAX)));
        None
    }

    fn answers(&self, from: usize, there: usize) -> bool {
        let cut = |way: (usize, usize)| self.network.cut.contains(&way);
        self.is_up(there)
            && self.nodes[there].paused_until <= self.now
            && !cut((from, there))
            && !cut((there, from))
    }

    fn heard_by(&self, node: usize) -> Vec<(NodeId, Word)> {
        self.nodes[node]
            .running
            .as_ref()
            .map_or(Vec::new(), |running| running.whereabouts.passed_on(0).0)
    }

    /// As a node judges the hello of another one that it did not expect.
    fn are_one_cluster(&self, node: usize, other: usize) -> bool {
        let identity = |node: usize| self.engine(node).expect("it is up").identity().clone();
        let (ours, theirs) = (identity(node), identity(other));
        node == other
            || !matches!(
                net::judge(&ours, &hello(&theirs, ours.node, self.nodes[other].incarnation)),
                Verdict::Refuse(_)
            )
    }

    /// What a node does of itself to find others: it says hello where it has no stream to, and asks
    /// who is where it was told to join.
    pub(super) fn look_around(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        let (unreached, incarnation) =
            (running.whereabouts.unreached(), self.nodes[node].incarnation);
        let unmet: Vec<String> = self.nodes[node]
            .joins
            .iter()
            .filter(|target| running.whereabouts.is_unmet(target))
            .cloned()
            .collect();
        for target in unmet {
            let there = (0..self.nodes.len())
                .find(|other| self.address(*other) == target && self.answers(node, *other));
            let met = there
                .filter(|there| self.are_one_cluster(node, *there))
                .map(|there| (self.nodes[there].id, self.own_word(there), self.heard_by(there)));
            let whereabouts = &mut self.nodes[node].running.as_mut().expect("it is up").whereabouts;
            match met {
                None => whereabouts.missed(&target, "nobody of this cluster answers there"),
                Some((id, word, heard)) => {
                    whereabouts.met(&target, id, &word);
                    heard.iter().for_each(|(node, word)| {
                        whereabouts.told(*node, word);
                    });
                }
            }
        }
        for other in unreached {
            let there = self.reach(node, other).filter(|there| self.answers(node, *there));
            if let (Some(there), Some(identity)) =
                (there, self.engine(node).map(|e| Arc::new(e.identity().clone())))
            {
                self.may_speak(node, &Speaker { identity, incarnation }, there);
            }
        }
    }

    /// A stream from one process to another stands: it carries news of who speaks to its sender,
    /// and each side knows where the other is.
    fn tell_news(&mut self, from: usize, to: usize) {
        let (word, id, there) = (self.own_word(from), self.nodes[from].id, self.own_word(to));
        let to_id = self.nodes[to].id;
        let Some(speaker) = &mut self.nodes[from].running else { return };
        speaker.whereabouts.answered(to_id, there.clone());
        speaker.pauses.remove(&to_id);
        let told = speaker.told.entry((to, there.incarnation)).or_default();
        let (news, now) = speaker.whereabouts.passed_on(*told);
        *told = now;
        let Some(listener) = &mut self.nodes[to].running else { return };
        listener.whereabouts.heard(id, word);
        if listener.whereabouts.is_superseded(id) {
            listener.whereabouts.closed(id);
        }
        news.iter().for_each(|(node, word)| {
            listener.whereabouts.told(*node, word);
        });
    }

    /// Streams of a process have ended, and the others have noticed.
    pub(super) fn streams_ended(&mut self, node: usize) {
        let id = self.nodes[node].id;
        for running in self.nodes.iter_mut().filter_map(|n| n.running.as_mut()) {
            running.whereabouts.gone(id);
            running.whereabouts.closed(id);
            running.met.remove(&node);
        }
    }

    // ---- Who may speak to whom. ----

    /// Judges the other side once for each pair of processes, as the first messages of a stream do,
    /// in both directions.
    pub(super) fn may_speak(&mut self, from: usize, speaker: &Speaker, to: usize) -> bool {
        let known = self.nodes[to]
            .running
            .as_ref()
            .is_some_and(|r| r.met.get(&from) == Some(&speaker.incarnation));
        if known {
            self.stream_stands(from, speaker, to);
            return true;
        }
        // Who has ended opens no stream: what it had said to another process went with that one.
        if self.nodes[from].incarnation != speaker.incarnation {
            return false;
        }
        let ours = self.engine(to).expect("it is up").identity().clone();
        let theirs = &speaker.identity;
        let verdict = net::judge(&ours, &hello(theirs, ours.node, speaker.incarnation));
        if matches!(verdict, Verdict::Refuse(_))
            || (verdict == Verdict::Newcomer && self.has_met(theirs.node, ours.lineage))
        {
            return false;
        }
        // The answer's hello, as the caller judges it.
        match net::judge(theirs, &hello(&ours, theirs.node, self.nodes[to].incarnation)) {
            Verdict::Refuse(_) => return false,
            Verdict::Newcomer if self.has_met(ours.node, theirs.lineage) => return false,
            Verdict::Adopt(lineage) => self.input(from, Input::Adopt(lineage)),
            Verdict::Newcomer | Verdict::Welcome => {}
        }
        if let Some(running) = &mut self.nodes[to].running {
            running.met.insert(from, speaker.incarnation);
        }
        self.stream_stands(from, speaker, to);
        true
    }

    fn stream_stands(&mut self, from: usize, speaker: &Speaker, to: usize) {
        if self.nodes[from].incarnation == speaker.incarnation && self.is_up(from) {
            self.tell_news(from, to);
        }
    }

    /// Whether a node has taken part in a lineage, as a linearizable look at the registry would
    /// tell.
    fn has_met(&self, node: NodeId, lineage: Lineage) -> bool {
        self.up()
            .into_iter()
            .filter_map(|n| self.engine(n))
            .any(|e| e.meta().node(node).is_some_and(|n| n.lineage == lineage))
    }
}

fn hello(theirs: &Identity, to: NodeId, incarnation: u64) -> Hello {
    let bytes = |id: &[u8; 16]| Bytes::copy_from_slice(id);
    Hello {
        protocol: *net::PROTOCOLS.end(),
        node_id: theirs.node.0,
        to: to.0,
        cluster_id: bytes(theirs.cluster.0.as_bytes()),
        lineage: theirs.lineage.0,
        restored_from: theirs.restored_from.map_or(Bytes::new(), |id| bytes(id.0.as_bytes())),
        address: String::new(),
        incarnation,
        protocol_min: 0,
    }
}
