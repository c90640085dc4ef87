//! The host of a simulated engine: it notes what the engine says in a round, and tells it the time.

use std::{path::PathBuf, time::Duration};

use devicedb::{
    base::{error::Result, ids::NodeId},
    data::Reply,
    engine::{ArrivedRows, Host, Job, News, RowsToSend, SnapshotNews, Token},
    entry::Identity,
    proto::internal::v1::PeerMessage,
    store::Store,
    wire,
};

use crate::disk::SimDisk;

/// What the engine says in one round.
#[derive(Default)]
pub struct Said {
    pub sent: Vec<(Duration, NodeId, PeerMessage)>,
    pub answers: Vec<(Token, Result<Reply>)>,
    pub jobs: Vec<Job>,
    pub rows: Vec<RowsToSend>,
    pub discarded: Vec<PathBuf>,
    pub news: Vec<SnapshotNews>,
    /// What no cluster of nodes that are well comes to.
    pub wrong: Vec<String>,
    /// Messages that were not let in, and whose they were.
    pub refused: Vec<(NodeId, String)>,
    pub listed: Vec<(NodeId, String)>,
    /// Replicas that have ended.
    pub ended: u64,
    /// Leaderships that were offered and not taken.
    pub in_vain: u64,
    /// It was leaving, and holds nothing any more.
    pub departs: bool,
}

pub struct Outside<'a> {
    pub said: Said,
    pub disk: &'a SimDisk,
    pub store: &'a Store,
    pub local: Duration,
    pub drift_permille: i64,
}

pub fn by_clock(real: Duration, drift_permille: i64) -> Duration {
    Duration::from_nanos(
        (real.as_nanos() as i128 * (1000 + i128::from(drift_permille)) / 1000) as u64,
    )
}

impl Host for Outside<'_> {
    fn now(&self) -> Duration {
        self.local + by_clock(self.disk.spent(), self.drift_permille)
    }
    fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.said.sent.push((self.disk.spent(), to, message));
    }
    fn flush(&mut self) {}
    fn answer(&mut self, token: Token, answer: Result<Reply>) {
        self.said.answers.push((token, answer));
    }
    fn start(&mut self, job: Job) -> Result<()> {
        self.said.jobs.push(job);
        Ok(())
    }
    fn send_rows(&mut self, rows: RowsToSend) {
        self.said.rows.push(rows);
    }
    fn discard(&mut self, rows: ArrivedRows) {
        self.said.discarded.push(rows.path);
    }
    fn tell(&mut self, news: News) {
        match news {
            News::Snapshot(news) => self.said.news.push(*news),
            News::Nodes(nodes) => self.said.listed = nodes,
            // What was on its way to a machine comes to the one that stands in its place now; a
            // stream's hello would not let it.
            News::Refused { field: "RaftMessage.to", .. } => {}
            News::Refused { from, group, field } => {
                let what = format!("refused a message of {from} for group {group}: {field}");
                self.said.refused.push((from, what));
            }
            News::Skipped { group, at, why } => {
                self.said.wrong.push(format!("passed over entry {at:?} of group {group}: {why}"))
            }
            News::Ended { .. } => self.said.ended += 1,
            News::InVain { .. } => self.said.in_vain += 1,
            News::Departs => self.said.departs = true,
            News::Access(..) => {}
            News::Removed(_) | News::Held(_) | News::Leader { .. } | News::Logged { .. } => {}
        }
    }
    fn adopt(&mut self, identity: &Identity) -> Result<()> {
        self.store.set_identity(&wire::encode_identity(identity))
    }
}
