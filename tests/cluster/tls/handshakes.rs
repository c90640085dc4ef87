//! Handshakes that are not had, and what none leaves behind.

use std::{
    fmt, fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use devicedb::{base::clock::Clock, net::acceptor, proto::v1::Bucket};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, HandshakeKind, NamedGroup, ServerConfig,
        client::{
            ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        },
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use super::{Secured, handshake, number};
use crate::harness::{Options, eventually};

/// Remembers sessions for a client, and counts those that it was offered.
#[derive(Default)]
struct Sessions {
    offered: AtomicUsize,
    kept: Mutex<Vec<Tls13ClientSessionValue>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sessions", self.offered.load(Ordering::Relaxed))
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {
        self.offered.fetch_add(1, Ordering::Relaxed);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.offered.fetch_add(1, Ordering::Relaxed);
        self.kept.lock().unwrap().push(value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().unwrap().pop()
    }
}

/// Two connections with one page each, by a client that would resume the second and send early:
/// how many sessions it was offered, and whether the second was a whole handshake.
async fn twice(endpoint: &str, config: &Arc<ClientConfig>) -> (usize, bool) {
    let sessions = Arc::new(Sessions::default());
    let mut eager = (**config).clone();
    eager.resumption = Resumption::store(sessions.clone());
    eager.enable_early_data = true;
    let eager = Arc::new(eager);
    let mut whole = true;
    for _ in 0..2 {
        let mut stream = handshake(endpoint, &eager).await.unwrap();
        let asked = b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
        stream.write_all(asked).await.unwrap();
        // A ticket comes behind the handshake, and is seen with what is read.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let session = stream.get_ref().1;
        whole = session.handshake_kind() == Some(HandshakeKind::Full)
            && !session.is_early_data_accepted();
    }
    (sessions.offered.load(Ordering::Relaxed), whole)
}

/// A server of rustls as it is by itself, with a node's certificate, which answers two callers.
async fn usual_server(secured: &Secured) -> String {
    let dir = secured.authority.ca_path.parent().unwrap();
    let cert = fs::read(dir.join("node1.crt")).unwrap();
    let key = fs::read(dir.join("node1.key")).unwrap();
    let chain = CertificateDer::pem_slice_iter(&cert).collect::<Result<_, _>>().unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&key).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let asked = stream.read(&mut [0; 256]).await.unwrap();
            assert!(asked > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_resumed_and_nothing_is_taken_before_the_handshake() {
    let secured = Secured::start(1, Options::default()).await;
    let config = secured.config(&secured.ops);
    assert_eq!(twice(&secured.node(0).endpoint(), &config).await, (0, true));
    // The same client is offered sessions elsewhere, and resumes one.
    let (offered, whole) = twice(&usual_server(&secured).await, &config).await;
    assert!(offered > 0 && !whole, "{offered} sessions, whole: {whole}");
}

/// The hello of a client that knows TLS 1.2 and nothing newer, as RFC 5246 has it.
fn hello_of_tls_1_2() -> Vec<u8> {
    let extensions = [
        // supported_groups: x25519, secp256r1.
        &[0, 10, 0, 6, 0, 4, 0, 0x1d, 0, 0x17][..],
        // ec_point_formats: uncompressed.
        &[0, 11, 0, 2, 1, 0],
        // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pss_rsae_sha256.
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4],
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        // No session; ECDHE_ECDSA and ECDHE_RSA with AES_128_GCM_SHA256; no compression.
        &[0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[0x16, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_tls_1_2_and_nothing_newer_is_told_that_it_is_the_version() {
    let secured = Secured::start(1, Options::default()).await;
    let mut old = TcpStream::connect(secured.node(0).endpoint()).await.unwrap();
    old.write_all(&hello_of_tls_1_2()).await.unwrap();
    let mut alert = [0; 7];
    old.read_exact(&mut alert).await.unwrap();
    // A fatal alert, protocol_version.
    assert_eq!((alert[0], &alert[5..]), (21, &[2, 70][..]), "{alert:?}");
}

/// Connections that say nothing.
const SILENT: usize = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_say_nothing_delay_nobody_and_are_gone_within_seconds() {
    assert!(
        acceptor::open_files() > 2 * SILENT as u64,
        "this test opens {SILENT} files, and so \
             does the node"
    );
    let secured = Secured::start(1, Options::default()).await;
    let client = secured.client(0).await;
    client.add_site("shop").await.unwrap();
    let (endpoint, clock) = (secured.node(0).endpoint(), Clock::start());
    let mut held = Vec::new();
    for _ in 0..SILENT {
        held.push(TcpStream::connect(&endpoint).await.unwrap());
    }
    let opened = clock.now();
    secured.client(0).await.put("shop", Bucket::Default, "k", "v").await.unwrap();
    let took = clock.now() - opened;
    assert!(took < Duration::from_secs(2), "a handshake beside silent ones took {took:?}");
    let within = 2 * Duration::from_secs(6);
    eventually("they are gone", within, async || {
        let page = secured.metrics(0).await;
        match number(&page, "devicedb_connections") {
            0..20 => Ok(()),
            open => Err(format!("{open} are open")),
        }
    })
    .await;
    println!("{SILENT} silent connections were gone {:?} after the last", clock.now() - opened);
    for mut silent in held {
        let ended = tokio::time::timeout(within, silent.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
