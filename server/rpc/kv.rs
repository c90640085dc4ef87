//! `devicedb.v1.KvService`.

use tonic::{Request, Response, Status};

use super::{
    Calls,
    pulled::{Made, Pulled},
};
use crate::{
    base::{
        crew::Role,
        error::Error,
        ids::{RequestId, SiteId},
        limits,
    },
    data::{Query, Read, WrittenStep},
    proto::v1::{self, kv_service_server::KvService},
    service::{
        kv::Kv,
        readers::{Kind, Readers},
    },
    wire::{self, public},
};

pub struct KvApi {
    pub kv: Kv,
    pub readers: Readers,
    pub calls: Calls,
}

impl KvApi {
    fn leader(&self, site: &SiteId) -> Option<v1::LeaderHint> {
        self.kv.leader(site).map(|(node, address)| v1::LeaderHint { node_id: node.0, address })
    }
}

/// What a write of one key did. Another node has said it, perhaps of another version.
fn only_step(mut steps: Vec<WrittenStep>) -> Result<WrittenStep, Error> {
    steps.pop().ok_or_else(|| {
        Error::unknown("another node has answered a write without saying what it did")
    })
}

#[tonic::async_trait]
impl KvService for KvApi {
    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        self.calls
            .call("Get", request, |request, wait| async move {
                let stale = public::is_stale(request.consistency)?;
                let query = public::parse_get(request)?;
                let site = query.site.clone();
                self.readers.room(wait).await?;
                let view = self.kv.get(query, stale, wait).await?;
                Ok(v1::GetResponse {
                    siblings: public::siblings(view.versions),
                    context: view.context,
                    leader: self.leader(&site),
                })
            })
            .await
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        self.calls
            .call("Put", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_put(request, self.calls.clock.wall_ms())?;
                let site = write.site().clone();
                let done = only_step(self.kv.write(id, write, wait).await?)?;
                Ok(v1::PutResponse {
                    context: done.context,
                    superseded: done.superseded,
                    leader: self.leader(&site),
                })
            })
            .await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        self.calls
            .call("Delete", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_delete(request, self.calls.clock.wall_ms())?;
                let site = write.site().clone();
                let done = only_step(self.kv.write(id, write, wait).await?)?;
                Ok(v1::DeleteResponse {
                    context: done.context,
                    superseded: done.superseded,
                    leader: self.leader(&site),
                })
            })
            .await
    }

    async fn batch(
        &self,
        request: Request<v1::BatchRequest>,
    ) -> Result<Response<v1::BatchResponse>, Status> {
        self.calls
            .call("Batch", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_batch(request, self.calls.clock.wall_ms())?;
                let site = write.site().clone();
                let results = self
                    .kv
                    .write(id, write, wait)
                    .await?
                    .into_iter()
                    .map(public::batch_result)
                    .collect();
                Ok(v1::BatchResponse { results, leader: self.leader(&site) })
            })
            .await
    }

    type ScanStream = Pulled<Scanning, v1::ScanResponse>;

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        let begun = public::is_stale(request.consistency)
            .and_then(|stale| Ok((public::parse_scan(&request)?, stale)));
        let begun =
            begun.and_then(|(query, stale)| Ok((query, stale, self.readers.seat(Kind::Scan)?)));
        let (query, stale, seat) = match begun {
            Ok(begun) => begun,
            Err(e) => return self.calls.stream("Scan", Err(e)),
        };
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        let scanning =
            Scanning { kv: self.kv.clone(), readers: self.readers.clone(), query, stale, left };
        let mut pages = self.calls.stream(
            "Scan",
            Ok(Pulled::new(Role::Scan, scanning, |scanning| Box::pin(scanning.page()))),
        )?;
        pages.extensions_mut().insert(seat);
        Ok(pages)
    }
}

/// A scan between two pages.
pub struct Scanning {
    kv: Kv,
    readers: Readers,
    query: Query,
    stale: bool,
    /// Keys that it may still show.
    left: u64,
}

impl Scanning {
    async fn page(mut self) -> Made<Scanning, v1::ScanResponse> {
        if let Read::Scan(scan) = &mut self.query.read {
            scan.limit = self.left.min(u64::from(limits::PAGE_ROWS_MAX)) as u32;
        }
        let asked = async {
            let _turn = self.readers.turn(Kind::Scan).await?;
            self.kv.page(self.query.clone(), self.stale, limits::REQUEST_DEADLINE).await
        };
        let (keys, resume) = match asked.await {
            Ok(page) => page,
            Err(e) => return (Some(Err(wire::status_of(&e))), None),
        };
        self.left -= (keys.len() as u64).min(self.left);
        let page = (!keys.is_empty()).then(|| {
            Ok(v1::ScanResponse { entries: keys.into_iter().map(public::scan_entry).collect() })
        });
        let Some(resume) = resume.filter(|_| self.left > 0) else { return (page, None) };
        if let Read::Scan(scan) = &mut self.query.read {
            scan.after = Some(resume);
        }
        (page, Some(self))
    }
}
