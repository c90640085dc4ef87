//! `ddbctl cluster upgrade`: which version every node runs, and the end of a rolling upgrade.

use serde::Serialize;
use tonic::transport::Channel;

use super::{
    args::Upgrade,
    client::{Call, Client},
    term::{
        exit::Failure,
        output::{Console, Look, View},
        table::{Number, Table, Text},
    },
};
use crate::proto::v1::{self, cluster_service_client::ClusterServiceClient};

#[derive(Debug, Serialize)]
struct Versions {
    level: u32,
    known_to_all: u32,
    newest: u32,
    nodes: Vec<NodeVersion>,
}

#[derive(Debug, Serialize)]
struct NodeVersion {
    id: String,
    address: String,
    version: String,
    level: u32,
}

#[derive(Debug, Serialize)]
struct Finalized {
    level: u32,
    raised: bool,
}

pub async fn run(
    command: Upgrade,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command {
        Upgrade::Status => {
            let call = Call::new("look at the versions");
            let seen = client
                .call(&call, v1::GetUpgradeRequest {}, |channel, request| async move {
                    service(channel).get_upgrade(request).await
                })
                .await?;
            console.print(&Versions::new(seen.body))
        }
        Upgrade::Finalize => {
            let call = Call { what: "finalize the upgrade".into(), again: "repeat it".into() };
            let done = client
                .call(&call, v1::FinalizeUpgradeRequest {}, |channel, request| async move {
                    service(channel).finalize_upgrade(request).await
                })
                .await?;
            let v1::FinalizeUpgradeResponse { level, raised } = done.body;
            console.confirm(&if raised {
                format!("the cluster uses level {level}; no node can go back to an older version")
            } else {
                format!("the cluster used level {level} before: nothing has changed")
            });
            console.print(&Finalized { level, raised })
        }
    }
}

fn service(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel)
}

impl Versions {
    fn new(seen: v1::GetUpgradeResponse) -> Versions {
        let nodes = seen.nodes.into_iter().map(|node| NodeVersion {
            id: node.node_id.to_string(),
            address: node.address,
            version: node.version,
            level: node.level,
        });
        Versions {
            level: seen.level,
            known_to_all: seen.known_to_all,
            newest: seen.newest,
            nodes: nodes.collect(),
        }
    }

    /// What to do next.
    fn verdict(&self) -> String {
        let level = self.level;
        if self.known_to_all < self.newest {
            let behind = self.nodes.iter().filter(|node| node.level < self.newest);
            let behind: Vec<String> =
                behind.map(|node| format!("{} at {}", node.id, node.address)).collect();
            format!(
                "The cluster uses level {level}. Some nodes know level {}; to be upgraded: {}.\n",
                self.newest,
                behind.join(", ")
            )
        } else if level < self.known_to_all {
            format!(
                "The cluster uses level {level}, and all nodes know level {}. As long as that is \
                 so, every node can go back to the older version; ddbctl cluster upgrade finalize \
                 ends the upgrade.\n",
                self.known_to_all
            )
        } else {
            format!("The cluster uses level {level}, all that its nodes know.\n")
        }
    }
}

impl View for Versions {
    fn text(&self, look: Look) -> String {
        let rows = self.nodes.iter().map(|node| {
            [node.id.clone(), node.address.clone(), node.version.clone(), node.level.to_string()]
        });
        let heads = [Number("NODE ID"), Text("ADDRESS"), Text("VERSION"), Number("KNOWS LEVEL")];
        self.verdict() + &Table::new(heads, rows).render(look.columns)
    }
}

impl View for Finalized {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    #[test]
    fn an_upgrade_is_shown_at_each_of_its_stages() {
        let mut story = String::new();
        let stages = [("begun", [1, 2, 1]), ("to be finalized", [2, 2, 2]), ("over", [1, 1, 1])];
        for (stage, levels) in stages {
            let nodes = (1..).zip(levels).map(|(node_id, level)| v1::NodeVersion {
                node_id,
                address: format!("node{node_id}:8080"),
                version: format!("0.{level}.0"),
                level,
            });
            let seen = Versions::new(v1::GetUpgradeResponse {
                level: 1,
                known_to_all: levels.into_iter().min().unwrap(),
                newest: levels.into_iter().max().unwrap(),
                nodes: nodes.collect(),
            });
            for format in [Format::Table, Format::Json] {
                let (mut console, out, _) = Console::recording(format);
                console.print(&seen).unwrap();
                story += &format!("# {stage}, {format:?}\n{}", out.text());
            }
        }
        crate::ctl::golden::check("upgrade.txt", &story);
    }
}
