//! Certificates: what another side shows of itself, and what stands in a file.

use std::path::Path;

use devicedb::net::tls::{Certificate, material};

/// A certificate as it comes, or a file of some. Only what is called a node's makes a node.
pub fn certificate(input: &[u8]) -> bool {
    let in_file = material::certificates(Path::new("input"), input);
    let ders: Vec<Vec<u8>> = match in_file {
        Ok(all) => all.iter().map(|der| der.to_vec()).collect(),
        Err(_) => vec![input.to_vec()],
    };
    let mut valid = false;
    for der in ders {
        let Ok(read) = Certificate::parse(&der) else { continue };
        valid = true;
        match read.bearer() {
            Ok(bearer) => {
                assert!([&read.uris[..], &read.dns[..]].concat().contains(&bearer.name));
                assert!(read.uris.len() <= 1, "two names: {:?}", read.uris);
                let called = read
                    .uris
                    .iter()
                    .any(|uri| uri.starts_with("spiffe://") && uri.contains("/devicedb/node/"));
                assert!(called || !bearer.is_node, "{bearer:?} is no node");
            }
            Err(why) => assert!(!why.is_empty()),
        }
    }
    valid
}

/// Of a CA, a node and a client, as `ddbctl cert` makes them: as they are shown, and in a file.
pub fn corpus() -> Vec<Vec<u8>> {
    let file = include_bytes!("../../golden/tls/certificates.pem");
    let all = material::certificates(Path::new("corpus"), file);
    let shown = all.expect("they are in PEM").into_iter().map(|der| der.to_vec());
    shown.chain([file.to_vec()]).collect()
}
