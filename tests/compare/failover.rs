//! How long nobody can write when the leader of a site is killed: from the kill to the next put
//! that another node acknowledges.

use std::time::Duration;

use devicedb::{base::clock::Clock, proto::v1::Bucket};

use crate::harness::{Cluster, Options};

const KILLS: usize = 50;
const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);
/// Between attempts of one client.
const PAUSE: Duration = Duration::from_millis(10);
const ATTEMPT: Duration = Duration::from_secs(1);

/// Seconds, in ascending order.
pub async fn measure() -> Vec<f64> {
    let mut cluster = Cluster::start(NODES, Options::product()).await;
    cluster.client().add_site("site").await.unwrap();
    let clock = Clock::start();
    let mut gaps = Vec::new();
    for kill in 0..KILLS {
        let key = format!("key-{kill}");
        let answer = cluster.client().put("site", Bucket::Default, &key, "before").await.unwrap();
        let leader = answer.leader.expect("an answer says who leads").address;
        let led = cluster
            .nodes
            .iter()
            .position(|node| node.endpoint() == leader)
            .expect("a node of the cluster leads");
        // Two clients, each of a node that stays, one after the other.
        let others: Vec<_> = (0..NODES)
            .filter(|n| *n != led)
            .map(|n| cluster.nodes[n].client().with_deadline(ATTEMPT))
            .collect();
        for other in &others {
            other.put("site", Bucket::Default, &key, "connected").await.unwrap();
        }
        cluster.nodes[led].kill9();
        let began = clock.now();
        for attempt in 0.. {
            assert!(clock.now() - began < PATIENCE, "no put within {PATIENCE:?} of kill {kill}");
            if others[attempt % others.len()]
                .put("site", Bucket::Default, &key, "after")
                .await
                .is_ok()
            {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let gap = (clock.now() - began).as_secs_f64();
        eprintln!("kill {}: {gap:.2} s", kill + 1);
        gaps.push(gap);
        cluster.nodes[led].start();
        cluster.settled().await;
    }
    gaps.sort_by(f64::total_cmp);
    gaps
}

/// As one line.
pub fn told(gaps: &[f64]) -> String {
    let at =
        |share: f64| gaps[((gaps.len() as f64 * share).ceil() as usize).clamp(1, gaps.len()) - 1];
    let (p50, p99, most) = (at(0.5), at(0.99), at(1.0));
    format!(
        "{} kills of a leader on {NODES} nodes: the next put after p50 {p50:.2} s, p99 {p99:.2} s, \
         at most {most:.2} s.",
        gaps.len()
    )
}
