//! `ddbctl node remove`: takes a node that is lost out of the cluster, or shows what that would do.

use std::time::Duration;

use serde::Serialize;

use super::{
    client::{Call, Client},
    operation,
    picture::service,
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
    },
};
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct Removal {
    #[serde(rename = "node_id")]
    node: String,
    address: String,
    removed: bool,
    dry_run: bool,
    replicas_moved: u32,
    groups_short: u32,
    objections: Vec<Objection>,
    etag: String,
    /// The operation that copies what it held; empty where there is none.
    #[serde(rename = "operation_id")]
    operation: String,
}

/// What speaks against it.
#[derive(Debug, Serialize)]
pub struct Objection {
    pub code: String,
    pub text: String,
    pub refuses: bool,
    pub forcible: bool,
    pub groups: Vec<u32>,
}

pub async fn run(
    request: v1::RemoveNodeRequest,
    wait: Option<Duration>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let (node, dry_run, force) = (request.node_id, request.validate_only, request.force);
    let by = match request.replacement_id {
        0 => "the others get".to_owned(),
        by => format!("node {by} gets"),
    };
    let call = Call { what: format!("remove node {node}"), again: "repeat it".into() };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).remove_node(request).await
        })
        .await?;
    let removal = Removal::new(node, dry_run, answer.body);
    if !dry_run {
        note(&removal.objections, force, console);
        console.confirm(&if removal.removed || answer.repeated {
            format!("node {node} is removed; {by} {} replicas in its place", removal.replicas_moved)
        } else {
            format!("node {node} was removed before")
        });
    }
    if !dry_run {
        operation::watch_begun(&removal.operation, wait, client, console).await?;
    }
    console.print(&removal)?;
    let what = format!("node {node} at {} would not be removed", removal.address);
    judge(&what, &removal.objections, dry_run, force)
}

/// Says what spoke against something that is done all the same.
pub fn note(objections: &[Objection], force: bool, console: &mut Console) {
    for objection in objections.iter().filter(|o| !o.refuses || force) {
        console.say(&format!("note: {}", objection.text));
    }
}

/// How a dry run of something ends that would be refused.
pub fn judge(
    what: &str,
    objections: &[Objection],
    dry_run: bool,
    force: bool,
) -> Result<(), Failure> {
    if !dry_run || !objections.iter().any(|o| o.holds(force)) {
        return Ok(());
    }
    Err(Failure::new(exit::FAILED, what, "", "see above what speaks against it"))
}

impl Removal {
    fn new(node: u64, dry_run: bool, answer: v1::RemoveNodeResponse) -> Removal {
        let plan = answer.plan.unwrap_or_default();
        Removal {
            node: node.to_string(),
            address: plan.address,
            removed: answer.removed,
            dry_run,
            replicas_moved: plan.replicas_moved,
            groups_short: plan.groups_short,
            objections: Objection::all(plan.objections),
            etag: plan.etag,
            operation: answer.operation_id,
        }
    }
}

impl View for Removal {
    /// What was done is said on stderr; a dry run is all there is to see.
    fn text(&self, _: Look) -> String {
        if !self.dry_run {
            return String::new();
        }
        let text = format!(
            "node = {}\naddress = {}\nreplicas moved = {}\ngroups short of replicas = {}\n\
             etag = {}\n",
            self.node, self.address, self.replicas_moved, self.groups_short, self.etag
        );
        text + &lines(&self.objections)
    }
}

impl Objection {
    pub fn all(objections: Vec<v1::Objection>) -> Vec<Objection> {
        let one = |objection: v1::Objection| Objection {
            code: objection.code,
            text: objection.text,
            refuses: objection.refuses,
            forcible: objection.forcible,
            groups: objection.groups,
        };
        objections.into_iter().map(one).collect()
    }

    /// Whether it keeps the operation from being carried out.
    pub fn holds(&self, force: bool) -> bool {
        self.refuses && !(force && self.forcible)
    }
}

/// For people, one a line.
pub fn lines(objections: &[Objection]) -> String {
    let line = |objection: &Objection| {
        let weight = match (objection.refuses, objection.forcible) {
            (false, _) => "warns",
            (true, true) => "refuses, unless forced",
            (true, false) => "refuses",
        };
        format!("{} {weight}: {}\n", objection.code, objection.text)
    };
    objections.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    #[test]
    fn a_plan_shows_what_moves_and_what_speaks_against_it() {
        let objection = |refuses, forcible, code: &str, text: &str| v1::Objection {
            refuses,
            forcible,
            code: code.into(),
            text: text.into(),
            groups: vec![3],
        };
        let plan = v1::RemovalPlan {
            address: "node7:8080".into(),
            replicas_moved: 48,
            groups_short: 64,
            objections: vec![
                objection(true, true, "NODE_LIVES", "node 7 answers"),
                objection(true, false, "GROUP_QUORUM", "group 3 has no leader"),
                objection(false, false, "BELOW_REPLICATION_FACTOR", "64 of 64 groups are short"),
            ],
            etag: "00c0ffee00c0ffee".into(),
        };
        let mut story = String::new();
        for (dry_run, removed) in [(true, false), (false, true)] {
            for format in [Format::Table, Format::Json] {
                let answer = v1::RemoveNodeResponse {
                    plan: Some(plan.clone()),
                    removed,
                    operation_id: if removed { "8e1d0c5b7a3f9246".into() } else { String::new() },
                };
                let (mut console, out, _) = Console::recording(format);
                console.print(&Removal::new(7, dry_run, answer)).unwrap();
                story += &format!("# dry run: {dry_run}, {format:?}\n{}", out.text());
            }
        }
        crate::ctl::golden::check("removal.txt", &story);
    }
}
