//! `ddbctl node decommission | replace | cancel | set | drain | undrain` and `ddbctl cluster
//! rebalance`: nodes that leave the cluster while they run, those that take their places, and who
//! holds which share and leads.
//!
//! What they begin goes on whether anybody waits for it or not. Who asks again is told which
//! operation it is, so a command that was killed goes on waiting when it is said again. A cluster
//! of which not all nodes know operations answers without one; then a decommission is waited for by
//! asking again how far it is.

use std::time::Duration;

use serde::Serialize;

use super::{
    client::{Call, Client},
    operation::{self, Wait},
    picture::service,
    removal::{self, Objection},
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
    },
};
use crate::{base::limits, proto::v1};

/// How a decommission is asked for.
#[derive(Default)]
pub struct Asked {
    pub node: u64,
    /// The node that takes its places; 0 for all that have room.
    pub replacement: u64,
    pub force: bool,
    pub dry_run: bool,
    pub etag: String,
    /// None to leave it when it has begun.
    pub wait: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct Decommission {
    #[serde(rename = "node_id")]
    node: String,
    address: String,
    /// `stays`, `leaving` or `gone`.
    state: &'static str,
    dry_run: bool,
    replicas_moved: u32,
    groups_short: u32,
    replicas_left: u32,
    objections: Vec<Objection>,
    waits: Vec<Wait>,
    etag: String,
    /// The operation that has it leave; empty where there is none.
    #[serde(rename = "operation_id")]
    operation: String,
}

#[derive(Debug, Serialize)]
struct Drained {
    #[serde(rename = "node_id")]
    node: String,
    draining: bool,
    changed: bool,
    /// Empty where there is none.
    #[serde(rename = "operation_id")]
    operation: String,
}

#[derive(Debug, Serialize)]
struct Cancelled {
    #[serde(rename = "node_id")]
    node: String,
    cancelled: bool,
    #[serde(rename = "operation_id")]
    operation: String,
}

#[derive(Debug, Serialize)]
struct Rebalance {
    dry_run: bool,
    replicas_moved: u32,
    groups_changed: u32,
    changed: bool,
    /// Nodes that do not answer.
    #[serde(rename = "silent_node_ids")]
    away: Vec<String>,
    objections: Vec<Objection>,
    etag: String,
    #[serde(rename = "operation_id")]
    operation: String,
}

#[derive(Debug, Serialize)]
struct Capacity {
    #[serde(rename = "node_id")]
    node: String,
    capacity_percent: u32,
    changed: bool,
    dry_run: bool,
    replicas_moved: u32,
    objections: Vec<Objection>,
    #[serde(rename = "operation_id")]
    operation: String,
}

pub async fn decommission(
    asked: Asked,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let Asked { node, replacement, force, dry_run, etag, wait } = asked;
    let request = v1::DecommissionNodeRequest {
        node_id: node,
        force,
        validate_only: dry_run,
        etag,
        replacement_id: replacement,
    };
    let begun = Decommission::new(node, dry_run, ask(request, client).await?);
    if dry_run {
        console.print(&begun)?;
        return begun.judge(force);
    }
    removal::note(&begun.objections, force, console);
    let Some(wait) = wait.filter(|_| begun.state == "leaving") else {
        console.confirm(&match begun.state {
            "gone" => format!("node {node} is no member any more"),
            _ => format!(
                "node {node} is leaving; ddbctl node decommission {node} --wait says how far it is"
            ),
        });
        return console.print(&begun);
    };
    let ended = if begun.operation.is_empty() {
        see_off(begun, wait, client, console).await?
    } else {
        operation::watch(&begun.operation, wait, client, console).await?;
        look(node, client).await?
    };
    console.confirm(&format!("node {node} is decommissioned, and its process ends"));
    console.print(&ended)
}

/// Has a node take the places of another one, whether that one runs or is lost.
pub async fn replace(
    asked: Asked,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    if asked.replacement == 0 {
        return Err(Failure::usage(
            "the id of the replacement is not 0",
            "name a node that was started with --replacement, as ddbctl node list shows it",
        ));
    }
    let look = v1::DecommissionNodeRequest {
        node_id: asked.node,
        validate_only: true,
        replacement_id: asked.replacement,
        ..v1::DecommissionNodeRequest::default()
    };
    let seen = Decommission::new(asked.node, true, ask(look, client).await?);
    let is_lost = seen.objections.iter().any(|objection| objection.code == "NODE_AWAY");
    if seen.state != "stays" || !is_lost {
        return decommission(asked, client, console).await;
    }
    let request = v1::RemoveNodeRequest {
        node_id: asked.node,
        force: asked.force,
        validate_only: asked.dry_run,
        etag: asked.etag,
        replacement_id: asked.replacement,
    };
    removal::run(request, asked.wait, client, console).await
}

/// How far a node is on its way out.
async fn look(node: u64, client: &mut Client) -> Result<Decommission, Failure> {
    let request = v1::DecommissionNodeRequest {
        node_id: node,
        validate_only: true,
        ..v1::DecommissionNodeRequest::default()
    };
    Ok(Decommission::new(node, false, ask(request, client).await?))
}

/// Asks how far it is until the node is gone.
async fn see_off(
    begun: Decommission,
    most: Duration,
    client: &mut Client,
    console: &mut Console,
) -> Result<Decommission, Failure> {
    let node: u64 = begun.node.parse().unwrap_or_default();
    let (how, cancel) =
        (format!("ddbctl node decommission {node} --wait"), format!("ddbctl node cancel {node}"));
    console.on_interrupt(format!("node {node} goes on leaving; look with {how}"));
    client.be_patient();
    let until = client.now() + most;
    let (mut now, mut told) = (begun, String::new());
    while now.state == "leaving" {
        let line = now.progress();
        if line != told {
            console.say(&line);
            told = line;
        }
        if client.now() >= until {
            return Err(Failure::new(
                exit::UNREACHABLE,
                format!("node {node} has not left within {most:?}"),
                told,
                format!("it goes on: look with {how}, or have it stay with {cancel}"),
            ));
        }
        tokio::time::sleep(limits::CTL_LOOK_MAX).await;
        now = look(node, client).await?;
    }
    if now.state == "stays" {
        return Err(Failure::new(
            exit::NOT_FOUND,
            format!("node {node} does not leave any more"),
            now.address,
            "somebody has said ddbctl node cancel",
        ));
    }
    Ok(now)
}

async fn ask(
    request: v1::DecommissionNodeRequest,
    client: &mut Client,
) -> Result<v1::DecommissionNodeResponse, Failure> {
    let what = match request.replacement_id {
        0 => format!("decommission node {}", request.node_id),
        by => format!("replace node {} by node {by}", request.node_id),
    };
    let call = Call { what, again: "repeat it".into() };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).decommission_node(request).await
        })
        .await?;
    Ok(answer.body)
}

pub async fn cancel(node: u64, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let call = Call { what: format!("have node {node} stay"), again: "repeat it".into() };
    let request = v1::CancelDecommissionRequest { node_id: node };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).cancel_decommission(request).await
        })
        .await?;
    let cancelled = answer.body.cancelled || answer.repeated;
    console.confirm(&match cancelled {
        true => format!("node {node} stays, and gets its share of the groups again"),
        false => format!("node {node} was not leaving"),
    });
    let operation = answer.body.operation_id;
    console.print(&Cancelled { node: node.to_string(), cancelled, operation })
}

pub async fn set(
    request: v1::SetCapacityRequest,
    wait: Option<Duration>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let v1::SetCapacityRequest { node_id: node, capacity_percent: capacity, .. } = request;
    let (dry_run, force) = (request.validate_only, request.force);
    let what = format!("set the capacity of node {node}");
    let call = Call { what, again: "repeat it".into() };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).set_capacity(request).await
        })
        .await?;
    let moved = answer.body.replicas_moved;
    let changed = answer.body.changed || (answer.repeated && !dry_run);
    let objections = Objection::all(answer.body.objections);
    if !dry_run {
        removal::note(&objections, force, console);
        console.confirm(&match changed {
            true => format!("node {node} has a capacity of {capacity} %; {moved} replicas move"),
            false => format!("node {node} has had a capacity of {capacity} % before"),
        });
        operation::watch_begun(&answer.body.operation_id, wait, client, console).await?;
    }
    let capacity = Capacity {
        node: node.to_string(),
        capacity_percent: capacity,
        changed,
        dry_run,
        replicas_moved: moved,
        objections,
        operation: answer.body.operation_id,
    };
    console.print(&capacity)?;
    let what = format!("node {node} would not get another capacity");
    removal::judge(&what, &capacity.objections, dry_run, force)
}

/// Has a node lead nothing.
pub async fn drain(
    node: u64,
    wait: Option<Duration>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let call = Call { what: format!("drain node {node}"), again: "repeat it".into() };
    let answer = client
        .call(&call, v1::DrainNodeRequest { node_id: node }, |channel, request| async move {
            service(channel).drain_node(request).await
        })
        .await?;
    let (changed, operation) = (answer.body.changed || answer.repeated, answer.body.operation_id);
    console.confirm(&match changed {
        true => format!("node {node} is drained: it gives away what it leads, and gets nothing"),
        false => format!("node {node} was drained before"),
    });
    operation::watch_begun(&operation, wait, client, console).await?;
    console.print(&Drained { node: node.to_string(), draining: true, changed, operation })
}

/// Has a node that was drained be as any other again.
pub async fn undrain(node: u64, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let call = Call { what: format!("undrain node {node}"), again: "repeat it".into() };
    let answer = client
        .call(&call, v1::UndrainNodeRequest { node_id: node }, |channel, request| async move {
            service(channel).undrain_node(request).await
        })
        .await?;
    let changed = answer.body.changed || answer.repeated;
    console.confirm(&match changed {
        true => format!("node {node} leads again, and gets its share"),
        false => format!("node {node} was not drained"),
    });
    let operation = String::new();
    console.print(&Drained { node: node.to_string(), draining: false, changed, operation })
}

pub async fn rebalance(
    request: v1::RebalanceRequest,
    wait: Option<Duration>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let (dry_run, force) = (request.validate_only, request.force);
    let call = Call { what: "rebalance the cluster".into(), again: "repeat it".into() };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).rebalance(request).await
        })
        .await?;
    let v1::RebalanceResponse {
        replicas_moved,
        groups_changed,
        changed,
        away,
        etag,
        operation_id: operation,
        objections,
    } = answer.body;
    let objections = Objection::all(objections);
    for node in &away {
        console.say(&format!("note: node {node} does not answer, and gives up its places"));
    }
    if !dry_run {
        removal::note(&objections, force, console);
        console.confirm(&match changed || answer.repeated {
            true => format!("{groups_changed} groups change, and {replicas_moved} replicas move"),
            false => "every group is where it should be".to_owned(),
        });
        operation::watch_begun(&operation, wait, client, console).await?;
    }
    let rebalance = Rebalance {
        dry_run,
        replicas_moved,
        groups_changed,
        changed,
        away: away.iter().map(u64::to_string).collect(),
        objections,
        etag,
        operation,
    };
    console.print(&rebalance)?;
    removal::judge("no group would move", &rebalance.objections, dry_run, force)
}

impl Decommission {
    fn new(node: u64, dry_run: bool, answer: v1::DecommissionNodeResponse) -> Decommission {
        let state = match answer.state() {
            v1::DecommissionState::Leaving => "leaving",
            v1::DecommissionState::Gone => "gone",
            _ => "stays",
        };
        let plan = answer.plan.unwrap_or_default();
        Decommission {
            node: node.to_string(),
            address: plan.address,
            state,
            dry_run,
            replicas_moved: plan.replicas_moved,
            groups_short: plan.groups_short,
            replicas_left: answer.replicas_left,
            objections: Objection::all(plan.objections),
            waits: answer.waits.into_iter().map(Wait::new).collect(),
            etag: plan.etag,
            operation: answer.operation_id,
        }
    }

    /// How far it is and what it waits for: the first few of each kind speak for the rest.
    fn progress(&self) -> String {
        let mut line = format!("node {}: {} replicas left", self.node, self.replicas_left);
        let stuck = self.waits.iter().filter(|wait| !wait.is_work());
        let copied = self.waits.iter().filter(|wait| wait.is_work()).count();
        if copied > 0 {
            line += &format!(", {copied} groups are being copied");
        }
        // What has been forced is no reason to wait.
        let away = self.objections.iter().filter(|o| !o.forcible).map(|o| &o.text);
        for text in away.chain(stuck.map(|wait| &wait.text)).take(3) {
            line += &format!("; {text}");
        }
        line
    }

    fn judge(&self, force: bool) -> Result<(), Failure> {
        if self.state != "stays" || !self.objections.iter().any(|o| o.holds(force)) {
            return Ok(());
        }
        Err(Failure::new(
            exit::FAILED,
            format!("node {} would not be decommissioned", self.node),
            self.address.clone(),
            "see above what speaks against it",
        ))
    }
}

impl View for Decommission {
    /// What was done is said on stderr; a dry run is all there is to see.
    fn text(&self, _: Look) -> String {
        if !self.dry_run {
            return String::new();
        }
        let text = format!(
            "node = {}\naddress = {}\nstate = {}\nreplicas moved = {}\n\
             groups short of replicas = {}\nreplicas left = {}\netag = {}\n",
            self.node,
            self.address,
            self.state,
            self.replicas_moved,
            self.groups_short,
            self.replicas_left,
            self.etag
        );
        let waits = self.waits.iter().map(|wait| format!("waits: {}\n", wait.text));
        text + &removal::lines(&self.objections) + &waits.collect::<String>()
    }
}

impl View for Rebalance {
    fn text(&self, _: Look) -> String {
        if self.dry_run {
            format!(
                "replicas moved = {}\ngroups changed = {}\netag = {}\n{}",
                self.replicas_moved,
                self.groups_changed,
                self.etag,
                removal::lines(&self.objections)
            )
        } else {
            String::new()
        }
    }
}

impl View for Drained {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

impl View for Cancelled {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

impl View for Capacity {
    fn text(&self, _: Look) -> String {
        if self.dry_run {
            format!(
                "node = {}\nreplicas moved = {}\n{}",
                self.node,
                self.replicas_moved,
                removal::lines(&self.objections)
            )
        } else {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    #[test]
    fn a_decommission_shows_what_moves_how_far_it_is_and_what_it_waits_for() {
        let wait = |group, reason: v1::WaitReason, text: &str| v1::Wait {
            group,
            node_id: 5,
            reason: reason as i32,
            text: text.into(),
            since_s: 3,
        };
        let answer = v1::DecommissionNodeResponse {
            plan: Some(v1::RemovalPlan {
                address: "node7:8080".into(),
                replicas_moved: 48,
                groups_short: 0,
                objections: vec![v1::Objection {
                    refuses: false,
                    forcible: false,
                    code: "OTHERS_AWAY".into(),
                    text: "node 5 does not answer: groups that it holds wait until then".into(),
                    groups: vec![],
                }],
                etag: "00c0ffee00c0ffee".into(),
            }),
            state: v1::DecommissionState::Leaving as i32,
            operation_id: "8e1d0c5b7a3f9246".into(),
            replicas_left: 12,
            waits: vec![
                wait(3, v1::WaitReason::Behind, "group 3 is being copied to node 5"),
                wait(4, v1::WaitReason::Silent, "group 4 goes to node 5, which does not answer"),
            ],
        };
        let mut story = String::new();
        for dry_run in [true, false] {
            for format in [Format::Table, Format::Json] {
                let (mut console, out, _) = Console::recording(format);
                let seen = Decommission::new(7, dry_run, answer.clone());
                console.print(&seen).unwrap();
                story += &format!("# dry run: {dry_run}, {format:?}\n{}", out.text());
                story += &format!("# {}\n", seen.progress());
            }
        }
        crate::ctl::golden::check("decommission.txt", &story);
    }
}
