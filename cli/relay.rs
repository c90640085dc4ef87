//! `ddbctl relay`: the edge gateways that are registered with the cluster.
//!
//! Changes are confirmed, and removals repeated, as those of sites.

use serde::Serialize;

use super::{
    args::Relay,
    client::{Answer, Call, Client},
    cluster::warn,
    picture::{Stale, agreed_or_alone, service},
    site::Removed,
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        table::{Table, Text},
    },
};
use crate::proto::v1;

#[derive(Debug, Serialize)]
struct RelayLine {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Relays {
    relays: Vec<RelayLine>,
    #[serde(flatten)]
    stale: Option<Stale>,
}

impl View for RelayLine {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

impl View for Relays {
    fn text(&self, look: Look) -> String {
        let rows = self.relays.iter().map(|r| [r.id.clone(), r.site.clone().unwrap_or_default()]);
        Table::new([Text("RELAY"), Text("SITE")], rows).render(look.columns)
    }
}

pub async fn run(
    command: Relay,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command {
        Relay::Add { relay, site } => add(relay, site, client, console).await,
        Relay::Remove { relay } => remove(relay, client, console).await,
        Relay::Move { relay, site, no_site: _ } => give(relay, site, client, console).await,
        Relay::List { site } => {
            let (relays, stale) = agreed_or_alone(client, |mut client, local| {
                let site = site.clone();
                async move { list(site, &mut client, local).await }
            })
            .await?;
            warn(&stale, console);
            console.print(&Relays {
                relays: relays.into_iter().map(|relay| RelayLine::new(relay, None)).collect(),
                stale,
            })
        }
    }
}

pub async fn add(
    relay: String,
    site: Option<String>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let call = Call::new(format!("add relay {relay:?}"));
    let request = v1::AddRelayRequest { relay: relay.clone(), site: site.unwrap_or_default() };
    let Answer { body, repeated } = client
        .call(&call, request, |channel, request| async move {
            service(channel).add_relay(request).await
        })
        .await?;
    let created = body.created || repeated;
    console.confirm(&format!(
        "relay {relay:?} {}",
        if created { "added" } else { "was there before, and stays as it was" }
    ));
    console.print(&RelayLine::new(body.relay.unwrap_or_default(), Some(created)))
}

pub async fn remove(
    relay: String,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let call = Call { what: format!("remove relay {relay:?}"), again: "repeat it".into() };
    let request = v1::RemoveRelayRequest { relay: relay.clone() };
    client
        .remove(&call, request, |channel, request| async move {
            service(channel).remove_relay(request).await
        })
        .await?;
    console.confirm(&format!("relay {relay:?} removed"));
    console.print(&Removed { id: relay })
}

/// To no site when there is none.
pub async fn give(
    relay: String,
    site: Option<String>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let call = Call { what: format!("move relay {relay:?}"), again: "repeat it".into() };
    let whither = site.as_ref().map_or("to no site".to_owned(), |site| format!("to site {site:?}"));
    let request = v1::MoveRelayRequest { relay: relay.clone(), site: site.unwrap_or_default() };
    let body = client
        .call(&call, request, |channel, request| async move {
            service(channel).move_relay(request).await
        })
        .await?
        .body;
    console.confirm(&format!("relay {relay:?} moved {whither}"));
    console.print(&RelayLine::new(body.relay.unwrap_or_default(), None))
}

/// A relay as it stands.
pub async fn find(relay: &str, client: &mut Client) -> Result<v1::Relay, Failure> {
    let found = list(None, client, false).await?.0.into_iter().find(|r| r.id == relay);
    found.ok_or_else(|| {
        Failure::new(
            exit::NOT_FOUND,
            format!("relay {relay:?} does not exist"),
            "",
            "register it with relay add",
        )
    })
}

async fn list(
    site: Option<String>,
    client: &mut Client,
    local: bool,
) -> Result<(Vec<v1::Relay>, Option<v1::LocalAnswer>), Failure> {
    client
        .pages_of(
            &Call::new("list the relays"),
            |page_token| v1::ListRelaysRequest {
                page_size: 0,
                page_token,
                site: site.clone().unwrap_or_default(),
                local,
            },
            |channel, request| async move { service(channel).list_relays(request).await },
            |page| (page.relays, page.next_page_token, page.local),
        )
        .await
}

impl RelayLine {
    fn new(relay: v1::Relay, created: Option<bool>) -> RelayLine {
        RelayLine { id: relay.id, site: Some(relay.site).filter(|site| !site.is_empty()), created }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    #[test]
    fn relays_are_shown_in_every_format() {
        let mut story = String::new();
        for format in [Format::Table, Format::Json, Format::Yaml] {
            let (mut console, out, _) = Console::recording(format);
            let relay = |id: &str, site: &str| {
                RelayLine::new(v1::Relay { id: id.into(), site: site.into() }, None)
            };
            let relays = vec![relay("r1", "shop-1"), relay("22", "")];
            console.print(&Relays { relays, stale: None }).unwrap();
            console.print(&Relays { relays: vec![], stale: None }).unwrap();
            console.print(&relay("r1", "shop-1")).unwrap();
            story += &format!("# {format:?}\n{}", out.text());
        }
        crate::ctl::golden::check("relay.txt", &story);
    }
}
