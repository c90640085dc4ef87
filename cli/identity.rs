//! Which cluster calls are for: asked of all endpoints at once before the first call where there
//! are several, and said with every call from then on.
//!
//! - Endpoints of two clusters, or of one cluster that was restored apart, are refused by name
//!   before anything is asked of any of them.
//! - Who does not answer in time is left out. If it is a node of another cluster, it refuses the
//!   call itself, since the call says which one it means.
//! - A node that belongs to no cluster yet, or is too old to say, is left out as well. Where none
//!   can say, no call says anything.

use std::time::Duration;

use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use super::{
    connection::Access,
    fault::Fault,
    term::exit::{self, Failure},
};
use crate::{
    base::{ids::ClusterId, limits},
    proto::{
        CLUSTER_HEADER,
        v1::{self, cluster_service_client::ClusterServiceClient},
    },
};

/// What is known of the cluster that calls are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    /// The endpoints were not asked yet, or belonged to none when they were.
    Unasked,
    /// Whichever the endpoint belongs to.
    Any,
    One(ClusterId),
}

/// What an endpoint said.
#[derive(Clone, Debug)]
pub enum Said {
    Identity(v1::GetIdentityResponse),
    /// It is older than the question.
    Nothing,
}

impl Meant {
    /// At the beginning: one endpoint needs no comparison, and whoever named the cluster has
    /// decided.
    pub fn at_first(endpoints: usize, pinned: Option<ClusterId>) -> Meant {
        match pinned {
            Some(id) => Meant::One(id),
            None if endpoints > 1 => Meant::Unasked,
            None => Meant::Any,
        }
    }

    /// Writes into a call which cluster it is for.
    pub fn mark<T>(self, request: &mut Request<T>) {
        if let Meant::One(ClusterId(id)) = self {
            let text: MetadataValue<Ascii> =
                id.to_string().parse().expect("hexadecimal digits and dashes are ASCII");
            request.metadata_mut().insert(CLUSTER_HEADER, text);
        }
    }

    /// What follows from the answers: `said` has each endpoint that answered.
    pub fn of(said: &[(&str, Said)]) -> Result<Meant, Failure> {
        let identities = || {
            said.iter().filter_map(|(endpoint, said)| {
                if let Said::Identity(identity) = said { Some((*endpoint, identity)) } else { None }
            })
        };
        let named = |of: fn(&v1::GetIdentityResponse) -> &str| {
            identities()
                .map(|(at, i)| (at, of(i)))
                .filter(|(_, name)| !name.is_empty())
                .collect::<Vec<_>>()
        };
        let clusters = named(|i| &i.cluster_id);
        if let Some(told) = differ(&clusters, "cluster") {
            let remedy = "name the nodes of one of them with --endpoint, or say which one you mean \
                          with --cluster-id";
            return Err(Failure::new(
                exit::USAGE,
                "the endpoints belong to different clusters",
                told,
                remedy,
            ));
        }
        if let Some(told) = differ(&named(|i| &i.lineage), "lineage") {
            let what = format!(
                "the endpoints are of two histories of cluster {}: it was restored beside itself",
                clusters.first().map_or("", |(_, id)| id)
            );
            return Err(Failure::new(
                exit::USAGE,
                what,
                told,
                "name the nodes of one of them with --endpoint",
            ));
        }
        let Some((at, id)) = clusters.first() else {
            let too_old = said.iter().all(|(_, said)| matches!(said, Said::Nothing));
            return Ok(if too_old { Meant::Any } else { Meant::Unasked });
        };
        let id = id.parse().map_err(|_| {
            Failure::new(
                exit::FAILED,
                format!("{id:?} is not the id of a cluster"),
                *at,
                "see what answers there",
            )
        })?;
        Ok(Meant::One(ClusterId(id)))
    }
}

/// Who says what, where not all say the same.
fn differ(said: &[(&str, &str)], what: &str) -> Option<String> {
    let told = || {
        said.iter()
            .map(|(at, name)| format!("{at} to {what} {name}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    said.iter().any(|(_, name)| *name != said[0].1).then(told)
}

/// Asks one endpoint, over the connection that there is or a new one, which is returned with the
/// answer: what was said, or why nothing was.
pub async fn ask(
    access: Access,
    endpoint: String,
    channel: Option<Channel>,
    within: Duration,
) -> Result<(Channel, Result<Said, Fault>), Fault> {
    let within = within.min(limits::CTL_INTRODUCTION);
    let channel = match channel {
        Some(channel) => channel,
        None => access.open(&endpoint, within).await?,
    };
    let mut client = ClusterServiceClient::new(channel.clone());
    let mut request = Request::new(v1::GetIdentityRequest {});
    access.mark(&mut request);
    let answer = match tokio::time::timeout(within, client.get_identity(request)).await {
        Ok(Ok(answer)) => Ok(Said::Identity(answer.into_inner())),
        Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => Ok(Said::Nothing),
        Ok(Err(status)) => Err(Fault::of(&status)),
        Err(_) => Err(Fault::late(within.as_secs_f64())),
    };
    // The question changes nothing, so whatever went wrong had no effect.
    Ok((channel, answer.map_err(Fault::without_effect)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11";
    const TWO: &str = "7a1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c22";

    fn identity(cluster_id: &str, lineage: &str) -> Said {
        Said::Identity(v1::GetIdentityResponse {
            cluster_id: cluster_id.into(),
            lineage: lineage.into(),
            ..Default::default()
        })
    }

    #[test]
    fn endpoints_of_two_clusters_or_two_histories_are_refused_by_name() {
        let cases = [
            ("one cluster", vec![identity(ONE, "1"), identity(ONE, "1")]),
            ("two clusters", vec![identity(ONE, "1"), identity(TWO, "2")]),
            ("two of three", vec![identity(ONE, "1"), identity(ONE, "1"), identity(TWO, "2")]),
            ("a drill beside production", vec![identity(ONE, "1"), identity(ONE, "2")]),
            (
                "one that has not agreed on a lineage yet",
                vec![identity(ONE, "1"), identity(ONE, "")],
            ),
            ("one that waits", vec![identity("", ""), identity(ONE, "1")]),
            ("all wait", vec![identity("", ""), identity("", "")]),
            ("an older one", vec![Said::Nothing, identity(ONE, "1")]),
            ("all are older", vec![Said::Nothing, Said::Nothing]),
            ("an older one and one that waits", vec![Said::Nothing, identity("", "")]),
            ("no id", vec![identity("nonsense", "1")]),
        ];
        let mut story = String::new();
        for (name, said) in cases {
            let said: Vec<_> = ["a:1", "b:2", "c:3"].into_iter().zip(said).collect();
            let told = Meant::of(&said)
                .map_or_else(|e| format!("exit {}: {e}", e.exit), |meant| format!("{meant:?}"));
            story += &format!("{name}: {told}\n");
        }
        crate::ctl::golden::check("identity.txt", &story);
    }

    #[test]
    fn one_endpoint_is_not_asked_and_neither_is_one_of_a_named_cluster() {
        let one = ClusterId(ONE.parse().unwrap());
        assert_eq!(
            [Meant::at_first(1, None), Meant::at_first(2, None)],
            [Meant::Any, Meant::Unasked]
        );
        assert_eq!(
            [Meant::at_first(1, Some(one)), Meant::at_first(2, Some(one))],
            [Meant::One(one); 2]
        );
    }
}
