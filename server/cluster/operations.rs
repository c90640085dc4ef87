//! Operations: what operators have asked of the members as a whole, from the request until it is
//! true, and for some time afterwards.
//!
//! An operation is a row of the meta group. The command that changes the members or what is
//! assigned to them writes it (`Command::Operate`), so there is never one without the other. From
//! then on it goes on by itself, whoever asked for it.
//!
//! It ends by fact, in one of two ways:
//!
//! - Where the node itself says that it has given away what it held (`Command::Decommissioned`),
//!   that entry ends the decommission of the node, or its replacement.
//! - Every other one ends when the groups are where they should be (`fulfilled`). Nobody in the
//!   meta group can see that, so the node that leads it asks all leaders now and then, and proposes
//!   `Command::FinishOperation`. It names the assignments that it has compared with (`Etag`): on
//!   others it has no effect. Nothing is remembered between two looks, so it does not matter which
//!   node looks, nor how often, nor whether it dies in between.
//!
//! Invariants:
//! - At most one operation of a node runs. The removal of a node takes the place of whatever else
//!   runs for that node, since nothing else can come true any more.
//! - What has ended never changes, and is forgotten when there are too many, the oldest first
//!   (`limits::OPERATIONS_REMEMBERED`).
//!
//! How far an operation is does not stand in the row: it follows from what the leaders have
//! (`fulfilled::gaps`). A restore changes nothing here: the nodes that are leaving go on leaving,
//! and the same facts end what runs. A recovery cancels what runs, since it places everything anew.

use crate::base::{
    error::{Error, Result},
    ids::{NodeId, OperationId},
    limits,
};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A lost node is no member any more, and others get what it held.
    Remove,
    /// A node gives away what it holds, then it is no member any more.
    Decommission,
    /// Either of the two, and one node takes all the places.
    Replace,
    /// A node gets another share of the groups.
    SetCapacity,
    /// Every group goes where it should be.
    Rebalance,
    /// A node gives away its leaderships.
    Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Running,
    Done,
    Cancelled,
}

/// An operation as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub id: OperationId,
    pub kind: Kind,
    pub progress: Progress,
    /// The node that it is about; none where it is about all of them.
    pub node: Option<NodeId>,
    /// The node that takes its places.
    pub by: Option<NodeId>,
    /// Milliseconds since 1970, for people.
    pub began_ms: u64,
    /// The same; 0 while it runs, and where whoever ended it did not say.
    pub ended_ms: u64,
    /// Replicas that have to come to nodes, or to leave the node, when it began.
    pub replicas: u32,
    /// The node's capacity in percent before it began, where that is what it changes.
    pub percent_before: u32,
    pub forced: bool,
    /// What spoke against it and was forced over.
    pub gives_up: Vec<String>,
}

/// What a command says of the operation that it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    pub id: OperationId,
    pub began_ms: u64,
    pub forced: bool,
    pub gives_up: Vec<String>,
}

impl Operation {
    pub fn is_running(&self) -> bool {
        self.progress == Progress::Running
    }
}

impl Begin {
    pub fn check(&self) -> Result<()> {
        if self.id == OperationId(0) {
            return Err(Error::invalid("an operation has an id other than 0"));
        }
        let texts = self.gives_up.len();
        if texts > limits::OPERATION_TEXTS_MAX {
            return Err(Error::invalid(format!(
                "an operation names at most {} things that it gives up, not {texts}",
                limits::OPERATION_TEXTS_MAX
            )));
        }
        match self.gives_up.iter().map(String::len).max() {
            Some(longest) if longest > limits::OPERATION_TEXT_BYTES_MAX => {
                Err(Error::invalid(format!(
                    "what an operation gives up is said in at most {} bytes, not {longest}",
                    limits::OPERATION_TEXT_BYTES_MAX
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Kind {
    /// What happens to the node, for people.
    pub fn of_node(self) -> &'static str {
        match self {
            Kind::Remove => "is being removed",
            Kind::Decommission => "is being decommissioned",
            Kind::Replace => "is being replaced",
            Kind::SetCapacity => "is getting another capacity",
            Kind::Rebalance => "is being rebalanced",
            Kind::Drain => "is being drained",
        }
    }
}
