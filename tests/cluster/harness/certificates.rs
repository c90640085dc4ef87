//! Certificates of a cluster whose nodes speak TLS and nothing else, and what its clients do with
//! them: `ddbctl cert` makes them, as somebody without a CA of their own would.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use devicedb::net::tls::material;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};

use super::{http_over, process::binary};

/// How `ddbctl cert` is asked for a client that may do everything, and what it calls the files.
const CLIENT: &[&str] = &["client", "ops", "--admin"];
const CLIENT_FILES: &str = "admin-ops";
/// Where the nodes are reached, and what their certificates are for.
const HOST: &str = "127.0.0.1";

#[derive(Debug)]
pub struct Certificates {
    dir: PathBuf,
    config: Arc<ClientConfig>,
}

impl Certificates {
    /// A CA, and a client that may do everything.
    pub fn make(dir: &Path) -> Certificates {
        cert(dir, &["init"]);
        cert(dir, CLIENT);
        let file = |end: &str| dir.join(format!("{CLIENT_FILES}.{end}"));
        let own = (file("crt"), file("key"));
        let config = material::client(&dir.join("ca.crt"), Some((&own.0, &own.1))).unwrap();
        Certificates { dir: dir.to_owned(), config }
    }

    /// Issues for one more node: the words of its start.
    pub fn issue(&self, name: &str) -> Vec<String> {
        cert(&self.dir, &["node", name, "--host", HOST]);
        self.words("--tls-", &format!("node-{name}"))
    }

    /// The words for `ddbctl`.
    pub fn ctl_words(&self) -> Vec<String> {
        self.words("--", CLIENT_FILES)
    }

    /// By what the client believes nodes, and what it shows them.
    #[allow(dead_code, reason = "only the comparison dials by itself")]
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// How they are made and named by hand: for the demo, in a folder that one stands in.
    #[allow(dead_code, reason = "only the demo tells")]
    pub fn typed(dir: &str) -> [String; 2] {
        let made = format!("ddbctl cert init && ddbctl cert {}", CLIENT.join(" "));
        let own = format!("{dir}/{CLIENT_FILES}");
        let named =
            format!("export DDBCTL_CA={dir}/ca.crt DDBCTL_CERT={own}.crt DDBCTL_KEY={own}.key");
        [made, named]
    }

    fn words(&self, prefix: &str, stem: &str) -> Vec<String> {
        [("ca", "ca.crt".into()), ("cert", format!("{stem}.crt")), ("key", format!("{stem}.key"))]
            .into_iter()
            .flat_map(|(flag, file): (&str, String)| {
                [format!("{prefix}{flag}"), self.dir.join(file).display().to_string()]
            })
            .collect()
    }

    /// Connects when it is first used, and again whenever the connection is lost.
    pub fn channel(&self, endpoint: &str, within: Duration) -> Channel {
        let config = self.config.clone();
        let open = move |to: Uri| {
            let config = config.clone();
            async move {
                let at = to.authority().expect("an endpoint is an authority").to_string();
                shake_hands(&at, &config, b"h2").await.map(TokioIo::new)
            }
        };
        Endpoint::from_shared(format!("http://{endpoint}"))
            .unwrap()
            .connect_timeout(within)
            .connect_with_connector_lazy(tower::service_fn(open))
    }

    pub async fn http_get(&self, endpoint: &str, path: &str) -> std::io::Result<(u16, String)> {
        http_over(shake_hands(endpoint, &self.config, b"http/1.1").await?, endpoint, path).await
    }
}

async fn shake_hands(
    endpoint: &str,
    config: &ClientConfig,
    speaks: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = config.clone();
    config.alpn_protocols = vec![speaks.to_vec()];
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(HOST).expect("an address is a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn cert(dir: &Path, words: &[&str]) {
    let mut command = Command::new(binary("ddbctl"));
    command.arg("cert").args(words).arg("--dir").arg(dir).stdin(Stdio::null());
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
