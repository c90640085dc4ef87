//! What happens to nodes, in the order in which it was planned.

use std::sync::Arc;

use devicedb::{
    engine::{Input, RowsToSend},
    entry::Identity,
    proto::internal::v1::PeerMessage,
};

use super::Moment;

/// Something that happens to a node.
pub enum Event {
    Tick,
    Message {
        from: usize,
        /// Who the sender was when it sent this.
        speaker: Speaker,
        message: Box<PeerMessage>,
    },
    Input(Box<Input>),
    /// Rows of a group are copied for another node.
    Ship(Box<RowsToSend>),
    /// The store begins with the next job.
    Work,
    /// It has ended one, and says so; in the order in which they ended, whenever the engine comes
    /// to listen.
    Worked,
    /// A node that is down starts, or tries to join.
    Start,
    /// It says where it is until the cluster knows.
    Announce,
}

/// One process, as its hello says.
#[derive(Clone, Debug)]
pub struct Speaker {
    pub identity: Arc<Identity>,
    pub incarnation: u64,
}

pub struct Planned {
    pub at: Moment,
    pub order: u64,
    pub what: What,
}

pub enum What {
    /// For a node, in the process that had this incarnation; 0 for any.
    Node {
        node: usize,
        incarnation: u64,
        event: Event,
    },
    Alarm(u64),
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        self.order == other.order
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Planned) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Planned) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
