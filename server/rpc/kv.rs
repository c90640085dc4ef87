//! `devicedb.v1.KvService`.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Porter;
use crate::{
    data::{Read, WrittenStep},
    error::Error,
    ids::{RequestId, SiteId},
    kv::Kv,
    limits,
    proto::v1::{self, kv_service_server::KvService},
    wire::{self, public},
};

pub struct KvDoor {
    pub kv: Kv,
    pub porter: Porter,
}

impl KvDoor {
    fn leader(&self, site: &SiteId) -> Option<v1::LeaderHint> {
        self.kv.leader(site).map(|(node, address)| v1::LeaderHint { node_id: node.0, address })
    }
}

/// What a write of one key did. Another node has said it, perhaps of another version.
fn only_step(mut steps: Vec<WrittenStep>) -> Result<WrittenStep, Error> {
    steps.pop().ok_or_else(|| Error::unknown("another node has answered a write without saying what it did"))
}

#[tonic::async_trait]
impl KvService for KvDoor {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        self.porter
            .call("Get", request, |request, wait| async move {
                let stale = public::is_stale(request.consistency)?;
                let query = public::parse_get(request)?;
                let site = query.site.clone();
                let view = self.kv.get(query, stale, wait).await?;
                Ok(v1::GetResponse { siblings: public::siblings(view.versions), context: view.context, leader: self.leader(&site) })
            })
            .await
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        self.porter
            .call("Put", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_put(request, self.porter.clock.wall_ms())?;
                let site = write.site().clone();
                let done = only_step(self.kv.write(id, write, wait).await?)?;
                Ok(v1::PutResponse { context: done.context, superseded: done.superseded, leader: self.leader(&site) })
            })
            .await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        self.porter
            .call("Delete", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_delete(request, self.porter.clock.wall_ms())?;
                let site = write.site().clone();
                let done = only_step(self.kv.write(id, write, wait).await?)?;
                Ok(v1::DeleteResponse { context: done.context, superseded: done.superseded, leader: self.leader(&site) })
            })
            .await
    }

    async fn batch(&self, request: Request<v1::BatchRequest>) -> Result<Response<v1::BatchResponse>, Status> {
        self.porter
            .call("Batch", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_batch(request, self.porter.clock.wall_ms())?;
                let site = write.site().clone();
                let results = self.kv.write(id, write, wait).await?.into_iter().map(public::batch_result).collect();
                Ok(v1::BatchResponse { results, leader: self.leader(&site) })
            })
            .await
    }

    type ScanStream = ReceiverStream<Result<v1::ScanResponse, Status>>;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        let begun = public::is_stale(request.consistency).and_then(|stale| Ok((public::parse_scan(&request)?, stale)));
        let (mut query, stale) = match begun {
            Ok(begun) => begun,
            Err(e) => return self.porter.stream("Scan", Err(e)),
        };
        let (pages, stream) = mpsc::channel(2);
        let (kv, mut left) = (self.kv.clone(), if request.limit == 0 { u64::MAX } else { request.limit });
        tokio::spawn(async move {
            while left > 0 {
                if let Read::Scan(scan) = &mut query.read {
                    scan.limit = left.min(u64::from(limits::PAGE_ROWS_MAX)) as u32;
                }
                let page = kv.page(query.clone(), stale, limits::REQUEST_DEADLINE).await;
                let (answer, resume) = match page {
                    Ok((keys, resume)) => {
                        left -= (keys.len() as u64).min(left);
                        (Ok(v1::ScanResponse { entries: keys.into_iter().map(public::scan_entry).collect() }), resume)
                    }
                    Err(e) => (Err(wire::status_of(&e)), None),
                };
                let empty = answer.as_ref().is_ok_and(|page| page.entries.is_empty());
                // Whoever scans may have gone.
                if !empty && pages.send(answer).await.is_err() {
                    return;
                }
                let (Some(resume), Read::Scan(scan)) = (resume, &mut query.read) else { return };
                scan.after = Some(resume);
            }
        });
        self.porter.stream("Scan", Ok(ReceiverStream::new(stream)))
    }
}
