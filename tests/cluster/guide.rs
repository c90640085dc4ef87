//! The disaster-recovery guide of the original, typed as it stands there: words, outputs, and where
//! the outputs go.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use tempfile::TempDir;

use crate::harness::{Node, Port, Ran, SOON, eventually, shell};

const COMMAND: Duration = Duration::from_secs(60);

/// The guide's `devicedb cluster <line>` in a shell.
async fn cluster(line: &str) -> Ran {
    shell(&format!("devicedb cluster {line}"), COMMAND).await
}

/// The three nodes as the guide starts them, on ports of our own.
fn three_nodes(dir: &Path) -> Vec<Node> {
    let ports = [Port::claim(), Port::claim(), Port::claim()];
    let founder = ports[0].number;
    let snapshots = dir.join("snapshots");
    fs::create_dir(&snapshots).unwrap();
    let node = |(number, port): (usize, Port)| {
        let name = format!("ddb{}", number + 1);
        let store = dir.join(&name);
        let (path, at, snapshots) = (store.display(), port.number, snapshots.display());
        let line = match number {
            0 => format!(
                "cluster start -replication_factor 3 -store {path} -port {at} -snapshot_store \
                 {snapshots}"
            ),
            _ => format!(
                "cluster start -store {path} -port {at} -join localhost:{founder} -snapshot_store \
                 {snapshots}"
            ),
        };
        let args = line.split(' ').map(str::to_string).collect();
        Node::new(&name, port, dir, store, args)
    };
    ports.into_iter().enumerate().map(node).collect()
}

async fn start(nodes: &mut [Node]) {
    for node in nodes.iter_mut() {
        node.start();
        node.wait_listening().await;
    }
    for node in nodes.iter_mut() {
        node.wait_ready().await;
    }
}

/// Every node shows the same three nodes and the footer of the guide; gives back the rows.
async fn overview(nodes: &[Node]) -> BTreeSet<Vec<String>> {
    eventually("every node shows the same overview", SOON, async || {
        let mut all = Vec::new();
        for node in nodes {
            let out = cluster(&format!("overview -port {}", node.port.number)).await.exits(0).out();
            let footer =
                "|                                    PARTITIONS: 1024 | REPLICATION FACTOR: 3 |";
            if !out.contains("Nodes\n+----------------------+") || !out.contains(footer) {
                return Err(format!("{} has not the guide's table:\n{out}", node.name));
            }
            all.push(out.lines().filter_map(row).collect::<BTreeSet<_>>());
        }
        let expected: BTreeSet<_> = nodes.iter().map(|node| node.port.number.to_string()).collect();
        let whole = all.iter().all(|rows| {
            *rows == all[0]
                && rows.iter().map(|row| row[2].clone()).collect::<BTreeSet<_>>() == expected
        });
        if whole { Ok(all.swap_remove(0)) } else { Err(format!("{all:#?}")) }
    })
    .await
}

/// The cells of a node's row: id, host, port, capacity.
fn row(line: &str) -> Option<Vec<String>> {
    let cells: Vec<_> = line
        .strip_prefix('|')?
        .strip_suffix('|')?
        .split('|')
        .map(|cell| cell.trim().to_string())
        .collect();
    (cells.len() == 4 && cells[0].parse::<u64>().is_ok()).then_some(cells)
}

async fn values(port: u16, site: &str, bucket: &str, key: &str) -> String {
    let ran = cluster(&format!("get -port {port} -site {site} -bucket {bucket} -key {key}"))
        .await
        .exits(0);
    let out = ran.out();
    out.lines()
        .find_map(|line| line.strip_prefix("Values: "))
        .unwrap_or_else(|| panic!("no values:\n{}", ran.story()))
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_runs_as_it_is_written() {
    let dir = TempDir::with_prefix("devicedb-guide-").unwrap();
    let mut nodes = three_nodes(dir.path());
    let ports: Vec<u16> = nodes.iter().map(|node| node.port.number).collect();
    start(&mut nodes).await;
    let before = overview(&nodes).await;

    // Data in every bucket that a cluster takes, written and read by any node.
    for site in ["site1", "site2"] {
        cluster(&format!("add_site -port {} -site {site}", ports[0])).await.exits(0);
        for (bucket, port) in ["default", "lww", "cloud"].into_iter().zip(&ports) {
            cluster(&format!(
                "put -port {port} -site {site} -bucket {bucket} -key color -value {site}-{bucket}"
            ))
            .await
            .exits(0);
        }
    }
    assert_ne!(
        cluster(&format!("put -port {} -site site1 -bucket local -key k -value v", ports[0]))
            .await
            .code,
        Some(0)
    );

    // The snapshot, as a script would take it: results stand on stdout.
    let uuid = shell(
        &format!("devicedb cluster snapshot -port {} | sed -n 's/^uuid = //p'", ports[0]),
        COMMAND,
    )
    .await
    .exits(0)
    .out();
    let uuid = uuid.trim();
    assert_eq!(uuid.len(), 36, "a script reads the uuid on stdout, and found {uuid:?}");
    for port in &ports {
        eventually("the guide's status is completed", SOON, async || {
            let out =
                cluster(&format!("get_snapshot -port {port} -uuid {uuid}")).await.exits(0).out();
            let lines: Vec<_> = out.lines().map(str::trim_end).collect();
            if lines == [format!("uuid = {uuid}"), "status = completed".to_string()] {
                Ok(())
            } else {
                Err(out)
            }
        })
        .await;
    }

    // Later writes, which the snapshot does not know.
    cluster(&format!("put -port {} -site site1 -key color -value later", ports[1])).await.exits(0);
    cluster(&format!("put -port {} -site site1 -key new -value later", ports[2])).await.exits(0);
    cluster(&format!("add_site -port {} -site later", ports[0])).await.exits(0);

    let tar = |node: &Node| dir.path().join(format!("snapshot-{uuid}-{}.tar", node.name));
    for node in &nodes {
        let file = tar(node);
        let ran = cluster(&format!(
            "download_snapshot -uuid {uuid} -port {} > {}",
            node.port.number,
            file.display()
        ))
        .await
        .exits(0);
        let bytes = fs::metadata(&file).unwrap().len();
        assert!(
            ran.stderr.contains(&format!("Downloaded {bytes} bytes successfully")),
            "{}",
            ran.story()
        );
    }

    // The disaster, and the way back.
    for node in &mut nodes {
        node.kill9();
        shell(
            &format!(
                "rm -rf {0} && mkdir {0} && tar xf {1} -C {0}",
                node.store.display(),
                tar(node).display()
            ),
            COMMAND,
        )
        .await
        .exits(0);
    }
    for node in &mut nodes {
        node.start();
    }
    for node in &mut nodes {
        node.wait_ready().await;
    }

    assert_eq!(
        overview(&nodes).await,
        before,
        "node ids, addresses and capacities are those of the cut"
    );
    for port in &ports {
        for site in ["site1", "site2"] {
            for bucket in ["default", "lww", "cloud"] {
                assert_eq!(
                    values(*port, site, bucket, "color").await,
                    format!("[{site}-{bucket}]")
                );
            }
        }
        let gone = cluster(&format!("get -port {port} -site site1 -key new")).await;
        assert!(!gone.out().contains("later"), "a later write is still there:\n{}", gone.story());
        cluster(&format!("put -port {port} -site later -key k -value v"))
            .await
            .exits(5)
            .says("later");
    }
    cluster(&format!("put -port {} -site site1 -key after -value restored", ports[0]))
        .await
        .exits(0);
    assert_eq!(values(ports[1], "site1", "default", "after").await, "[restored]");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_snapshot_is_missing_and_leaves_no_part_behind() {
    let dir = TempDir::with_prefix("devicedb-guide-").unwrap();
    let mut nodes = three_nodes(dir.path());
    nodes.truncate(1);
    start(&mut nodes).await;
    let port = nodes[0].port.number;
    let unknown = "19a7e40e-adcc-4cc2-87a7-ae599272b050";
    let ran = cluster(&format!("get_snapshot -port {port} -uuid {unknown}")).await;
    assert_eq!(ran.out(), format!("uuid = {unknown}\nstatus = missing\n"), "{}", ran.story());
    cluster(&format!("download_snapshot -port {port} -uuid {unknown}"))
        .await
        .exits(5)
        .says(unknown);
    cluster(&format!("download_snapshot -port {port} -uuid not-a-uuid"))
        .await
        .exits(2)
        .says("not-a-uuid");
    cluster(&format!("get_snapshot -port {port} -uuid not-a-uuid"))
        .await
        .exits(2)
        .says("not-a-uuid");
}
