//! The first bytes of a connection, to a node without certificates, with TLS that is optional, and
//! with TLS that is required.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, LazyLock, Mutex},
};

use devicedb::{
    base::clock::Clock,
    net::tls::{Caller, Files, Greeted, Mode, Tls, material},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, runtime::Runtime};
use tokio_rustls::rustls::{ClientConnection, pki_types::ServerName};

use super::directory;

/// What an input is said to, by its first byte.
const MODES: [Mode; 3] = [Mode::Off, Mode::Optional, Mode::Required];
const HANDSHAKE: u8 = 0x16;
/// A fatal alert: what came is no part of what is spoken here.
const NO_TLS_HERE: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

/// A node's certificate, and where its files lie.
static FILES: LazyLock<(TempDir, Files)> = LazyLock::new(|| {
    let dir = directory();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = || KeyPair::generate().expect("keys can be made");
    let ca = CertifiedIssuer::self_signed(params, key()).expect("a CA can be made");
    let mut params = CertificateParams::new(["node".into()]).expect("a host");
    let uri = "spiffe://acme/devicedb/node/a".try_into().expect("ASCII");
    params.subject_alt_names.push(SanType::URI(uri));
    let secret = key();
    let node = params.signed_by(&secret, &ca).expect("a certificate can be made");
    let write = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).expect("files can be written");
        dir.path().join(name)
    };
    let files = Files {
        cert: write("node.crt", node.pem()),
        key: write("node.key", secret.serialize_pem()),
        ca: write("ca.crt", ca.pem()),
        crl: None,
    };
    (dir, files)
});

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("it can be built"));

static TLS: LazyLock<[Option<Tls>; 3]> = LazyLock::new(|| {
    MODES.map(|mode| {
        let open = || Tls::open(mode, FILES.1.clone(), Clock::start(), Arc::default());
        (mode != Mode::Off).then(|| open().expect("the files fit together"))
    })
});

/// What is no TLS comes through as it came, and its caller is known for that. What begins TLS and
/// breaks off makes nobody of its caller, and is answered by TLS, an alert at the least where there
/// is any answer. Nothing hangs.
pub fn greeting(input: &[u8]) -> bool {
    let Some((tag, said)) = input.split_first() else { return false };
    let at = usize::from(*tag) % MODES.len();
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let there = listener.local_addr().expect("it listens");
    let mut caller = TcpStream::connect(there).expect("it listens");
    let (near, _) = listener.accept().expect("it was connected to");
    near.set_nonblocking(true).expect("it can be set");
    let said_it = {
        let (mut caller, said) = (caller.try_clone().expect("a file more"), said.to_vec());
        // It may be refused before it has come to its end.
        std::thread::spawn(move || {
            drop(caller.write_all(&said).and_then(|()| caller.shutdown(Shutdown::Write)))
        })
    };
    let found = Arc::new(Mutex::new(None));
    let (read, came) = RUNTIME.block_on(async {
        let near = tokio::net::TcpStream::from_std(near).expect("it does not block");
        let hears = found.clone();
        let hears = move |caller| *hears.lock().expect("nobody panics") = Some(caller);
        let mut greeted = Greeted::new(near, TLS[at].clone(), hears);
        let mut came = Vec::new();
        (greeted.read_to_end(&mut came).await, came)
    });
    said_it.join().expect("it does not panic");
    let mut answer = Vec::new();
    // A connection that is closed with something unread is reset.
    let whole = caller.read_to_end(&mut answer).is_ok();
    let found = found.lock().expect("nobody panics").take();
    if said.first() != Some(&HANDSHAKE) {
        read.expect("what is plain can be read");
        assert_eq!((&came[..], &answer[..]), (said, &[][..]));
        let wanted = if MODES[at] == Mode::Required { Caller::Plain } else { Caller::Anybody };
        assert_eq!(found, Some(wanted));
        return true;
    }
    let e = read.expect_err("no handshake is whole without the key of a certificate");
    assert_eq!((found, came.is_empty()), (None, true), "{e}");
    assert_ne!(e.kind(), ErrorKind::TimedOut, "{e}");
    if MODES[at] == Mode::Off {
        assert!(answer == NO_TLS_HERE || !whole, "{answer:?}");
        return true;
    }
    assert!(answer.first().is_none_or(|first| [21, 22].contains(first)), "{answer:?}");
    answer.first() == Some(&22)
}

/// What clients say first: of HTTP/1, of HTTP/2, and of TLS 1.3; to each kind of node.
pub fn corpus() -> Vec<Vec<u8>> {
    let config = material::client(&FILES.1.ca, None).expect("it is a CA's");
    let name = ServerName::try_from("node").expect("a host's");
    let mut connection = ClientConnection::new(config, name).expect("it can be configured");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("memory can be written");
    let get = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n".to_vec();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let all = [get, preface, hello, Vec::new()];
    let to = |mode: u8| all.clone().map(|said| [&[mode][..], &said].concat());
    (0..MODES.len() as u8).flat_map(to).collect()
}
