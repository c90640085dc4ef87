//! The audit log: who has changed something, or was not let, one JSON object a line.
//!
//! - A call that changes data or the cluster has a line when it has ended: when, who, by what
//!   proof, from where, which method, on what, and how it ended.
//! - One that changes the cluster (nodes, sites, snapshots, who may do what), or takes all data
//!   away, has another line before it begins, which is on disk before the call does anything. So
//!   none goes unnoted, even where the node dies in the middle of it; and where that line cannot be
//!   written, the call is refused.
//! - A call that its caller leaves before the answer has a line too, which says that nobody heard
//!   how it ended: it may have had its effect, or have it still.
//! - A call that was denied has a line. Callers that nobody knows get only so many a second: they
//!   may be strangers, who shall not push out what matters. The next line says how many more there
//!   were.
//! - Keys, values, contexts and secrets are never written.
//!
//! A line of data that cannot be written is counted, and the call goes on. Files are `files`'
//! affair. What nodes do for each other is not noted, apart from joining.

mod files;
mod subject;

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Request, Status};

use super::{
    access::Rights,
    roles::{self, Changes},
};
use crate::{
    base::{
        clock::Clock,
        crew::{Crew, Role},
        error::{Error, Result},
        limits,
        locks::lock,
        metrics::Metrics,
    },
    net::acceptor::Place,
    wire,
};
pub use subject::Subject;

/// How a call has ended whose caller has not waited for the answer.
const CALLER_GONE: &str = "CALLER_GONE";

/// See the module. Cheap to clone; most nodes have none.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    clock: Clock,
    metrics: Arc<Metrics>,
    lines: mpsc::Sender<Note>,
    /// Numbers the calls of this process.
    calls: AtomicU64,
    strangers: Mutex<Strangers>,
}

/// Denied callers that nobody knows, in one second.
#[derive(Default)]
struct Strangers {
    second: u64,
    lines: u32,
    left_out: u64,
}

/// A line on its way, and who waits until it is on disk.
struct Note {
    line: Vec<u8>,
    on_disk: Option<oneshot::Sender<Result<()>>>,
}

/// What stands in a line. Absent is what is not known or says nothing.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Milliseconds since 1970.
    at_ms: u64,
    /// `begins`, `ended` or `denied`.
    event: &'static str,
    /// The same for both lines of a call, and another for every call of a process.
    #[serde(skip_serializing_if = "is_0")]
    call: u64,
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    identity: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    proof: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    /// As gRPC names it, or `CALLER_GONE`.
    #[serde(skip_serializing_if = "str::is_empty")]
    outcome: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    /// Denied calls that have no line, since the last line of such.
    #[serde(skip_serializing_if = "is_0")]
    left_out: u64,
}

fn is_0(n: &u64) -> bool {
    *n == 0
}

/// A call that may have to be noted when it has ended, and is when it is dropped before.
pub struct Noted {
    /// Until it has ended.
    open: Option<Arc<Inner>>,
    changes: Changes,
    method: &'static str,
    call: u64,
    subject: String,
    request_id: String,
    rights: Option<Arc<Rights>>,
    from: Option<IpAddr>,
}

impl Audit {
    /// Writes to files in the directory from now on.
    /// A writer that panics ends the node.
    pub fn open(dir: &Path, clock: Clock, metrics: Arc<Metrics>, crew: &Crew) -> Result<Audit> {
        let files = files::Files::open(dir, clock)?;
        let (lines, notes) = mpsc::channel(limits::AUDIT_LINES_MAX);
        let keep = {
            let metrics = metrics.clone();
            move || {
                keep(notes, files, &metrics);
                Ok(())
            }
        };
        drop(crew.thread(Role::Audit, keep)?);
        let (calls, strangers) = (AtomicU64::default(), Mutex::default());
        Ok(Audit(Some(Arc::new(Inner { clock, metrics, lines, calls, strangers }))))
    }

    /// A call begins. Refused where it has to be noted first and cannot be.
    pub async fn begins<Q: Subject>(
        &self,
        method: &'static str,
        request: &Request<Q>,
    ) -> Result<Option<Noted>> {
        let Some(inner) = &self.0 else { return Ok(None) };
        let message = request.get_ref();
        let mut noted = Noted {
            open: Some(inner.clone()),
            changes: roles::changes(method),
            method,
            call: inner.calls.fetch_add(1, Ordering::Relaxed) + 1,
            subject: message.subject(),
            request_id: message.request_id(),
            rights: request.extensions().get::<Arc<Rights>>().cloned(),
            from: request.extensions().get::<Arc<Place>>().map(|place| place.address()),
        };
        if noted.changes == Changes::Cluster {
            let written = inner.write_down(&inner.line(&noted, "begins")).await;
            written.map_err(|e| {
                noted.open = None;
                Error::unavailable(format!(
                    "{method} is to stand in the audit log first, and that cannot be written: \
                     {}. Nothing has changed",
                    e.message
                ))
            })?;
        }
        Ok(Some(noted))
    }

    /// A call has ended: well, or so.
    pub async fn ended(&self, noted: Option<Noted>, refused: Option<Status>) {
        let (Some(inner), Some(mut noted)) = (&self.0, noted) else { return };
        noted.open = None;
        let code = refused.as_ref().map_or(Code::Ok, Status::code);
        let denied = code == Code::PermissionDenied;
        if noted.changes == Changes::Nothing && !denied {
            return;
        }
        let line = inner.line(&noted, if denied { "denied" } else { "ended" });
        // What else went wrong may name a key.
        let message = refused.as_ref().filter(|_| denied).map_or("", Status::message);
        inner.queue(&Line { outcome: wire::code_name(code), message, ..line }).await;
    }

    /// A call goes no further than the threshold.
    pub async fn denied(&self, path: &str, who: Option<&str>, from: Option<IpAddr>, why: &str) {
        let Some(inner) = &self.0 else { return };
        let Some(left_out) = inner.may_say(who.is_some()) else { return };
        let method = path.rsplit('/').next().unwrap_or_default();
        let denied = Line {
            at_ms: inner.clock.wall_ms(),
            event: "denied",
            call: 0,
            method,
            subject: "",
            identity: who.unwrap_or_default(),
            proof: "",
            from,
            request_id: "",
            outcome: wire::code_name(match who {
                Some(_) => Code::PermissionDenied,
                None => Code::Unauthenticated,
            }),
            message: why,
            left_out,
        };
        inner.queue(&denied).await;
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let Some(inner) = self.open.take().filter(|_| self.changes != Changes::Nothing) else {
            return;
        };
        let line = Line { outcome: CALLER_GONE, ..inner.line(self, "ended") };
        // Nobody can wait here until the line has its turn.
        if inner.lines.try_send(Note { line: bytes_of(&line), on_disk: None }).is_err() {
            inner.metrics.audit_lost(1);
        }
    }
}

impl Inner {
    fn line<'a>(&self, noted: &'a Noted, event: &'static str) -> Line<'a> {
        let rights = noted.rights.as_deref();
        Line {
            at_ms: self.clock.wall_ms(),
            event,
            call: noted.call,
            method: noted.method,
            subject: &noted.subject,
            identity: rights.map_or("", |rights| &rights.name),
            proof: rights.map_or("", |rights| &rights.proof),
            from: noted.from,
            request_id: &noted.request_id,
            outcome: "",
            message: "",
            left_out: 0,
        }
    }

    /// Whether a denied caller gets a line, and how many got none since the last that did.
    fn may_say(&self, known: bool) -> Option<u64> {
        let mut strangers = lock(&self.strangers);
        let second = self.clock.now().as_secs();
        if strangers.second != second {
            (strangers.second, strangers.lines) = (second, 0);
        }
        if !known && strangers.lines >= limits::AUDIT_STRANGERS_A_SECOND {
            strangers.left_out += 1;
            return None;
        }
        strangers.lines += u32::from(!known);
        Some(std::mem::take(&mut strangers.left_out))
    }

    async fn send(&self, note: Note) -> Result<()> {
        let sent = self.lines.send_timeout(note, limits::AUDIT_WAIT).await;
        sent.map_err(|_| Error::unavailable("the disk does not keep up, or its writer has ended"))
    }

    /// Waits until a line is on disk.
    async fn write_down(&self, line: &Line<'_>) -> Result<()> {
        let (on_disk, written) = oneshot::channel();
        self.send(Note { line: bytes_of(line), on_disk: Some(on_disk) }).await?;
        match tokio::time::timeout(limits::AUDIT_WAIT, written).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Err(Error::unavailable("its writer has ended")),
            Err(_) => Err(Error::unavailable("the disk does not answer")),
        }
    }

    /// Waits until a line has its turn, and no longer: the call has happened.
    async fn queue(&self, line: &Line<'_>) {
        if self.send(Note { line: bytes_of(line), on_disk: None }).await.is_err() {
            self.metrics.audit_lost(1);
        }
    }
}

fn bytes_of(line: &Line<'_>) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("texts and numbers are JSON");
    bytes.push(b'\n');
    bytes
}

/// Writes what comes, as many lines at once as wait.
fn keep(mut notes: mpsc::Receiver<Note>, mut files: files::Files, metrics: &Metrics) {
    while let Some(first) = notes.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < limits::AUDIT_LINES_MAX
            && let Ok(next) = notes.try_recv()
        {
            batch.push(next);
        }
        let lines: Vec<u8> = batch.iter().flat_map(|note| &note.line).copied().collect();
        let written = files.append(&lines, batch.iter().any(|note| note.on_disk.is_some()));
        metrics.audit(written.is_err());
        if let Err(e) = &written {
            tracing::error!(why = %e, "the audit log cannot be written");
            metrics.audit_lost(batch.iter().filter(|note| note.on_disk.is_none()).count() as u64);
        }
        for waits in batch.into_iter().filter_map(|note| note.on_disk) {
            // Whoever waited may have gone.
            let _ = waits.send(written.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::proto::v1;

    fn lines(dir: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(dir.join(files::CURRENT)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn audit(dir: &Path) -> Audit {
        Audit::open(dir, Clock::start(), Arc::default(), &Crew::default()).unwrap()
    }

    /// Comes behind everything that was said before.
    async fn flushed(audit: &Audit) {
        let request = Request::new(v1::AddSiteRequest { site: "flush".into() });
        let noted = audit.begins("AddSite", &request).await.unwrap();
        noted.into_iter().for_each(|mut noted| noted.open = None);
    }

    #[tokio::test]
    async fn a_change_of_the_cluster_is_on_disk_before_it_begins_and_has_its_outcome_after() {
        let dir = tempfile::tempdir().unwrap();
        let audit = audit(dir.path());
        let mut request = Request::new(v1::AddSiteRequest { site: "shop \"1\"\n".into() });
        request.extensions_mut().insert(Arc::new(Rights::none("ops")));
        let noted = audit.begins("AddSite", &request).await.unwrap();
        let before = lines(dir.path());
        assert_eq!(before.len(), 1);
        assert_eq!(before[0]["event"], "begins");
        assert_eq!(before[0]["identity"], "ops");
        assert_eq!(before[0]["subject"], "site shop \"1\"\n");
        audit.ended(noted, None).await;
        flushed(&audit).await;
        let after = &lines(dir.path())[1];
        assert_eq!((&after["event"], &after["outcome"]), (&"ended".into(), &"OK".into()));
        assert_eq!(after["call"], before[0]["call"]);
    }

    #[tokio::test]
    async fn data_is_noted_without_keys_and_values_and_reads_only_where_they_are_denied() {
        let dir = tempfile::tempdir().unwrap();
        let audit = audit(dir.path());
        let put = v1::PutRequest {
            site: "shop".into(),
            key: "the-key".into(),
            value: "the-value".into(),
            request_id: vec![7; 16].into(),
            ..Default::default()
        };
        let noted = audit.begins("Put", &Request::new(put)).await.unwrap();
        audit.ended(noted, None).await;
        for refused in [None, Some(Status::permission_denied("no"))] {
            let get = v1::GetRequest { site: "shop".into(), ..Default::default() };
            let noted = audit.begins("Get", &Request::new(get)).await.unwrap();
            audit.ended(noted, refused).await;
        }
        audit.denied("/devicedb.v1.KvService/Put", Some("x"), None, "x may not").await;
        flushed(&audit).await;
        let found = lines(dir.path());
        let told: Vec<_> = found
            .iter()
            .map(|line| format!("{} {} {}", line["event"], line["method"], line["outcome"]))
            .collect();
        assert_eq!(
            told,
            [
                r#""ended" "Put" "OK""#,
                r#""denied" "Get" "PERMISSION_DENIED""#,
                r#""denied" "Put" "PERMISSION_DENIED""#,
                r#""begins" "AddSite" null"#
            ]
        );
        let text = fs::read_to_string(dir.path().join(files::CURRENT)).unwrap();
        assert!(!text.contains("the-"), "{text}");
        assert!(text.contains("07070707"), "{text}");
    }

    #[tokio::test]
    async fn a_call_that_its_caller_leaves_has_a_line_and_one_that_could_not_begin_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let audit = audit(dir.path());
        let put = || Request::new(v1::PutRequest { site: "shop".into(), ..Default::default() });
        let get = Request::new(v1::GetRequest { site: "shop".into(), ..Default::default() });
        drop(audit.begins("Put", &put()).await.unwrap());
        drop(audit.begins("Get", &get).await.unwrap());
        let noted = audit.begins("Put", &put()).await.unwrap();
        audit.ended(noted, None).await;
        let site = Request::new(v1::AddSiteRequest { site: "left".into() });
        drop(audit.begins("AddSite", &site).await.unwrap());
        flushed(&audit).await;
        let told: Vec<_> = lines(dir.path())
            .iter()
            .map(|line| format!("{} {} {}", line["event"], line["method"], line["outcome"]))
            .collect();
        assert_eq!(
            told,
            [
                r#""ended" "Put" "CALLER_GONE""#,
                r#""ended" "Put" "OK""#,
                r#""begins" "AddSite" null"#,
                r#""ended" "AddSite" "CALLER_GONE""#,
                r#""begins" "AddSite" null"#,
            ]
        );
    }

    #[tokio::test]
    async fn strangers_get_so_many_lines_and_the_next_says_how_many_more_there_were() {
        let dir = tempfile::tempdir().unwrap();
        let audit = audit(dir.path());
        let calls = u64::from(limits::AUDIT_STRANGERS_A_SECOND) + 50;
        for _ in 0..calls {
            audit.denied("/x/Put", None, None, "who are you").await;
        }
        audit.denied("/x/Put", Some("known"), None, "not you").await;
        flushed(&audit).await;
        let found = lines(dir.path());
        let denied = found.iter().filter(|line| line["event"] == "denied").count() as u64;
        let left_out: u64 = found.iter().filter_map(|line| line["left_out"].as_u64()).sum();
        assert!(left_out > 0, "{found:?}");
        assert_eq!(denied + left_out, calls + 1, "each has a line or is counted");
    }

    #[tokio::test]
    async fn what_cannot_be_noted_first_is_refused_and_the_rest_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let audit = audit(dir.path());
        flushed(&audit).await;
        // Nothing can be made there any more: the file that is open is one that nobody finds.
        fs::remove_dir_all(dir.path()).unwrap();
        let request = Request::new(v1::AddSiteRequest { site: "s".into() });
        let refused = audit.begins("AddSite", &request).await.map(drop).unwrap_err();
        assert!(refused.message.contains("Nothing has changed"), "{refused}");
        let put = Request::new(v1::PutRequest::default());
        let noted = audit.begins("Put", &put).await.unwrap();
        audit.ended(noted, None).await;
        // And it goes on when there is a place again.
        fs::create_dir(dir.path()).unwrap();
        assert!(audit.begins("AddSite", &request).await.is_ok());
    }
}
