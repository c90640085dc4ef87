//! Whether the nodes of another cluster look for one of theirs where this node is.
//!
//! A disk that is lost or not mounted leaves nothing on its machine that says so. But the other
//! members of its node's cluster go on dialling that address. So a node that has founded a cluster
//! there, and has it to itself, hears of the first one within seconds, and says that it is the
//! second.

use std::time::Duration;

use super::Peers;
use crate::{
    base::{ids::NodeId, limits, locks::lock},
    entry::Identity,
    proto::internal::v1::Hello,
};

/// Who was sought here last.
pub(super) struct Sought {
    heard: Duration,
    words: String,
}

impl Peers {
    /// Takes note of a hello that is refused, where it is meant for a node of another cluster.
    pub(super) fn note_sought(&self, ours: &Identity, hello: &Hello, now: Duration) {
        let is_ours = hello.cluster_id == ours.cluster.0.as_bytes()[..];
        let Ok(cluster) = uuid::Uuid::from_slice(&hello.cluster_id) else { return };
        if is_ours || hello.to == 0 || NodeId(hello.to) == ours.node {
            return;
        }
        let words = format!(
            "node {} of cluster {cluster} looks for node {} here, at {}, and this node belongs to \
             cluster {}. If that node's disk is lost or not mounted, this start has founded a \
             second cluster: stop it, and mount the disk, or start it on an empty store with \
             --join and without --found. If that node is to be no more, ddbctl node remove {} says \
             so to its cluster",
            hello.node_id,
            hello.to,
            self.me().address,
            ours.cluster,
            hello.to
        );
        let mut sought = lock(&self.shared.sought);
        if sought.as_ref().is_none_or(|before| before.is_old(now)) {
            tracing::error!("{words}");
        }
        *sought = Some(Sought { heard: now, words });
    }

    /// What is to be said of that while it goes on.
    pub fn sought(&self, now: Duration) -> Option<String> {
        let sought = lock(&self.shared.sought);
        Some(sought.as_ref().filter(|sought| !sought.is_old(now))?.words.clone())
    }
}

impl Sought {
    fn is_old(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) > limits::SOUGHT_FOR
    }
}
