//! The set of certificates in use, which is read again when its files change and on SIGHUP.
//!
//! Files are compared by what they hold, not by their dates: a link that is turned to another file,
//! as orchestrators do it, changes no date that could be relied on. A set that cannot be used, as
//! between the writing of a certificate and of its key, changes nothing: the old one stays in use,
//! the log says why, and `devicedb_tls_reload_failed` is 1 until a set can be used again.
//! Connections that stand go on under the set that they began with, as long as the other side is
//! believed by the present one (`belief`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{oneshot, watch};

use super::{
    Mode,
    material::{Contents, Files, Material},
    name::date,
};
use crate::base::{
    clock::Clock,
    crew::{self, Role},
    error::Result,
    limits,
    locks::lock,
    metrics::Metrics,
};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mode,
    files: Files,
    current: Mutex<(Contents, Arc<Material>)>,
    /// Told when others are believed than before.
    turns: watch::Sender<()>,
    handshakes: Mutex<Handshakes>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// Handshakes that are under way, in the order in which they began.
#[derive(Default)]
struct Handshakes {
    last: u64,
    open: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Tls {
    /// Reads the files, and refuses a set that cannot be used.
    pub fn open(mode: Mode, files: Files, clock: Clock, metrics: Arc<Metrics>) -> Result<Tls> {
        let contents = files.read()?;
        let material = Arc::new(Material::new(&files, &contents, clock.wall_ms())?);
        metrics.certificate_in_use(material.own.until);
        let shared = Shared {
            mode,
            files,
            current: Mutex::new((contents, material)),
            turns: watch::Sender::new(()),
            handshakes: Mutex::default(),
            clock,
            metrics,
        };
        Ok(Tls { shared: Arc::new(shared) })
    }

    pub fn is_required(&self) -> bool {
        self.shared.mode == Mode::Required
    }

    pub fn material(&self) -> Arc<Material> {
        lock(&self.shared.current).1.clone()
    }

    /// Changes when others are believed than before: another CA, or other revocations.
    pub(super) fn turns(&self) -> watch::Receiver<()> {
        self.shared.turns.subscribe()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub fn now_ms(&self) -> u64 {
        self.shared.clock.wall_ms()
    }

    /// Looks again and again whether there is another set, and whenever `asked` changes.
    pub async fn keep_fresh(self, mut asked: watch::Receiver<u64>) {
        let mut said = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(limits::CERTIFICATES_LOOK) => {}
                Ok(()) = asked.changed() => said.clear(),
            }
            let tls = self.clone();
            let looked = crew::blocking(Role::Certificates, move || tls.look()).await;
            self.shared.metrics.reload(looked.is_err());
            match looked {
                Ok(None) => said.clear(),
                Ok(Some(until)) => {
                    said.clear();
                    tracing::info!(until = date(until), "a new certificate is in use");
                }
                Err(e) if e.message == said => {}
                Err(e) => {
                    tracing::error!(
                        why = %e,
                        "the certificates cannot be used; the ones read before stay in use",
                    );
                    said = e.message;
                }
            }
        }
    }

    /// Takes another set into use, if there is one. Until when it is valid.
    fn look(&self) -> Result<Option<i64>> {
        let Shared { files, current, clock, metrics, .. } = &*self.shared;
        let contents = files.read()?;
        if lock(current).0 == contents {
            return Ok(None);
        }
        let material = Arc::new(Material::new(files, &contents, clock.wall_ms())?);
        let until = material.own.until;
        let before = std::mem::replace(&mut *lock(current), (contents.clone(), material));
        metrics.certificate_in_use(until);
        if !before.0.believes_as(&contents) {
            self.shared.turns.send_replace(());
        }
        Ok(Some(until))
    }

    /// Counts a handshake as under way until the first of the pair is dropped. The second resolves
    /// when it has to make room.
    pub(super) fn begin(&self) -> (UnderWay, oneshot::Receiver<()>) {
        let mut handshakes = lock(&self.shared.handshakes);
        if handshakes.open.len() >= limits::HANDSHAKES_MAX
            && let Some((_, oldest)) = handshakes.open.pop_first()
        {
            // It may have ended this moment.
            let _ = oldest.send(());
        }
        handshakes.last += 1;
        let (leave, told) = oneshot::channel();
        let number = handshakes.last;
        handshakes.open.insert(number, leave);
        (UnderWay { tls: self.clone(), number }, told)
    }
}

/// A handshake that is under way.
pub(super) struct UnderWay {
    tls: Tls,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.tls.shared.handshakes).open.remove(&self.number);
    }
}
