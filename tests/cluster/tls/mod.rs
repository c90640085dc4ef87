//! TLS on the one port, with real certificates, right and wrong ones.

mod audit;
mod authority;
mod doors;
mod handshakes;
mod joins;
mod migration;
mod names;
mod quotas;
mod revocations;
mod roles;
mod stolen;

use std::{sync::Arc, time::Duration};

use authority::{Authority, Issued, Leaf};
use devicedb::net::tls::{self, Trust, material};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Client, Cluster, Node, Options, Ran, SOON, ddbctl, eventually};

/// A cluster whose nodes have certificates and require them, and its CA.
struct Secured {
    cluster: Cluster,
    authority: Authority,
    ops: Issued,
}

impl Secured {
    /// Nodes that are not started yet.
    fn prepared(size: usize, options: Options) -> Secured {
        let mut cluster = Cluster::empty(options);
        let authority = Authority::new(cluster.dir(), "acme");
        let ops = authority.issue("ops", &Leaf::admin("ops"));
        for number in 1..=size {
            let mut node = cluster.further();
            let issued = authority.issue(&node.name, &Leaf::node(&format!("n{number}")));
            node.args.extend(authority.words(&issued));
            cluster.nodes.push(node);
        }
        Secured { cluster, authority, ops }
    }

    async fn start(size: usize, options: Options) -> Secured {
        let mut secured = Secured::prepared(size, options);
        for at in 0..size {
            secured.cluster.nodes[at].start();
            secured.answers(at, "/readyz", 200).await;
        }
        secured.settled().await;
        secured
    }

    /// Waits until every group has its replicas.
    async fn settled(&self) {
        let client = self.client(0).await;
        let size = self.cluster.nodes.len();
        eventually("every group has a leader and its replicas", SOON, async || {
            let seen = client.overview().await.map_err(|e| e.to_string())?;
            let reachable = seen.nodes.iter().filter(|node| node.reachable && node.ready).count();
            let whole = size < self.cluster.options.replication_factor as usize
                || seen.groups_under_replicated == 0 && !seen.meta_under_replicated;
            if reachable == size && seen.groups_without_leader == 0 && whole {
                Ok(())
            } else {
                Err(format!("{seen:#?}"))
            }
        })
        .await;
    }

    fn node(&self, at: usize) -> &Node {
        &self.cluster.nodes[at]
    }

    /// Waits until a page is answered so to a caller without a certificate.
    async fn answers(&self, at: usize, path: &str, code: u16) {
        let node = self.node(at);
        let bare = material::client(&self.authority.ca_path, None).unwrap();
        eventually(&format!("{} answers {path} with {code}", node.name), SOON, async || match get(
            &node.endpoint(),
            &bare,
            path,
        )
        .await
        {
            Ok((found, _)) if found == code => Ok(()),
            Ok(other) => Err(format!("{other:?}\n{}", node.log_end())),
            Err(e) => Err(format!("{e}\n{}", node.log_end())),
        })
        .await;
    }

    async fn client(&self, at: usize) -> Client {
        self.client_with(at, &self.ops).await
    }

    async fn client_with(&self, at: usize, issued: &Issued) -> Client {
        let endpoint = self.node(at).endpoint();
        let channel = channel(&endpoint, &self.config(issued)).await;
        Client::through(channel.unwrap(), &endpoint)
    }

    async fn clients(&self) -> Vec<Client> {
        let mut all = Vec::new();
        for at in 0..self.cluster.nodes.len() {
            all.push(self.client(at).await);
        }
        all
    }

    fn config(&self, issued: &Issued) -> Arc<ClientConfig> {
        material::client(&self.authority.ca_path, Some((&issued.cert, &issued.key))).unwrap()
    }

    /// `ddbctl` at all nodes, as an operator with a certificate.
    async fn ctl(&self, args: &[&str]) -> Ran {
        let endpoints: Vec<_> = self.cluster.nodes.iter().map(Node::endpoint).collect();
        let words = self.authority.ctl_words(&self.ops);
        let all: Vec<&str> = words.iter().map(String::as_str).chain(args.iter().copied()).collect();
        ddbctl(&endpoints.join(","), &all).await
    }

    async fn metrics(&self, at: usize) -> String {
        let (code, page) =
            get(&self.node(at).endpoint(), &self.config(&self.ops), "/metrics").await.unwrap();
        assert_eq!(code, 200, "{page}");
        page
    }
}

/// A connection over which calls go, opened again when it breaks.
async fn channel(
    endpoint: &str,
    config: &Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let to = Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
    let trust = Trust { config: config.clone(), name: None, node: None };
    tls::connect(&to.connect_timeout(Duration::from_secs(5)), trust).await
}

/// A handshake, and what the node shows in it.
async fn handshake(
    endpoint: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = (**config).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TcpStream::connect(endpoint).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// One GET over TLS: the status and the body.
async fn get(
    endpoint: &str,
    config: &Arc<ClientConfig>,
    path: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = handshake(endpoint, config).await?;
    let asked = format!("GET {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| std::io::Error::other(format!("no HTTP: {head:?}")))?;
    Ok((code, body.to_owned()))
}

/// The number behind a metric's name and labels.
fn number(page: &str, name: &str) -> u64 {
    crate::connections::number(page, name)
}
