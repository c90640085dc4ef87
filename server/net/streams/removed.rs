//! Nodes that are no members any more: nobody speaks to them, nobody listens, and one that comes
//! back learns it and ends. One that has asked to go ends well, however it learns that it may.

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

/// What a node knows of its own end as a member.
#[derive(Default)]
pub(super) struct Departure {
    /// It has said that it may go.
    asked: bool,
    /// Who has said that it was removed.
    told_by: BTreeSet<NodeId>,
}

impl Peers {
    /// This node says that it has given away what it held.
    pub fn departs(&self) {
        lock(&self.shared.departure).asked = true;
    }

    /// This node is no member any more.
    pub fn is_out(&self) {
        if lock(&self.shared.departure).asked {
            self.shared.crew.depart();
        } else {
            let me = self.me().identity.borrow().node;
            self.shared.crew.fail(Error::conflict(Removed::refusal(me)));
        }
    }

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
            let told = &mut lock(&self.shared.departure).told_by;
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
            self.is_out();
        }
    }
}
