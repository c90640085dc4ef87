//! One connection to one endpoint: plain, or over TLS where a CA was named.

use std::time::Duration;

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

use super::{
    args::Secured,
    fault::{self, Fault},
    term::exit::Failure,
};
use crate::{
    base::limits,
    net::{
        cork,
        tls::{self, FaultKind, Trust, material},
    },
};

/// How connections are opened. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// None to speak plainly.
    trust: Option<Trust>,
}

impl Access {
    /// Reads the files, all of which were named because they are needed.
    pub fn new(named: &Secured) -> Result<Access, Failure> {
        let Some(ca) = &named.ca else { return Ok(Access::default()) };
        let own = named.cert.as_deref().zip(named.key.as_deref());
        let config = material::client(ca, own)
            .map_err(|e| Failure::usage(e.message, "name PEM files with --ca, --cert and --key"))?;
        let trust = Trust { config, name: named.server_name.clone(), nodes_only: false };
        Ok(Access { trust: Some(trust) })
    }

    /// A connection of its own; a fault that says why there is none.
    pub async fn open(&self, endpoint: &str, within: Duration) -> Result<Channel, Fault> {
        let url = Bytes::from(format!("http://{endpoint}"));
        let named = Endpoint::from_shared(url)
            .map_err(|e| Fault::refused(fault::innermost(&e)))?
            .user_agent(concat!("ddbctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|e| Fault::refused(e.to_string()))?;
        let roomy = named
            .initial_stream_window_size(limits::CTL_WINDOW)
            .initial_connection_window_size(limits::CTL_WINDOW);
        let opening = async {
            match &self.trust {
                None => cork::connect(&roomy).await,
                Some(trust) => tls::connect(&roomy, trust.clone()).await,
            }
        };
        match tokio::time::timeout(within, opening).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(e)) => Err(match tls::Fault::behind(&e) {
                Some(fault) => Fault::not_trusted(format!("{fault}{}", hint(fault.kind))),
                None => Fault::refused(fault::innermost(&e)),
            }),
            Err(_) => {
                Err(Fault::refused(format!("no connection within {:.1} s", within.as_secs_f64())))
            }
        }
    }
}

/// What to do about it.
fn hint(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Plain => "; leave --ca out to speak without encryption",
        FaultKind::Issuer => "; see --ca",
        FaultKind::Name => "; name it as its certificate does, or say that name with --server-name",
        FaultKind::Other => "",
    }
}
