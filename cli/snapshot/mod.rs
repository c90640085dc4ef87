//! `ddbctl snapshot`: which command is answered by which module.

mod stored;
mod status;
pub mod wait;
mod upload;
mod receive;
mod sink;
pub mod download;
mod verify;
mod seal;
pub mod deletion;
mod orphans;

use super::{
    args,
    client::Client,
    cluster::warn as warn_old,
    term::{exit::Failure, output::Console},
};
pub use status::{Brief, Snapshot, create, find, judge, judge_part, part_of, status_word};
pub use verify::{identities, listed, parts_at};

pub async fn run(
    command: args::Snapshot,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command {
        args::Snapshot::Create { upload: true, wait: _, uuid, wait_timeout } => {
            let (taken, warning) = status::create(uuid, client).await?;
            warn(&warning, console);
            upload::after(taken, wait_timeout.0, client, console).await
        }
        args::Snapshot::Upload { uuid, wait_timeout } => {
            upload::run(uuid, wait_timeout.0, client, console).await
        }
        args::Snapshot::Create { wait: false, uuid, wait_timeout: _, .. } => {
            let (taken, warning) = status::create(uuid, client).await?;
            warn(&warning, console);
            console.print(&taken.brief())?;
            status::judge(&taken)
        }
        args::Snapshot::Create { wait: true, uuid, wait_timeout, .. } => {
            let (taken, warning) = status::create(uuid, client).await?;
            warn(&warning, console);
            wait::wait(taken, wait_timeout.0, client, console).await
        }
        args::Snapshot::Status { uuid, node: None } => {
            let status::Seen { snapshot: found, stale, .. } = status::seen(uuid, client).await?;
            warn_old(&stale, console);
            let mut taken = status::Snapshot::new(found);
            taken.stale = stale;
            console.print(&taken)?;
            status::judge(&taken)
        }
        args::Snapshot::Status { uuid, node: Some(node) } => {
            let status::Seen { snapshot: found, stale, .. } = status::seen(uuid, client).await?;
            warn_old(&stale, console);
            let (uuid, part) = (uuid.to_string(), status::part_of(&found, node));
            console.print(&status::OnePart { uuid: uuid.clone(), part: part.clone(), stale })?;
            status::judge_part(&uuid, &part)
        }
        args::Snapshot::List => status::list(client, console).await,
        args::Snapshot::Download(args) => download::run(args, client, console).await,
        args::Snapshot::Verify { paths, identity } => {
            verify::run(&paths, identity.as_deref(), console)
        }
        args::Snapshot::Restore { .. } => Err(Failure::usage(
            "a snapshot is restored on the machines of its nodes, and here nothing says from what",
            "ddbctl restore PART... says the steps for the parts that you have; from a repository, \
             devicedb start --restore-from PLACE begins a new cluster",
        )),
        args::Snapshot::Save { .. } => Err(Failure::usage(
            "a snapshot has a part on every node, and no one file holds it",
            "ddbctl backup --to DIR takes one, and fetches and verifies all its parts",
        )),
        args::Snapshot::Keygen { output } => seal::keygen(&output, console),
        args::Snapshot::Seal { paths, to, output } => seal::seal(&paths, &to, &output, console),
        args::Snapshot::Unseal { paths, identity, output } => {
            seal::unseal(&paths, &identity, &output, console)
        }
        args::Snapshot::Delete { uuid, lineage } => {
            deletion::run(uuid, lineage, client, console).await
        }
        args::Snapshot::Orphans => orphans::list(client, console).await,
    }
}

fn warn(warning: &str, console: &mut Console) {
    if !warning.is_empty() {
        console.warn(warning);
    }
}
