//! What roles, grants and tokens allow on real nodes.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use devicedb::proto::v1::{
    BatchOperation, Bucket, GetRequest, WhoAmIRequest, access_service_client::AccessServiceClient,
    batch_operation::Action, kv_service_client::KvServiceClient,
};
use tonic::{Code, Request, Status};

use super::{Issued, Leaf, Secured, channel, get};
use crate::harness::{Options, Ran, SOON, SnapshotStore, ddbctl, eventually};

impl Secured {
    /// `ddbctl` at one node, with a certificate.
    pub async fn ctl_as(&self, at: usize, issued: &Issued, line: &str) -> Ran {
        let words = self.authority.ctl_words(issued);
        let all: Vec<&str> = words.iter().map(String::as_str).chain(line.split(' ')).collect();
        ddbctl(&self.node(at).endpoint(), &all).await
    }

    async fn done(&self, line: &str) {
        let ran = self.ctl(&line.split(' ').collect::<Vec<_>>()).await;
        ran.exits(0);
    }

    /// What a call with a token and no certificate comes to.
    async fn with_token(&self, at: usize, token: &Path, site: &str) -> Result<(), Status> {
        let bare = devicedb::net::tls::material::client(&self.authority.ca_path, None).unwrap();
        let channel = channel(&self.node(at).endpoint(), &bare).await.unwrap();
        let (site, key) = (site.to_owned(), "k".into());
        let mut request = Request::new(GetRequest { site, key, ..GetRequest::default() });
        let secret = fs::read_to_string(token).unwrap();
        let value = format!("Bearer {}", secret.trim()).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        KvServiceClient::new(channel).get(request).await.map(drop)
    }
}

fn put_of(key: &'static str) -> BatchOperation {
    BatchOperation {
        key: key.into(),
        action: Some(Action::Put("v".into())),
        ..BatchOperation::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_hold_on_every_node_for_the_sites_that_they_name_and_end_when_they_are_taken() {
    let mut secured = Secured::start(3, Options::default()).await;
    let till = secured.authority.issue("till", &Leaf::client("till"));
    let name = "spiffe://acme/devicedb/client/till";
    for site in ["shop-1", "store-1"] {
        secured.done(&format!("site add {site}")).await;
    }
    let put = |site: &str| format!("put --site {site} k v");
    secured
        .ctl_as(0, &till, &put("shop-1"))
        .await
        .exits(4)
        .says(&format!("{name} may not call Put, which is for writer, and has no role"))
        .says(&format!("ddbctl grant add {name} writer"));
    secured.ctl_as(0, &till, "whoami").await.exits(0).says(name).says("none");

    secured.done(&format!("grant add {name} writer --sites shop-*")).await;
    for at in 0..3 {
        eventually("the grant holds", SOON, async || {
            let ran = secured.ctl_as(at, &till, &put("shop-1")).await;
            if ran.code == Some(0) { Ok(()) } else { Err(ran.story()) }
        })
        .await;
        secured
            .ctl_as(at, &till, &put("store-1"))
            .await
            .exits(4)
            .says("on site \"store-1\"")
            .says("writer of shop-*")
            .says("--sites store-1");
        // Each method that has a site looks at it.
        for line in [
            "get --site store-1 k",
            "delete --site store-1 k",
            "scan --site store-1",
            "site list",
            "snapshot create",
            "node list",
            "grant list",
            "token list",
        ] {
            secured.ctl_as(at, &till, line).await.exits(4).says("may not call");
        }
        let client = secured.client_with(at, &till).await;
        let batch = client.batch("store-1", Bucket::Default, vec![put_of("k")]);
        assert_eq!(batch.await.unwrap_err().code(), Code::PermissionDenied);
        secured.ctl_as(at, &till, "get --site shop-1 k").await.exits(0).says("v");
    }
    let config = secured.config(&till);
    let page = get(&secured.node(0).endpoint(), &config, "/metrics").await.unwrap();
    assert_eq!(page.0, 403, "{page:?}");
    secured.done(&format!("grant add {name} viewer")).await;
    eventually("a viewer sees metrics", SOON, async || {
        match get(&secured.node(0).endpoint(), &config, "/metrics").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    // What is granted is there after a restart, and what is taken is gone.
    for node in &mut secured.cluster.nodes {
        node.kill9();
        node.start();
    }
    for at in 0..3 {
        secured.answers(at, "/readyz", 200).await;
    }
    secured.ctl_as(2, &till, &put("shop-1")).await.exits(0);
    let listed = secured.ctl(&["grant", "list"]).await.exits(0);
    listed.says(name).says("shop-*").says("viewer");
    secured.done(&format!("grant remove {name} writer --sites shop-*")).await;
    for at in 0..3 {
        eventually("the grant is gone", SOON, async || {
            let ran = secured.ctl_as(at, &till, &put("shop-1")).await;
            if ran.code == Some(4) { Ok(()) } else { Err(ran.story()) }
        })
        .await;
    }
    let again = format!("grant remove {name} writer --sites shop-*");
    secured
        .ctl(&again.split(' ').collect::<Vec<_>>())
        .await
        .exits(5)
        .says("there is no grant of writer");
    secured
        .ctl(&["grant", "add", name, "admin"])
        .await
        .exits(2)
        .says("nobody is made an admin by a grant");
    secured
        .ctl(&["grant", "add", name, "viewer", "--sites", "shop-*"])
        .await
        .exits(2)
        .says("cannot be limited to the sites");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_not_heard_of_grants_since_its_start_refuses_nobody_for_good() {
    let mut secured = Secured::start(3, Options::default()).await;
    let stranger = secured.authority.issue("stranger", &Leaf::client("stranger"));
    let put = async |secured: &Secured| {
        let client = secured.client_with(2, &stranger).await;
        client.put("shop", Bucket::Default, "k", "v").await.unwrap_err()
    };
    let known = put(&secured).await;
    assert_eq!(known.code(), Code::PermissionDenied, "{known:?}");
    secured.cluster.kill9_all();
    // Alone it hears nothing: a grant may have been made that it knows nothing of.
    secured.cluster.nodes[2].start();
    let answers = async |secured: &Secured, wanted: Code, words: &str| {
        eventually(&format!("the answer is {wanted:?}, {words}"), SOON, async || {
            let found = put(secured).await;
            let fits = found.code() == wanted && found.message().contains(words);
            if fits { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    };
    secured.answers(2, "/healthz", 200).await;
    answers(&secured, Code::Unavailable, "has just been started").await;
    let admin = secured.ctl_as(2, &secured.ops, "whoami").await;
    admin.exits(0).says("admin");
    secured.cluster.nodes[0].start();
    answers(&secured, Code::PermissionDenied, "may not call Put").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_that_the_nodes_settings_name_is_one_there_alone() {
    let mut secured = Secured::prepared(1, Options::default());
    let mesh = "spiffe://acme/ns/ops/sa/anna";
    let anna =
        secured.authority.issue("anna", &Leaf { uris: vec![mesh.into()], ..Leaf::client("x") });
    let words = ["--admin".to_owned(), "spiffe://acme/ns/ops/*".to_owned()];
    secured.cluster.nodes[0].args.extend(words.clone());
    secured.cluster.nodes[0].start();
    secured.answers(0, "/readyz", 200).await;
    secured.ctl_as(0, &anna, "site add shop").await.exits(0);
    secured
        .ctl_as(0, &anna, "whoami")
        .await
        .exits(0)
        .says(mesh)
        .says("--admin spiffe://acme/ns/ops/*");
    secured.cluster.nodes[0].args.retain(|word| !words.contains(word));
    secured.cluster.nodes[0].kill9();
    secured.cluster.nodes[0].start();
    secured.answers(0, "/readyz", 200).await;
    secured.ctl_as(0, &anna, "site list").await.exits(4).says("has no role");

    let mut refused = secured.cluster.further();
    refused.args.extend(["--admin".to_owned(), "spiffe://acme/*".to_owned()]);
    refused.start_refused().await.exits(2).says("--tls-cert");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_until_it_is_revoked_and_a_restore_suspends_every_token() {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut secured = Secured::start(1, options).await;
    let file = |name: &str| secured.cluster.dir().join(format!("{name}.token"));
    let (reads, gone) = (file("reads"), file("gone"));
    secured.done("site add shop-1").await;
    secured.done("put --site shop-1 k v").await;
    for (name, file) in [("reads", &reads), ("gone", &gone)] {
        let file = file.display();
        secured.done(&format!("token create {name} reader --sites shop-* --file {file}")).await;
    }
    assert_eq!(fs::metadata(&reads).unwrap().mode() & 0o777, 0o600);
    let again = format!("token create other reader --file {}", reads.display());
    let again: Vec<&str> = again.split(' ').collect();
    secured.ctl(&again).await.exits(2).says("is not overwritten");
    secured
        .ctl(&["token", "create", "reads", "viewer"])
        .await
        .exits(5)
        .says("there is a token named reads");
    let listed = secured.ctl(&["token", "list"]).await.exits(0).says("holds");
    let secret = fs::read_to_string(&reads).unwrap();
    let secret = secret.trim().rsplit('_').next().unwrap().to_owned();
    assert!(!listed.out().contains(&secret), "a secret is shown once");
    eventually("a token holds", SOON, async || {
        secured.with_token(0, &reads, "shop-1").await.map_err(|e| e.to_string())
    })
    .await;
    let other = secured.with_token(0, &reads, "store-1").await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied, "{other:?}");
    assert!(other.message().contains("ddbctl token create NAME reader --sites store-1"));

    let client = secured.client(0).await;
    let snapshot = client.complete_snapshot(SOON).await;
    let id = |ran: &Ran, name: &str| {
        let out = ran.out();
        let line = out.lines().find(|line| line.contains(&format!(" {name} "))).unwrap().to_owned();
        line.split([' ', '|']).find(|word| !word.is_empty()).unwrap().to_owned()
    };
    secured.done(&format!("token revoke {}", id(&listed, "gone"))).await;
    eventually("a token that was revoked holds no more", SOON, async || {
        match secured.with_token(0, &gone, "shop-1").await {
            Err(e) if e.code() == Code::Unauthenticated => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    // Back to a time at which the token was not revoked yet.
    let part = secured.cluster.dir().join("part.tar");
    let fetch = format!("snapshot download {} --output {}", snapshot.uuid, part.display());
    secured.done(&fetch).await;
    secured.cluster.nodes[0].kill9();
    let store = secured.node(0).store.clone();
    fs::remove_dir_all(&store).unwrap();
    fs::create_dir(&store).unwrap();
    let untar = format!("tar xf {} -C {}", part.display(), store.display());
    crate::harness::shell(&untar, SOON).await.exits(0);
    secured.cluster.nodes[0].start();
    secured.answers(0, "/readyz", 200).await;
    for token in [&reads, &gone] {
        let refused = secured.with_token(0, token, "shop-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        assert!(refused.message().contains("suspended"), "{refused:?}");
    }
    let listed = secured.ctl(&["token", "list"]).await.exits(0).says("suspended");
    let resume = id(&listed, "reads");
    secured.done(&format!("token resume {resume}")).await;
    eventually("a token that was resumed holds", SOON, async || {
        secured.with_token(0, &reads, "shop-1").await.map_err(|e| e.to_string())
    })
    .await;
    let refused = secured.with_token(0, &gone, "shop-1").await.unwrap_err();
    assert!(refused.message().contains("suspended"), "{refused:?}");
    secured.ctl(&["token", "resume", "--all"]).await.exits(0).says(&id(&listed, "gone"));
    secured.ctl(&["token", "resume", "--all"]).await.exits(0).says("no token is suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_without_tls_where_that_is_let_in_is_told_so() {
    let cluster = crate::harness::Cluster::start(1, Options::default()).await;
    let node = &cluster.nodes[0];
    node.ctl(&["whoami"]).await.exits(0).says("nobody").says("takes calls without TLS");
    node.ctl(&["site", "add", "shop"]).await.exits(0);
    node.client().put("shop", Bucket::Default, "k", "v").await.unwrap();
    // A token counts on this machine, and limits whoever brings it.
    let made = node.ctl(&["token", "create", "looks", "viewer"]).await.exits(0);
    let secret = String::from_utf8(made.stdout.clone()).unwrap();
    let to = tonic::transport::Endpoint::from_shared(format!("http://{}", node.endpoint()));
    let channel = to.unwrap().connect().await.unwrap();
    let mut request = Request::new(WhoAmIRequest {});
    let value = format!("Bearer {}", secret.trim()).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let me = AccessServiceClient::new(channel).who_am_i(request).await.unwrap().into_inner();
    assert_eq!((me.identity.as_str(), me.roles.len()), ("token:looks", 1), "{me:?}");
}
