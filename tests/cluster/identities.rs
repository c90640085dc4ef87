//! Which cluster is spoken to: a node says so by itself, refuses what is meant for another, and
//! `ddbctl` compares its endpoints before it asks for anything.

use std::time::Duration;

use devicedb::proto::v1::{
    Bucket, GetIdentityRequest, GetIdentityResponse, GetRequest, NodeState, ScanRequest,
};
use tonic::{Code, Request, Status};

use crate::harness::{
    Client, Cluster, Node, Options, Port, SOON, SnapshotStore, ddbctl, put_request, reason, shell,
};

const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
/// The id of no cluster that a test founds.
const STRANGE: &str = "00000000-0000-4000-8000-000000000000";

async fn identity(client: &Client) -> GetIdentityResponse {
    let mut request = Request::new(GetIdentityRequest {});
    request.set_timeout(Duration::from_secs(5));
    client.cluster.clone().get_identity(request).await.unwrap().into_inner()
}

fn meant_for<T>(cluster: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("devicedb-cluster-id", cluster.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_two_clusters_are_refused_by_name_and_only_a_named_cluster_answers() {
    let options = Options { snapshot_store: SnapshotStore::None, ..Options::default() };
    let (one, two) = (Cluster::start(1, options.clone()).await, Cluster::start(1, options).await);
    let (a, b) = (one.nodes[0].endpoint(), two.nodes[0].endpoint());
    let [one_id, two_id] =
        [identity(&one.client()).await.cluster_id, identity(&two.client()).await.cluster_id];
    assert!(one_id != two_id && !one_id.is_empty());
    for client in [one.client(), two.client()] {
        client.add_site("shop").await.unwrap();
    }
    let put = |key: &'static str| ["put", "--site", "shop", key, "v"];

    for endpoints in [format!("{a},{b}"), format!("{b},{a}")] {
        let refused = ddbctl(&endpoints, &put("mixed"))
            .await
            .exits(USAGE)
            .says("the endpoints belong to different clusters");
        refused.says(&format!("{a} to cluster {one_id}")).says(&format!("{b} to cluster {two_id}"));
    }
    let pinned = [&["--cluster-id", &one_id][..], &put("pinned")].concat();
    ddbctl(&a, &pinned).await.exits(0);
    ddbctl(&b, &pinned).await.exits(USAGE).says(&one_id).says(&two_id);
    for (client, values) in [(one.client(), 1), (two.client(), 0)] {
        assert_eq!(
            client.values("shop", Bucket::Default, "mixed").await.unwrap().len(),
            0,
            "a refused command has no effect"
        );
        assert_eq!(client.values("shop", Bucket::Default, "pinned").await.unwrap().len(), values);
    }

    // One that is away is left out, and so is one that hangs; the cluster is shown.
    let away = Port::claim();
    ddbctl(&format!("{},{a}", away.endpoint()), &["-o", "json", "cluster", "overview"])
        .await
        .exits(0)
        .says(&one_id);
    two.nodes[0].pause().await;
    ddbctl(&format!("{b},{a}"), &put("beside one that hangs")).await.exits(0);
    two.nodes[0].resume();
    one.ctl(&["node", "list"]).await.exits(0).says(&format!("Cluster {one_id}, lineage "));
    ddbctl(&format!("{},{}", away.endpoint(), Port::claim().endpoint()), &["node", "list"])
        .await
        .exits(UNREACHABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_who_it_is_without_a_quorum_and_refuses_what_is_meant_for_another_cluster() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    let snapshot = client.complete_snapshot(SOON).await;
    let id = identity(&client).await.cluster_id;
    assert_eq!(
        (&snapshot.cluster_id, client.overview().await.unwrap().cluster_id),
        (&id, id.clone())
    );

    let refused = |outcome: Result<(), Status>| {
        let status = outcome.expect_err("it is meant for another cluster");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::FailedPrecondition, "OTHER_CLUSTER"),
            "{status:?}"
        );
        assert!(status.message().contains(STRANGE) && status.message().contains(&id), "{status:?}");
    };
    refused(
        client
            .kv
            .clone()
            .put(meant_for(STRANGE, put_request("shop", Bucket::Default, "k", "v")))
            .await
            .map(drop),
    );
    let get = GetRequest { site: "shop".into(), key: "k".into(), ..Default::default() };
    refused(client.kv.clone().get(meant_for(STRANGE, get.clone())).await.map(drop));
    refused(
        client
            .kv
            .clone()
            .scan(meant_for(STRANGE, ScanRequest { site: "shop".into(), ..Default::default() }))
            .await
            .map(drop),
    );
    let download = devicedb::proto::v1::DownloadSnapshotRequest {
        uuid: snapshot.uuid.clone(),
        ..Default::default()
    };
    refused(
        client.snapshots.clone().download_snapshot(meant_for(STRANGE, download)).await.map(drop),
    );
    let delete =
        devicedb::proto::v1::DeleteSnapshotRequest { uuid: snapshot.uuid, ..Default::default() };
    refused(client.snapshots.clone().delete_snapshot(meant_for(STRANGE, delete)).await.map(drop));
    assert_eq!(
        client.kv.clone().get(meant_for(&id, get)).await.unwrap().into_inner().siblings.len(),
        0,
        "the put had no effect"
    );

    cluster.nodes[1].kill9();
    cluster.nodes[2].kill9();
    let said = identity(&client).await;
    assert_eq!(
        (&said.cluster_id, said.state(), &said.address),
        (&id, NodeState::Serving, &cluster.nodes[0].endpoint())
    );
    assert!(
        said.node_id != 0
            && !said.lineage.is_empty()
            && said.restored_from.is_empty()
            && said.doing.is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_beside_production_is_told_apart_by_its_lineage() {
    let cluster = Cluster::start(1, Options::default()).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    let snapshot = client.complete_snapshot(SOON).await;
    let tar = cluster.download_all(&snapshot.uuid).await.remove(0);
    let store = cluster.dir().join("drill");
    shell(&format!("mkdir {0} && tar xf {1} -C {0}", store.display(), tar.display()), SOON)
        .await
        .exits(0);
    let port = Port::claim();
    let args = ["start", "--store", store.to_str().unwrap(), "--listen", &port.endpoint()]
        .map(str::to_string)
        .to_vec();
    let mut drill = Node::new("drill", port, cluster.dir(), store, args);
    drill.start();
    drill.wait_ready().await;

    let (production, restored) = (identity(&client).await, identity(&drill.client()).await);
    assert_eq!(
        (&restored.cluster_id, &restored.restored_from),
        (&production.cluster_id, &snapshot.uuid)
    );
    let endpoints = format!("{},{}", cluster.nodes[0].endpoint(), drill.endpoint());
    let refused = ddbctl(&endpoints, &["snapshot", "delete", &snapshot.uuid])
        .await
        .exits(USAGE)
        .says("two histories");
    refused.says(&production.lineage).says(&restored.lineage);
    assert_eq!(client.snapshot(&snapshot.uuid).await.unwrap().status(), snapshot.status());
}
