//! Verifications that schedules ask for, by the code of `ddbctl repository verify`.
//!
//! The node that leads the meta group asks a node that has a repository, and asks on each second.
//! A node carries out one at a time, at the pace of `limits::VERIFY_BYTES_PER_SECOND` or of a lower
//! `--repository-rate`, and gives it up when nobody asks any more. What it finds it keeps as the
//! report of the run, whose name follows from the run: so a verification that is begun again, here
//! or on another node, looks whether there is one, and of two that end at a time the first counts.
//!
//! Nothing of a verification that did not end is kept: whoever begins it again reads from the
//! beginning. A store that does not answer or refuses says nothing of what it holds, so it ends the
//! verification without a report.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch};

use super::{Place, Uploads};
use crate::{
    base::{
        crew::{self, Role},
        error::{Error, Kind, Result},
        ids::SnapshotId,
        limits,
        locks::lock,
    },
    part::manifest::WRITTEN_MS_MAX,
    proto::{internal::v1 as internal, v1::UploadStatus},
    repository::{
        reports,
        verify::{self, Depth, Watch},
    },
    wire::{self, Verifying},
};

/// One verification, under way or over.
pub(super) struct Verification {
    run: SnapshotId,
    state: Mutex<(UploadStatus, String)>,
    /// When somebody asked about it last.
    asked: Mutex<Duration>,
    /// Whether it shall go on.
    wanted: watch::Sender<bool>,
}

/// The thread that reads.
struct Reader {
    uploads: Uploads,
    runtime: Handle,
    verification: Arc<Verification>,
}

/// Ends the reading with the task that waits for it.
struct Waiting(Arc<Verification>);

impl Verification {
    fn new(run: SnapshotId, now: Duration) -> Verification {
        let state = Mutex::new((UploadStatus::Running, "it reads the repository".to_owned()));
        Verification { run, state, asked: Mutex::new(now), wanted: watch::Sender::new(true) }
    }

    fn status(&self) -> UploadStatus {
        lock(&self.state).0
    }

    fn ends(&self, status: UploadStatus, reason: String) {
        *lock(&self.state) = (status, reason);
    }

    fn told(&self) -> internal::VerifyRepositoryResponse {
        let (status, reason) = lock(&self.state).clone();
        internal::VerifyRepositoryResponse { status: status as u32, reason }
    }

    fn is_abandoned(&self, now: Duration) -> bool {
        now.saturating_sub(*lock(&self.asked)) > limits::VERIFY_ABANDONED
    }

    fn is_wanted(&self) -> Result<()> {
        match *self.wanted.borrow() {
            true => Ok(()),
            false => Err(Error::unavailable("nobody waits for this verification any more")),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.wanted.send_replace(false);
    }
}

impl Uploads {
    /// Begins a verification where another node or this one asks for it, or says how far it is.
    pub fn verify_asked(
        &self,
        request: &internal::VerifyRepositoryRequest,
    ) -> Result<internal::VerifyRepositoryResponse> {
        self.judge(request.node_id, request.lineage)?;
        self.place()?;
        let order = wire::parse_verifying(request)?;
        if order.run.began_ms > WRITTEN_MS_MAX {
            return Err(Error::invalid("a run does not begin behind the year 9999"));
        }
        let (run, now) = (order.run.snapshot, self.shared.clock.now());
        let mut known = lock(&self.shared.verification);
        let running = known.as_ref().filter(|one| one.status() == UploadStatus::Running);
        if let Some(other) = running.filter(|one| one.run != run) {
            return Err(Error::exhausted(format!(
                "node {} verifies for run {} already, and one at a time",
                self.me(),
                other.run
            )));
        }
        if let Some(same) = known.as_ref().filter(|one| one.run == run) {
            *lock(&same.asked) = now;
            if !request.begin || same.status() != UploadStatus::Failed {
                return Ok(same.told());
            }
        }
        if !request.begin {
            let status = UploadStatus::Absent as u32;
            return Ok(internal::VerifyRepositoryResponse { status, reason: String::new() });
        }
        let new = Arc::new(Verification::new(run, now));
        *known = Some(new.clone());
        self.carry_out(order, &new);
        Ok(new.told())
    }

    fn carry_out(&self, order: Verifying, verification: &Arc<Verification>) {
        let (this, here, instead) = (self.clone(), verification.clone(), verification.clone());
        let waiting = Waiting(verification.clone());
        let reader = Reader {
            uploads: self.clone(),
            runtime: Handle::current(),
            verification: verification.clone(),
        };
        self.shared.crew.spawn_or(
            Role::Upload,
            async move {
                let waiting = waiting;
                let work = crew::blocking(Role::Repository, move || reader.run(&order));
                tokio::pin!(work);
                let ended = loop {
                    let look = tokio::time::timeout(limits::SCHEDULE_LOOK, &mut work);
                    match look.await {
                        Ok(ended) => break ended,
                        Err(_) if here.is_abandoned(this.shared.clock.now()) => {
                            here.wanted.send_replace(false);
                        }
                        Err(_) => {}
                    }
                };
                match ended {
                    Ok(wrong) => here.ends(UploadStatus::Stored, wrong),
                    Err(e) => {
                        tracing::warn!(run = %here.run, error = %e, "the repository was not \
                                       verified");
                        here.ends(UploadStatus::Failed, e.message);
                    }
                }
                drop(waiting);
            },
            async move |e| instead.ends(UploadStatus::Failed, e.message),
        );
    }
}

impl Reader {
    /// Verifies, and keeps the report. What is wrong, in words; empty where nothing is.
    fn run(&self, order: &Verifying) -> Result<String> {
        let (run, shared) = (order.run, &self.uploads.shared);
        let (began_ms, id) = (run.began_ms, run.snapshot.0);
        let repository = self.uploads.repository_to_add_to()?;
        let known = reports::kept::<reports::Verification>(&repository, began_ms, id)?;
        let kept = match known {
            Some(known) => known,
            None => {
                let depth = Depth::of(order.extent, run.planned_ms);
                tracing::info!(run = %run.snapshot, extent = %order.extent, place =
                               repository.store.place(), "verifies the repository");
                let report = verify::watched(&repository, &[], depth, self)?;
                // What was mounted may be gone, and everything of it would seem to be missing.
                let repository = self.uploads.repository_to_add_to()?;
                let ended_ms = shared.clock.wall_ms().clamp(began_ms, WRITTEN_MS_MAX);
                let made = reports::Verification::new(&report, true, began_ms, ended_ms);
                reports::keep_once(&repository, &made, began_ms, id)?
            }
        };
        if let Err(e) = self.uploads.note_reports() {
            tracing::debug!(error = %e, "the reports in the repository cannot be read");
        }
        let Some(first) = kept.problems.first() else { return Ok(String::new()) };
        let count = kept.problems.len() as u64 + kept.more_problems;
        let name = reports::of_run::<reports::Verification>(began_ms, id);
        let told = format!("{}: {}", first.snapshot, first.what);
        tracing::error!(run = %run.snapshot, problems = count, report = name, first = told,
                        "the repository is damaged");
        Ok(format!(
            "the repository is damaged, with {count} problem{}; the report is {name}, and the \
             first is: {told}",
            if count == 1 { "" } else { "s" }
        ))
    }
}

impl Watch for Reader {
    fn before(&self, bytes: u64) -> Result<()> {
        let (verification, shared) = (&self.verification, &self.uploads.shared);
        verification.is_wanted()?;
        let own =
            shared.place.as_ref().and_then(|Place { bytes_per_second, .. }| *bytes_per_second);
        let most = limits::VERIFY_BYTES_PER_SECOND;
        let rate = own.map_or(most, |own| own.min(most));
        let price = shared.reading.pay(shared.clock.now(), bytes, rate);
        self.runtime.block_on(async {
            let mut wanted = verification.wanted.subscribe();
            // It ends early when nobody waits any more.
            let _ = tokio::time::timeout(price.wait, wanted.wait_for(|wanted| !*wanted)).await;
        });
        verification.is_wanted().inspect_err(|_| shared.reading.give_back(price))
    }

    fn is_finding(&self, e: &Error) -> bool {
        matches!(e.kind, Kind::Corrupt | Kind::NotFound | Kind::Conflict)
    }
}
