//! Answers with a quorum and without one.
//!
//! What `ddbctl` shows of the cluster's configuration is linearizable while somebody leads the meta
//! group: the leader is asked first, within `limits::CTL_AGREEMENT`. When nobody answers for the
//! whole cluster in that time, every endpoint is asked for what it knows by itself:
//!
//! - A list, or a snapshot, is that of the endpoint that has applied most of the meta group's log:
//!   it knows all that the others know. What is shown may be old, and never contradicts what was
//!   once committed.
//! - An overview is put together from all of them. What a node says itself is believed before what
//!   others say of it, and a leader that anybody has heard counts.
//! - That it may be old, and why, is said on stderr before the result, with each node's own reason
//!   and what still works; and in documents as `stale` and `stale_reason`.
//!
//! Only silence leads here. An endpoint that refuses the request is believed, and nothing that
//! changes the cluster is ever done on such an answer.

use std::{collections::BTreeMap, future::Future, time::Duration};

use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{
    client::{Call, Client},
    outlook::Outlook,
    term::{
        exit::{self, Failure},
        output::Console,
    },
};
use crate::{
    base::limits,
    proto::v1::{self, cluster_service_client::ClusterServiceClient},
};

/// Why a result may be old. In a document it is two fields of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stale {
    /// Always true.
    stale: bool,
    stale_reason: String,
    /// The same, a line each, with what was found besides.
    #[serde(skip)]
    words: Vec<String>,
}

/// The cluster at a glance.
#[derive(Clone, Debug)]
pub struct Picture {
    pub overview: v1::GetOverviewResponse,
    pub stale: Option<Stale>,
}

/// What the endpoints said that were asked alone, by endpoint.
type Told<T> = Vec<(String, Result<T, Failure>)>;

impl Stale {
    fn new(who: &str, reasons: Vec<String>) -> Stale {
        let head = format!(
            "this may be old: nobody speaks for the whole cluster, and it is what {who} by itself"
        );
        let words: Vec<String> = std::iter::once(head).chain(reasons).collect();
        Stale { stale: true, stale_reason: words.join("; "), words }
    }

    /// Says so, before the result.
    pub fn warn(&self, console: &mut Console) {
        self.words.iter().for_each(|words| console.warn(words));
    }

    pub fn reason(&self) -> &str {
        &self.stale_reason
    }
}

/// What the leader answers; or what the best informed endpoint knows by itself, and why that may be
/// old. `ask` gets a client of its own, and whether it is to ask for the latter.
pub async fn agreed_or_alone<T, F, Fut>(
    client: &mut Client,
    ask: F,
) -> Result<(T, Option<Stale>), Failure>
where
    T: Send + 'static,
    F: Fn(Client, bool) -> Fut,
    Fut: Future<Output = Result<(T, Option<v1::LocalAnswer>), Failure>> + Send + 'static,
{
    let (agreement, rest) = times(client);
    let failure = match ask(client.within(agreement, client.endpoints().to_vec()), false).await {
        Ok((answer, _)) => return Ok((answer, None)),
        Err(failure) if failure.exit != exit::UNREACHABLE => return Err(failure),
        Err(failure) => failure,
    };
    let (asked, looked) = (each(client, rest), each(client, rest));
    let told = together(asked.into_iter().map(|(at, client)| (at, ask(client, true))));
    let seen = together(looked.into_iter().map(|(at, client)| (at, overview(client, true))));
    let (told, seen) = tokio::join!(told, seen);
    let (answer, who, mut reasons) = best(told, &failure).ok_or(failure)?;
    let Some(who) = who else { return Ok((answer, None)) };
    if let Some((seen, _)) = put_together(answers(seen)) {
        reasons.extend(Outlook::of(&seen).lines().map(str::to_owned));
    }
    Ok((answer, Some(Stale::new(&format!("{} knows", name(&who)), reasons))))
}

/// The answer of whoever has applied most, with who that is and why each endpoint does not speak
/// for all. A server that is too old to answer alone has asked its leader.
fn best<T>(
    told: Told<(T, Option<v1::LocalAnswer>)>,
    failure: &Failure,
) -> Option<(T, Option<v1::LocalAnswer>, Vec<String>)> {
    let reasons = reasons(
        told.iter().map(|(_, told)| match told {
            Ok((_, alone)) => Ok(alone.as_ref()),
            Err(failure) => Err(failure),
        }),
        failure,
    );
    let applied = |alone: &Option<v1::LocalAnswer>| {
        alone.as_ref().map_or(u64::MAX, |alone| alone.applied_index)
    };
    let (answer, alone) = answers(told)
        .into_iter()
        .map(|(_, answer)| answer)
        .reduce(|best, next| if applied(&next.1) > applied(&best.1) { next } else { best })?;
    Some((answer, alone, reasons))
}

/// The cluster as its leader knows it; or as the endpoints know it by themselves.
pub async fn picture(client: &mut Client) -> Result<Picture, Failure> {
    let (agreement, rest) = times(client);
    let asking = client.within(agreement, client.endpoints().to_vec());
    let failure = match overview(asking, false).await {
        Ok(overview) => return Ok(Picture { overview, stale: None }),
        Err(failure) if failure.exit != exit::UNREACHABLE => return Err(failure),
        Err(failure) => failure,
    };
    let looked = each(client, rest).into_iter();
    let told = together(looked.map(|(at, client)| (at, overview(client, true)))).await;
    let mut reasons = reasons(
        told.iter().map(|(_, told)| match told {
            Ok(overview) => Ok(overview.local.as_ref()),
            Err(failure) => Err(failure),
        }),
        &failure,
    );
    let told = answers(told);
    let who: Vec<&str> = told.iter().map(|(endpoint, _)| endpoint.as_str()).collect();
    let who = match who[..] {
        [one] => format!("{one} knows"),
        _ => format!("each of {} knows", who.join(" and ")),
    };
    let (overview, strangers) = put_together(told).ok_or(failure)?;
    reasons.extend(strangers);
    Ok(Picture { overview, stale: Some(Stale::new(&who, reasons)) })
}

/// How long the leader has, and how long the endpoints have after that.
fn times(client: &Client) -> (Duration, Duration) {
    let agreement = (client.timeout() / 2).min(limits::CTL_AGREEMENT);
    (agreement, client.timeout() - agreement)
}

/// A client for each endpoint alone.
fn each(client: &mut Client, within: Duration) -> Vec<(String, Client)> {
    let endpoints = client.endpoints().to_vec();
    endpoints.into_iter().map(|at| (at.clone(), client.within(within, vec![at]))).collect()
}

async fn together<T, Fut>(asked: impl Iterator<Item = (String, Fut)>) -> Told<T>
where
    T: Send + 'static,
    Fut: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let mut asking = JoinSet::new();
    for (endpoint, answer) in asked {
        asking.spawn(async move { (endpoint, answer.await) });
    }
    let mut told = asking.join_all().await;
    told.sort_by(|(a, _), (b, _)| a.cmp(b));
    told
}

fn answers<T>(told: Told<T>) -> Vec<(String, T)> {
    told.into_iter().filter_map(|(endpoint, answer)| Some((endpoint, answer.ok()?))).collect()
}

/// Why nobody speaks for all: in the words of each node that was asked, or why it was not.
fn reasons<'a>(
    told: impl Iterator<Item = Result<Option<&'a v1::LocalAnswer>, &'a Failure>>,
    failure: &Failure,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut explained = false;
    for told in told {
        match told {
            Ok(Some(alone)) if !alone.reason.is_empty() => {
                explained = true;
                reasons.push(format!("{} says: {}", name(alone), alone.reason));
            }
            Ok(_) => {}
            Err(failure) => reasons.push(format!("not asked: {}", failure.place)),
        }
    }
    if !explained {
        reasons.insert(0, format!("asked for the whole: {}", failure.place));
    }
    reasons
}

fn name(alone: &v1::LocalAnswer) -> String {
    format!("node {} at {}", alone.node_id, alone.address)
}

async fn overview(mut client: Client, local: bool) -> Result<v1::GetOverviewResponse, Failure> {
    let (call, request) = (Call::new("describe the cluster"), v1::GetOverviewRequest { local });
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).get_overview(request).await
        })
        .await?;
    Ok(answer.body)
}

/// One overview of several that were seen apart: that of whoever reaches most nodes, with what each
/// node says itself where anybody could ask it, and with every leader that anybody has heard. Those
/// of another cluster than the first are named.
fn put_together(
    told: Vec<(String, v1::GetOverviewResponse)>,
) -> Option<(v1::GetOverviewResponse, Vec<String>)> {
    let cluster = told.first()?.1.cluster_id.clone();
    let (same, others): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|(_, seen)| seen.cluster_id == cluster);
    let strangers = others.into_iter().map(|(endpoint, seen)| {
        format!("{endpoint} belongs to another cluster, {}", seen.cluster_id)
    });
    let reach = |seen: &v1::GetOverviewResponse| {
        let applied = seen.local.as_ref().map_or(0, |alone| alone.applied_index);
        (seen.nodes.iter().filter(|node| node.reachable).count(), applied)
    };
    let mut same: Vec<_> = same.into_iter().map(|(_, seen)| seen).collect();
    // The sort is stable: of equals the first endpoint's.
    same.sort_by_key(|seen| std::cmp::Reverse(reach(seen)));
    let mut same = same.into_iter();
    let mut whole = same.next()?;
    let mut nodes: BTreeMap<u64, v1::Node> =
        whole.nodes.drain(..).map(|node| (node.id, node)).collect();
    for seen in same {
        whole.groups_without_leader = whole.groups_without_leader.min(seen.groups_without_leader);
        whole.groups_under_replicated =
            whole.groups_under_replicated.min(seen.groups_under_replicated);
        whole.meta_under_replicated &= seen.meta_under_replicated;
        whole.meta_leader = whole.meta_leader.max(seen.meta_leader);
        for set in &mut whole.voter_sets {
            let theirs = seen
                .voter_sets
                .iter()
                .find(|theirs| (theirs.meta, &theirs.voters) == (set.meta, &set.voters));
            set.groups_led = set.groups_led.max(theirs.map_or(0, |theirs| theirs.groups_led));
        }
        for node in seen.nodes {
            let known = nodes.entry(node.id).or_insert_with(|| node.clone());
            if (node.reachable, node.ready) > (known.reachable, known.ready) {
                *known = node;
            }
        }
    }
    whole.nodes = nodes.into_values().collect();
    Some((whole, strangers.collect()))
}

pub fn service(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const MISSED: &str =
        "the meta group has no leader; looking for node 3 (c:3: Connection refused)";

    fn alone(node_id: u64, applied_index: u64, reason: &str) -> v1::LocalAnswer {
        let address = format!("{}:{node_id}", ["a", "b", "c"][node_id as usize - 1]);
        v1::LocalAnswer { node_id, address, applied_index, reason: reason.into() }
    }

    /// What a list says that a node has answered alone.
    pub fn stale() -> Stale {
        Stale::new("node 1 at a:1 knows", vec![format!("node 1 at a:1 says: {MISSED}")])
    }

    fn silence() -> Failure {
        Failure::new(exit::UNREACHABLE, "cannot list", "a:1 (no answer within 1.0 s)", "")
    }

    #[test]
    fn whoever_has_applied_most_is_believed_and_all_have_their_say() {
        let refused =
            Failure::new(exit::UNREACHABLE, "cannot list", "c:3 (Connection refused)", "");
        let told = || {
            vec![
                ("a:1".to_owned(), Ok(("old", Some(alone(1, 7, MISSED))))),
                ("b:2".to_owned(), Ok(("new", Some(alone(2, 8, ""))))),
                ("c:3".to_owned(), Err(refused.clone())),
            ]
        };
        let (answer, who, reasons) = best(told(), &silence()).unwrap();
        assert_eq!((answer, who.map(|who| name(&who)).as_deref()), ("new", Some("node 2 at b:2")));
        assert_eq!(
            reasons,
            [&format!("node 1 at a:1 says: {MISSED}"), "not asked: c:3 (Connection refused)"]
        );

        // One that knows nothing of answering alone has asked its leader.
        let mut agreed = told();
        agreed[0].1 = Ok(("agreed", None));
        let (answer, who, reasons) = best(agreed, &silence()).unwrap();
        assert_eq!((answer, who), ("agreed", None));
        assert_eq!(reasons[0], "asked for the whole: a:1 (no answer within 1.0 s)");
        assert!(best::<&str>(told().split_off(2), &silence()).is_none());
    }

    fn node(id: u64, reachable: bool, reason: &str) -> v1::Node {
        let ready = reachable && reason.is_empty();
        v1::Node { id, reachable, ready, reason: reason.into(), ..Default::default() }
    }

    fn seen(nodes: [v1::Node; 3], meta_led: u32) -> v1::GetOverviewResponse {
        let set = |meta, groups, groups_led| v1::VoterSet {
            voters: vec![1, 2, 3],
            groups,
            groups_led,
            meta,
        };
        v1::GetOverviewResponse {
            cluster_id: "one".into(),
            nodes: nodes.into(),
            voter_sets: vec![set(true, 1, meta_led), set(false, 8, 3)],
            groups_without_leader: 5 + meta_led,
            ..Default::default()
        }
    }

    #[test]
    fn what_endpoints_know_apart_is_put_together_from_what_each_node_says_itself() {
        let first = seen([node(1, true, MISSED), node(2, false, "timeout"), node(3, false, "")], 0);
        let mut second = seen([node(1, false, ""), node(2, true, ""), node(3, true, MISSED)], 1);
        second.nodes.push(node(4, true, ""));
        let stranger = v1::GetOverviewResponse { cluster_id: "two".into(), ..Default::default() };
        let told = [("a:1", first), ("b:2", second), ("c:3", stranger)]
            .map(|(at, seen)| (at.to_owned(), seen));
        let (whole, strangers) = put_together(told.into()).unwrap();
        assert_eq!(strangers, ["c:3 belongs to another cluster, two"]);
        let nodes: Vec<_> =
            whole.nodes.iter().map(|n| (n.id, n.reachable, n.ready, n.reason.as_str())).collect();
        assert_eq!(
            nodes,
            [
                (1, true, false, MISSED),
                (2, true, true, ""),
                (3, true, false, MISSED),
                (4, true, true, "")
            ]
        );
        let led: Vec<u32> = whole.voter_sets.iter().map(|set| set.groups_led).collect();
        assert_eq!((led, whole.groups_without_leader), (vec![1, 3], 5));
        assert!(put_together(Vec::new()).is_none());
    }
}
