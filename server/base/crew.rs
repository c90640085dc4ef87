//! Every thread and every task of a node, by name, and what goes with one that panics.
//!
//! A process does not end when one of its threads or tasks panics: it goes on without it, and
//! nobody is told. Therefore all of them begin here, each as a `Role` that says what its panic
//! takes along. Those without which a node is not whole end the node, with the reason as its last
//! line; those that write a part make that part `failed`; those that serve one request fail that
//! request. `tests/tidy/` keeps every other way to begin one out of `server/`, and
//! `tests/failpoints/` makes each of them panic, which is what `DEVICEDB_PANIC=name` does in a
//! build with the feature `fault-injection`.
//!
//! What tonic and hyper begin for a connection or a request is theirs: a panic there ends that
//! connection or request. Threads within a scope, as those of `part::parallel`, hand their panic
//! to the thread that opened the scope.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    thread,
};

use tokio::{sync::watch, task::JoinSet};

use crate::base::{
    error::{Error, Result},
    locks::lock,
};

/// What ends with a thread or task that panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// The node: it stops, and says why.
    Node,
    /// This node's part of one snapshot, which is `failed`.
    Part,
    /// One request, or one transfer that is begun again.
    Request,
    /// Lines of the log, or spans of traces, which are counted as lost.
    Lines,
}

macro_rules! roles {
    ($($(#[doc = $doc:literal])+ $role:ident $name:literal $takes:ident)+) => {
        /// What a thread or task is there for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Role { $($(#[doc = $doc])+ $role,)+ }

        impl Role {
            pub const ALL: &[Role] = &[$(Role::$role,)+];

            /// As the thread is called, and the message of its panic.
            pub fn name(self) -> &'static str {
                match self { $(Role::$role => $name,)+ }
            }

            pub fn takes(self) -> Takes {
                match self { $(Role::$role => Takes::$takes,)+ }
            }
        }
    };
}

roles! {
    // The node.
    /// The loop of all groups.
    Engine "engine" Node
    /// The store beside it.
    Store "store" Node
    /// A step of the start that may block: looking, restoring, opening.
    Start "start" Node
    /// A step of the stop that may block.
    Stop "stop" Node
    /// Answers while the node starts.
    StartingServer "porch" Node
    /// Tells the service manager how the node is.
    Manager "manager" Node
    /// Accepts connections and begins their requests.
    Doors "doors" Node
    /// Hands the engine's news on.
    News "news" Node
    /// Hands on the rows that the engine wants sent.
    Rows "rows" Node
    /// Tells the cluster where the node is, and that it has given away what it held.
    Announce "announce" Node
    /// Sees which operations have come true.
    Operations "operations" Node
    /// Looks what schedules have come due, and begins their runs.
    Schedules "schedules" Node
    /// Looks who is at an address that an operator gave.
    Meet "meet" Node
    /// Keeps `grpc.health.v1` up to date.
    Health "health" Node
    /// Ends streams that nobody reads.
    Readers "readers" Node
    /// Looks how much room a disk has.
    Disk "disk" Node
    /// Reads certificates again when their files change.
    Certificates "certificates" Node
    /// Keeps the stream to one node.
    Speak "speak" Node
    /// Begins, decides and gives up captures as the snapshots' news say.
    Parts "parts" Node
    /// Sees one part to its end and reports it until the cluster knows.
    Report "report" Node
    /// Deletes a part that the cluster has forgotten.
    Delete "delete" Node
    /// Writes the audit log.
    Audit "audit" Node

    // One part.
    /// One capture, from its view to its part in place.
    Part "part" Part
    /// Copies rows into chunks.
    Capture "capture" Part
    /// Puts a part in place, or gives its space back.
    Finish "finish" Part
    /// Looks for a part that an earlier process left.
    Lying "lying" Part

    // One request.
    /// Makes the pages of one scan.
    Scan "scan" Request
    /// Reads one download of this node's part.
    Download "download" Request
    /// Passes on one download of another node's part.
    Relay "relay" Request
    /// Listens to one stream of another node.
    Listen "listen" Request
    /// Asks one node how it is.
    Ask "ask" Request
    /// Sends the rows of one group.
    Ship "ship" Request
    /// Copies those rows into a file.
    CopyRows "copy-rows" Request
    /// Checks rows that have come.
    CheckRows "check-rows" Request
    /// Removes the files of one part.
    Remove "remove" Request
    /// Sees one upload to its end, or stores some of its groups; or sees a verification to its end.
    Upload "upload" Request
    /// Sees one run of a schedule to its end.
    Run "run" Request
    /// Reads and writes in the repository.
    Repository "repository" Request

    /// One such look, which a disk that does not answer holds up.
    DiskLook "disk-look" Request

    // What is said.
    /// Writes the log.
    Journal "journal" Lines
    /// Hands spans on to the collector of traces.
    Traces "traces" Lines
}

/// The threads and tasks of one node. Cheap to clone.
#[derive(Clone)]
pub struct Crew {
    reason: Arc<watch::Sender<Option<Error>>>,
    /// Whether the node has left its cluster.
    departed: Arc<watch::Sender<bool>>,
    /// None once the node has stopped: nothing begins any more.
    tasks: Arc<Mutex<Option<JoinSet<()>>>>,
}

impl Default for Crew {
    fn default() -> Crew {
        Crew {
            reason: Arc::new(watch::Sender::new(None)),
            departed: Arc::new(watch::Sender::new(false)),
            tasks: Arc::new(Mutex::new(Some(JoinSet::new()))),
        }
    }
}

impl Crew {
    /// Ends the node. The first reason counts.
    pub fn fail(&self, why: Error) {
        self.reason.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(why);
            first
        });
    }

    /// Waits until the node has to end. Its reason.
    pub async fn failed(&self) -> Error {
        let mut reason = self.reason.subscribe();
        let ended = || Error::unavailable("the node has ended without a reason");
        reason
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone())
            .unwrap_or_else(ended)
    }

    /// The node has left its cluster: it ends, and nothing has failed.
    pub fn depart(&self) {
        self.departed.send_replace(true);
    }

    /// Waits until the node has left its cluster.
    pub async fn departed(&self) {
        // The sender is here.
        let _ = self.departed.subscribe().wait_for(|departed| *departed).await;
    }

    /// Begins a task, which ends at the latest when the node stops.
    pub fn spawn(&self, role: Role, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_or(role, work, async |_| ());
    }

    /// The same for a task that somebody waits for: `instead` tells them of a panic.
    pub fn spawn_or<F>(
        &self,
        role: Role,
        work: impl Future<Output = ()> + Send + 'static,
        instead: impl FnOnce(Error) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let crew = self.clone();
        let guarded = async move {
            if let Err(e) = watched(role, work).await {
                crew.note(role, e.clone());
                instead(e).await;
            }
        };
        if let Some(tasks) = &mut *lock(&self.tasks) {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(guarded);
        }
    }

    /// Begins a thread. If it ends with an error or a panic, that is the result of joining it, too.
    pub fn thread(
        &self,
        role: Role,
        work: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<()>>> {
        let crew = self.clone();
        thread(role, move || {
            let ended = caught(role, work).flatten();
            if let Err(e) = &ended {
                crew.note(role, e.clone());
            }
            ended
        })
    }

    fn note(&self, role: Role, why: Error) {
        if role.takes() == Takes::Node {
            self.fail(why);
        }
    }

    /// Ends every task and waits for it.
    pub async fn stop(&self) {
        let tasks = lock(&self.tasks).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }
}

/// Begins a thread by its name. It ends no node: the caller waits for what it says.
pub fn thread<T: Send + 'static>(
    role: Role,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    let named = thread::Builder::new().name(role.name().into());
    named.spawn(work).map_err(|e| {
        Error::unavailable(format!("starting the thread `{}`: {e}", role.name())).with_source(e)
    })
}

/// Does what may block on a thread for that. A panic is an error, which the caller answers for.
pub async fn blocking<T: Send + 'static>(
    role: Role,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(move || caught(role, work).flatten()).await;
    // It does not panic, and nobody cancels it but a runtime that ends.
    done.unwrap_or_else(|_| Err(Error::unavailable("this node is stopping; ask another one")))
}

/// Does several things at once; each ends alone. Dropping it ends the rest.
pub struct Several<T> {
    under_way: JoinSet<Result<T>>,
}

impl<T: Send + 'static> Several<T> {
    pub fn begin<F: Future<Output = T> + Send + 'static>(
        role: Role,
        works: impl IntoIterator<Item = F>,
    ) -> Several<T> {
        Several { under_way: works.into_iter().map(|work| watched(role, work)).collect() }
    }

    /// The next one that comes to its end; None after the last. A panic is left out: it is in the
    /// log.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Ok(Ok(done)) = self.under_way.join_next().await? {
                return Some(done);
            }
        }
    }
}

/// Makes an error of a panic.
pub fn caught<T>(role: Role, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(|| {
        planted_panic(role);
        work()
    }))
    .map_err(|panicked| panic_of(role, &*panicked))
}

/// Makes an error of a task's panic.
pub async fn watched<F: Future>(role: Role, work: F) -> Result<F::Output> {
    let mut work = pin!(async move {
        planted_panic(role);
        work.await
    });
    std::future::poll_fn(move |cx| {
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
            Err(panicked) => Poll::Ready(Err(panic_of(role, &*panicked))),
        }
    })
    .await
}

fn panic_of(role: Role, panicked: &(dyn Any + Send)) -> Error {
    Error::unavailable(format!("`{}` has panicked: {}", role.name(), words_of(panicked)))
}

/// What a panic said.
pub fn words_of(panicked: &(dyn Any + Send)) -> &str {
    let text = panicked.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panicked.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
fn planted_panic(_: Role) {}

/// The first thread or task of the role that the environment names panics.
#[cfg(feature = "fault-injection")]
fn planted_panic(role: Role) {
    use std::sync::atomic::{AtomicBool, Ordering};
    static DONE: AtomicBool = AtomicBool::new(false);
    let asked = std::env::var("DEVICEDB_PANIC").is_ok_and(|name| name == role.name());
    if asked && !DONE.swap(true, Ordering::Relaxed) {
        panic!("DEVICEDB_PANIC says so");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_node_with_the_name_and_the_words_and_the_first_reason_counts() {
        let crew = Crew::default();
        crew.spawn(Role::News, async {
            tokio::task::yield_now().await;
            panic!("no news")
        });
        assert_eq!(crew.failed().await.message, "`news` has panicked: no news");
        crew.fail(Error::unavailable("later"));
        assert_eq!(crew.failed().await.message, "`news` has panicked: no news");
        crew.stop().await;
        crew.spawn(Role::News, async { unreachable!("the node has stopped") });
    }

    #[tokio::test]
    async fn a_thread_that_ends_with_an_error_or_a_panic_ends_the_node_with_its_reason() {
        let crew = Crew::default();
        let ended = crew
            .thread(Role::Engine, || Err(Error::exhausted("the disk is full")))
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(ended, Err(Error::exhausted("the disk is full")));
        assert_eq!(Err(crew.failed().await), ended);
        let panicked =
            Crew::default().thread(Role::Store, || panic!("{} pages", 3)).unwrap().join().unwrap();
        assert_eq!(panicked.unwrap_err().message, "`store` has panicked: 3 pages");
    }

    #[tokio::test]
    async fn a_request_that_panics_fails_alone() {
        let crew = Crew::default();
        let (told, hears) = tokio::sync::oneshot::channel::<()>();
        crew.spawn(Role::Scan, async move {
            let _told = told;
            panic!("one scan")
        });
        assert!(hears.await.is_err());
        crew.fail(Error::invalid("something else"));
        assert_eq!(crew.failed().await.message, "something else");
        let panicked = blocking(Role::Remove, || -> Result<()> { panic!("one part") }).await;
        assert_eq!(panicked.unwrap_err().message, "`remove` has panicked: one part");
        let answers = (0..3).map(|n| async move { if n == 1 { panic!("one node") } else { n } });
        let (mut several, mut all) = (Several::begin(Role::Ask, answers), Vec::new());
        while let Some(n) = several.next().await {
            all.push(n);
        }
        all.sort();
        assert_eq!(all, [0, 2]);
    }

    #[test]
    fn every_role_has_a_name_of_its_own_that_a_thread_can_bear() {
        let names: std::collections::BTreeSet<_> =
            Role::ALL.iter().map(|role| role.name()).collect();
        assert_eq!(names.len(), Role::ALL.len());
        assert!(names.iter().all(|name| name.len() < 16));
    }
}
