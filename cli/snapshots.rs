//! `ddbctl snapshot`: which command is answered by which module.

use super::{args, client::Client, download, exit::Failure, output::Console, snapshot, verify, wait};

pub async fn run(command: args::Snapshot, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        args::Snapshot::Create { wait: false, uuid, wait_timeout: _ } => {
            let taken = snapshot::create(uuid, client).await?;
            console.print(&taken.brief())?;
            snapshot::judge(&taken)
        }
        args::Snapshot::Create { wait: true, uuid, wait_timeout } => {
            let taken = snapshot::create(uuid, client).await?;
            wait::wait(taken, wait_timeout.map(|span| span.0), client, console).await
        }
        args::Snapshot::Status { uuid, node: None } => {
            let taken = snapshot::Snapshot::new(snapshot::find(uuid, client).await?.0);
            console.print(&taken)?;
            snapshot::judge(&taken)
        }
        args::Snapshot::Status { uuid, node: Some(node) } => {
            let part = snapshot::part_of(&snapshot::find(uuid, client).await?.0, node);
            console.print(&snapshot::OnePart { uuid: uuid.to_string(), part: part.clone() })?;
            snapshot::judge_part(&uuid.to_string(), &part)
        }
        args::Snapshot::List => snapshot::list(client, console).await,
        args::Snapshot::Download(args) => download::run(args, client, console).await,
        args::Snapshot::Verify { paths } => verify::run(&paths, console),
        args::Snapshot::Delete { uuid } => snapshot::delete(uuid, client, console).await,
    }
}
