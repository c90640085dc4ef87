//! `ddbctl context`: which clusters have a name, and which of them is used.
//!
//! It shows where secrets lie, and never what they are.

use std::path::Path;

use serde::Serialize;

use super::{
    args::Context as Command,
    config::{Config, Context, place},
    term::{
        exit::Failure,
        output::{Console, Look, View},
        table::{Prose, Table, Text},
    },
};

/// A context as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    current: bool,
    endpoints: Vec<String>,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    server_name: Option<String>,
    token_file: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    contexts: Vec<Shown>,
}

impl Shown {
    fn new(name: &str, context: &Context, used: Option<&str>) -> Shown {
        let told = |path: &Option<_>| path.as_deref().map(|path: &Path| path.display().to_string());
        Shown {
            name: name.to_owned(),
            current: used == Some(name),
            endpoints: context.endpoints.clone(),
            ca: told(&context.ca),
            cert: told(&context.cert),
            key: told(&context.key),
            server_name: context.server_name.clone(),
            token_file: told(&context.token_file),
        }
    }

    /// By what the caller is known there.
    fn proof(&self) -> &'static str {
        match (&self.ca, &self.cert, &self.token_file) {
            (_, Some(_), _) => "certificate",
            (_, None, Some(_)) => "token",
            (Some(_), None, None) => "nobody",
            (None, None, None) => "without TLS",
        }
    }
}

impl View for Shown {
    fn text(&self, _: Look) -> String {
        let Shown { name, current, endpoints, ca, cert, key, server_name, token_file } = self;
        let used = if *current { "  (in use)" } else { "" };
        let endpoints = endpoints.join(",");
        let rest = [
            ("endpoints", (!endpoints.is_empty()).then_some(&endpoints)),
            ("ca", ca.as_ref()),
            ("cert", cert.as_ref()),
            ("key", key.as_ref()),
            ("server_name", server_name.as_ref()),
            ("token_file", token_file.as_ref()),
        ];
        let lines = rest.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let lines: String = lines.map(|(key, value)| format!("{key:<13}{value}\n")).collect();
        format!("name         {name}{used}\n{lines}")
    }
}

impl View for Listed {
    fn text(&self, look: Look) -> String {
        let rows = self.contexts.iter().map(|one| {
            let mark = if one.current { "*" } else { "" };
            [mark.into(), one.name.clone(), one.proof().into(), one.endpoints.join(", ")]
        });
        Table::new([Text(""), Text("CONTEXT"), Text("KNOWN BY"), Prose("ENDPOINTS")], rows)
            .render(look.columns)
    }
}

/// `chosen` is what the command line or the environment names.
pub fn run(command: Command, chosen: Option<&str>, console: &mut Console) -> Result<(), Failure> {
    let config = Config::load()?;
    let used = match chosen {
        Some("") => None,
        Some(name) => Some(name),
        None => config.as_ref().and_then(|config| config.current.as_deref()),
    };
    match command {
        Command::List => {
            let all = config.iter().flat_map(|config| &config.contexts);
            let contexts = all.map(|(name, context)| Shown::new(name, context, used)).collect();
            console.print(&Listed { contexts })
        }
        Command::Use { name } => {
            let config = config.as_ref().ok_or_else(none)?;
            config.use_context(&name)?;
            console.confirm(&format!("{name} is used from now on"));
            if let Some(chosen) = chosen.filter(|chosen| *chosen != name) {
                console.warn(&format!("DDBCTL_CONTEXT or --context names {chosen:?} instead"));
            }
            let shown = Shown::new(&name, config.context(&name)?, Some(&name));
            match console.format {
                super::Format::Table => Ok(()),
                _ => console.print(&shown),
            }
        }
        Command::Show { name } => {
            let config = config.as_ref().ok_or_else(none)?;
            let Some(name) = name.as_deref().or(used) else {
                let remedy = "name one, or choose one with ddbctl context use NAME";
                return Err(Failure::usage("no context is in use", remedy));
            };
            console.print(&Shown::new(name, config.context(name)?, used))
        }
    }
}

fn none() -> Failure {
    let place = place().map_or("$HOME/.config".into(), |path| path.display().to_string());
    Failure::usage(
        format!("there is no context: there is no {place}"),
        "write it, with [contexts.NAME] and endpoints = [\"HOST:PORT\"]",
    )
}
