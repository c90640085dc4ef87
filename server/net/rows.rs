//! The rows of a group on their way to a replica that the log cannot bring up any more.
//!
//! The sender copies them from its view into a file first, so that no view is held while the
//! network is slow; the receiver keeps them in a file until Raft announces the snapshot that they
//! belong to. Either file is gone when its transfer has failed. How many are on their way at once
//! is the engine's business. Neither takes the last room of a disk that a store lies on (`space`);
//! the receiver's has to have room for the rows in the store as well.
//!
//! A node sends no more bytes a second than it was told, all its transfers together, and takes no
//! more (`devicedb start --move-rate`): clients are served meanwhile. A transfer may take as long
//! as its bytes do at that rate; it fails when nothing of it moves any more.

mod arrivals;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub use arrivals::Arrivals;

use super::{Me, Verdict, handshake::belongs, judge};
use crate::{
    base::{
        crew::{self, Role},
        error::{Context, Error, Result},
        ids::{GroupId, NodeId, Topology},
        limits,
        pace::Paced,
        space,
    },
    engine::{ArrivedRows, Input, RowsToSend, check_rows, driver::Handle},
    faults::failpoint::{Failpoint, failpoint},
    proto::internal::v1::{Hello, SendRowsRequest, SendRowsResponse},
    store::transfer,
    wire,
};

/// A file that is removed with its owner, unless it is kept.
struct Spooled {
    path: PathBuf,
    kept: bool,
}

impl Spooled {
    /// A name that no other transfer of this process has; what an earlier process left was removed
    /// at the start.
    fn new(spool: &Path, what: &str) -> Spooled {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        Spooled { path: spool.join(format!("{what}-{number}.rows")), kept: false }
    }

    fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if !self.kept {
            // One that cannot be removed now is removed at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Sends rows, whole or not at all.
pub(super) async fn send_rows_to(
    me: &Me,
    address: &str,
    spool: &Path,
    pace: &Paced,
    rows: RowsToSend,
) -> Result<()> {
    let RowsToSend { to, group, name, record, view, .. } = rows;
    let topology: Topology = me.identity.borrow().topology;
    let spooled = Spooled::new(spool, &format!("outgoing-{group}"));
    let path = spooled.path.clone();
    let (digest, bytes) = crew::blocking(Role::CopyRows, move || {
        let digest = transfer::write(&path, &record, &view, topology, group)?;
        Ok((digest, std::fs::metadata(&path).at(path.display())?.len()))
    })
    .await?;
    failpoint(Failpoint::RowsSpooled);
    let head = SendRowsRequest {
        hello: Some(me.hello(to)),
        group: group.0,
        name,
        bytes,
        ..SendRowsRequest::default()
    };
    let moved = AtomicU64::new(0);
    tokio::select! {
        sent = ship_file(me, address, head, (&spooled.path, pace), digest, &moved) => sent,
        () = stalls(&moved) => Err(Error::unavailable(format!(
            "node {to} has taken no rows for {:?}",
            limits::ROWS_STALLED
        ))),
    }
}

/// Ends when nothing has moved for some time.
async fn stalls(moved: &AtomicU64) {
    let mut before = None;
    loop {
        let now = Some(moved.load(Ordering::Relaxed));
        if now == before {
            return;
        }
        before = now;
        tokio::time::sleep(limits::ROWS_STALLED).await;
    }
}

async fn ship_file(
    me: &Me,
    address: &str,
    head: SendRowsRequest,
    (path, pace): (&Path, &Paced),
    digest: [u8; 32],
    moved: &AtomicU64,
) -> Result<()> {
    let mut client = me.dialler.connect(address).await?;
    let mut file = File::open(path).await.at(path.display())?;
    let (queue, pieces) = mpsc::channel(limits::ROWS_PIECES_QUEUED);
    let feed = async move {
        let gone = || Error::unavailable("the receiver has gone");
        queue.send(head).await.map_err(|_| gone())?;
        failpoint(Failpoint::RowsHeadSent);
        loop {
            let mut piece = Vec::with_capacity(limits::ROWS_PIECE_BYTES);
            if (&mut file)
                .take(limits::ROWS_PIECE_BYTES as u64)
                .read_to_end(&mut piece)
                .await
                .at("reading spooled rows")?
                == 0
            {
                break;
            }
            pace.pay(piece.len() as u64).await;
            moved.fetch_add(1, Ordering::Relaxed);
            queue
                .send(SendRowsRequest { rows: piece.into(), ..SendRowsRequest::default() })
                .await
                .map_err(|_| gone())?;
            failpoint(Failpoint::RowsPieceSent);
        }
        queue
            .send(SendRowsRequest { digest: digest.to_vec().into(), ..SendRowsRequest::default() })
            .await
            .map_err(|_| gone())?;
        failpoint(Failpoint::RowsDigestSent);
        Ok(())
    };
    let (fed, answered) = tokio::join!(feed, client.send_rows(ReceiverStream::new(pieces)));
    answered
        .map_err(|s| Error::unavailable(format!("{address} did not take rows: {}", s.message())))?;
    failpoint(Failpoint::RowsTaken);
    fed
}

/// Takes rows that another node sends, which has proved this name; whole or not at all.
pub async fn receive_rows(
    me: &Me,
    handle: &Handle,
    arrivals: &Arrivals,
    spool: &Path,
    mut stream: Streaming<SendRowsRequest>,
    name: Option<&str>,
) -> Result<SendRowsResponse> {
    let head = next(&mut stream).await?;
    let hello = head.hello.ok_or_else(|| Error::invalid("a stream of rows without a hello"))?;
    match judge(&me.identity.borrow().clone(), &hello) {
        Verdict::Welcome | Verdict::Adopt(_) => {}
        Verdict::Refuse(why) => return Err(Error::conflict(why)),
        Verdict::Newcomer => {
            return Err(Error::conflict(format!(
                "node {} is fresh from a restore and has no rows of this history yet",
                hello.node_id
            )));
        }
    }
    let (from, group) = (NodeId(hello.node_id), GroupId(head.group));
    belongs(handle, from, name).await.map_err(Error::conflict)?;
    let topology: Topology = me.identity.borrow().topology;
    if !(1..=limits::RAFT_NAME_BYTES_MAX).contains(&head.name.len()) {
        let most = limits::RAFT_NAME_BYTES_MAX;
        return Err(Error::invalid(format!(
            "node {from} sends rows under a name of {} bytes; it has 1 to {most}",
            head.name.len()
        )));
    }
    handle
        .look(false, limits::PEER_CONNECT, move |sight| sight.may_send_rows(from, group))
        .await??;
    let mut transfer = arrivals.begin(group, head.bytes);
    let placed = tokio::time::timeout(limits::ROWS_STALLED, transfer.take_place()).await;
    placed.map_err(|_| {
        Error::exhausted(format!(
            "other rows have come to this node for {:?}; rows of group {group} wait",
            limits::ROWS_STALLED
        ))
    })?;
    let spooled = Spooled::new(spool, &format!("incoming-{group}"));
    let mut file = File::create(&spooled.path).await.at(spooled.path.display())?;
    failpoint(Failpoint::RowsFileMade);
    let (mut hash, mut came) = (blake3::Hasher::new(), 0);
    loop {
        let piece = next(&mut stream).await?;
        if !piece.digest.is_empty() {
            if piece.digest != hash.finalize().as_bytes()[..] {
                return Err(Error::corrupt(format!(
                    "rows of group {group} were changed on the way from node {}",
                    hello.node_id
                )));
            }
            break;
        }
        hash.update(&piece.rows);
        let bytes = piece.rows.len() as u64;
        transfer.may_take(bytes).await;
        came += bytes;
        // All that has come is written once more, into the store.
        space::spare(spool, bytes + came).map_err(|e| {
            transfer.has_no_room(handle.clock.now());
            no_room(group, &hello, came, e)
        })?;
        transfer.came(bytes, handle.clock.now());
        file.write_all(&piece.rows).await.at(spooled.path.display())?;
        failpoint(Failpoint::RowsPieceWritten);
    }
    file.flush().await.at(spooled.path.display())?;
    failpoint(Failpoint::RowsChecked);
    let path = spooled.path.clone();
    let record =
        crew::blocking(Role::CheckRows, move || check_rows(&path, topology, group)).await?;
    let known = wire::decode_record(&record)?;
    handle
        .look(false, limits::PEER_CONNECT, move |sight| sight.may_take_record(from, group, &known))
        .await??;
    handle.input(Input::RowsArrived(ArrivedRows {
        group,
        name: head.name,
        record,
        path: spooled.keep(),
    }))?;
    failpoint(Failpoint::RowsArrived);
    Ok(SendRowsResponse {})
}

/// The sender tries again for as long as it takes. `Arrivals` tells whoever asks this node.
fn no_room(group: GroupId, hello: &Hello, came: u64, e: Error) -> Error {
    tracing::warn!(
        %group,
        from = hello.node_id,
        came,
        error = %e,
        "this node should hold a group and has no room for its rows",
    );
    e.at(format!("rows of group {group} are refused"))
}

/// The next piece, from a sender that goes on sending.
async fn next(stream: &mut Streaming<SendRowsRequest>) -> Result<SendRowsRequest> {
    let piece = tokio::time::timeout(limits::ROWS_PIECE, stream.message()).await;
    let piece = piece.map_err(|_| {
        Error::unavailable(format!("no rows have come for {:?}", limits::ROWS_PIECE))
    })?;
    let piece = piece.map_err(|s: Status| {
        Error::unavailable(format!("the stream of rows broke: {}", s.message()))
    })?;
    piece.ok_or_else(|| Error::unavailable("the stream of rows ended without its digest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spooled_file_is_gone_with_its_transfer_unless_it_is_kept() {
        let spool = tempfile::tempdir().unwrap();
        let write = || {
            let spooled = Spooled::new(spool.path(), "incoming-7");
            std::fs::write(&spooled.path, b"rows").unwrap();
            spooled
        };
        let (failed, kept) = (write(), write());
        assert_ne!(failed.path, kept.path);
        let (gone, stays) = (failed.path.clone(), kept.keep());
        drop(failed);
        assert!(!gone.exists());
        assert_eq!(std::fs::read(stays).unwrap(), b"rows");
    }
}
