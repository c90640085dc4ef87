//! Which process of each node speaks to this one, and by which name it has proved who it is.

use std::{collections::BTreeMap, time::Duration};

use super::Peers;
use crate::base::{ids::NodeId, limits, locks::lock};

/// A process that has a stream to this node, or several.
pub(super) struct Speaker {
    incarnation: u64,
    address: String,
    /// The name that its certificate proves, where it speaks TLS.
    name: Option<String>,
    streams: u32,
    heard: Duration,
}

impl Peers {
    /// The names that nodes have proved which speak to this one, and its own.
    pub fn names(&self) -> BTreeMap<NodeId, String> {
        let named = |(node, speaker): (&NodeId, &Speaker)| Some((*node, speaker.name.clone()?));
        let me = self.me();
        let own = me.dialler.own_name().map(|name| (me.identity.borrow().node, name));
        lock(&self.shared.speakers).iter().filter_map(named).chain(own).collect()
    }

    /// Lets a process of a node speak, unless another one that claims to be the same node is
    /// speaking.
    pub(super) fn admit(
        &self,
        node: NodeId,
        (incarnation, address): (u64, &str),
        name: Option<&str>,
        now: Duration,
    ) -> Result<(), String> {
        let mut speakers = lock(&self.shared.speakers);
        let fresh = || Speaker {
            incarnation,
            address: address.to_owned(),
            name: name.map(str::to_owned),
            streams: 0,
            heard: now,
        };
        let speaker = speakers.entry(node).or_insert_with(fresh);
        if speaker.incarnation != incarnation {
            if now.saturating_sub(speaker.heard) < limits::PEER_SILENT {
                let at = &speaker.address;
                return Err(format!(
                    "another process at {at} speaks as node {node} already; two were started from \
                     one part or store"
                ));
            }
            // Its streams have not ended, but nobody speaks on them: its machine is gone, or cut
            // off.
            *speaker = fresh();
        }
        speaker.streams += 1;
        Ok(())
    }

    /// Notes that a process has spoken. False when another one has taken its place.
    pub(super) fn hear(&self, node: NodeId, incarnation: u64, now: Duration) -> bool {
        let mut speakers = lock(&self.shared.speakers);
        let speaker = speakers.get_mut(&node).filter(|s| s.incarnation == incarnation);
        speaker.map(|s| s.heard = now).is_some()
    }

    /// A stream of a process has ended. Whether it was its last.
    pub(super) fn dismiss(&self, node: NodeId, incarnation: u64) -> bool {
        let mut speakers = lock(&self.shared.speakers);
        let Some(speaker) = speakers.get_mut(&node).filter(|s| s.incarnation == incarnation) else {
            return false;
        };
        speaker.streams -= 1;
        let last = speaker.streams == 0;
        if last {
            speakers.remove(&node);
            self.whereabouts().gone(node);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use tokio::sync::watch;

    use super::*;
    use crate::{
        base::{
            clock::Clock,
            crew::Crew,
            ids::{ClusterId, Lineage, Topology},
            pace::Paced,
        },
        entry::Identity,
        net::{Dialler, Me},
    };

    fn peers() -> Peers {
        let identity = Identity {
            format: 1,
            node: NodeId(1),
            cluster: ClusterId(uuid::Uuid::nil()),
            lineage: Lineage(1),
            restored_from: None,
            topology: Topology::new(64, 8).unwrap(),
        };
        let me = Me {
            identity: watch::channel(identity).1,
            address: "127.0.0.1:1".into(),
            incarnation: 1,
            dialler: Dialler::default(),
        };
        let pace = Paced::new(limits::MOVE_BYTES_A_SECOND, Clock::start());
        Peers::new(me, PathBuf::new(), pace, Arc::default(), Crew::default())
    }

    #[test]
    fn a_second_process_of_a_node_speaks_only_when_the_first_has_ended_or_gone_silent() {
        let (peers, node, second) = (peers(), NodeId(2), Duration::from_secs(1));
        peers.admit(node, (10, "here"), None, second).unwrap();
        peers.admit(node, (10, "here"), None, second).unwrap();
        assert!(peers.hear(node, 10, 2 * second));
        assert!(peers.admit(node, (20, "there"), None, 3 * second).unwrap_err().contains("here"));

        peers.admit(node, (20, "there"), None, 2 * second + limits::PEER_SILENT).unwrap();
        assert!(
            !peers.hear(node, 10, 7 * second),
            "a process that has lost its place is not heard any more"
        );
        assert!(!peers.dismiss(node, 10), "and takes nothing from the other when it ends");
        assert!(peers.hear(node, 20, 7 * second));
        assert!(peers.dismiss(node, 20));

        peers.admit(node, (30, "elsewhere"), None, 7 * second).unwrap();
        peers.admit(node, (30, "elsewhere"), None, 7 * second).unwrap();
        assert!(!peers.dismiss(node, 30), "one of two streams has ended");
        assert!(peers.dismiss(node, 30));
    }
}
