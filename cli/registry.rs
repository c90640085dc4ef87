//! Sites and relays: who is registered with the cluster.
//!
//! Changes are confirmed on stderr and, as documents, on stdout. A removal that is repeated because its first answer was lost, and then finds nothing, has done
//! what it was asked.

use serde::Serialize;
use tonic::transport::Channel;

use super::{
    args::{Relay, Site},
    client::{Answer, Call, Client},
    exit::{self, Failure},
    output::{Console, Format, View},
    table::Table,
};
use crate::proto::v1::{self, cluster_service_client::ClusterServiceClient};

#[derive(Debug, Serialize)]
struct SiteLine {
    id: String,
    partition: u32,
    relays: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
}

#[derive(Debug, Serialize)]
struct RelayLine {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Sites {
    sites: Vec<SiteLine>,
}

#[derive(Debug, Serialize)]
struct Relays {
    relays: Vec<RelayLine>,
}

#[derive(Debug, Serialize)]
struct Removed {
    removed: String,
}

impl View for SiteLine {
    fn text(&self) -> String {
        String::new()
    }
}

impl View for RelayLine {
    fn text(&self) -> String {
        String::new()
    }
}

impl View for Removed {
    fn text(&self) -> String {
        String::new()
    }
}

impl View for Sites {
    fn text(&self) -> String {
        let rows = self.sites.iter().map(|s| [s.id.clone(), s.partition.to_string(), s.relays.to_string()]);
        Table::new(["SITE", "PARTITION", "RELAYS"], rows).render()
    }
}

impl View for Relays {
    fn text(&self) -> String {
        let rows = self.relays.iter().map(|r| [r.id.clone(), r.site.clone().unwrap_or_default()]);
        Table::new(["RELAY", "SITE"], rows).render()
    }
}

pub async fn site(command: Site, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Site::Add { site } => add_site(site, client, console).await,
        Site::Remove { site } => remove_site(site, client, console).await,
        Site::List => {
            let sites = list_sites(client).await?;
            console.print(&Sites { sites: sites.into_iter().map(|site| SiteLine::new(site, None)).collect() })
        }
    }
}

pub async fn relay(command: Relay, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Relay::Add { relay, site } => add_relay(relay, site, client, console).await,
        Relay::Remove { relay } => remove_relay(relay, client, console).await,
        Relay::Move { relay, site, no_site: _ } => move_relay(relay, site, client, console).await,
        Relay::List { site } => {
            let relays = list_relays(site, client).await?;
            console.print(&Relays { relays: relays.into_iter().map(|relay| RelayLine::new(relay, None)).collect() })
        }
    }
}

pub async fn add_site(site: String, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let Answer { body, repeated } = register_site(&site, client).await?;
    let created = body.created || repeated;
    confirm(console, &format!("site {site:?} {}", if created { "added" } else { "was there before" }));
    console.print(&SiteLine::new(body.site.unwrap_or_default(), Some(created)))
}

pub async fn remove_site(site: String, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    drop_site(&site, client).await?;
    confirm(console, &format!("site {site:?} removed with all its data"));
    console.print(&Removed { removed: site })
}

pub async fn add_relay(relay: String, site: Option<String>, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let call = Call::new(format!("add relay {relay:?}"));
    let request = v1::AddRelayRequest { relay: relay.clone(), site: site.unwrap_or_default() };
    let Answer { body, repeated } = client.call(&call, request, |channel, request| async move { cluster(channel).add_relay(request).await }).await?;
    let created = body.created || repeated;
    confirm(console, &format!("relay {relay:?} {}", if created { "added" } else { "was there before, and stays as it was" }));
    console.print(&RelayLine::new(body.relay.unwrap_or_default(), Some(created)))
}

pub async fn remove_relay(relay: String, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let call = Call { what: format!("remove relay {relay:?}"), again: "repeat it".into() };
    let request = v1::RemoveRelayRequest { relay: relay.clone() };
    client.remove(&call, request, |channel, request| async move { cluster(channel).remove_relay(request).await }).await?;
    confirm(console, &format!("relay {relay:?} removed"));
    console.print(&Removed { removed: relay })
}

/// To no site when there is none.
pub async fn move_relay(relay: String, site: Option<String>, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let call = Call { what: format!("move relay {relay:?}"), again: "repeat it".into() };
    let whither = site.as_ref().map_or("to no site".to_owned(), |site| format!("to site {site:?}"));
    let request = v1::MoveRelayRequest { relay: relay.clone(), site: site.unwrap_or_default() };
    let body = client.call(&call, request, |channel, request| async move { cluster(channel).move_relay(request).await }).await?.body;
    confirm(console, &format!("relay {relay:?} moved {whither}"));
    console.print(&RelayLine::new(body.relay.unwrap_or_default(), None))
}

/// A relay as it stands.
pub async fn find_relay(relay: &str, client: &mut Client) -> Result<v1::Relay, Failure> {
    let found = list_relays(None, client).await?.into_iter().find(|r| r.id == relay);
    found.ok_or_else(|| Failure::new(exit::NOT_FOUND, format!("relay {relay:?} does not exist"), "", "register it with relay add"))
}

pub async fn list_sites(client: &mut Client) -> Result<Vec<v1::Site>, Failure> {
    client
        .pages(
            &Call::new("list the sites"),
            |page_token| v1::ListSitesRequest { page_size: 0, page_token },
            |channel, request| async move { cluster(channel).list_sites(request).await },
            |page| (page.sites, page.next_page_token),
        )
        .await
}

async fn list_relays(site: Option<String>, client: &mut Client) -> Result<Vec<v1::Relay>, Failure> {
    client
        .pages(
            &Call::new("list the relays"),
            |page_token| v1::ListRelaysRequest { page_size: 0, page_token, site: site.clone().unwrap_or_default() },
            |channel, request| async move { cluster(channel).list_relays(request).await },
            |page| (page.relays, page.next_page_token),
        )
        .await
}

pub async fn register_site(site: &str, client: &mut Client) -> Result<Answer<v1::AddSiteResponse>, Failure> {
    let call = Call::new(format!("add site {site:?}"));
    client.call(&call, v1::AddSiteRequest { site: site.to_owned() }, |channel, request| async move { cluster(channel).add_site(request).await }).await
}

pub async fn drop_site(site: &str, client: &mut Client) -> Result<(), Failure> {
    let call = Call { what: format!("remove site {site:?}"), again: "repeat it".into() };
    client.remove(&call, v1::RemoveSiteRequest { site: site.to_owned() }, |channel, request| async move { cluster(channel).remove_site(request).await }).await
}

/// Words for a person; a document says it by itself.
fn confirm(console: &mut Console, words: &str) {
    if console.format == Format::Table {
        console.say(words);
    }
}

impl SiteLine {
    fn new(site: v1::Site, created: Option<bool>) -> SiteLine {
        SiteLine { id: site.id, partition: site.partition, relays: site.relays, created }
    }
}

impl RelayLine {
    fn new(relay: v1::Relay, created: Option<bool>) -> RelayLine {
        RelayLine { id: relay.id, site: Some(relay.site).filter(|site| !site.is_empty()), created }
    }
}

fn cluster(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel).max_decoding_message_size(crate::limits::MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_and_relays_are_shown_in_every_format() {
        let mut story = String::new();
        for format in [Format::Table, Format::Json, Format::Yaml] {
            let (mut console, out, _) = Console::recording(format);
            let site = |id: &str| v1::Site { id: id.into(), partition: 7, relays: 2 };
            console.print(&Sites { sites: vec![SiteLine::new(site("shop 7/floor & 2"), None), SiteLine::new(site("größe"), None)] }).unwrap();
            console.print(&SiteLine::new(site("new"), Some(true))).unwrap();
            let relay = |id: &str, site: &str| RelayLine::new(v1::Relay { id: id.into(), site: site.into() }, None);
            console.print(&Relays { relays: vec![relay("r1", "shop-1"), relay("r2", "")] }).unwrap();
            console.print(&Relays { relays: vec![] }).unwrap();
            console.print(&Removed { removed: "old".into() }).unwrap();
            story += &format!("# {format:?}\n{}", out.text());
        }
        crate::ctl::golden::check("registry.txt", &story);
    }
}
