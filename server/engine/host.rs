//! The engine's whole border: the inputs that it takes, and the `Host` that carries out what it
//! wants.
//!
//! The driver is one host, with threads and sockets; the simulator is the other, with events.

use std::time::Duration;

use super::{
    Announced, ArrivedRows, Body, Finished, Inspection, Job, RowsToSend, SnapshotNews, Token,
};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, Lineage, NodeId},
    },
    cluster::access::Access,
    data::Reply,
    entry::{Identity, Position},
    proto::internal::v1::PeerMessage,
};

/// What the engine makes happen, and where it has the time from.
pub trait Host {
    /// Monotonic. Asked at the beginning of a round, and again before a lease is trusted: the disk
    /// may have taken its time in between.
    fn now(&self) -> Duration;
    /// Sends a message, at the next flush at the latest; it may be lost.
    fn send(&mut self, to: NodeId, message: PeerMessage);
    /// What was sent goes out now: the engine is about to wait for the disk, or for what comes
    /// next.
    fn flush(&mut self);
    fn answer(&mut self, token: Token, answer: Result<Reply>);
    /// Starts work that ends in an `Input::Finished`, one after the other.
    fn start(&mut self, job: Job) -> Result<()>;
    /// Sends a group's rows to a node; ends in an `Input::RowsSent`.
    fn send_rows(&mut self, rows: RowsToSend);
    /// Rows that arrived will not be installed: their file may go.
    fn discard(&mut self, rows: ArrivedRows);
    fn tell(&mut self, news: News);
    /// Makes the identity durable before it returns: this node belongs to the lineage from now on.
    fn adopt(&mut self, identity: &Identity) -> Result<()>;
}

/// What others on the node want to know.
#[derive(Debug)]
pub enum News {
    /// Where nodes are, as the cluster knows it.
    Nodes(Vec<(NodeId, String)>),
    /// Nodes that were removed from the cluster, perhaps this one among them.
    Removed(Vec<NodeId>),
    /// Who may do what, in which history.
    Access(Box<Access>, Lineage),
    Snapshot(Box<SnapshotNews>),
    /// How long writes of a group waited for a cut.
    Held(Duration),
    /// Somebody else leads a group now, or nobody.
    Leader {
        group: GroupId,
        leader: Option<NodeId>,
    },
    /// This node has offered the leadership of a group to another one, which did not take it in
    /// time. Writes of the group have waited for that.
    InVain {
        group: GroupId,
    },
    /// A node has said what no node that is well says: the field that gives it away.
    Refused {
        from: NodeId,
        group: GroupId,
        field: &'static str,
    },
    /// A committed entry, or a command in it, is one that no version can apply. All replicas pass
    /// over it alike.
    Skipped {
        group: GroupId,
        at: Position,
        why: String,
    },
    /// This node was to leave, and nobody needs it any more. Told again until the cluster knows.
    Departs,
    /// A replica here has ended: its rows and its log are deleted.
    Ended {
        group: GroupId,
    },
    /// Entries were written, and synced where they had to be.
    Logged {
        entries: usize,
        synced: bool,
        took: Duration,
    },
}

/// What the engine takes.
pub enum Input {
    Peer {
        from: NodeId,
        message: Box<PeerMessage>,
    },
    Request {
        token: Token,
        group: GroupId,
        body: Body,
        deadline: Duration,
    },
    Inspection(Inspection),
    /// Once every `limits::TICK`; never two at once to catch up, since a lease counts on the time
    /// in between.
    Tick,
    Finished(Finished),
    /// Rows for a Raft snapshot have arrived and are whole.
    RowsArrived(ArrivedRows),
    RowsSent {
        to: NodeId,
        group: GroupId,
        announced: Option<Announced>,
    },
    /// A node that has nothing to say lives.
    Heard(NodeId),
    /// The last stream of a node has ended: its process may be gone.
    Gone(NodeId),
    /// An established cluster lets this node, fresh from a restore, into its lineage.
    Adopt(Lineage),
    /// Write everything to the store now.
    Checkpoint,
    /// Hand leadership to others: the node is about to stop.
    Resign,
}
