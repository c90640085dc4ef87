//! The sites that a bench works on: found or made, filled, removed.
//!
//! A key of its own in each says that a bench made it, and how far it is filled. A site without it
//! is somebody's: nothing is written to it and it is not removed, whatever its name.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::requests::Field;
use crate::ctl::{
    args::{Bucket, Place, Write},
    client::Client,
    kv, site,
    term::exit::{self, Failure},
};

const MARKER: Bytes = Bytes::from_static(b"ddbctl-bench");

/// What a bench says of a site that it made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Keys from 0 on that are there; 0 while that is not sure.
    keys: u64,
    value_bytes: usize,
}

impl Marker {
    fn full(field: &Field) -> Marker {
        Marker { keys: field.keys_per_site, value_bytes: field.value_bytes }
    }

    /// Whether a read of any key of the field finds one of the right size.
    fn covers(self, field: &Field) -> bool {
        self.keys >= field.keys_per_site && self.value_bytes == field.value_bytes
    }
}

/// Makes sure that every site of the field is there and a bench's. Nothing is written before that
/// is sure of all that are there. Gives back the sites that are not filled as the field wants it.
pub async fn claim(field: &Field, client: &mut Client) -> Result<Vec<String>, Failure> {
    let there = names(client).await?;
    let mut lacking = Vec::new();
    for site in field.sites.iter().filter(|site| there.contains(*site)) {
        let Some(marker) = marker(site, client).await? else { return Err(somebodys(site)) };
        if !marker.covers(field) {
            lacking.push(site.clone());
        }
    }
    mark(&lacking, Marker::default(), client).await?;
    for site in field.sites.iter().filter(|site| !there.contains(*site)) {
        let added = site::register(site, client).await?;
        // One that came about between the look and now may be somebody's.
        if !added.body.created && !added.repeated {
            return Err(somebodys(site));
        }
        mark(std::slice::from_ref(site), Marker::default(), client).await?;
        lacking.push(site.clone());
    }
    Ok(lacking)
}

/// Notes that these sites are filled as the field wants it.
pub async fn filled(sites: &[String], field: &Field, client: &mut Client) -> Result<(), Failure> {
    mark(sites, Marker::full(field), client).await
}

/// Removes sites that a bench made.
pub async fn remove(sites: &[String], client: &mut Client) -> Result<(), Failure> {
    for site in sites {
        site::discard(site, client).await?;
    }
    Ok(())
}

/// The sites that a bench made under such names.
pub async fn made(prefix: &str, client: &mut Client) -> Result<Vec<String>, Failure> {
    let numbered = |site: &String| {
        site.strip_prefix(prefix)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut made = Vec::new();
    for site in names(client).await?.into_iter().filter(numbered) {
        if marker(&site, client).await?.is_some() {
            made.push(site);
        }
    }
    Ok(made)
}

async fn names(client: &mut Client) -> Result<BTreeSet<String>, Failure> {
    Ok(site::list(client).await?.into_iter().map(|site| site.id).collect())
}

fn somebodys(site: &str) -> Failure {
    let remedy =
        "choose other names with --prefix, or remove it with ddbctl site remove if nobody needs it";
    Failure::new(exit::NOT_FOUND, format!("site {site:?} exists, and no bench made it"), "", remedy)
}

/// None where no bench made the site.
async fn marker(site: &str, client: &mut Client) -> Result<Option<Marker>, Failure> {
    let found = kv::read(&place(site), MARKER, false, client).await?;
    // What cannot be read as a marker was not written by a bench.
    Ok(match &found.siblings[..] {
        [only] => serde_json::from_slice(&only.value.0).ok(),
        _ => None,
    })
}

async fn mark(sites: &[String], marker: Marker, client: &mut Client) -> Result<(), Failure> {
    let value = Bytes::from(serde_json::to_vec(&marker).expect("two numbers are JSON"));
    for site in sites {
        kv::store(&place(site), MARKER, Some(value.clone()), Write::default(), client).await?;
    }
    Ok(())
}

fn place(site: &str) -> Place {
    Place { site: site.to_owned(), bucket: Bucket::Default, hex: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_with_fewer_keys_or_other_values_is_filled_again() {
        let field = |keys, value_bytes| Field::of("bench-", 1, keys, value_bytes);
        let marker = Marker::full(&field(100, 10));
        assert_eq!(
            [(100, 10), (50, 10), (101, 10), (100, 11)]
                .map(|(keys, bytes)| marker.covers(&field(keys, bytes))),
            [true, true, false, false]
        );
        assert!(!Marker::default().covers(&field(1, 0)));
    }
}
