//! The node that founds a cluster together with others, while they come: who is there, for how many
//! it still waits, and the plan, once it is drawn up.
//!
//! A node that is to be one of the first asks to join, and says what it was told of the new
//! cluster. The founder holds that against its own words, calls the node back at the address where
//! it says that it is reached, and keeps the question open until the plan is there or a while is
//! over; then the node asks again. A node that asks no more is not there any more.
//!
//! The first that come are the ones: whoever comes when the plan is drawn up joins the cluster when
//! it serves. One that the plan names and that has not fetched it gets it from the founder also
//! when that serves already, and from every other node that has begun. That one has no store, so it
//! has never voted, and may begin however late it is.
//!
//! Does not decide what the cluster begins with (`restore::plan`), and keeps nothing on disk.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::{
    base::{
        clock::Clock,
        error::{Error, Result},
        ids::{ClusterId, NodeId},
        limits,
        locks::lock,
    },
    boot::restore::plan::Plan,
    cluster::Node,
    net::{self, Dialler},
    proto::internal::v1::{IntroduceResponse, JoinRequest, JoinResponse, SeedOrder},
    service::admin::call_back,
    wire,
};

/// See the module.
pub struct Gathering {
    /// The founder.
    node: NodeId,
    address: String,
    /// What all have to be told.
    told: SeedOrder,
    dialler: Dialler,
    clock: Clock,
    here: Mutex<BTreeMap<NodeId, Here>>,
    changed: Notify,
    plan: watch::Sender<Option<Arc<Plan>>>,
}

/// A node that has come.
struct Here {
    node: Node,
    incarnation: u64,
    /// Questions of it that are held, and when the last one ended.
    asking: u32,
    left: Duration,
}

/// A question that is held.
struct Asking<'a> {
    gathering: &'a Gathering,
    node: NodeId,
    incarnation: u64,
}

impl Gathering {
    pub fn new(node: NodeId, address: &str, told: SeedOrder, dialler: Dialler) -> Arc<Gathering> {
        Arc::new(Gathering {
            node,
            address: address.to_owned(),
            told,
            dialler,
            clock: Clock::start(),
            here: Mutex::default(),
            changed: Notify::new(),
            plan: watch::Sender::default(),
        })
    }

    // ---- What others ask. ----

    /// A node asks to be one of the first. `name` is what its certificate proves.
    pub async fn attend(&self, request: JoinRequest, name: Option<String>) -> Result<JoinResponse> {
        let JoinRequest { node, protocol, protocol_min, incarnation, seed, proof: _ } = request;
        net::common_protocol((protocol_min, protocol))
            .map_err(|why| Error::conflict(format!("the node that joins {why}")))?;
        let node = node.ok_or_else(|| Error::invalid("a node that joins has to say who it is"))?;
        let node = Node { certificate_name: name, ..wire::parse_node(node)? };
        let Some(theirs) = seed else { return Err(self.later()) };
        self.compare(&node, &theirs)?;
        let known = self.plan.borrow().clone();
        if let Some(plan) = known {
            return self.hand(&plan, node.id);
        }
        call_back(&self.dialler, &node, incarnation).await?;
        let (id, mut plan) = (node.id, self.plan.subscribe());
        let _asking = self.enter(node, incarnation);
        let drawn = tokio::time::timeout(limits::GATHER_HOLD, plan.wait_for(Option::is_some)).await;
        let drawn = drawn.ok().and_then(|drawn| drawn.ok().and_then(|plan| plan.clone()));
        match drawn {
            Some(plan) => self.hand(&plan, id),
            None => Err(Error::unavailable(format!("{}; retry", self.missing()))),
        }
    }

    /// Whether a node was told what this one was.
    fn compare(&self, node: &Node, theirs: &SeedOrder) -> Result<()> {
        let ours = &self.told;
        if node.id == self.node {
            return Err(Error::conflict(format!(
                "node {} founds here, and another process says that it is node {0}: one of them \
                 was started with a copied store",
                self.node
            )));
        }
        // Of a snapshot that is named by its uuid there is no doubt.
        let same_point = theirs.point == ours.point
            || theirs.snapshot == ours.snapshot
                && uuid::Uuid::from_slice(&ours.snapshot)
                    .is_ok_and(|id| theirs.point == id.to_string());
        let differs = |what: &str, theirs: &dyn std::fmt::Display, ours: &dyn std::fmt::Display| {
            Err(Error::conflict(format!(
                "node {} at {} was told {what} {theirs}, and the node that founds, at {}, {what} \
                 {ours}: say the same on every node",
                node.id, node.address, self.address
            )))
        };
        let sites = |sites: &[String]| match sites {
            [] => "of all".to_owned(),
            some => some.join(","),
        };
        if theirs.nodes != ours.nodes {
            return differs("--expect-nodes", &theirs.nodes, &ours.nodes);
        }
        if theirs.repository_id != ours.repository_id {
            let id = |bytes: &[u8]| {
                uuid::Uuid::from_slice(bytes).map_or("of no id".into(), |id| id.to_string())
            };
            return differs(
                "--restore-from with repository",
                &id(&theirs.repository_id),
                &id(&ours.repository_id),
            );
        }
        if !same_point {
            return differs("--point", &theirs.point, &ours.point);
        }
        if theirs.sites != ours.sites {
            return differs("--sites", &sites(&theirs.sites), &sites(&ours.sites));
        }
        Ok(())
    }

    fn enter(&self, node: Node, incarnation: u64) -> Asking<'_> {
        let (id, mut here) = (node.id, lock(&self.here));
        let asking = match here.get(&id) {
            Some(known) if known.incarnation == incarnation => known.asking,
            // What answers at its address is the process that asks now.
            _ => 0,
        };
        here.insert(id, Here { node, incarnation, asking: asking + 1, left: self.clock.now() });
        drop(here);
        self.changed.notify_one();
        Asking { gathering: self, node: id, incarnation }
    }

    fn hand(&self, plan: &Plan, node: NodeId) -> Result<JoinResponse> {
        if !plan.has(node) {
            return Err(self.later());
        }
        Ok(JoinResponse { plan: Some(plan.record()), ..JoinResponse::default() })
    }

    fn later(&self) -> Error {
        Error::unavailable(format!(
            "{} begins a cluster with {} nodes, and this node is not one of them: it is taken in \
             when they serve; retry",
            self.address, self.told.nodes
        ))
    }

    // ---- What the founder does. ----

    /// Waits until as many are there as were told. Who begins beside the founder. `say` hears whom
    /// it waits for.
    pub async fn all(&self, say: impl Fn(&str)) -> Vec<Node> {
        let others = self.told.nodes.saturating_sub(1) as usize;
        let mut said = String::new();
        loop {
            let present = self.present();
            if present.len() >= others {
                return present.into_iter().take(others).collect();
            }
            let words = self.missing();
            if words != said {
                let here: Vec<_> =
                    present.iter().map(|node| format!("{} at {}", node.id, node.address)).collect();
                tracing::info!(here = here.join(", "), "{words}");
                say(&words);
                said = words;
            }
            let changed = self.changed.notified();
            // Or somebody is gone.
            let _ = tokio::time::timeout(limits::GATHER_LOOK, changed).await;
        }
    }

    /// Hands it to those that ask from now on.
    pub fn publish(&self, plan: Arc<Plan>) {
        self.plan.send_replace(Some(plan));
    }

    /// Those that are there, beside the founder.
    fn present(&self) -> Vec<Node> {
        self.present_at(self.clock.now())
    }

    fn present_at(&self, now: Duration) -> Vec<Node> {
        let mut here = lock(&self.here);
        here.retain(|_, one| one.asking > 0 || now < one.left + limits::GATHER_FRESH);
        here.values().map(|one| one.node.clone()).collect()
    }

    fn missing(&self) -> String {
        let (here, all) = (self.present().len() as u32 + 1, self.told.nodes);
        let waits = all.saturating_sub(here);
        let are = if here == 1 { "is" } else { "are" };
        format!("{here} of {all} nodes {are} here; waiting for {waits}")
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let (now, mut here) = (self.gathering.clock.now(), lock(&self.gathering.here));
        let mine = here.get_mut(&self.node).filter(|one| one.incarnation == self.incarnation);
        if let Some(one) = mine {
            (one.asking, one.left) = (one.asking.saturating_sub(1), now);
        }
    }
}

/// Of the nodes of `--join` and what they have answered, the one that gathers the first nodes of a
/// cluster, if one does. `cluster` is one that others belong to.
pub fn gatherer(
    heard: &BTreeMap<String, Result<IntroduceResponse>>,
    cluster: Option<(ClusterId, Vec<String>)>,
) -> Result<Option<String>> {
    let mut all = BTreeMap::new();
    for (address, said) in heard {
        let Ok(said) = said else { continue };
        if said.waiting.as_ref().is_some_and(|waiting| waiting.gathers) {
            // One node may stand there under two names.
            all.entry((said.node_id, said.incarnation)).or_insert(address);
        }
    }
    let named = all.values().map(|address| address.as_str()).collect::<Vec<_>>().join(" and ");
    match (all.len(), cluster) {
        (0, _) => Ok(None),
        (1, None) => Ok(Some(named)),
        (1, Some((cluster, at))) => Err(Error::conflict(format!(
            "{} of --join belongs to cluster {cluster}, and {named} gathers the nodes of another \
             one: name in --join nodes of one cluster",
            at.join(" and ")
        ))),
        _ => Err(Error::conflict(format!(
            "{named} of --join each found a cluster, and there shall be one: the one that founds \
             has no --join, all others name it"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            error::Kind,
            ids::{Lineage, SnapshotId},
        },
        cluster::level::Level,
        proto::internal::v1::WaitingNode,
    };

    fn node(id: u64) -> Node {
        Node {
            id: NodeId(id),
            address: format!("node-{id}:1"),
            capacity_percent: 100,
            version: "1.0".into(),
            snapshot_store: true,
            lineage: Lineage::PENDING,
            level: Level::own(),
            leaving: false,
            draining: false,
            certificate_name: None,
        }
    }

    fn told(
        nodes: u32,
        repository: u128,
        point: &str,
        snapshot: u128,
        sites: &[&str],
    ) -> SeedOrder {
        let uuid = |n: u128| uuid::Uuid::from_u128(n).as_bytes().to_vec().into();
        SeedOrder {
            repository_id: uuid(repository),
            point: point.into(),
            snapshot: uuid(snapshot),
            sites: sites.iter().map(|site| site.to_string()).collect(),
            nodes,
        }
    }

    #[test]
    fn whoever_was_told_something_else_hears_what() {
        let ours = told(3, 1, "latest", 7, &["shop"]);
        let gathering = Gathering::new(NodeId(1), "a:1", ours.clone(), Dialler::default());
        let compared = |id: u64, theirs: &SeedOrder| {
            gathering.compare(&node(id), theirs).map_err(|e| (e.kind, e.message))
        };
        assert_eq!(compared(2, &ours), Ok(()));
        // A newer one has come since; or it is named by its uuid.
        assert_eq!(compared(2, &told(3, 1, "latest", 8, &["shop"])), Ok(()));
        let seven = SnapshotId(uuid::Uuid::from_u128(7)).to_string();
        assert_eq!(compared(2, &told(3, 1, &seven, 7, &["shop"])), Ok(()));
        let eight = SnapshotId(uuid::Uuid::from_u128(8)).to_string();
        for (theirs, says) in [
            (told(2, 1, "latest", 7, &["shop"]), "--expect-nodes 2, and the node that founds"),
            (told(3, 2, "latest", 7, &["shop"]), "--restore-from with repository 00000000-"),
            (told(3, 1, &eight, 8, &["shop"]), "--point 00000000-"),
            (told(3, 1, "latest", 7, &[]), "--sites of all, and"),
        ] {
            let (kind, words) = compared(2, &theirs).unwrap_err();
            assert_eq!(kind, Kind::Conflict);
            assert!(
                words.contains("node 2 at node-2:1 was told") && words.contains(says),
                "{words}"
            );
        }
        let (_, words) = compared(1, &ours).unwrap_err();
        assert!(words.contains("copied store"), "{words}");
    }

    #[test]
    fn a_node_is_there_as_long_as_it_asks_and_its_next_process_takes_its_place() {
        let ours = told(3, 1, "latest", 7, &[]);
        let gathering = Gathering::new(NodeId(1), "a:1", ours, Dialler::default());
        let here = || gathering.present().iter().map(|node| node.id.0).collect::<Vec<_>>();
        assert_eq!(gathering.missing(), "1 of 3 nodes is here; waiting for 2");
        let old = gathering.enter(node(2), 5);
        let new = gathering.enter(node(2), 6);
        drop(old);
        assert_eq!((here(), gathering.here.lock().unwrap()[&NodeId(2)].asking), (vec![2], 1));
        assert_eq!(gathering.missing(), "2 of 3 nodes are here; waiting for 1");
        drop(new);
        assert_eq!(here(), [2], "it asks again soon");
        let later = gathering.clock.now() + limits::GATHER_FRESH;
        assert!(gathering.present_at(later).is_empty());
        let _held = gathering.enter(node(2), 6);
        assert_eq!(gathering.present_at(2 * later).len(), 1, "its question is held");
    }

    #[test]
    fn of_the_nodes_of_join_one_gathers_and_none_belongs_to_a_cluster() {
        let says = |node_id, address: &str, gathers| {
            let waiting = Some(WaitingNode { gathers, ..WaitingNode::default() });
            let said = IntroduceResponse { node_id, waiting, ..IntroduceResponse::default() };
            (address.to_owned(), Ok(said))
        };
        let gathers = |node_id, address| says(node_id, address, true);
        let found = |said: &[(String, Result<IntroduceResponse>)], cluster| {
            gatherer(&said.iter().cloned().collect(), cluster).map_err(|e| (e.kind, e.message))
        };
        let waits = |address| says(9, address, false);
        let silent = ("c:1".to_owned(), Err(Error::unavailable("c:1 cannot be reached")));
        let a = || Ok(Some("a:1".to_owned()));
        assert_eq!(found(&[waits("a:1"), silent.clone()], None), Ok(None));
        assert_eq!(found(&[gathers(1, "a:1"), waits("b:1"), silent], None), a());
        assert_eq!(found(&[gathers(1, "a:1"), gathers(1, "also-a:1")], None), a(), "by two names");
        let (kind, words) = found(&[gathers(1, "a:1"), gathers(2, "b:1")], None).unwrap_err();
        assert_eq!(kind, Kind::Conflict);
        assert!(words.starts_with("a:1 and b:1 of --join each found a cluster"), "{words}");
        let there = Some((ClusterId(uuid::Uuid::from_u128(1)), vec!["d:1".to_owned()]));
        let (kind, words) = found(&[gathers(1, "a:1")], there.clone()).unwrap_err();
        assert_eq!(kind, Kind::Conflict);
        assert_eq!(found(&[waits("a:1")], there), Ok(None));
        assert!(words.starts_with("d:1 of --join belongs to cluster"), "{words}");
    }
}
