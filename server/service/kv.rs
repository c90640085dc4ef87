//! Reads and writes of sites: each goes to the group that holds the site, wherever its leader is.
//!
//! A write without a request id is given one here, so that what this node tries again by itself has
//! its effect once. Scans are a page at a time; a page is linearizable, the scan as a whole is not
//! one instant.

use std::time::Duration;

use crate::{
    base::{
        clock::Random,
        error::{Error, Result},
        ids::{NodeId, RequestId, SiteId, Topology},
    },
    data::{self, Key, KeyView, Query, Read, Reply, Write, WrittenStep},
    engine::{Body, driver::Handle},
    entry::{Action, Command},
    net::Peers,
};

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Kv {
    handle: Handle,
    peers: Peers,
    topology: Topology,
}

/// Who leads a group as this node believes, and where.
pub type Leader = Option<(NodeId, String)>;

impl Kv {
    pub fn new(handle: Handle, peers: Peers, topology: Topology) -> Kv {
        Kv { handle, peers, topology }
    }

    pub async fn write(
        &self,
        request: Option<RequestId>,
        write: Write,
        wait: Duration,
    ) -> Result<Vec<WrittenStep>> {
        let group = self.topology.group_of_site(write.site());
        let request =
            request.unwrap_or_else(|| RequestId(*Random::from_entropy().uuid().as_bytes()));
        let command =
            Command { request: Some(request), action: Action::Data(data::Command::Write(write)) };
        match self.handle.request(group, Body::Propose(command), wait).await? {
            Reply::Written(steps) => Ok(steps),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn get(&self, query: Query, stale: bool, wait: Duration) -> Result<KeyView> {
        let group = self.topology.group_of_site(&query.site);
        match self.handle.request(group, Body::Read { query, stale }, wait).await? {
            Reply::Found(view) => Ok(view),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of a scan, and the key after which the next one begins.
    pub async fn page(
        &self,
        query: Query,
        stale: bool,
        wait: Duration,
    ) -> Result<(Vec<KeyView>, Option<Key>)> {
        debug_assert!(matches!(query.read, Read::Scan(_)));
        let group = self.topology.group_of_site(&query.site);
        match self.handle.request(group, Body::Read { query, stale }, wait).await? {
            Reply::Page { keys, resume } => Ok((keys, resume)),
            other => Err(unexpected(&other)),
        }
    }

    /// Who leads a site's group, for the client's next request.
    pub fn leader(&self, site: &SiteId) -> Leader {
        let node = self.handle.leader(self.topology.group_of_site(site))?;
        let me = self.peers.me();
        let address = if node == me.identity.borrow().node {
            Some(me.address.clone())
        } else {
            self.peers.address(node)
        };
        address.map(|address| (node, address))
    }
}

pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::unknown(format!(
        "another node has answered {reply:?}, which is no answer to this; it runs another version"
    ))
}
