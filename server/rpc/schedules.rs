//! `devicedb.v1.ScheduleService`.

use tonic::{Request, Response, Status};

use super::{Calls, cut_page, page_size};
use crate::{
    base::{ids::ScheduleId, limits},
    cluster::schedule::Schedule,
    proto::v1::{self, schedule_service_server::ScheduleService},
    service::{schedules::Schedules, uploads::Told},
    wire,
};

pub struct ScheduleApi {
    pub schedules: Schedules,
    pub calls: Calls,
}

#[tonic::async_trait]
impl ScheduleService for ScheduleApi {
    async fn put_schedule(
        &self,
        request: Request<v1::PutScheduleRequest>,
    ) -> Result<Response<v1::PutScheduleResponse>, Status> {
        self.calls
            .call("PutSchedule", request, |request, wait| async move {
                let v1::PutScheduleRequest {
                    name,
                    cron,
                    keep,
                    start_deadline_ms,
                    replace,
                    verify,
                } = request;
                let definition = wire::parse_definition(&cron, &keep, &verify, start_deadline_ms)?;
                let id = ScheduleId::new(name)?;
                let (schedule, changed) = self.schedules.put(id, definition, replace, wait).await?;
                let schedule = Some(wire::schedule(&schedule));
                Ok(v1::PutScheduleResponse { schedule, changed })
            })
            .await
    }

    async fn get_schedule(
        &self,
        request: Request<v1::GetScheduleRequest>,
    ) -> Result<Response<v1::GetScheduleResponse>, Status> {
        self.calls
            .call("GetSchedule", request, |request, wait| async move {
                let schedule = self.schedules.get(ScheduleId::new(request.name)?, wait).await?;
                Ok(v1::GetScheduleResponse { schedule: Some(wire::schedule(&schedule)) })
            })
            .await
    }

    async fn list_schedules(
        &self,
        request: Request<v1::ListSchedulesRequest>,
    ) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        self.calls
            .call("ListSchedules", request, |request, wait| async move {
                let is_first = request.page_token.is_empty();
                let after = Some(request.page_token).filter(|token| !token.is_empty());
                let after = after.map(ScheduleId::new).transpose()?;
                let size = page_size(request.page_size, limits::PAGE_SIZE);
                let listed = self.schedules.list(after, size + 1, wait).await?;
                let name = |schedule: &Schedule| schedule.id.as_str().to_owned();
                let (listed, next_page_token) = cut_page(listed, size, name);
                let repositories = self.schedules.repositories().await?;
                let care = match is_first {
                    true => self.schedules.care().await?,
                    false => Told::default(),
                };
                Ok(v1::ListSchedulesResponse {
                    schedules: listed.iter().map(wire::schedule).collect(),
                    next_page_token,
                    repositories,
                    verification: care.verification,
                    drill: care.drill,
                    unreadable_reports: care.unreadable,
                })
            })
            .await
    }

    async fn delete_schedule(
        &self,
        request: Request<v1::DeleteScheduleRequest>,
    ) -> Result<Response<v1::DeleteScheduleResponse>, Status> {
        self.calls
            .call("DeleteSchedule", request, |request, wait| async move {
                self.schedules.delete(ScheduleId::new(request.name)?, wait).await?;
                Ok(v1::DeleteScheduleResponse {})
            })
            .await
    }

    async fn pause_schedule(
        &self,
        request: Request<v1::PauseScheduleRequest>,
    ) -> Result<Response<v1::PauseScheduleResponse>, Status> {
        self.calls
            .call("PauseSchedule", request, |request, wait| async move {
                let id = ScheduleId::new(request.name)?;
                let schedule = self.schedules.pause(id, true, wait).await?;
                Ok(v1::PauseScheduleResponse { schedule: Some(wire::schedule(&schedule)) })
            })
            .await
    }

    async fn resume_schedule(
        &self,
        request: Request<v1::ResumeScheduleRequest>,
    ) -> Result<Response<v1::ResumeScheduleResponse>, Status> {
        self.calls
            .call("ResumeSchedule", request, |request, wait| async move {
                let id = ScheduleId::new(request.name)?;
                let schedule = self.schedules.pause(id, false, wait).await?;
                Ok(v1::ResumeScheduleResponse { schedule: Some(wire::schedule(&schedule)) })
            })
            .await
    }

    async fn run_schedule(
        &self,
        request: Request<v1::RunScheduleRequest>,
    ) -> Result<Response<v1::RunScheduleResponse>, Status> {
        self.calls
            .call("RunSchedule", request, |request, wait| async move {
                let id = ScheduleId::new(request.name)?;
                let (schedule, began) = self.schedules.run_now(id, wait).await?;
                let schedule = Some(wire::schedule(&schedule));
                Ok(v1::RunScheduleResponse { schedule, began })
            })
            .await
    }
}
