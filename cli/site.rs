//! `ddbctl site`: the databases that the cluster has.
//!
//! Changes are confirmed on stderr and, as documents, on stdout. A removal that is repeated because
//! its first answer was lost, and then finds nothing, has done what it was asked.

use serde::Serialize;

use super::{
    args::Site,
    client::{Answer, Call, Client},
    cluster::warn,
    picture::{Stale, agreed_or_alone, service},
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        table::{Number, Table, Text},
        text::counted,
    },
};
use crate::proto::v1;

#[derive(Clone, Debug, Serialize)]
struct SiteLine {
    id: String,
    partition: u32,
    relays: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Sites {
    sites: Vec<SiteLine>,
    #[serde(flatten)]
    stale: Option<Stale>,
}

#[derive(Debug, Serialize)]
pub struct Removed {
    pub id: String,
}

impl View for SiteLine {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

impl View for Removed {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

impl View for Sites {
    fn text(&self, look: Look) -> String {
        let rows = self
            .sites
            .iter()
            .map(|s| [s.id.clone(), s.partition.to_string(), s.relays.to_string()]);
        Table::new([Text("SITE"), Number("PARTITION"), Number("RELAYS")], rows).render(look.columns)
    }
}

pub async fn run(command: Site, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Site::Add { site } => add(site, client, console).await,
        Site::Remove { site, yes } => {
            if !yes && console.asks() {
                confirm(&site, client, console).await?;
            }
            remove(site, client, console).await
        }
        Site::List => {
            let (sites, stale) = agreed_or_alone(client, |mut client, local| async move {
                pages(&mut client, local).await
            })
            .await?;
            warn(&stale, console);
            console.print(&Sites {
                sites: sites.into_iter().map(|site| SiteLine::new(site, None)).collect(),
                stale,
            })
        }
    }
}

pub async fn add(site: String, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let Answer { body, repeated } = register(&site, client).await?;
    let created = body.created || repeated;
    console
        .confirm(&format!("site {site:?} {}", if created { "added" } else { "was there before" }));
    console.print(&SiteLine::new(body.site.unwrap_or_default(), Some(created)))
}

/// Says what goes with a site, and asks.
async fn confirm(site: &str, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let found = list(client).await?.into_iter().find(|one| one.id == site);
    let Some(found) = found else {
        let place = "ddbctl site list shows those that there are";
        return Err(Failure::new(exit::NOT_FOUND, format!("there is no site {site:?}"), "", place));
    };
    let relays = match found.relays {
        0 => String::new(),
        count => format!(", and {} no longer belong to any", counted(count.into(), "relay")),
    };
    let said = console.ask(&format!(
        "site {site:?} goes for good with all its keys and their history{relays}. Type its name to \
         go on: "
    ))?;
    if said.trim() == site {
        return Ok(());
    }
    Err(Failure::new(
        exit::FAILED,
        format!("nothing was removed: {:?} is not {site:?}", said.trim()),
        "",
        "scripts say --yes",
    ))
}

pub async fn remove(
    site: String,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    discard(&site, client).await?;
    console.confirm(&format!("site {site:?} removed with all its data"));
    console.print(&Removed { id: site })
}

/// The sites as the leader knows them.
pub async fn list(client: &mut Client) -> Result<Vec<v1::Site>, Failure> {
    Ok(pages(client, false).await?.0)
}

async fn pages(
    client: &mut Client,
    local: bool,
) -> Result<(Vec<v1::Site>, Option<v1::LocalAnswer>), Failure> {
    client
        .pages_of(
            &Call::new("list the sites"),
            |page_token| v1::ListSitesRequest { page_size: 0, page_token, local },
            |channel, request| async move { service(channel).list_sites(request).await },
            |page| (page.sites, page.next_page_token, page.local),
        )
        .await
}

pub async fn register(
    site: &str,
    client: &mut Client,
) -> Result<Answer<v1::AddSiteResponse>, Failure> {
    let call = Call::new(format!("add site {site:?}"));
    client
        .call(&call, v1::AddSiteRequest { site: site.to_owned() }, |channel, request| async move {
            service(channel).add_site(request).await
        })
        .await
}

pub async fn discard(site: &str, client: &mut Client) -> Result<(), Failure> {
    let call = Call { what: format!("remove site {site:?}"), again: "repeat it".into() };
    client
        .remove(
            &call,
            v1::RemoveSiteRequest { site: site.to_owned() },
            |channel, request| async move { service(channel).remove_site(request).await },
        )
        .await
        .map(drop)
}

impl SiteLine {
    fn new(site: v1::Site, created: Option<bool>) -> SiteLine {
        SiteLine { id: site.id, partition: site.partition, relays: site.relays, created }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    #[test]
    fn sites_are_shown_in_every_format() {
        let mut story = String::new();
        for format in [Format::Table, Format::Json, Format::Yaml] {
            let (mut console, out, _) = Console::recording(format);
            let site = |id: &str| v1::Site { id: id.into(), partition: 7, relays: 2 };
            let sites =
                ["shop 7/floor & 2", "größe", "東京支店"].map(|id| SiteLine::new(site(id), None));
            console.print(&Sites { sites: sites.clone().into(), stale: None }).unwrap();
            let stale = crate::ctl::picture::tests::stale();
            console.print(&Sites { sites: sites.into(), stale: Some(stale) }).unwrap();
            console.print(&SiteLine::new(site("new"), Some(true))).unwrap();
            console.print(&Removed { id: "old".into() }).unwrap();
            story += &format!("# {format:?}\n{}", out.text());
        }
        crate::ctl::golden::check("site.txt", &story);
    }
}
