//! `devicedb.v1.OperationService`.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::{Calls, cut_page, page_size};
use crate::{
    base::{
        error::{Error, Result},
        ids::{NodeId, OperationId},
        limits,
    },
    proto::v1::{self, operation_service_server::OperationService},
    service::admin::{Cluster, Listed},
};

pub struct OperationApi {
    pub cluster: Cluster,
    pub calls: Calls,
}

#[tonic::async_trait]
impl OperationService for OperationApi {
    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::GetOperationResponse>, Status> {
        self.calls
            .call("GetOperation", request, |request, wait| async move {
                let operation = Some(self.cluster.operation(request.id.parse()?, wait).await?);
                Ok(v1::GetOperationResponse { operation })
            })
            .await
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        self.calls
            .call("ListOperations", request, |request, wait| async move {
                let count = page_size(request.page_size, limits::PAGE_SIZE);
                let listed = Listed {
                    running: request.running,
                    node: (request.node_id > 0).then_some(NodeId(request.node_id)),
                    before: parse_token(&request.page_token)?,
                    count,
                };
                let found = self.cluster.operations(listed, wait).await?;
                let (operations, next_page_token) =
                    cut_page(found, count, |o| format!("{}-{}", o.began_ms, o.id));
                Ok(v1::ListOperationsResponse { operations, next_page_token })
            })
            .await
    }

    async fn wait_operation(
        &self,
        request: Request<v1::WaitOperationRequest>,
    ) -> Result<Response<v1::WaitOperationResponse>, Status> {
        self.calls
            .call("WaitOperation", request, |request, wait| async move {
                let most = match request.wait_ms {
                    0 => limits::OPERATION_WAIT,
                    ms => Duration::from_millis(ms.into()),
                };
                if most > limits::OPERATION_WAIT {
                    return Err(Error::invalid(format!(
                        "one call waits for at most {} ms, not {}: ask again",
                        limits::OPERATION_WAIT.as_millis(),
                        request.wait_ms
                    )));
                }
                let id = request.id.parse()?;
                let operation = Some(self.cluster.wait_operation(id, most, wait).await?);
                Ok(v1::WaitOperationResponse { operation })
            })
            .await
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::CancelOperationRequest>,
    ) -> Result<Response<v1::CancelOperationResponse>, Status> {
        self.calls
            .call("CancelOperation", request, |request, wait| async move {
                let operation =
                    Some(self.cluster.cancel_operation(request.id.parse()?, wait).await?);
                Ok(v1::CancelOperationResponse { operation })
            })
            .await
    }
}

/// When the last operation of a page began, and its id.
fn parse_token(token: &str) -> Result<Option<(u64, OperationId)>> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token
        .split_once('-')
        .and_then(|(began, id)| Some((began.parse().ok()?, id.parse::<OperationId>().ok()?)));
    parsed.map(Some).ok_or_else(|| {
        Error::invalid(format!("{token:?} is not a page token that this list gave out"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_is_read_back_and_anything_else_refused() {
        assert_eq!(parse_token("").unwrap(), None);
        let token = format!("5-{}", OperationId(7));
        assert_eq!(parse_token(&token).unwrap(), Some((5, OperationId(7))));
        for wrong in ["5", "5-7", "x-0000000000000007", "-"] {
            assert!(parse_token(wrong).is_err(), "{wrong}");
        }
    }
}
