//! A new cluster of several nodes that begin together with a snapshot: `--restore-from` and
//! `--expect-nodes` on every node, `--join` on all but the one that founds.
//!
//! The founder looks up the snapshot, waits until as many nodes have come as were told
//! (`gathering`), and draws up the plan. Each node keeps it (`restore::plan`) and loads its own
//! share from the repository. Nobody waits for another one's rows, and a group begins when most of
//! its members are there.
//!
//! - There is one plan for one cluster: the founder keeps it before anybody hears of it, and any
//!   other plan is of another cluster. So two founders make two clusters, and no node is in both.
//! - A node that has the plan needs nobody: killed half way, it begins again with what it kept.
//! - Every node that has begun hands the plan to one that it names, so that the founder may die as
//!   soon as one more has it.
//! - A node that the plan does not name joins the cluster, when it serves, as any other node.

use std::sync::Arc;

use super::{
    arrival::{Arrival, blocking},
    gathering::Gathering,
    restore::{
        plan::{self, Order, Plan},
        seed::{self, Choice, Founding, Progress},
    },
    waiting::{End, Waiting},
};
use crate::{
    base::{
        clock::{Clock, Random},
        error::{Error, Result},
        ids::{ClusterId, Lineage, NodeId},
    },
    cluster::Node as NodeEntry,
    proto::{
        internal::v1::{JoinRequest, SeedOrder},
        v1::NodeState,
    },
};

impl Arrival<'_> {
    /// Begins a cluster together with others. The nodes that it consists of.
    pub(super) async fn begin_together(&self, order: &Order) -> Result<Vec<NodeEntry>> {
        let node = self.may_found().await?;
        let dir = &self.options.store;
        let kept = Plan::kept(dir)?;
        if let Some(plan) = &kept {
            let refused = |e: Error| {
                e.at(format!(
                    "{} has the plan of a beginning that was interrupted: start it as before, or \
                     remove {} if that is given up on every node",
                    dir.display(),
                    dir.join(super::restore::PLAN).display()
                ))
            };
            plan.check(order).map_err(refused)?;
            if !plan.has(node) {
                let what = format!("the plan is for others than node {node}");
                return Err(refused(Error::conflict(what)));
            }
        }
        match self.options.join.is_empty() {
            true => self.begin_as_founder(order, node, kept).await,
            false => self.begin_with_founder(order, node, kept).await,
        }
    }

    async fn begin_as_founder(
        &self,
        order: &Order,
        node: NodeId,
        kept: Option<Plan>,
    ) -> Result<Vec<NodeEntry>> {
        let waiting = self.seated(node, "it gathers the first nodes of another cluster");
        let gathers = |told: SeedOrder| {
            let gathering = Gathering::new(node, self.address, told, self.dialler.clone());
            self.porch.gather(gathering.clone());
            gathering
        };
        let (plan, gathering) = match kept {
            Some(plan) => {
                let told = plan::told(order, plan.repository, plan.snapshot);
                (Arc::new(plan), gathers(told))
            }
            None => {
                let choice = self.choose(order, node).await?;
                let gathering = gathers(plan::told(order, choice.repository, choice.snapshot));
                let others = gathering
                    .all(|missing| {
                        let words = format!(
                            "{missing}. They are started with --join {} and the --restore-from and \
                             --expect-nodes of this one",
                            self.address
                        );
                        self.porch.say(NodeState::Waiting, words);
                    })
                    .await;
                (Arc::new(self.draw_up(order, choice, node, others).await?), gathering)
            }
        };
        gathering.publish(plan.clone());
        self.load(order, plan, node, &waiting).await
    }

    /// The plan of a founder and those that have come, which it keeps.
    async fn draw_up(
        &self,
        order: &Order,
        choice: Choice,
        node: NodeId,
        others: Vec<NodeEntry>,
    ) -> Result<Plan> {
        let mut rng = Random::from_entropy();
        let founding = Founding {
            cluster: ClusterId(rng.uuid()),
            nonce: rng.next_u64(),
            founder: self.founder(node, Lineage::PENDING),
        };
        let (order, dir) = (order.clone(), self.options.store.clone());
        let plan = blocking(move || {
            let plan = choice.plan(&order, &founding, others)?;
            plan.keep(&dir)?;
            Ok(plan)
        })
        .await?;
        let nodes: Vec<_> =
            plan.nodes.iter().map(|node| format!("{} at {}", node.id, node.address)).collect();
        tracing::info!(
            cluster = %plan.cluster,
            snapshot = %plan.snapshot,
            nodes = nodes.join(", "),
            "all nodes are here: each loads its share of the snapshot"
        );
        Ok(plan)
    }

    async fn begin_with_founder(
        &self,
        order: &Order,
        node: NodeId,
        kept: Option<Plan>,
    ) -> Result<Vec<NodeEntry>> {
        let waiting =
            self.seated(node, "it is to begin with a snapshot, as its --restore-from says");
        if let Some(plan) = kept {
            return self.load(order, Arc::new(plan), node, &waiting).await;
        }
        let (found, place) = (order.clone(), &order.place);
        self.porch.say(NodeState::Restoring, format!("a snapshot is looked up in {place}"));
        let (repository, snapshot) = blocking(move || seed::look_up(&found)).await?;
        let request = JoinRequest {
            seed: Some(plan::told(order, repository, snapshot)),
            ..self.join_request(node)?
        };
        let join = self.options.join.join(", ");
        self.porch.say(NodeState::Waiting, format!("the node asks {join} for the plan"));
        let end = waiting
            .end(&request, |why| {
                let words = format!("the node waits for the other nodes: {why}");
                self.porch.say(NodeState::Waiting, words);
            })
            .await?;
        let (address, answer) = match end {
            End::Join(address, answer) => (address, *answer),
            End::Found => {
                return Err(Error::conflict("a node that is to begin with a snapshot founds none"));
            }
        };
        let Some(plan) = answer.plan else {
            // It came late, or is another node since it has lost its disk.
            tracing::info!(at = address, "the cluster serves by now, and takes this node in");
            let (identity, known) = self.join(node, &address, answer)?;
            self.porch.belongs(&identity);
            waiting.settle(identity.cluster);
            return Ok(known);
        };
        let plan = Plan::parse(plan).map_err(|e| e.at(&address))?;
        plan.check(order).map_err(|e| e.at(&address))?;
        if !plan.has(node) {
            return Err(Error::conflict(format!(
                "{address} answers node {node} with a plan for others"
            )));
        }
        let (dir, keeps) = (self.options.store.clone(), plan.clone());
        blocking(move || keeps.keep(&dir)).await?;
        self.load(order, Arc::new(plan), node, &waiting).await
    }

    /// Answers for a node that founds nothing but by its plan.
    fn seated(&self, node: NodeId, objection: &str) -> Arc<Waiting> {
        let newcomer = self.newcomer(node, Some(objection.to_owned()));
        let waiting = Waiting::new(newcomer, self.dialler.clone());
        self.porch.seat(waiting.clone());
        waiting
    }

    async fn choose(&self, order: &Order, node: NodeId) -> Result<Choice> {
        let (place, order) = (&order.place, order.clone());
        self.porch.say(NodeState::Restoring, format!("a snapshot is looked up in {place}"));
        let founder = self.founder(node, Lineage::PENDING);
        let chosen = blocking(move || Choice::of(&order, &founder)).await;
        chosen.map_err(|e| e.at(format!("nothing is restored from {place}")))
    }

    /// Loads this node's share of the plan, and puts its store in place.
    async fn load(
        &self,
        order: &Order,
        plan: Arc<Plan>,
        node: NodeId,
        waiting: &Waiting,
    ) -> Result<Vec<NodeEntry>> {
        let (tell, order) = (self.porch.teller(), order.clone());
        let (dir, planned) = (self.options.store.clone(), plan.clone());
        let clock = Clock::start();
        let seeded = blocking(move || {
            let say = |snapshot: &str, progress: Progress| {
                tell(NodeState::Restoring, progress.words(snapshot, &order.place));
            };
            seed::seed_planned(&dir, &order, &planned, node, &say)
        })
        .await?;
        seeded.tell(clock, "began a cluster of a snapshot together with others");
        self.porch.belongs(&seeded.identity);
        waiting.settle(seeded.identity.cluster);
        Ok(plan.nodes.clone())
    }
}
