//! `ddbctl operation`: what operators have asked of the nodes as a whole, and waiting for it.
//!
//! An operation goes on whether anybody waits for it or not. It has a name, so a wait that ends can
//! be begun again by anybody, for the same operation.

use std::time::Duration;

use indicatif::HumanBytes;
use serde::Serialize;
use tonic::transport::Channel;

use super::{
    args::Operation as Args,
    client::{Call, Client},
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        table::{Number, Prose, Table, Text},
        text,
    },
};
use crate::{
    base::{ids::OperationId, limits},
    proto::v1::{self, operation_service_client::OperationServiceClient},
};

/// An operation as it is shown.
#[derive(Debug, Serialize)]
pub struct Operation {
    pub id: String,
    kind: &'static str,
    /// `running`, `done` or `cancelled`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "node_id")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "replacement_id")]
    replacement: Option<String>,
    began_ms: u64,
    ended_ms: u64,
    replicas_total: u32,
    replicas_done: u32,
    bytes_left: u64,
    bytes_per_s: u64,
    eta_s: u32,
    waits: Vec<Wait>,
    waits_left_out: u32,
    forced: bool,
    gives_up: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Wait {
    pub group: u32,
    /// 0 where it is nobody in particular.
    #[serde(rename = "node_id")]
    pub node: String,
    /// `silent`, `behind`, `away`, `no room`, `throttled`, `alone` or `no leader`.
    pub reason: &'static str,
    pub text: String,
    pub since_s: u32,
}

#[derive(Debug, Serialize)]
struct Operations {
    operations: Vec<Operation>,
}

pub async fn run(command: Args, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Args::List { running, node } => list(running, node, client, console).await,
        Args::Show { id } => {
            let call = Call::new(format!("look at operation {id}"));
            let request = v1::GetOperationRequest { id: id.to_string() };
            let answer = client
                .call(&call, request, |channel, request| async move {
                    service(channel).get_operation(request).await
                })
                .await?;
            console.print(&Operation::new(answer.body.operation.unwrap_or_default()))
        }
        Args::Wait { id, wait_timeout } => {
            let ended = watch(&id.to_string(), wait_timeout.0, client, console).await?;
            console.confirm(&format!("operation {id} is done"));
            console.print(&ended)
        }
        Args::Cancel { id } => cancel(id, client, console).await,
    }
}

async fn list(
    running: bool,
    node: Option<u64>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let node_id = node.unwrap_or_default();
    let (operations, _) = client
        .pages_of(
            &Call::new("list the operations"),
            |page_token| v1::ListOperationsRequest { page_size: 0, page_token, running, node_id },
            |channel, request| async move { service(channel).list_operations(request).await },
            |page| (page.operations, page.next_page_token, None),
        )
        .await?;
    let operations = operations.into_iter().map(Operation::new).collect();
    console.print(&Operations { operations })
}

async fn cancel(
    id: OperationId,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let call = Call { what: format!("cancel operation {id}"), again: "repeat it".into() };
    let request = v1::CancelOperationRequest { id: id.to_string() };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).cancel_operation(request).await
        })
        .await?;
    console.confirm(&format!("operation {id} is cancelled"));
    console.print(&Operation::new(answer.body.operation.unwrap_or_default()))
}

/// Waits until an operation is done, and says meanwhile how far it is. One that was cancelled is a
/// failure.
pub async fn watch(
    id: &str,
    most: Duration,
    client: &mut Client,
    console: &mut Console,
) -> Result<Operation, Failure> {
    let again = format!("ddbctl operation wait {id}");
    console.on_interrupt(format!("operation {id} goes on; look with {again}"));
    client.be_patient();
    let (until, call) = (client.now() + most, Call::new(format!("wait for operation {id}")));
    let mut told = String::new();
    loop {
        let wait = limits::CTL_LOOK_MAX.min(until.saturating_sub(client.now()));
        // The server takes 0 for as long as the call may take.
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        let request = v1::WaitOperationRequest { id: id.to_owned(), wait_ms };
        let answer = client
            .call(&call, request, |channel, request| async move {
                service(channel).wait_operation(request).await
            })
            .await?;
        let now = Operation::new(answer.body.operation.unwrap_or_default());
        match now.state {
            "done" => return Ok(now),
            "cancelled" => {
                return Err(Failure::new(
                    exit::FAILED,
                    format!("operation {id} was cancelled"),
                    now.subject(),
                    "somebody has said ddbctl operation cancel or ddbctl node cancel, or has \
                     removed the node",
                ));
            }
            _ => {}
        }
        let line = now.progress();
        if line != told {
            console.say(&line);
            told = line;
        }
        if client.now() >= until {
            return Err(Failure::new(
                exit::UNREACHABLE,
                format!("operation {id} has not ended within {most:?}"),
                told,
                format!(
                    "it goes on: look with {again}, or take it back with ddbctl operation \
                         cancel {id}"
                ),
            ));
        }
    }
}

/// Waits for an operation that a command has begun, where it is to wait and there is one.
pub async fn watch_begun(
    id: &str,
    most: Option<Duration>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let Some(most) = most else {
        if !id.is_empty() {
            console.say(&format!("it is operation {id}: look with ddbctl operation wait {id}"));
        }
        return Ok(());
    };
    if id.is_empty() {
        console.say("there is nothing to wait for");
        return Ok(());
    }
    watch(id, most, client, console).await?;
    console.confirm(&format!("operation {id} is done"));
    Ok(())
}

fn service(channel: Channel) -> OperationServiceClient<Channel> {
    OperationServiceClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
}

impl Wait {
    pub fn new(wait: v1::Wait) -> Wait {
        Wait {
            group: wait.group,
            node: wait.node_id.to_string(),
            reason: match wait.reason() {
                v1::WaitReason::Away => "away",
                v1::WaitReason::Behind => "behind",
                v1::WaitReason::NoRoom => "no room",
                v1::WaitReason::Throttled => "throttled",
                v1::WaitReason::Alone => "alone",
                v1::WaitReason::NoLeader => "no leader",
                v1::WaitReason::Silent | v1::WaitReason::Unspecified => "silent",
            },
            text: wait.text,
            since_s: wait.since_s,
        }
    }

    /// Whether it goes on by itself.
    pub fn is_work(&self) -> bool {
        matches!(self.reason, "behind" | "throttled")
    }
}

impl Operation {
    pub fn new(operation: v1::Operation) -> Operation {
        let node = |id: u64| (id > 0).then(|| id.to_string());
        Operation {
            kind: match operation.kind() {
                v1::OperationKind::Remove => "remove",
                v1::OperationKind::Decommission => "decommission",
                v1::OperationKind::Replace => "replace",
                v1::OperationKind::SetCapacity => "set capacity",
                v1::OperationKind::Rebalance => "rebalance",
                v1::OperationKind::Drain => "drain",
                v1::OperationKind::Unspecified => "unknown",
            },
            state: match operation.state() {
                v1::OperationState::Running => "running",
                v1::OperationState::Done => "done",
                v1::OperationState::Cancelled => "cancelled",
                v1::OperationState::Unspecified => "unknown",
            },
            id: operation.id,
            node: node(operation.node_id),
            replacement: node(operation.replacement_id),
            began_ms: operation.began_ms,
            ended_ms: operation.ended_ms,
            replicas_total: operation.replicas_total,
            replicas_done: operation.replicas_done,
            bytes_left: operation.bytes_left,
            bytes_per_s: operation.bytes_per_s,
            eta_s: operation.eta_s,
            waits: operation.waits.into_iter().map(Wait::new).collect(),
            waits_left_out: operation.waits_left_out,
            forced: operation.forced,
            gives_up: operation.gives_up,
        }
    }

    /// What is done, and to whom.
    fn subject(&self) -> String {
        match (&self.node, &self.replacement) {
            (Some(node), Some(by)) => format!("{} of node {node} by node {by}", self.kind),
            (Some(node), None) => format!("{} of node {node}", self.kind),
            (None, _) => self.kind.to_owned(),
        }
    }

    /// How far it is and what it waits for: the first few that do not go on by themselves speak for
    /// the rest.
    fn progress(&self) -> String {
        let mut line = self.subject();
        if self.replicas_total > 0 {
            line += &format!(": {} of {} replicas done", self.replicas_done, self.replicas_total);
        }
        if self.bytes_left > 0 {
            line += &format!(", about {} left", HumanBytes(self.bytes_left));
        }
        if self.bytes_per_s > 0 {
            line += &format!(", {}/s", HumanBytes(self.bytes_per_s));
        }
        if self.eta_s > 0 {
            line += &format!(", about {}", text::span(self.eta_s.into()));
        }
        for wait in self.waits.iter().filter(|wait| !wait.is_work()).take(3) {
            line += &format!("; {}", text::line(&wait.text));
        }
        line
    }
}

fn time(ms: u64) -> String {
    if ms == 0 { "-".into() } else { text::when(ms) }
}

impl View for Operation {
    fn text(&self, _: Look) -> String {
        let mut lines = vec![
            ("id", self.id.clone()),
            ("what", self.subject()),
            ("state", self.state.to_owned()),
            ("began", time(self.began_ms)),
            ("ended", time(self.ended_ms)),
            ("replicas", format!("{} of {} done", self.replicas_done, self.replicas_total)),
        ];
        if self.state == "running" {
            lines.push(("bytes left", format!("about {}", HumanBytes(self.bytes_left))));
            lines.push(("rate", format!("{}/s", HumanBytes(self.bytes_per_s))));
            if self.eta_s > 0 {
                lines.push(("time left", format!("about {}", text::span(self.eta_s.into()))));
            }
        }
        lines.extend(self.gives_up.iter().map(|what| ("forced over", text::line(what))));
        lines.extend(self.waits.iter().map(|wait| {
            let since = if wait.since_s > 0 {
                format!(" (for {} already)", text::span(wait.since_s.into()))
            } else {
                String::new()
            };
            ("waits", text::line(&wait.text) + &since)
        }));
        if self.waits_left_out > 0 {
            lines.push(("waits", format!("{} more", self.waits_left_out)));
        }
        lines.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
    }
}

impl View for Operations {
    fn text(&self, look: Look) -> String {
        let rows = self.operations.iter().map(|o| {
            [
                o.id.clone(),
                o.subject(),
                o.state.to_owned(),
                time(o.began_ms),
                look.age(o.began_ms),
                time(o.ended_ms),
                format!("{}/{}", o.replicas_done, o.replicas_total),
                o.waits.len().to_string(),
            ]
        });
        let heads = [
            Text("OPERATION ID"),
            Prose("WHAT"),
            Text("STATE"),
            Text("BEGAN"),
            Text("AGE"),
            Text("ENDED"),
            Text("REPLICAS"),
            Number("WAITS"),
        ];
        Table::new(heads, rows).render(look.columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    fn running() -> v1::Operation {
        let wait = |group, node_id, reason: v1::WaitReason, text: &str, since_s| v1::Wait {
            group,
            node_id,
            reason: reason as i32,
            text: text.into(),
            since_s,
        };
        v1::Operation {
            id: "8e1d0c5b7a3f9246".into(),
            kind: v1::OperationKind::Replace as i32,
            state: v1::OperationState::Running as i32,
            node_id: 7,
            replacement_id: 8,
            began_ms: 1_764_400_000_000,
            replicas_total: 48,
            replicas_done: 36,
            bytes_left: 3 << 30,
            bytes_per_s: 50 << 20,
            eta_s: 61,
            waits: vec![
                wait(3, 8, v1::WaitReason::Behind, "group 3 is being copied to node 8", 0),
                wait(4, 8, v1::WaitReason::NoRoom, "node 8 has no room for group 4", 190),
            ],
            waits_left_out: 5,
            forced: true,
            gives_up: vec!["only node 7 has a part of snapshot S".into()],
            ..v1::Operation::default()
        }
    }

    #[test]
    fn an_operation_shows_how_far_it_is_and_why_it_waits() {
        let done = v1::Operation {
            id: "0000000000000001".into(),
            kind: v1::OperationKind::Rebalance as i32,
            state: v1::OperationState::Done as i32,
            began_ms: 1_764_300_000_000,
            ended_ms: 1_764_300_060_000,
            replicas_total: 4,
            replicas_done: 4,
            ..v1::Operation::default()
        };
        let mut story = format!("# {}\n", Operation::new(running()).progress());
        for format in [Format::Table, Format::Json] {
            for operation in [running(), done.clone()] {
                let (mut console, out, _) = Console::recording(format);
                console.print(&Operation::new(operation)).unwrap();
                story += &format!("# {format:?}\n{}", out.text());
            }
        }
        let operations = [running(), done].map(Operation::new).into_iter().collect();
        let (mut console, out, _) = Console::recording(Format::Table);
        console.print(&Operations { operations }).unwrap();
        story += &format!("# list\n{}", out.text());
        crate::ctl::golden::check("operation.txt", &story);
    }
}
