//! `devicedb.v1.KvService`. A role that reads or writes is for some sites, and only here is it
//! known which site a call is about.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    Calls,
    access::{self, Rights},
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

const SERVICE: &str = "/devicedb.v1.KvService/";

/// What whoever makes a call may do with sites by it.
struct Permit {
    rights: Arc<Rights>,
    method: &'static str,
}

impl Permit {
    /// As the threshold has found it; nothing where nobody has looked.
    fn of<T>(request: &Request<T>, method: &'static str) -> Permit {
        let found = request.extensions().get::<Arc<Rights>>().cloned();
        Permit { rights: found.unwrap_or_else(|| Arc::new(Rights::none(""))), method }
    }

    fn check(&self, site: &SiteId) -> Result<(), Error> {
        let roles = access::roles_of(&[SERVICE, self.method].concat());
        self.rights.check_site(self.method, roles, site)
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
        let permit = Permit::of(&request, "Get");
        self.calls
            .call("Get", request, |request, wait| async move {
                let stale = public::is_stale(request.consistency)?;
                let query = public::parse_get(request)?;
                permit.check(&query.site)?;
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
        let permit = Permit::of(&request, "Put");
        self.calls
            .call("Put", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_put(request, self.calls.clock.wall_ms())?;
                permit.check(write.site())?;
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
        let permit = Permit::of(&request, "Delete");
        self.calls
            .call("Delete", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_delete(request, self.calls.clock.wall_ms())?;
                permit.check(write.site())?;
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
        let permit = Permit::of(&request, "Batch");
        self.calls
            .call("Batch", request, |request, wait| async move {
                let id = RequestId::from_slice(&request.request_id)?;
                let write = public::parse_batch(request, self.calls.clock.wall_ms())?;
                permit.check(write.site())?;
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
        let permit = Permit::of(&request, "Scan");
        let noted = self.calls.audit.begins("Scan", &request).await;
        let request = request.into_inner();
        let begun = public::is_stale(request.consistency)
            .and_then(|stale| Ok((public::parse_scan(&request)?, stale)));
        let begun = begun.and_then(|begun| permit.check(&begun.0.site).map(|()| begun));
        let begun =
            begun.and_then(|(query, stale)| Ok((query, stale, self.readers.seat(Kind::Scan)?)));
        let (query, stale, seat) = match begun {
            Ok(begun) => begun,
            Err(e) => {
                let refused = self.calls.stream("Scan", Err(e));
                self.calls.audit.ended(noted.ok().flatten(), refused.as_ref().err().cloned()).await;
                return refused;
            }
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
