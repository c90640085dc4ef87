//! What the reports in the repository say, for operators and for `/metrics`.

use super::Uploads;
use crate::{
    base::{
        crew::{self, Role},
        error::Result,
        limits,
        locks::lock,
    },
    proto::v1,
    repository::care::Care,
    wire,
};

/// What reports say, as clients see it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub verification: Option<v1::RepositoryVerification>,
    pub drill: Option<v1::RepositoryDrill>,
    /// Newer reports that cannot be read, and why.
    pub unreadable: Vec<String>,
}

impl Uploads {
    /// Looks whether the repository can be used, and from time to time what its reports say, as
    /// long as the node runs.
    pub async fn watch(self) {
        self.look_once().await;
        if !self.are_possible() {
            return;
        }
        loop {
            self.look_after().await;
            tokio::time::sleep(limits::REPORTS_LOOK).await;
        }
    }

    /// What the reports say now, or what they said last where the repository does not answer in
    /// time.
    pub async fn care(&self) -> Told {
        if self.are_possible() {
            // A look that takes longer notes what it finds for the next who asks.
            let _ = tokio::time::timeout(limits::NODE_STATUS, self.look_after()).await;
        }
        self.known_care()
    }

    /// What the reports said when they were last looked at.
    pub fn known_care(&self) -> Told {
        lock(&self.shared.care).clone()
    }

    async fn look_after(&self) {
        let (this, seat) = (self.clone(), self.shared.looks.clone().acquire_owned().await);
        let looked = crew::blocking(Role::Repository, move || {
            let _seat = seat;
            this.note_reports()
        });
        if let Err(e) = looked.await {
            tracing::debug!(error = %e, "the reports in the repository cannot be read");
        }
    }

    /// Waits for the repository: not for a thread of tokio.
    pub(super) fn note_reports(&self) -> Result<()> {
        let repository = self.repository()?;
        let standings = repository.standings()?;
        let care = Care::of(&repository, &standings, self.shared.clock.wall_ms())?;
        let verified = care.verification.as_ref().map(|last| (last.began_ms / 1000, last.sound));
        let drilled = care.drill.as_ref().map(|last| (last.began_ms / 1000, last.drill.passed));
        self.shared.metrics.looked_after(verified, drilled);
        *lock(&self.shared.care) = Told {
            verification: care.verification.as_ref().map(wire::verification),
            drill: care.drill.as_ref().map(wire::drill),
            unreadable: care.unreadable_reports,
        };
        Ok(())
    }
}
