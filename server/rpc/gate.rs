//! The gate before the public services: a call that is meant for another cluster goes no further,
//! and has no effect.
//!
//! A client that knows its cluster says so in a header (`proto::CLUSTER_HEADER`); one that does not
//! is let through. Peers have a gate of their own (`net::judge`).

use tokio::sync::watch;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
};

use crate::{
    base::{error::Error, ids::ClusterId},
    entry::Identity,
    proto::CLUSTER_HEADER,
    wire,
};

/// Knows which cluster this node belongs to.
#[derive(Clone)]
pub struct Gate {
    identity: watch::Receiver<Identity>,
}

impl Gate {
    pub fn of(identity: watch::Receiver<Identity>) -> Gate {
        Gate { identity }
    }

    pub fn before<S>(&self, service: S) -> InterceptedService<S, Gate> {
        InterceptedService::new(service, self.clone())
    }
}

impl Interceptor for Gate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let here = self.identity.borrow().cluster;
        for said in request.metadata().get_all(CLUSTER_HEADER) {
            let id = said.to_str().ok().and_then(|text| text.parse().ok());
            let unreadable = || {
                wire::status_of(&Error::invalid(format!(
                    "the header {CLUSTER_HEADER} holds {said:?}, which is not the id of a cluster"
                )))
            };
            let wanted = ClusterId(id.ok_or_else(unreadable)?);
            if wanted != here {
                return Err(wire::other_cluster(wanted, here));
            }
        }
        Ok(request)
    }
}

/// The header's value.
pub fn cluster_header(cluster: ClusterId) -> MetadataValue<Ascii> {
    cluster.to_string().parse().expect("hexadecimal digits and dashes are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Lineage, NodeId, Topology};

    #[test]
    fn a_call_for_another_cluster_is_refused_and_one_that_names_none_is_not() {
        let cluster = ClusterId(uuid::Uuid::from_u128(1));
        let topology = Topology::new(64, 8).unwrap();
        let identity = Identity {
            format: 1,
            node: NodeId(1),
            cluster,
            lineage: Lineage(1),
            restored_from: None,
            topology,
        };
        let mut gate = Gate::of(watch::channel(identity).1);
        let mut story = String::new();
        for says in [
            "",
            "00000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-00000000000F",
            "none",
            "00000000000000000000000000000001",
        ] {
            let mut request = Request::new(());
            if !says.is_empty() {
                request.metadata_mut().insert(CLUSTER_HEADER, says.parse().unwrap());
            }
            story += &format!(
                "{says}: {}\n",
                gate.call(request).map_or_else(
                    |e| format!("{:?}: {}", e.code(), e.message()),
                    |_| "goes through".into()
                )
            );
        }
        assert_eq!(
            story,
            ": goes through\n\
             00000000-0000-0000-0000-000000000001: goes through\n\
             00000000-0000-0000-0000-00000000000F: FailedPrecondition: this node belongs to \
             cluster 00000000-0000-0000-0000-000000000001, and the call is for cluster \
             00000000-0000-0000-0000-00000000000f: name its nodes, or the id of the cluster that \
             you mean\n\
             none: InvalidArgument: the header devicedb-cluster-id holds \"none\", which is not \
             the id of a cluster\n\
             00000000000000000000000000000001: goes through\n"
        );
    }
}
