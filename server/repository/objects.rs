//! An object store as the place of a repository: S3 and what speaks it, Azure Blob Storage, Google
//! Cloud Storage. The only importer of `object_store`.
//!
//! Callers wait on threads of their own; the requests run on a runtime of this module, with one
//! thread. Credentials come from the environment, under the names that the stores' own tools read.
//! They are in no place, no message and no log.
//!
//! - A request has 30 seconds, and a second more for each 100 kB. It is repeated for as long as the
//!   caller has patience, after pauses that grow and are jittered, if the store may answer
//!   otherwise next time: not if it says that something is missing, refused or wrongly asked.
//! - An object is made by a put under the condition that the name is not there. The answer can be
//!   lost, and some stores answer a race with "try again": then the name is there, and nobody knows
//!   whose it is. Whoever finds the very bytes that he wanted to store has made it.
//! - A store that does not keep the condition is found out by `Repository::init`, whose writers
//!   race.
//!
//! Nothing is stored in several pieces: pieces of an upload that was given up cost money, and no
//! list shows them.

use std::{
    future::Future,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};

use bytes::Bytes;
use object_store::{
    ClientOptions, Error as StoreError, GetOptions, GetRange, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
    aws::{AmazonS3Builder, Checksum, S3ConditionalPut},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    path::Path,
};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt as _;

use super::store::{Made, Object, Store};
use crate::{
    base::{
        clock::{Clock, Random},
        error::{Error, Result},
        limits,
    },
    part::parallel,
};

/// Where objects lie, as it is written in a place.
struct Bucket<'a> {
    kind: &'static str,
    name: &'a str,
    prefix: &'a str,
}

/// An object store, below a prefix.
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// As the operator wrote it.
    place: String,
    prefix: Path,
    patience: Duration,
    runtime: Option<Runtime>,
}

type Answer<T> = std::result::Result<T, StoreError>;

/// What the schemes are called in messages.
const SCHEMES: [(&str, &str); 3] = [("s3", "bucket"), ("az", "container"), ("gs", "bucket")];

/// What stores call it when credentials are wrong, whichever status they answer with it.
const REFUSALS: [&str; 6] = [
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "AuthenticationFailed",
];

/// The scheme of a place that is no directory.
pub fn scheme(place: &str) -> Option<&str> {
    place.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| *scheme != "file")
}

impl Objects {
    /// Speaks to nobody yet.
    pub fn open(place: &str, patience: Duration) -> Result<Objects> {
        let bucket = Bucket::parse(place)?;
        // `reqwest` takes whatever the process uses for TLS.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let prefix = Path::parse(bucket.prefix.trim_end_matches('/'))
            .map_err(|e| Error::invalid(format!("{place}: {e}")).with_source(e))?;
        let store = bucket.build().map_err(|e| e.at(place))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("object-store")
            .enable_all()
            .build()
            .map_err(|e| Error::unavailable(format!("no thread for {place}: {e}")))?;
        Ok(Objects { store, place: place.to_owned(), prefix, patience, runtime: Some(runtime) })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').filter(|word| !word.is_empty()).fold(self.prefix.clone(), Path::join)
    }

    fn named(&self, path: &Path) -> Option<String> {
        let parts: Vec<_> =
            path.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect();
        Some(parts.join("/"))
    }

    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.place.trim_end_matches('/'))
    }

    /// The answer to a request, after as many tries as patience allows.
    fn ask<T, F>(
        &self,
        each: Duration,
        request: impl Fn() -> F + Send + Sync + 'static,
    ) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send,
    {
        let patience = self.patience;
        let (tell, told) = sync_channel(limits::OBJECT_ANSWERS);
        let runtime = self.runtime.as_ref().expect("it is taken where this is dropped");
        runtime.spawn(async move {
            let _ = tell.send(tries(each, patience, &request).await);
        });
        told.recv().unwrap_or_else(|_| Err(silent(each)))
    }

    /// What a failure means to a repository.
    fn failed(&self, name: &str, e: StoreError) -> Error {
        let (what, full) = (told(&e), self.full(name));
        let says = |words: &[&str]| words.iter().any(|word| what.contains(word));
        let denied = match e {
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => true,
            _ => says(&REFUSALS),
        };
        let error = match status(&what_is_written(&e)) {
            _ if says(&["NoSuchBucket", "ContainerNotFound", "BucketNotFound"]) => {
                Error::invalid(format!("{}: it is not there ({what}): make it first", self.place))
            }
            _ if denied => Error::denied(format!(
                "{full}: the store refuses: {what}; the credentials are those of the environment \
                 (docs/backup-and-restore.md)"
            )),
            _ if matches!(e, StoreError::NotFound { .. }) => {
                Error::not_found(format!("{full}: it is not there"))
            }
            Some(416) => Error::corrupt(format!("{full}: it is shorter than it was ({what})")),
            Some(507) => Error::exhausted(format!("{full}: the store is full: {what}")),
            _ if says(&["QuotaExceeded", "StorageFull"]) => {
                Error::exhausted(format!("{full}: the store is full: {what}"))
            }
            _ => Error::unavailable(format!("{full}: {what}")),
        };
        error.with_source(e)
    }

    fn get(&self, name: &str, range: Option<(u64, u64)>, bytes_max: u64) -> Result<Got> {
        let (store, path) = (self.store.clone(), self.path(name));
        let most = range.map_or(bytes_max, |(_, bytes)| bytes);
        let got = self.ask(time_for(most), move || {
            let (store, path) = (store.clone(), path.clone());
            async move {
                let range = range.map(|(offset, bytes)| GetRange::Bounded(offset..offset + bytes));
                let options = GetOptions { range, ..GetOptions::default() };
                let result = store.get_opts(&path, options).await?;
                let size = result.meta.size;
                if range_is_whole(&result.range, size) && size > bytes_max {
                    return Ok(Got { size, bytes: None });
                }
                Ok(Got { size, bytes: Some(result.bytes().await?) })
            }
        });
        got.map_err(|e| self.failed(name, e))
    }
}

struct Got {
    size: u64,
    /// None if there are too many.
    bytes: Option<Bytes>,
}

fn range_is_whole(range: &std::ops::Range<u64>, size: u64) -> bool {
    *range == (0..size)
}

impl Drop for Objects {
    fn drop(&mut self) {
        // It may be dropped by a thread that must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bucket<'_> {
    fn parse(place: &str) -> Result<Bucket<'_>> {
        let (scheme, rest) = place.split_once("://").unwrap_or(("", place));
        let Some((kind, what)) = SCHEMES.iter().find(|(kind, _)| *kind == scheme) else {
            return Err(Error::invalid(format!(
                "{place}: a repository is a directory, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX \
                 or gs://BUCKET/PREFIX; what speaks S3 elsewhere is s3:// with AWS_ENDPOINT_URL"
            )));
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if rest.contains(['@', '?', '#']) {
            // The place is not repeated: what stands there may be a secret.
            return Err(Error::invalid(format!(
                "a place is {scheme}://{}/PREFIX and nothing more: credentials come from the \
                 environment",
                what.to_uppercase()
            )));
        }
        if name.is_empty() {
            return Err(Error::invalid(format!("{place}: it names no {what}")));
        }
        Ok(Bucket { kind, name, prefix })
    }

    fn build(&self) -> Result<Arc<dyn ObjectStore>> {
        // Both times are kept by `Objects::ask`, which knows how much is to be sent.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(limits::OBJECT_CONNECT)
            .with_user_agent_of_this_product();
        let built: Answer<Arc<dyn ObjectStore>> = match self.kind {
            "s3" => {
                refuse_what_cannot_work()?;
                let allowed = client.with_allow_http(set("AWS_ALLOW_HTTP"));
                AmazonS3Builder::from_env()
                    .with_bucket_name(self.name)
                    .with_client_options(allowed)
                    .with_retry(retry)
                    .with_conditional_put(S3ConditionalPut::ETagMatch)
                    .with_checksum_algorithm(Checksum::SHA256)
                    .build()
                    .map(|store| Arc::new(store) as _)
            }
            "az" => MicrosoftAzureBuilder::from_env()
                .with_container_name(self.name)
                .with_client_options(client.with_allow_http(set("AZURE_ALLOW_HTTP")))
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            _ => GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(self.name)
                .with_client_options(client)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
        };
        built.map_err(|e| Error::invalid(told(&e)).with_source(e))
    }
}

/// Says which program asks, for the store's own log.
trait Named {
    fn with_user_agent_of_this_product(self) -> Self;
}

impl Named for ClientOptions {
    fn with_user_agent_of_this_product(self) -> Self {
        let agent = concat!("devicedb/", env!("CARGO_PKG_VERSION"));
        self.with_user_agent(agent.parse().expect("a name and a version are a header"))
    }
}

fn set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| ["1", "true", "yes"].contains(&value.as_str()))
}

/// What would be found out only after the store has been asked, or after a minute.
fn refuse_what_cannot_work() -> Result<()> {
    let of = |names: &[&str]| names.iter().find_map(|name| std::env::var(name).ok());
    let endpoint = of(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
    let Some(endpoint) = endpoint else { return Ok(()) };
    if endpoint.starts_with("http://") && !set("AWS_ALLOW_HTTP") {
        return Err(Error::invalid(format!(
            "{endpoint} is plain HTTP, where everybody on the way reads all rows: use https://, or \
             say AWS_ALLOW_HTTP=true"
        )));
    }
    let proofs = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ];
    if of(&proofs).is_none() {
        return Err(Error::denied(format!(
            "{endpoint} wants credentials, and the environment has none: set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY"
        )));
    }
    Ok(())
}

async fn tries<T, F>(
    each: Duration,
    patience: Duration,
    request: &(impl Fn() -> F + Sync),
) -> Answer<T>
where
    F: Future<Output = Answer<T>> + Send,
{
    let (clock, mut random) = (Clock::start(), Random::from_entropy());
    let mut pause = limits::OBJECT_PAUSE_MIN;
    loop {
        let answer = tokio::time::timeout(each, request()).await;
        let e = match answer.unwrap_or_else(|_| Err(silent(each))) {
            Err(e) if may_pass(&e) && clock.now() + pause < patience => e,
            answer => return answer,
        };
        tracing::debug!(error = %told(&e), "an object store has failed; it is asked again");
        let spread = random.below(pause.as_millis() as u64 / 2);
        tokio::time::sleep(pause - Duration::from_millis(spread)).await;
        pause = (2 * pause).min(limits::OBJECT_PAUSE_MAX);
    }
}

/// Whether the same request can succeed a moment later.
fn may_pass(e: &StoreError) -> bool {
    let StoreError::Generic { .. } = e else { return false };
    let what = what_is_written(e);
    match status(&what) {
        // Of the requests that a store finds wrong, these are about its own state.
        Some(408 | 409 | 429) | None => true,
        Some(507) => false,
        Some(400..=499) => what.contains("RequestTimeout") || what.contains("SlowDown"),
        Some(_) => true,
    }
}

/// The status with which a store has answered, which `object_store` says in words alone.
fn status(what: &str) -> Option<u16> {
    let (_, rest) = what.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// How long a request may take that carries so many bytes.
fn time_for(bytes: u64) -> Duration {
    limits::OBJECT_REQUEST + Duration::from_secs(bytes / limits::OBJECT_BYTES_PER_SECOND_MIN)
}

fn silent(each: Duration) -> StoreError {
    let source = format!("no answer within {} s", each.as_secs()).into();
    StoreError::Generic { store: "object", source }
}

/// A failure with all that stands behind it.
fn what_is_written(e: &StoreError) -> String {
    let mut text = e.to_string();
    let mut next = std::error::Error::source(e);
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

/// A failure in one line: what the store itself says, where that can be found.
fn told(e: &StoreError) -> String {
    let text = what_is_written(e);
    let tagged = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        rest.split_once(&format!("</{tag}>")).map(|(said, _)| said.to_owned())
    };
    let line = match (tagged("Code"), tagged("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code,
        _ => text,
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    words.join(" ").chars().take(limits::OBJECT_ERROR_CHARS_MAX).collect()
}

impl Store for Objects {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Made> {
        let (store, path, payload) = (self.store.clone(), self.path(name), bytes.clone());
        let created = self.ask(time_for(bytes.len() as u64), move || {
            let (store, path, payload) = (store.clone(), path.clone(), payload.clone());
            async move {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                match store.put_opts(&path, payload.clone().into(), options).await {
                    Ok(_) => Ok(Made::Now),
                    Err(
                        e @ (StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }),
                    ) => {
                        match store.get(&path).await {
                            Ok(there) => {
                                let same = there.bytes().await? == payload;
                                Ok(if same { Made::Now } else { Made::Before })
                            }
                            // Another writer was under way, and has not made it after all.
                            Err(StoreError::NotFound { .. }) => {
                                Err(StoreError::Generic { store: "object", source: e.into() })
                            }
                            Err(e) => Err(e),
                        }
                    }
                    Err(e) => Err(e),
                }
            }
        });
        created.map_err(|e| self.failed(name, e))
    }

    fn bytes(&self, name: &str) -> Result<u64> {
        let (store, path) = (self.store.clone(), self.path(name));
        let there = self.ask(limits::OBJECT_REQUEST, move || {
            let (store, path) = (store.clone(), path.clone());
            async move { store.head(&path).await.map(|meta| meta.size) }
        });
        there.map_err(|e| self.failed(name, e))
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let Got { size, bytes } = self.get(name, None, bytes_max)?;
        match bytes {
            Some(bytes) => Ok(bytes.into()),
            None => Err(Error::corrupt(format!(
                "{}: it has {size} bytes, more than {bytes_max}",
                self.full(name)
            ))),
        }
    }

    fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let full = self.full(name);
        let shorter = |there: &dyn std::fmt::Display| {
            Error::corrupt(format!(
                "{full}: it has {there} bytes, and {bytes} are asked for at byte {offset}"
            ))
        };
        if offset.checked_add(bytes).is_none() {
            return Err(shorter(&"fewer"));
        }
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let got = self.get(name, Some((offset, bytes)), u64::MAX)?;
        let read = got.bytes.unwrap_or_default();
        if read.len() as u64 != bytes { Err(shorter(&got.size)) } else { Ok(read.into()) }
    }

    fn list(&self, below: &str) -> Result<Vec<Object>> {
        let (store, path) = (self.store.clone(), self.path(below));
        let listed = self.ask(limits::OBJECT_LIST, move || {
            let mut all = store.list(Some(&path));
            async move {
                let mut listed = Vec::new();
                let silent = |_| silent(limits::OBJECT_REQUEST);
                loop {
                    let next = tokio::time::timeout(limits::OBJECT_REQUEST, all.next());
                    match next.await.map_err(silent)? {
                        Some(meta) => listed.push(meta?),
                        None => return Ok(listed),
                    }
                }
            }
        });
        let listed = listed.map_err(|e| self.failed(below, e))?;
        let object =
            |meta: ObjectMeta| Some(Object { name: self.named(&meta.location)?, bytes: meta.size });
        let mut found: Vec<Object> = listed.into_iter().filter_map(object).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn any(&self) -> Result<Option<Object>> {
        let (store, path) = (self.store.clone(), self.prefix.clone());
        let listed = self.ask(limits::OBJECT_REQUEST, move || {
            let mut all = store.list(Some(&path));
            async move { all.next().await.transpose() }
        });
        let first = listed.map_err(|e| self.failed("", e))?;
        Ok(first
            .and_then(|meta| Some(Object { name: self.named(&meta.location)?, bytes: meta.size })))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let (store, path) = (self.store.clone(), self.path(name));
        let deleted = self.ask(limits::OBJECT_REQUEST, move || {
            let (store, path) = (store.clone(), path.clone());
            async move { store.delete(&path).await }
        });
        match deleted {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed(name, e)),
        }
    }

    fn delete_all(&self, names: &[String]) -> Vec<Result<()>> {
        let mut deleted = Vec::with_capacity(names.len());
        let delete = |name: &String| self.delete(name);
        let all = parallel::on_lanes(limits::REPOSITORY_DELETES, names.iter(), delete, |one| {
            deleted.push(one);
            Ok(())
        });
        all.expect("noting what was done does not fail");
        deleted
    }
}
