//! Reads. They change nothing and may run beside the machine, on any view of the rows.
//!
//! A page is bounded in keys, in bytes, and in the work behind it: deleted keys are read and not
//! shown, so a page says where to go on, not which key it showed last.

use super::{
    Row, Rows, SiteStage,
    bucket::Bucket,
    command::{KeyView, Query, Read, Reply, Scan},
    context::Context,
    key::{Key, Place, RowKey, prefix_range},
    siblings::Versions,
    window::no_site,
};
use crate::base::{
    error::{Error, Result},
    ids::{SiteId, Topology},
    limits,
};

impl Query {
    /// An error means that the disk failed; a refusal is a reply.
    pub fn answer(&self, topology: Topology, rows: &impl Rows) -> Result<Reply> {
        let mut at = RowKey::of_site(topology.partition_of(&self.site), self.site.clone());
        if !takes_requests(rows, &at)? {
            return Ok(Reply::Refused(no_site(&self.site)));
        }
        match &self.read {
            Read::Get { key } => {
                at.place = Place::Key { bucket: self.bucket, key: key.clone() };
                let versions = key_row(rows, &at)?.unwrap_or_default();
                Ok(Reply::Found(view(&self.site, self.bucket, key, versions, false)))
            }
            Read::Scan(scan) => self.page(scan, &at, rows),
        }
    }

    fn page(&self, scan: &Scan, at: &RowKey, rows: &impl Rows) -> Result<Reply> {
        let range =
            prefix_range(at.partition, &self.site, self.bucket, &scan.prefix, scan.after.as_ref());
        let mut page = Page::new(scan.limit);
        rows.visit(&range.start, &range.end, &mut |row_key, row| {
            let (RowKey { place: Place::Key { key, .. }, .. }, Row::Key(versions)) = (row_key, row)
            else {
                return Err(Error::corrupt(format!(
                    "site {:?} has a row among its keys that is none",
                    self.site.as_str()
                )));
            };
            if !page.has_room_for(&key, &versions, scan.keys_only) {
                return Ok(false);
            }
            if !versions.is_deleted() {
                page.keys.push(view(&self.site, self.bucket, &key, versions, scan.keys_only));
            }
            page.last = Some(key);
            Ok(true)
        })?;
        Ok(Reply::Page { keys: page.keys, resume: page.last.filter(|_| page.full) })
    }
}

/// A page while it is filled.
struct Page {
    keys: Vec<KeyView>,
    keys_max: usize,
    bytes: usize,
    visited: u32,
    visited_bytes: usize,
    last: Option<Key>,
    full: bool,
}

impl Page {
    fn new(limit: u32) -> Page {
        let keys_max =
            if limit == 0 { limits::PAGE_ROWS_MAX } else { limit.min(limits::PAGE_ROWS_MAX) }
                as usize;
        Page {
            keys: Vec::new(),
            keys_max,
            bytes: 0,
            visited: 0,
            visited_bytes: 0,
            last: None,
            full: false,
        }
    }

    /// Counts a row in, unless the page is full without it. The first row always fits.
    fn has_room_for(&mut self, key: &Key, versions: &Versions, keys_only: bool) -> bool {
        let row_bytes = key.as_bytes().len() + versions.value_bytes();
        let shown_bytes = match (versions.is_deleted(), keys_only) {
            (true, _) => 0,
            (false, true) => key.as_bytes().len(),
            (false, false) => row_bytes,
        };
        self.full = self.keys.len() == self.keys_max
            || self.visited == limits::PAGE_ROWS_MAX
            || self.visited > 0 && self.visited_bytes + row_bytes > limits::PAGE_VISIT_BYTES_MAX
            || !self.keys.is_empty() && self.bytes + shown_bytes > limits::PAGE_BYTES_MAX;
        if !self.full {
            self.visited += 1;
            self.visited_bytes += row_bytes;
            self.bytes += shown_bytes;
        }
        !self.full
    }
}

fn view(site: &SiteId, bucket: Bucket, key: &Key, versions: Versions, keys_only: bool) -> KeyView {
    let context = Context::encode_vector(versions.clock(), site, bucket, key);
    let versions = if keys_only { Vec::new() } else { versions.into_visible() };
    KeyView { key: key.clone().into_bytes(), versions, context }
}

/// Whether the site of this row exists and is not being removed.
pub(super) fn takes_requests(rows: &impl Rows, at: &RowKey) -> Result<bool> {
    Ok(site_row(rows, at)?.is_some_and(|site| site.stage == SiteStage::Present))
}

pub(super) fn site_row(rows: &impl Rows, at: &RowKey) -> Result<Option<super::SiteRow>> {
    match rows.get(at)? {
        None => Ok(None),
        Some(Row::Site(site)) => Ok(Some(site)),
        Some(Row::Key(_)) => Err(Error::corrupt(format!(
            "the row of site {:?} holds a key's versions",
            at.site.as_str()
        ))),
    }
}

pub(super) fn key_row(rows: &impl Rows, at: &RowKey) -> Result<Option<Versions>> {
    match rows.get(at)? {
        None => Ok(None),
        Some(Row::Key(versions)) => Ok(Some(versions)),
        Some(Row::Site(_)) => {
            Err(Error::corrupt(format!("a key of site {:?} holds a site's row", at.site.as_str())))
        }
    }
}
