//! `ddbctl cluster joins`: whether machines need a join token to become nodes.

use serde::Serialize;

use super::{
    args::Joins,
    client::{Call, Client},
    term::{
        exit::Failure,
        output::{Console, Look, View},
    },
};
use crate::proto::v1::{
    self, access_service_client::AccessServiceClient, cluster_service_client::ClusterServiceClient,
};

#[derive(Debug, Serialize)]
struct How {
    joins_need_token: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
}

impl View for How {
    fn text(&self, _: Look) -> String {
        match (self.changed, self.joins_need_token) {
            (Some(_), _) => String::new(),
            (None, true) => "Machines need a join token to become nodes.\n".to_owned(),
            (None, false) => {
                "Every machine that may speak to nodes becomes one when it asks.\n".to_owned()
            }
        }
    }
}

pub async fn run(
    how: Option<Joins>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let Some(how) = how else {
        let call = Call::new("ask how machines join");
        let seen = client
            .call(&call, v1::GetOverviewRequest::default(), |channel, request| async move {
                ClusterServiceClient::new(channel).get_overview(request).await
            })
            .await?;
        let joins_need_token = seen.body.joins_need_token;
        return console.print(&How { joins_need_token, changed: None });
    };
    let need_token = how == Joins::Token;
    let call = Call { what: "say how machines join".into(), again: "repeat it".into() };
    let done = client
        .call(&call, v1::SetJoinsRequest { need_token }, |channel, request| async move {
            AccessServiceClient::new(channel).set_joins(request).await
        })
        .await?;
    let what =
        if need_token { "machines need a join token" } else { "machines need no join token" };
    let changed = done.body.changed || done.repeated;
    let since = if changed { "from now on" } else { "as before" };
    console.confirm(&format!("{what}, {since}"));
    console.print(&How { joins_need_token: need_token, changed: Some(changed) })
}
