//! Nodes that were removed from the cluster: nobody speaks to them, nobody listens, and one that
//! comes back learns it and ends.

use std::collections::BTreeSet;

use super::Peers;
use crate::{
    base::{
        error::Error,
        ids::{GroupId, NodeId},
        limits,
        locks::lock,
    },
    cluster::Removed,
};

impl Peers {
    /// A node was removed from the cluster: nobody speaks to it, and nobody listens.
    pub fn remove(&self, node: NodeId) {
        if self.whereabouts().remove(node) {
            tracing::info!(%node, "a node was removed from the cluster");
            lock(&self.shared.lines).remove(&node);
            lock(&self.shared.speakers).remove(&node);
        }
    }

    /// Another node says that this one was removed. That is believed when most of those say it who
    /// decide it: the meta group's voters, as this node knows them.
    pub(super) async fn told_removed_by(&self, node: NodeId) {
        let told: BTreeSet<NodeId> = {
            let mut told = lock(&self.shared.removed_by);
            told.insert(node);
            told.clone()
        };
        let (me, Some(handle)) = (self.me().identity.borrow().node, self.shared.handle.get())
        else {
            return;
        };
        let voters = handle.look(false, limits::NODE_STATUS, move |sight| {
            let voters = sight.meta().assignments().get(&GroupId::META).cloned();
            voters.unwrap_or_default().into_iter().filter(|voter| *voter != me).collect::<Vec<_>>()
        });
        // Otherwise it says so again when it is dialled again.
        let Ok(voters) = voters.await else { return };
        if told.iter().filter(|node| voters.contains(node)).count() * 2 > voters.len() {
            self.shared.crew.fail(Error::conflict(Removed::refusal(me)));
        }
    }
}
