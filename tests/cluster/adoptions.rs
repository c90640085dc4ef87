//! A cluster that was made of a lost one's snapshot takes over what that has stored, and the lost
//! one, which lives after all, is shut out.

use serde_json::Value;

use crate::{
    harness::{Node, Ran, SOON, shell},
    seeds::{Place, founder, node},
};

fn json(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.story()))
}

async fn upload(node: &Node) -> Ran {
    let line = format!("ddbctl --endpoint {} -o json snapshot create --upload", node.endpoint());
    shell(&line, SOON).await
}

async fn cluster_id(node: &Node) -> String {
    let line = format!("ddbctl --endpoint {} -o json node list", node.endpoint());
    let listed = json(&shell(&line, SOON).await.exits(0));
    listed["cluster_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_goes_on_with_the_backups_of_the_lost_one_which_stores_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { path: dir.path().join("backups") };
    let at = place.path.display().to_string();
    let repository = async |words: &str| {
        let line = format!("ddbctl repository {words}");
        shell(&line, 2 * SOON).await
    };
    repository(&format!("init {at}")).await.exits(0);
    let mut old = node(dir.path(), "old", &["--found", "--repository", &at]);
    old.start();
    old.wait_ready().await;
    let client = old.client();
    client.add_site("shop").await.unwrap();
    let first = json(&upload(&old).await.exits(0))["uuid"].as_str().unwrap().to_owned();
    repository(&format!("hold {at} {first} --reason audit")).await.exits(0);
    let lost = cluster_id(&old).await;
    old.kill9();

    let mut new = founder(dir.path(), "new", &place, &["--repository", &at]);
    new.start();
    new.wait_ready().await;
    let by = cluster_id(&new).await;
    assert_ne!(lost, by);
    let adopt = format!("adopt {at} {lost} --by {by}");
    let early = repository(&adopt).await.exits(5);
    early.says("have it store one first, or name its lineage too");
    let second = json(&upload(&new).await.exits(0))["uuid"].as_str().unwrap().to_owned();
    let scratch = dir.path().join("scratch").display().to_string();
    let drill = format!("drill {at} --scratch {scratch} -o json");
    repository(&drill).await.exits(5).says("has snapshots of 2 histories");
    repository(&adopt).await.exits(0).says("is adopted by").says("1 snapshot, 1 of them held");
    repository(&adopt).await.exits(0).says("was adopted before by");
    // Another one comes too late.
    let third = "19a7e40e-adcc-4cc2-87a7-ae599272b050/00000000000000aa";
    let other = format!("adopt {at} {lost} --by {third}");
    repository(&other).await.exits(5).says(&format!("was adopted by cluster {by}"));

    // The lost one lives, and is told whose it is.
    old.start();
    old.wait_ready().await;
    let refused = upload(&old).await;
    assert_ne!(refused.code, Some(0), "{}", refused.story());
    refused.says(&format!("was adopted by cluster {by}")).says("nothing is stored for it any more");
    let third = json(&upload(&new).await.exits(0))["uuid"].as_str().unwrap().to_owned();

    // Rules go through both, holds stay, and a restore finds the newest.
    let kept = repository(&format!("collect {at} --keep last=1")).await.exits(0);
    kept.says("held: audit");
    let listed = json(&repository(&format!("list {at} -o json")).await.exits(0));
    let listed = listed["snapshots"].as_array().unwrap().iter();
    let mut left: Vec<&str> = listed.map(|one| one["uuid"].as_str().unwrap()).collect();
    left.sort_unstable();
    let mut wanted = [first.as_str(), third.as_str()];
    wanted.sort_unstable();
    assert_eq!(left, wanted, "not {second}");
    let drilled = json(&repository(&drill).await.exits(0));
    assert_eq!((&drilled["passed"], &drilled["snapshot"]), (&true.into(), &third.into()));
    let status = repository(&format!("status {at}")).await.exits(0);
    status.says(&format!("adopted by  {by}/"));
    repository(&format!("verify {at}")).await.exits(0).says("sound");
}
