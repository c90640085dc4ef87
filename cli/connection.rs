//! One connection to one endpoint.

use std::time::Duration;

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

use super::fault::{self, Fault};
use crate::base::limits;
use crate::net::cork;

/// A connection of its own; a fault that says why there is none.
pub async fn open(endpoint: &str, within: Duration) -> Result<Channel, Fault> {
    let endpoint = Endpoint::from_shared(Bytes::from(format!("http://{endpoint}")))
        .map_err(|e| Fault::refused(fault::innermost(&e)))?;
    let named = endpoint
        .user_agent(concat!("ddbctl/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| Fault::refused(e.to_string()))?;
    let roomy = named
        .initial_stream_window_size(limits::CTL_WINDOW)
        .initial_connection_window_size(limits::CTL_WINDOW);
    match tokio::time::timeout(within, cork::connect(&roomy)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(e)) => Err(Fault::refused(fault::innermost(&e))),
        Err(_) => {
            Err(Fault::refused(format!("no connection within {:.1} s", within.as_secs_f64())))
        }
    }
}
