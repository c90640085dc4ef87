//! Reading and writing keys.
//!
//! A single value that is text is printed as it is, so that `V=$(ddbctl get ...)` holds it; bytes
//! that are not text, and concurrent values, are printed on one line each, escaped. A script that
//! needs the bytes asks for `--raw`; one that needs the context asks for a document (`-o json`).

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStringExt as _,
    path::Path,
};

use bytes::Bytes;
use serde::{Serialize, Serializer};
use tonic::transport::Channel;

use super::{
    args::{Delete, Get, Place, Put, Scan, Write},
    client::{Call, Client, Feed, Taken},
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        text::{self, Blob},
    },
};
use crate::{
    base::limits,
    proto::v1::{self, kv_service_client::KvServiceClient},
};

/// A key and what it holds.
#[derive(Debug, Serialize)]
pub struct Found {
    pub key: Blob,
    pub siblings: Vec<Value>,
    #[serde(serialize_with = "as_base64")]
    pub context: Bytes,
    /// Whether tables show hex.
    #[serde(skip)]
    hex: bool,
}

#[derive(Debug, Serialize)]
pub struct Value {
    pub value: Blob,
    #[serde(skip_serializing_if = "is_zero")]
    pub timestamp_ms: u64,
}

/// A line of a scan.
#[derive(Serialize)]
#[serde(transparent)]
struct Line {
    found: Found,
    #[serde(skip)]
    keys_only: bool,
}

/// A write that is done.
#[derive(Debug, Serialize)]
pub struct Written {
    /// Base64.
    context: String,
    superseded: bool,
    request_id: String,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn as_base64<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&text::base64(bytes))
}

impl Found {
    fn new(key: Bytes, siblings: Vec<v1::Sibling>, context: Bytes, hex: bool) -> Found {
        let siblings = siblings
            .into_iter()
            .map(|s| Value { value: Blob(s.value), timestamp_ms: s.timestamp_ms })
            .collect();
        Found { key: Blob(key), siblings, context, hex }
    }

    pub fn values(&self) -> impl Iterator<Item = &Bytes> {
        self.siblings.iter().map(|sibling| &sibling.value.0)
    }
}

impl View for Found {
    fn text(&self, _: Look) -> String {
        match &self.siblings[..] {
            [only] if !self.hex => text::escape_block(&only.value.0) + "\n",
            _ => self.values().map(|value| written(value, self.hex) + "\n").collect(),
        }
    }

    fn tells_states(&self) -> bool {
        false
    }
}

impl View for Line {
    fn text(&self, _: Look) -> String {
        let found = &self.found;
        let key = written(&found.key.0, found.hex);
        if self.keys_only {
            return key + "\n";
        }
        found.values().map(|value| format!("{key}\t{}\n", written(value, found.hex))).collect()
    }

    fn tells_states(&self) -> bool {
        false
    }
}

impl View for Written {
    fn text(&self, _: Look) -> String {
        String::new()
    }

    fn tells_states(&self) -> bool {
        false
    }
}

fn written(bytes: &[u8], hex: bool) -> String {
    if hex { text::hex(bytes) } else { text::escape(bytes) }
}

pub async fn get(args: Get, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let key = key(args.key, args.place.hex)?;
    let found = read(&args.place, key.clone(), args.stale, client).await?;
    let place = format!("site {:?}, bucket {}", args.place.site, bucket_name(&args.place));
    let missing = || {
        Failure::new(
            exit::NOT_FOUND,
            format!("key \"{}\" does not exist", text::escape(&key)),
            &place,
            "ddbctl scan lists what does",
        )
    };
    match (args.raw, &found.siblings[..]) {
        (true, []) => Err(missing()),
        (true, [only])
            if console.stdout_is_terminal
                && text::escape_block(&only.value.0).as_bytes() != only.value.0 =>
        {
            Err(Failure::usage(
                "the value is not text and stdout is a terminal",
                "redirect it to a file, or leave --raw out",
            ))
        }
        (true, [only]) => console.write(&only.value.0),
        (true, several) => {
            let what =
                format!("key \"{}\" holds {} concurrent values", text::escape(&key), several.len());
            Err(Failure::new(
                exit::NOT_FOUND,
                what,
                &place,
                "look at them without --raw, then put one with their --context",
            ))
        }
        (false, siblings) => {
            console.print(&found)?;
            match siblings.len() {
                0 => Err(missing()),
                1 => Ok(()),
                n => {
                    console.warn(&format!(
                        "{n} concurrent values; to settle them, put one with --context {}",
                        text::base64(&found.context)
                    ));
                    Ok(())
                }
            }
        }
    }
}

/// What a key holds; nothing, with the context to go with it, where it does not exist.
pub async fn read(
    place: &Place,
    key: Bytes,
    stale: bool,
    client: &mut Client,
) -> Result<Found, Failure> {
    let call = Call::new(format!("get key \"{}\"", text::escape(&key)));
    let request = v1::GetRequest {
        site: place.site.clone(),
        bucket: place.bucket.proto(),
        key: key.clone(),
        consistency: consistency(stale),
    };
    let answer = client
        .call(&call, request, |channel, request| async move { kv(channel).get(request).await })
        .await?;
    Ok(Found::new(key, answer.body.siblings, answer.body.context, place.hex))
}

pub async fn put(args: Put, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let value = value(args.value, args.file.as_deref(), args.place.hex)?;
    let key = key(args.key, args.place.hex)?;
    write(&args.place, key, Some(value), args.write, client, console).await
}

pub async fn delete(
    args: Delete,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let key = key(args.key, args.place.hex)?;
    write(&args.place, key, None, args.write, client, console).await
}

/// Writes a value, or none: a deletion. Says how it ended.
pub async fn write(
    place: &Place,
    key: Bytes,
    value: Option<Bytes>,
    with: Write,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let verb = verb(value.as_ref());
    let written = store(place, key.clone(), value, with, client).await?;
    if written.superseded {
        console.warn(&format!(
            "key \"{}\" holds a newer value; this {verb} changed nothing",
            text::escape(&key)
        ));
    }
    console.print(&written)
}

pub async fn store(
    place: &Place,
    key: Bytes,
    value: Option<Bytes>,
    with: Write,
    client: &mut Client,
) -> Result<Written, Failure> {
    let id = with.request_id.unwrap_or_else(|| client.draw_id());
    let what = format!("{} key \"{}\"", verb(value.as_ref()), text::escape(&key));
    let call = Call {
        what,
        again: format!("repeat it with --request-id {id} and it has its effect once"),
    };
    let (site, bucket, context) =
        (place.site.clone(), place.bucket.proto(), with.context.map(|token| token.0.into()));
    let (timestamp_ms, request_id) = (with.timestamp_ms, Bytes::copy_from_slice(id.as_bytes()));
    let (context, superseded) = match value {
        Some(value) => {
            let request =
                v1::PutRequest { site, bucket, key, value, context, timestamp_ms, request_id };
            let body =
                client
                    .call(&call, request, |channel, request| async move {
                        kv(channel).put(request).await
                    })
                    .await?
                    .body;
            (body.context, body.superseded)
        }
        None => {
            let request =
                v1::DeleteRequest { site, bucket, key, context, timestamp_ms, request_id };
            let body = client
                .call(&call, request, |channel, request| async move {
                    kv(channel).delete(request).await
                })
                .await?
                .body;
            (body.context, body.superseded)
        }
    };
    Ok(Written { context: text::base64(&context), superseded, request_id: id.to_string() })
}

fn verb(value: Option<&Bytes>) -> &'static str {
    if value.is_some() { "put" } else { "delete" }
}

pub async fn scan(args: Scan, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let request = v1::ScanRequest {
        site: args.place.site.clone(),
        bucket: args.place.bucket.proto(),
        prefix: bytes(args.prefix, args.place.hex)?,
        after: bytes(args.after, args.place.hex)?,
        limit: args.limit.unwrap_or(0),
        keys_only: args.keys_only,
        consistency: consistency(args.stale),
    };
    walk(request, client, |entries| {
        let line = |e: v1::ScanEntry| Line {
            found: Found::new(e.key, e.siblings, e.context, args.place.hex),
            keys_only: args.keys_only,
        };
        console.print_each(&entries.into_iter().map(line).collect::<Vec<_>>())
    })
    .await
}

/// Hands over page after page of what a scan finds.
pub async fn walk(
    request: v1::ScanRequest,
    client: &mut Client,
    take: impl FnMut(Vec<v1::ScanEntry>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let call = Call::new(format!("scan site {:?}", request.site));
    let mut pages = Pages { bounded: request.limit > 0, request, take };
    client
        .stream(
            &call,
            &mut pages,
            |channel, request| async move { kv(channel).scan(request).await },
        )
        .await
}

/// A scan that knows where it stands: what broke off goes on after the last key, for as many keys
/// as are left.
struct Pages<T> {
    request: v1::ScanRequest,
    bounded: bool,
    take: T,
}

impl<T: FnMut(Vec<v1::ScanEntry>) -> Result<(), Failure>> Feed for Pages<T> {
    type Request = v1::ScanRequest;
    type Piece = v1::ScanResponse;

    fn request(&mut self) -> v1::ScanRequest {
        self.request.clone()
    }

    fn take(&mut self, page: v1::ScanResponse) -> Result<Taken, Failure> {
        let Some(last) = page.entries.last() else { return Ok(Taken::Nothing) };
        self.request.after = last.key.clone();
        self.request.limit = self.request.limit.saturating_sub(page.entries.len() as u64);
        (self.take)(page.entries)?;
        Ok(if self.bounded && self.request.limit == 0 { Taken::Done } else { Taken::Progress })
    }

    fn ended(&mut self) -> bool {
        true
    }
}

/// A few keys of a site, read and passed over.
pub async fn some(site: &str, client: &mut Client) -> Result<(), Failure> {
    let request = v1::ScanRequest {
        site: site.to_owned(),
        bucket: v1::Bucket::Default.into(),
        prefix: Bytes::new(),
        after: Bytes::new(),
        limit: limits::DRILL_KEYS,
        keys_only: false,
        consistency: consistency(false),
    };
    walk(request, client, |_| Ok(())).await
}

pub fn kv(channel: Channel) -> KvServiceClient<Channel> {
    KvServiceClient::new(channel).max_decoding_message_size(limits::CTL_ANSWER_BYTES_MAX)
}

fn consistency(stale: bool) -> i32 {
    if stale { v1::Consistency::Stale } else { v1::Consistency::Linearizable }.into()
}

fn bucket_name(place: &Place) -> String {
    format!("{:?}", place.bucket).to_lowercase()
}

pub fn key(key: OsString, hex: bool) -> Result<Bytes, Failure> {
    let key = bytes(key, hex)?;
    match key.len() {
        0 => Err(Failure::usage("a key must not be empty", "give 1 to 1024 bytes")),
        n if n > limits::KEY_BYTES_MAX => Err(Failure::usage(
            format!("a key is at most {} bytes, not {n}", limits::KEY_BYTES_MAX),
            "shorten it",
        )),
        _ => Ok(key),
    }
}

fn bytes(argument: OsString, hex: bool) -> Result<Bytes, Failure> {
    let bytes = argument.into_vec();
    if !hex {
        return Ok(bytes.into());
    }
    text::from_hex(&bytes)
        .map(Bytes::from)
        .map_err(|e| Failure::usage(e, "with --hex, keys and values are pairs of hex digits"))
}

fn value(argument: Option<OsString>, file: Option<&Path>, hex: bool) -> Result<Bytes, Failure> {
    let value = match (argument, file) {
        (_, Some(path)) => {
            let opened = File::open(path).map_err(|e| {
                Failure::new(
                    exit::FAILED,
                    format!("cannot read the value: {e}"),
                    path.display().to_string(),
                    "",
                )
            })?;
            drain(opened, &path.display().to_string())?
        }
        (Some(dash), None) if dash == "-" => drain(io::stdin().lock(), "stdin")?,
        (argument, None) => bytes(argument.unwrap_or_default(), hex)?,
    };
    within_bound(value)
}

/// No more is read than a value may hold, and one byte to know that it is more.
fn drain(from: impl Read, place: &str) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let read = from.take(limits::VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| Failure::new(exit::FAILED, format!("cannot read the value: {e}"), place, ""))?;
    Ok(bytes.into())
}

pub fn within_bound(value: Bytes) -> Result<Bytes, Failure> {
    if value.len() > limits::VALUE_BYTES_MAX {
        return Err(Failure::usage(
            format!("a value is at most {} bytes, and this is more", limits::VALUE_BYTES_MAX),
            "split it over several keys",
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    fn sibling(value: &'static [u8], timestamp_ms: u64) -> v1::Sibling {
        v1::Sibling { value: Bytes::from_static(value), timestamp_ms }
    }

    fn found(siblings: Vec<v1::Sibling>) -> Found {
        Found::new(Bytes::from_static(b"k\xff"), siblings, Bytes::from_static(b"ctx"), false)
    }

    #[test]
    fn values_are_shown_in_every_format() {
        let mut story = String::new();
        let cases = [
            ("one text", vec![sibling(b"{\n  \"a\": 1\n}", 0)]),
            ("one that is not text", vec![sibling(b"\xff\\\0", 0)]),
            ("two concurrent ones", vec![sibling(b"a\nb", 0), sibling(b"c", 7)]),
            ("none", vec![]),
        ];
        for (name, siblings) in cases {
            for format in [Format::Table, Format::Json, Format::Yaml] {
                let (mut console, out, _) = Console::recording(format);
                console.print(&found(siblings.clone())).unwrap();
                story += &format!("# {name}, {format:?}\n{}", out.text());
            }
        }
        crate::ctl::golden::check("values.txt", &story);
    }

    #[test]
    fn a_scan_shows_a_line_for_each_value() {
        let mut story = String::new();
        for (keys_only, format) in [
            (false, Format::Table),
            (true, Format::Table),
            (false, Format::Json),
            (false, Format::Yaml),
        ] {
            let (mut console, out, _) = Console::recording(format);
            let line = |siblings| Line { found: found(siblings), keys_only };
            console
                .print_each(&[
                    line(vec![sibling(b"a\nb", 0), sibling(b"c", 7)]),
                    line(vec![sibling(b"d", 0)]),
                ])
                .unwrap();
            story += &format!("# keys only: {keys_only}, {format:?}\n{}", out.text());
        }
        crate::ctl::golden::check("scan.txt", &story);
    }

    #[test]
    fn a_scan_that_broke_off_goes_on_after_the_last_key_for_what_is_left() {
        let mut taken = 0;
        let request = v1::ScanRequest { limit: 5, ..Default::default() };
        let mut pages = Pages {
            request,
            bounded: true,
            take: |entries: Vec<_>| {
                taken += entries.len();
                Ok(())
            },
        };
        let page = |keys: &[&'static str]| v1::ScanResponse {
            entries: keys
                .iter()
                .map(|k| v1::ScanEntry {
                    key: Bytes::from_static(k.as_bytes()),
                    ..Default::default()
                })
                .collect(),
        };
        assert_eq!(pages.take(page(&["a", "b"])).unwrap(), Taken::Progress);
        assert_eq!((pages.request().after, pages.request().limit), (Bytes::from_static(b"b"), 3));
        assert_eq!(pages.take(page(&[])).unwrap(), Taken::Nothing);
        assert_eq!(pages.take(page(&["c", "d", "e"])).unwrap(), Taken::Done);
        assert_eq!(taken, 5);
    }

    #[test]
    fn keys_and_values_out_of_bounds_are_refused_before_anyone_is_asked() {
        assert_eq!(key("".into(), false).unwrap_err().exit, exit::USAGE);
        assert_eq!(key("k".repeat(1025).into(), false).unwrap_err().exit, exit::USAGE);
        assert_eq!(key("6b00".into(), true).unwrap().as_ref(), b"k\0");
        assert_eq!(key("6b0".into(), true).unwrap_err().exit, exit::USAGE);
        let big = vec![0; limits::VALUE_BYTES_MAX + 10];
        assert_eq!(drain(&big[..], "here").unwrap().len(), limits::VALUE_BYTES_MAX + 1);
        assert_eq!(within_bound(big.into()).unwrap_err().exit, exit::USAGE);
        assert_eq!(
            value(None, Some(Path::new("/does/not/exist")), false).unwrap_err().exit,
            exit::FAILED
        );
    }
}
