//! Log entries, commands, queries and their answers.

use bytes::Bytes;
use prost::Message as _;

use super::{absent, meta, row};
use crate::{
    base::{
        error::{Error, Kind, Result},
        ids::{Lineage, RequestId, SiteGeneration, SiteId, SnapshotSeq},
    },
    data::{
        self, Bucket, Context, Key, KeyView, Prefix, Query, Read, Reply, Scan, Stamp, Step, Value,
        Write, WrittenStep,
    },
    entry::{Action, Command, Entry},
    proto::internal::{v1 as internal, v1::command::Action as Wire},
};

pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    internal::Entry { seen: entry.seen.0, commands: entry.commands.iter().map(command).collect() }
        .encode_to_vec()
}

/// The data of a committed entry, which the log holds as `Bytes`: values are not copied. What
/// cannot be applied is of two kinds, and must never be mistaken:
///
/// - `Corrupt`: no version reads it. Fields are only ever added and never change their type, so
///   what one version cannot take apart none can, and a command without an action asks for nothing.
/// - `Conflict`: this version does not understand all of it: a field or an action that it does not
///   know, or a value beyond its bounds, which only ever grow. A newer version wrote it, and does
///   what this one cannot.
pub fn decode_entry(data: &Bytes) -> Result<Entry> {
    let entry = internal::Entry::decode(data.clone())
        .map_err(|e| Error::corrupt(format!("it cannot be read: {e}")).with_source(e))?;
    if entry.encoded_len() != data.len() {
        return Err(newer("it has fields that this version does not know"));
    }
    if entry.commands.iter().any(|command| command.action.is_none()) {
        return Err(Error::corrupt("it holds a command without an action"));
    }
    let commands = entry
        .commands
        .into_iter()
        .map(parse_command)
        .collect::<Result<_>>()
        .map_err(|e| newer(&e.message))?;
    Ok(Entry { seen: SnapshotSeq(entry.seen), commands })
}

fn newer(what: &str) -> Error {
    Error::conflict(format!(
        "a newer version wrote this log entry, and this one cannot apply it ({what}): upgrade this \
         node"
    ))
}

/// Roughly what a command takes in an entry.
pub fn command_bytes(command: &Command) -> usize {
    match &command.action {
        Action::Data(data::Command::Write(write)) => write
            .steps()
            .iter()
            .map(|s| {
                s.key.as_bytes().len() + s.value.as_ref().map_or(0, |v| v.as_bytes().len()) + 64
            })
            .sum(),
        _ => 256,
    }
}

pub fn command(command: &Command) -> internal::Command {
    let action = match &command.action {
        Action::Mark(seq) => Wire::Mark(internal::Mark { seq: seq.0 }),
        Action::Meta(meta) => Wire::Meta(meta::meta_command(meta)),
        Action::Data(data::Command::Write(write)) => Wire::Write(internal::Write {
            site: write.site().as_str().to_owned(),
            bucket: u32::from(write.bucket().number()),
            steps: write.steps().iter().map(step).collect(),
        }),
        Action::Data(data::Command::AddSite { site, generation }) => {
            Wire::AddSiteData(internal::AddSiteData {
                site: site.as_str().to_owned(),
                generation: generation.0,
            })
        }
        Action::Data(data::Command::DropSite { site, generation, rows_max }) => {
            Wire::DropSiteData(internal::DropSiteData {
                site: site.as_str().to_owned(),
                rows_max: *rows_max,
                generation: generation.0,
            })
        }
        Action::Data(data::Command::SetLineage { lineage }) => {
            Wire::SetLineage(internal::SetLineage { lineage: lineage.0 })
        }
    };
    let request_id = command.request.map_or(Bytes::new(), |r| Bytes::copy_from_slice(&r.0));
    internal::Command { request_id, action: Some(action) }
}

pub fn parse_command(command: internal::Command) -> Result<Command> {
    let request = RequestId::from_slice(&command.request_id)?;
    let action = match command.action.ok_or_else(|| absent("a command's action"))? {
        Wire::Mark(mark) => Action::Mark(SnapshotSeq(mark.seq)),
        Wire::Meta(command) => Action::Meta(meta::parse_meta_command(command)?),
        Wire::Write(write) => Action::Data(data::Command::Write(parse_write(write)?)),
        Wire::AddSiteData(add) => Action::Data(data::Command::AddSite {
            site: SiteId::new(add.site)?,
            generation: SiteGeneration(add.generation),
        }),
        Wire::DropSiteData(drop) => Action::Data(data::Command::DropSite {
            site: SiteId::new(drop.site)?,
            generation: SiteGeneration(drop.generation),
            rows_max: drop.rows_max,
        }),
        Wire::SetLineage(set) => {
            Action::Data(data::Command::SetLineage { lineage: Lineage(set.lineage) })
        }
    };
    Ok(Command { request, action })
}

fn step(step: &Step) -> internal::WriteStep {
    let (timestamp_ms, timestamp_chosen) = match step.stamp {
        Stamp::Chosen(ms) => (ms, true),
        Stamp::Floor(ms) => (ms, false),
    };
    internal::WriteStep {
        key: step.key.clone().into_bytes(),
        value: step.value.clone().map(Value::into_bytes),
        context: step.context.as_ref().map(Context::encode),
        timestamp_ms,
        timestamp_chosen,
    }
}

fn parse_write(write: internal::Write) -> Result<Write> {
    let (site, bucket) = (SiteId::new(write.site)?, Bucket::from_number(write.bucket)?);
    let parse = |step: internal::WriteStep| {
        let key = Key::new(step.key)?;
        let context = step.context.map(|c| Context::decode(&c, &site, bucket, &key)).transpose()?;
        let stamp = if step.timestamp_chosen {
            Stamp::Chosen(step.timestamp_ms)
        } else {
            Stamp::Floor(step.timestamp_ms)
        };
        Ok(Step { value: step.value.map(Value::new).transpose()?, key, context, stamp })
    };
    let steps = write.steps.into_iter().map(parse).collect::<Result<_>>()?;
    Write::new(site, bucket, steps)
}

pub fn query(query: &Query, stale: bool) -> internal::Query {
    let kind = match &query.read {
        Read::Get { key } => internal::query::Kind::Key(key.clone().into_bytes()),
        Read::Scan(scan) => internal::query::Kind::Scan(internal::ScanQuery {
            prefix: Bytes::copy_from_slice(scan.prefix.as_bytes()),
            after: scan.after.clone().map_or(Bytes::new(), Key::into_bytes),
            limit: scan.limit,
            keys_only: scan.keys_only,
        }),
    };
    internal::Query {
        site: query.site.as_str().to_owned(),
        bucket: u32::from(query.bucket.number()),
        stale,
        kind: Some(kind),
    }
}

/// The query, and whether it may be answered from whatever there is.
pub fn parse_query(query: internal::Query) -> Result<(Query, bool)> {
    let read = match query.kind.ok_or_else(|| absent("a query's kind"))? {
        internal::query::Kind::Key(key) => Read::Get { key: Key::new(key)? },
        internal::query::Kind::Scan(scan) => Read::Scan(Scan {
            prefix: Prefix::new(scan.prefix)?,
            after: if scan.after.is_empty() { None } else { Some(Key::new(scan.after)?) },
            limit: scan.limit,
            keys_only: scan.keys_only,
        }),
    };
    Ok((
        Query { site: SiteId::new(query.site)?, bucket: Bucket::from_number(query.bucket)?, read },
        query.stale,
    ))
}

pub fn reply(reply: &Reply) -> internal::Reply {
    use internal::reply::Answer;
    let answer = match reply {
        Reply::Done { changed } => Answer::Done(internal::Done { changed: *changed }),
        Reply::Written(steps) => Answer::Written(internal::Written {
            steps: steps
                .iter()
                .map(|s| internal::WrittenStep {
                    context: s.context.clone(),
                    superseded: s.superseded,
                })
                .collect(),
        }),
        Reply::SiteDropped { more } => Answer::SiteDropped(internal::SiteDropped { more: *more }),
        Reply::Refused(e) => Answer::Refused(internal::Refused {
            kind: kind_number(e.kind),
            message: e.message.clone(),
        }),
        Reply::Found(view) => Answer::Found(internal::Found { key: Some(key_view(view)) }),
        Reply::Page { keys, resume } => Answer::Page(internal::Page {
            keys: keys.iter().map(key_view).collect(),
            resume: resume.clone().map(Key::into_bytes),
        }),
    };
    internal::Reply { answer: Some(answer) }
}

/// An answer that cannot be read is `Unknown`: what was asked may have had its effect.
pub fn parse_reply(reply: internal::Reply) -> Result<Reply> {
    read_reply(reply).map_err(|e| {
        Error::unknown(format!("another node has given an answer that cannot be read: {e}"))
            .with_source(e)
    })
}

fn read_reply(reply: internal::Reply) -> Result<Reply> {
    use internal::reply::Answer;
    Ok(match reply.answer.ok_or_else(|| absent("a reply's answer"))? {
        Answer::Done(done) => Reply::Done { changed: done.changed },
        Answer::Written(written) => Reply::Written(
            written
                .steps
                .into_iter()
                .map(|s| WrittenStep { context: s.context, superseded: s.superseded })
                .collect(),
        ),
        Answer::SiteDropped(dropped) => Reply::SiteDropped { more: dropped.more },
        Answer::Refused(refused) => {
            Reply::Refused(Error::new(parse_kind(refused.kind), refused.message))
        }
        Answer::Found(found) => {
            Reply::Found(parse_key_view(found.key.ok_or_else(|| absent("a key that was found"))?)?)
        }
        Answer::Page(page) => Reply::Page {
            keys: page.keys.into_iter().map(parse_key_view).collect::<Result<_>>()?,
            resume: page.resume.map(Key::new).transpose()?,
        },
    })
}

fn key_view(view: &KeyView) -> internal::KeyVersions {
    internal::KeyVersions {
        key: view.key.clone(),
        versions: view.versions.iter().map(row::version).collect(),
        context: view.context.clone(),
    }
}

fn parse_key_view(view: internal::KeyVersions) -> Result<KeyView> {
    let versions = view.versions.into_iter().map(row::parse_version).collect::<Result<_>>()?;
    Ok(KeyView { key: view.key, versions, context: view.context })
}

/// Numbers from 1, in the order of `Kind::ALL`.
fn kind_number(kind: Kind) -> u32 {
    Kind::ALL.iter().position(|k| *k == kind).map_or(0, |at| at as u32 + 1)
}

/// A kind that this version does not know had an effect or not: nobody can say.
fn parse_kind(number: u32) -> Kind {
    Kind::ALL.get((number as usize).wrapping_sub(1)).copied().unwrap_or(Kind::Unknown)
}
