//! Which node has which certificate.
//!
//! A node that joins over TLS is registered under the name that its certificate proves. The node
//! that leads the meta group notes the names of those that were members before: all of them speak
//! to it. So a cluster that goes from open to closed has its names without anybody's saying them,
//! as soon as its level allows it.

use std::time::Duration;

use super::Cluster;
use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, NodeId},
        limits,
    },
    cluster::{self, level::Level},
    net::{self, tls::name::is_node},
};

impl Cluster {
    /// Has whoever speaks as a node over TLS be known by this name from now on. Whether that is
    /// another one than before.
    pub async fn set_certificate_name(
        &self,
        node: NodeId,
        name: String,
        wait: Duration,
    ) -> Result<bool> {
        if !is_node(&name) {
            return Err(Error::invalid(format!(
                "{name:?} is in no node's certificate: a node's name is \
                 spiffe://DOMAIN/devicedb/node/NAME"
            )));
        }
        self.change(cluster::Command::BindNode { node, name, anew: true }, wait).await
    }

    /// Refuses a caller whose certificate is that of a node, and of none that is a member.
    pub async fn is_member(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) => net::is_member(&self.handle, name).await,
            None => Ok(()),
        }
    }

    /// Notes the names of nodes that have none, while this node leads the meta group.
    pub(super) async fn note_names(&self) -> Result<()> {
        let mut names = self.peers.names();
        if names.is_empty() {
            return Ok(());
        }
        let look = self.handle.look(false, limits::NODE_STATUS, move |sight| {
            let s = sight.meta();
            let leads = sight.led().any(|(group, _)| group.is_meta());
            let settings = s.settings();
            let may = settings.level >= Level::ACCESS && settings.lineage != Lineage::PENDING;
            names.retain(|node, _| {
                leads && may && s.node(*node).is_some_and(|node| node.certificate_name.is_none())
            });
            names
        });
        for (node, name) in look.await? {
            let bind = cluster::Command::BindNode { node, name: name.clone(), anew: false };
            if self.change(bind, limits::REQUEST_DEADLINE).await? {
                tracing::info!(%node, name, "a node has proved its name, and is known by it now");
            }
        }
        Ok(())
    }
}
