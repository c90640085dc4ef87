//! What metrics are told apart by: their labels, and the words that these take.

use prometheus_client::encoding::EncodeLabelSet;

/// A call as it is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) code: &'static str,
}

/// A call as it is timed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Method {
    pub(super) method: &'static str,
}

/// A field of a peer's message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Field {
    pub(super) field: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Ended {
    pub(super) outcome: &'static str,
}

/// What lies on a disk: `store` or `snapshot_store`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Disk {
    pub(super) directory: &'static str,
}

/// How this node's part of a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartEnd {
    Completed,
    Failed,
    /// This node was away at the cut.
    Missing,
    /// The snapshot was aborted or deleted before the part was done.
    GivenUp,
}

impl PartEnd {
    pub(super) const ALL: [PartEnd; 4] =
        [PartEnd::Completed, PartEnd::Failed, PartEnd::Missing, PartEnd::GivenUp];

    pub(super) fn label(self) -> Ended {
        let outcome = match self {
            PartEnd::Completed => "completed",
            PartEnd::Failed => "failed",
            PartEnd::Missing => "missing",
            PartEnd::GivenUp => "given_up",
        };
        Ended { outcome }
    }
}

/// How an upload ended that this node drove.
pub(super) const STORED: &str = "stored";
pub(super) const NOT_STORED: &str = "failed";

/// What became of a span.
pub(super) const SENT: &str = "sent";
pub(super) const LOST: &str = "lost";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Other {
    pub(super) node: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Why {
    pub(super) why: &'static str,
}

/// Why this node closed a connection that could have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// As many as the node takes were open when it came.
    Full,
    /// It had sent no whole request within `limits::FIRST_REQUEST`.
    Silent,
    /// It was idle, and a new one needed its place.
    Idle,
}

impl Cut {
    pub(super) const ALL: [Cut; 3] = [Cut::Full, Cut::Silent, Cut::Idle];

    pub(super) fn label(self) -> Why {
        let why = match self {
            Cut::Full => "full",
            Cut::Silent => "silent",
            Cut::Idle => "room",
        };
        Why { why }
    }
}

/// Who comes in without TLS where a node has certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlainKind {
    Client,
    Node,
    /// Health, readiness and metrics.
    Page,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Who {
    pub(super) kind: &'static str,
}

impl PlainKind {
    pub const ALL: [PlainKind; 3] = [PlainKind::Client, PlainKind::Node, PlainKind::Page];

    /// Its own in a set of kinds.
    pub fn bit(self) -> u8 {
        1 << self as u8
    }

    pub(super) fn label(self) -> Who {
        let kind = match self {
            PlainKind::Client => "client",
            PlainKind::Node => "node",
            PlainKind::Page => "page",
        };
        Who { kind }
    }
}

/// What a client has used up, or has too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Calls a second.
    Calls,
    /// Bytes a second.
    Bytes,
    Scans,
    Downloads,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Of {
    pub(super) quota: &'static str,
}

impl Quota {
    pub(super) const ALL: [Quota; 4] = [Quota::Calls, Quota::Bytes, Quota::Scans, Quota::Downloads];

    pub(super) fn label(self) -> Of {
        let quota = match self {
            Quota::Calls => "calls",
            Quota::Bytes => "bytes",
            Quota::Scans => "scans",
            Quota::Downloads => "downloads",
        };
        Of { quota }
    }
}

/// The program that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Build {
    pub(super) version: &'static str,
}
