//! A node with an empty store that waits for a cluster: it asks the nodes of its `--join` in turn
//! to take it in, and founds a cluster with them when it is told to.
//!
//! One `--join` never leads to two clusters. A founding takes *all* nodes that it names: each has
//! to answer, belong to no cluster, wait for the same nodes, and durably promise to leave the
//! founding to one node for good. So the founder has the promise of every other node that could
//! found, no matter how often and to how many nodes `init` is said at once. Nodes agree on the
//! founder without rounds: it is the node that one of them has promised already, or else the one
//! with the smallest id. A majority would not do: a node that has lost its disk has forgotten its
//! promise and its cluster, and the nodes that do not answer may be the rest of that cluster.
//!
//! The cost: a founding waits for the last node of the list, and a promise to a node that lost its
//! disk before it founded has to be taken back by hand, which the refusal explains.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::{
    base::{
        crew::{Role, Several},
        error::{Context as _, Error, Kind, Result},
        ids::{ClusterId, NodeId},
        limits,
        locks::lock,
    },
    boot::{gathering::gatherer, restore},
    faults::failpoint::{Failpoint, failpoint},
    net::Dialler,
    proto::internal::v1::{Founder, IntroduceResponse, JoinRequest, JoinResponse, WaitingNode},
    store,
};

/// Who waits.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub node: NodeId,
    /// Random, drawn when the process started.
    pub incarnation: u64,
    /// Where it says that others reach it.
    pub address: String,
    /// The store directory, where promises are kept.
    pub dir: PathBuf,
    /// Whom it asks, itself perhaps among them.
    pub join: BTreeSet<String>,
    /// Why it must not found, or let others found with it.
    pub objection: Option<String>,
}

/// A node that waits. What is asked of it meanwhile comes through the porch.
pub struct Waiting {
    me: Newcomer,
    dialler: Dialler,
    fate: watch::Sender<Fate>,
    /// Foundings are one at a time.
    turn: tokio::sync::Mutex<()>,
    promising: Mutex<()>,
    stirred: Notify,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waits,
    /// All have promised it.
    Founds,
    Belongs(There),
}

/// There is a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct There {
    pub cluster: ClusterId,
    /// False when it was there before.
    pub created: bool,
}

/// How the waiting ends.
pub enum End {
    Found,
    /// Taken in by the node at this address.
    Join(String, Box<JoinResponse>),
}

/// What each address of `--join` has answered.
pub type Heard = BTreeMap<String, Result<IntroduceResponse>>;

/// What may be done as things stand.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// They can be asked to take nodes in.
    Join(ClusterId, Vec<String>),
    /// This one founds, if all promise it.
    Found(Founder),
}

/// Where the promise is kept; see `restore`.
fn promise_path(dir: &Path) -> PathBuf {
    dir.join(restore::FOUNDER)
}

/// The node that the one of this store directory leaves the founding to.
pub fn promised(dir: &Path) -> Result<Option<Founder>> {
    let path = promise_path(dir);
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.at(path.display())?,
    };
    let founder = text.trim_end().split_once(' ').and_then(|(id, address)| {
        Some(Founder { node_id: id.parse().ok()?, address: address.to_owned() })
    });
    founder.map(Some).ok_or_else(|| {
        Error::corrupt(format!(
            "{}: {:?} is not the id of a node and its address",
            path.display(),
            text.trim_end()
        ))
    })
}

/// Promises for good. It is there whole or not at all.
fn promise(dir: &Path, founder: &Founder) -> Result<()> {
    let (path, aside) = (promise_path(dir), dir.join(restore::FOUNDER_ASIDE));
    let written = fs::File::create(&aside).and_then(|mut file| {
        writeln!(file, "{} {}", founder.node_id, founder.address)?;
        file.sync_all()
    });
    written.at(aside.display())?;
    fs::rename(&aside, &path).at(path.display())?;
    store::sync_dir(dir)
}

impl Waiting {
    pub fn new(me: Newcomer, dialler: Dialler) -> Arc<Waiting> {
        Arc::new(Waiting {
            me,
            dialler,
            fate: watch::channel(Fate::Waits).0,
            turn: Default::default(),
            promising: Default::default(),
            stirred: Notify::new(),
        })
    }

    pub fn node(&self) -> NodeId {
        self.me.node
    }

    // ---- What others ask. ----

    pub fn introduce(&self) -> Result<IntroduceResponse> {
        let mut answer = IntroduceResponse {
            node_id: self.me.node.0,
            incarnation: self.me.incarnation,
            ..IntroduceResponse::default()
        };
        match *self.fate.borrow() {
            Fate::Belongs(there) => {
                answer.cluster_id = Bytes::copy_from_slice(there.cluster.0.as_bytes())
            }
            Fate::Waits | Fate::Founds => {
                answer.waiting = Some(WaitingNode {
                    address: self.me.address.clone(),
                    join: self.list(),
                    founder: promised(&self.me.dir)?,
                    objection: self.me.objection.clone().unwrap_or_default(),
                    gathers: false,
                });
            }
        }
        Ok(answer)
    }

    /// Leaves the founding to another node.
    pub fn promise(&self, founder: &Founder, join: &[String]) -> Result<()> {
        let _one = lock(&self.promising);
        if founder.node_id == 0
            || founder.address.len() > limits::ADDRESS_BYTES_MAX
            || founder.address.contains(char::is_whitespace)
        {
            return Err(Error::invalid(
                "a node that wants to found has to say its id and its address",
            ));
        }
        if let Fate::Belongs(there) = *self.fate.borrow() {
            return Err(Error::conflict(format!(
                "node {} belongs to cluster {} by now",
                self.me.node, there.cluster
            )));
        }
        if join != self.list() {
            return Err(Error::conflict(other_list(
                &self.me.address,
                &self.list(),
                &founder.address,
                join,
            )));
        }
        if let Some(why) = &self.me.objection {
            return Err(Error::conflict(why.clone()));
        }
        match promised(&self.me.dir)? {
            Some(other) if other.node_id != founder.node_id => {
                let us = format!(
                    "node {} has promised to leave the founding to node {} at {}",
                    self.me.node, other.node_id, other.address
                );
                return Err(Error::conflict(format!(
                    "{us}, and not to node {} at {}",
                    founder.node_id, founder.address
                )));
            }
            Some(_) => {}
            None => promise(&self.me.dir, founder)?,
        }
        failpoint(Failpoint::FoundingPromised);
        self.stirred.notify_one();
        Ok(())
    }

    /// A person says that there shall be a cluster.
    pub async fn init(&self) -> Result<There> {
        match self.step(&self.ask_all().await)? {
            Step::Join(cluster, _) => Ok(There { cluster, created: false }),
            Step::Found(founder) if founder.node_id == self.me.node.0 => self.found().await,
            Step::Found(founder) => {
                let answer = self.dialler.found(&founder.address).await?;
                let cluster = uuid::Uuid::from_slice(&answer.cluster_id).map_err(|e| {
                    Error::unknown(format!("{} founds what has no id: {e}", founder.address))
                        .with_source(e)
                })?;
                Ok(There { cluster: ClusterId(cluster), created: answer.created })
            }
        }
    }

    /// Founds, when all others have promised to leave it to this node.
    pub async fn found(&self) -> Result<There> {
        let _turn = self.turn.lock().await;
        if let Fate::Belongs(there) = *self.fate.borrow() {
            return Ok(There { created: false, ..there });
        }
        let heard = self.ask_all().await;
        let founder = match self.step(&heard)? {
            Step::Join(cluster, _) => return Ok(There { cluster, created: false }),
            Step::Found(founder) if founder.node_id == self.me.node.0 => founder,
            Step::Found(founder) => {
                return Err(Error::unavailable(format!(
                    "node {} at {} has to found, not this one; retry",
                    founder.node_id, founder.address
                )));
            }
        };
        let list = self.list();
        let mut missing = heard.len();
        let ask = |address: String| {
            let (founder, list, dialler) = (founder.clone(), list.clone(), self.dialler.clone());
            async move {
                let promised = dialler.promise(&address, founder, list).await;
                promised.map_err(|e| e.at(&address))
            }
        };
        let mut asked = Several::begin(Role::Ask, heard.into_keys().map(ask));
        while let Some(promised) = asked.next().await {
            promised?;
            missing -= 1;
        }
        if missing > 0 {
            return Err(Error::unavailable(
                "not every node of --join could be asked for its promise; the log says why",
            ));
        }
        self.fate.send_if_modified(|fate| {
            let waits = *fate == Fate::Waits;
            if waits {
                *fate = Fate::Founds;
            }
            waits
        });
        let mut fate = self.fate.subscribe();
        let settled = tokio::time::timeout(
            limits::REQUEST_DEADLINE,
            fate.wait_for(|fate| matches!(fate, Fate::Belongs(_))),
        )
        .await;
        match settled.ok().and_then(|fate| fate.ok().map(|fate| *fate)) {
            Some(Fate::Belongs(there)) => Ok(there),
            _ => Err(Error::unknown(
                "this node may found its cluster, founding takes long; ask again",
            )),
        }
    }

    // ---- What it does. ----

    /// Waits until it may found, or is taken in. Fails where waiting cannot help. `say` hears why
    /// it still waits.
    pub async fn end(&self, request: &JoinRequest, say: impl Fn(&str)) -> Result<End> {
        let mut fate = self.fate.subscribe();
        let (mut pause, mut said) = (limits::JOIN_AGAIN_MIN, String::new());
        loop {
            let waits_for = tokio::select! {
                biased;
                _ = fate.wait_for(|fate| *fate == Fate::Founds) => return Ok(End::Found),
                round = self.ask(request) => match round? {
                    Ok(end) => return Ok(end),
                    Err(why) => why,
                },
            };
            if waits_for != said {
                tracing::info!(why = waits_for, "no cluster yet; trying again");
                say(&waits_for);
                said = waits_for;
                pause = limits::JOIN_AGAIN_MIN;
            }
            tokio::select! {
                biased;
                _ = fate.wait_for(|fate| *fate == Fate::Founds) => return Ok(End::Found),
                () = self.stirred.notified() => pause = limits::JOIN_AGAIN_MIN,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(limits::JOIN_AGAIN_MAX),
            }
            if request.seed.is_some() {
                // Whoever gathers holds the question meanwhile.
                pause = limits::JOIN_AGAIN_MIN;
            }
        }
    }

    /// The first cluster to which nodes of `--join` say that they belong, with their addresses.
    pub async fn belonging(&self) -> Option<(ClusterId, Vec<String>)> {
        clusters(&self.ask_all().await).pop_first()
    }

    /// It belongs to a cluster now.
    pub fn settle(&self, cluster: ClusterId) {
        self.fate.send_modify(|fate| {
            *fate = Fate::Belongs(There { cluster, created: *fate == Fate::Founds })
        });
    }

    /// One round: it is taken in, or hears why not. Fails where another round would end the same
    /// way.
    async fn ask(&self, request: &JoinRequest) -> Result<Result<End, String>> {
        let heard = self.ask_all().await;
        let together = request.seed.is_some();
        let members = match (gatherer(&heard, clusters(&heard).pop_first())?, self.step(&heard)) {
            (Some(founder), _) if together => vec![founder],
            (Some(founder), _) => {
                return Ok(Err(format!(
                    "{founder} gathers the nodes that begin a cluster with a snapshot, and takes \
                     in others when that serves. To be one of them, this node needs the same \
                     --restore-from and --expect-nodes"
                )));
            }
            (None, Ok(Step::Join(_, members))) => members,
            (None, Err(e)) if several_clusters(&clusters(&heard)) => return Err(e),
            (None, _) if together => {
                return Ok(Err(told(&heard).unwrap_or_else(|| self.nobody_founds())));
            }
            (None, Ok(Step::Found(_))) => return Ok(Err(self.all_wait())),
            (None, Err(e)) => return Ok(Err(told(&heard).unwrap_or(e.message))),
        };
        let mut reasons = Vec::new();
        for address in members {
            failpoint(Failpoint::JoinAsking);
            match self.dialler.join(&address, request.clone()).await {
                Ok(answer) => return Ok(Ok(End::Join(address, Box::new(answer)))),
                Err(e) if matches!(e.kind, Kind::Unavailable | Kind::Unknown | Kind::Exhausted) => {
                    reasons.push(e.message)
                }
                Err(e) => return Err(e.at("joining")),
            }
        }
        Ok(Err(reasons.join("; ")))
    }

    fn all_wait(&self) -> String {
        let (count, me) = (self.me.join.len(), &self.me.address);
        let who = if count == 1 {
            "--join names this node and no other".to_owned()
        } else {
            format!("all {count} nodes of --join wait")
        };
        let command = format!("`ddbctl --endpoint {me} cluster init`");
        if count == 1 {
            format!("{who}: {command} founds a cluster of it; to join one, name a node of it")
        } else {
            format!("{who}: {command}, said once and to any of them, founds their cluster")
        }
    }

    fn nobody_founds(&self) -> String {
        format!(
            "no node of --join {} founds the cluster that this one is to begin with others: the \
             one that founds is started with the same --restore-from and --expect-nodes, and \
             without --join",
            self.list().join(",")
        )
    }

    async fn ask_all(&self) -> Heard {
        let unasked = || Err(Error::unavailable("it could not be asked; the log says why"));
        let mut heard: Heard =
            self.me.join.iter().map(|address| (address.clone(), unasked())).collect();
        let ask = |address: String| {
            let dialler = self.dialler.clone();
            async move {
                let said = dialler.introduce(&address).await;
                (address, said)
            }
        };
        let mut asked = Several::begin(Role::Ask, self.me.join.clone().into_iter().map(ask));
        while let Some((address, said)) = asked.next().await {
            heard.insert(address, said);
        }
        heard
    }

    fn list(&self) -> Vec<String> {
        self.me.join.iter().cloned().collect()
    }

    fn step(&self, heard: &Heard) -> Result<Step> {
        step(&self.me, heard)
    }
}

/// The clusters that there are, each with the addresses of its nodes.
fn clusters(heard: &Heard) -> BTreeMap<ClusterId, Vec<String>> {
    let mut clusters = BTreeMap::<_, Vec<_>>::new();
    for (address, said) in heard {
        let cluster =
            said.as_ref().ok().and_then(|said| uuid::Uuid::from_slice(&said.cluster_id).ok());
        if let Some(cluster) = cluster {
            clusters.entry(ClusterId(cluster)).or_default().push(address.clone());
        }
    }
    clusters
}

fn several_clusters(clusters: &BTreeMap<ClusterId, Vec<String>>) -> bool {
    clusters.len() > 1
}

/// What keeps a node waiting that cannot found: those that cannot be asked.
fn told(heard: &Heard) -> Option<String> {
    let missing: Vec<_> =
        heard.values().filter_map(|said| said.as_ref().err()).map(|e| e.message.as_str()).collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

fn other_list(address: &str, join: &[String], other: &str, theirs: &[String]) -> String {
    format!(
        "{address} waits with --join {}, {other} with --join {}: say the same on every node",
        join.join(","),
        theirs.join(",")
    )
}

/// Decides, of what all have said.
pub fn step(me: &Newcomer, heard: &Heard) -> Result<Step> {
    let mut clusters = clusters(heard);
    if several_clusters(&clusters) {
        let named: Vec<_> = clusters
            .iter()
            .map(|(cluster, at)| format!("{} of {cluster}", at.join(" and ")))
            .collect();
        return Err(Error::conflict(format!(
            "--join names nodes of different clusters, {}: name those of one",
            named.join(", ")
        )));
    }
    if let Some((cluster, members)) = clusters.pop_first() {
        return Ok(Step::Join(cluster, members));
    }
    if let Some(missing) = told(heard) {
        return Err(Error::unavailable(format!(
            "a cluster is founded when all nodes of --join wait, since one that is not there may \
             belong to a cluster: {missing}. Start it, or leave it out of --join on every node; \
             retry"
        )));
    }
    let waiting = |said: &Result<IntroduceResponse>| {
        said.as_ref()
            .ok()
            .and_then(|said| Some((said.node_id, said.incarnation, said.waiting.clone()?)))
    };
    let waiting: Vec<_> = heard.values().filter_map(waiting).collect();
    let list: Vec<String> = me.join.iter().cloned().collect();
    if !waiting
        .iter()
        .any(|(node, incarnation, _)| (*node, *incarnation) == (me.node.0, me.incarnation))
    {
        return Err(Error::conflict(format!(
            "{} belongs to no cluster yet. For it to found one with this node, --join has to name \
             this node, {}, too, and the same nodes on each of them",
            list.join(","),
            me.address
        )));
    }
    if let Some((_, _, other)) = waiting.iter().find(|(_, _, waiting)| waiting.join != list) {
        return Err(Error::conflict(other_list(&me.address, &list, &other.address, &other.join)));
    }
    if let Some((_, _, objecting)) =
        waiting.iter().find(|(_, _, waiting)| !waiting.objection.is_empty())
    {
        return Err(Error::conflict(format!("{}: {}", objecting.address, objecting.objection)));
    }
    founder(&waiting)
}

/// The node that somebody has promised to leave the founding to; otherwise the first by id.
fn founder(waiting: &[(u64, u64, WaitingNode)]) -> Result<Step> {
    for (_, _, bound) in waiting {
        let Some(founder) = &bound.founder else { continue };
        if !waiting.iter().any(|(node, ..)| *node == founder.node_id) {
            return Err(Error::conflict(format!(
                "{} has promised to leave the founding to node {} at {}, which is not there under \
                 that id any more: its store was lost. If it has founded a cluster, bring that \
                 store back. If not, remove the file {} from the store of {} and say it again",
                bound.address,
                founder.node_id,
                founder.address,
                restore::FOUNDER,
                bound.address
            )));
        }
        return Ok(Step::Found(founder.clone()));
    }
    let first = waiting.iter().min_by_key(|(node, ..)| *node).expect("this node is one of them");
    Ok(Step::Found(Founder { node_id: first.0, address: first.2.address.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(node_id: u64, address: &str, join: &str, founder: u64) -> IntroduceResponse {
        let founder =
            (founder != 0).then(|| Founder { node_id: founder, address: format!("{founder}:1") });
        let join = join.split(',').map(str::to_owned).collect();
        let waiting =
            Some(WaitingNode { address: address.into(), join, founder, ..WaitingNode::default() });
        IntroduceResponse { node_id, incarnation: node_id, cluster_id: Bytes::new(), waiting }
    }

    fn belongs(cluster: u128) -> IntroduceResponse {
        IntroduceResponse {
            node_id: 9,
            cluster_id: Bytes::copy_from_slice(uuid::Uuid::from_u128(cluster).as_bytes()),
            ..IntroduceResponse::default()
        }
    }

    /// What node 5 at b:1 decides, told to join a:1, b:1 and c:1.
    fn decided(said: [Result<IntroduceResponse>; 3]) -> Result<Step, (Kind, String)> {
        let names = ["a:1", "b:1", "c:1"].map(str::to_owned);
        let me = Newcomer {
            node: NodeId(5),
            incarnation: 5,
            address: "b:1".into(),
            dir: PathBuf::new(),
            join: names.clone().into(),
            objection: None,
        };
        step(&me, &names.into_iter().zip(said).collect()).map_err(|e| (e.kind, e.message))
    }

    #[test]
    fn all_name_the_same_founder_and_found_nothing_while_one_could_belong_to_a_cluster() {
        const ALL: &str = "a:1,b:1,c:1";
        let [a, b, c] = [(7, "a:1"), (5, "b:1"), (6, "c:1")]
            .map(|(node, address)| waits(node, address, ALL, 0));
        let founds = |node_id: u64, address: &str| {
            Ok(Step::Found(Founder { node_id, address: address.into() }))
        };
        let ok = |all: [&IntroduceResponse; 3]| decided(all.map(|said| Ok(said.clone())));
        assert_eq!(ok([&a, &b, &c]), founds(5, "b:1"), "the first by id");
        let bound = waits(6, "c:1", ALL, 7);
        assert_eq!(ok([&a, &b, &bound]), founds(7, "7:1"), "the one that was promised it");
        let there = |cluster| ClusterId(uuid::Uuid::from_u128(cluster));
        let silent = || Err(Error::unavailable("c:1 cannot be reached"));
        assert_eq!(
            decided([Ok(belongs(1)), Ok(b.clone()), silent()]),
            Ok(Step::Join(there(1), vec!["a:1".into()]))
        );

        let refused = |outcome: Result<Step, (Kind, String)>, kind, words: &str| {
            let (of, message) = outcome.unwrap_err();
            assert!(of == kind && message.contains(words), "{of:?} {message}");
        };
        refused(
            ok([&belongs(1), &b, &belongs(2)]),
            Kind::Conflict,
            "nodes of different clusters, a:1 of 00000000-0000-0000-0000-000000000001, c:1 of",
        );
        refused(
            decided([Ok(a.clone()), Ok(b.clone()), silent()]),
            Kind::Unavailable,
            "c:1 cannot be reached. Start it",
        );
        refused(ok([&a, &waits(7, "a:1", ALL, 0), &c]), Kind::Conflict, "name this node, b:1, too");
        refused(
            ok([&a, &b, &waits(6, "c:1", "c:1", 0)]),
            Kind::Conflict,
            "b:1 waits with --join a:1,b:1,c:1, c:1 with --join c:1: say the same",
        );
        refused(
            ok([&a, &b, &waits(6, "c:1", ALL, 8)]),
            Kind::Conflict,
            "c:1 has promised to leave the founding to node 8 at 8:1, which is not there",
        );
        let mut objecting = c.clone();
        objecting.waiting.as_mut().unwrap().objection = "a cluster was here".into();
        refused(ok([&a, &b, &objecting]), Kind::Conflict, "c:1: a cluster was here");
    }

    #[test]
    fn a_promise_is_kept_on_disk_and_given_to_one_node_only() {
        let dir = tempfile::tempdir().unwrap();
        let join = ["a:1", "b:1"].map(str::to_owned);
        let me = Newcomer {
            node: NodeId(5),
            incarnation: 5,
            address: "b:1".into(),
            dir: dir.path().into(),
            join: join.clone().into(),
            objection: None,
        };
        let founder = |node_id| Founder { node_id, address: "a:1".into() };
        assert_eq!(promised(dir.path()), Ok(None));
        let told = |me: &Newcomer, node, join: &[String]| {
            Waiting::new(me.clone(), Dialler::default())
                .promise(&founder(node), join)
                .map_err(|e| e.kind)
        };
        assert_eq!(told(&me, 7, &join[..1]), Err(Kind::Conflict), "it has another list");
        assert_eq!(told(&me, 0, &join), Err(Kind::Invalid));
        assert_eq!(promised(dir.path()), Ok(None));
        assert_eq!(
            [told(&me, 7, &join), told(&me, 7, &join), told(&me, 8, &join)],
            [Ok(()), Ok(()), Err(Kind::Conflict)]
        );
        assert_eq!(promised(dir.path()), Ok(Some(founder(7))));
        fs::write(dir.path().join(restore::FOUNDER), "7").unwrap();
        assert_eq!(promised(dir.path()).unwrap_err().kind, Kind::Corrupt);
    }
}
