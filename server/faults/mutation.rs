//! Mistakes on purpose, so that the simulator can show that it would find them. Each has a scenario
//! in `tests/sim/directed.rs` that brings it about.
//!
//! They are there only with the feature `fault-injection`, which a release build refuses; otherwise
//! `mutated` is always false and costs nothing. One mistake at a time is made, by the engines of
//! one thread.

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// Entries are acknowledged before they are synced.
    AckBeforeSync,
    /// A lease never ends while nobody else is known to lead.
    LeaseForEver,
    /// A follower stands and votes at once when a stream of its leader ends, whatever it has
    /// promised.
    VotesAtOnce,
    /// A node that believes it leads answers reads without asking a quorum.
    ReadsUnasked,
    /// A restart forgets the vote and its term, and the node votes at once.
    VoteLost,
    /// What is known of the log's synced end is forgotten by a restart.
    ExtentForgotten,
    /// Pages of the store are not checked when they are read.
    PagesUnchecked,
    /// The log is cut off at what is applied, not at what is stored.
    TruncatedEarly,
    /// A request that was answered is not recalled.
    RetriedTwice,
    /// Requests that were answered are forgotten by a restart.
    RequestsNotStored,
    /// Only the first changed key of a batch is written.
    BatchInPart,
    /// Every fiftieth request gets no answer.
    NotAnswered,
    /// A deleted key's row goes at once, with what it knew of older values.
    TombstoneDropped,
    /// A restored history is named by its snapshot alone, so that a second restore mints the dots
    /// of the first again.
    LineageWithoutNonce,
    /// Nodes talk to each other whatever their histories are.
    HistoriesMixed,
    /// A part takes over the chunks of the part before, though rows have changed.
    StaleReuse,
    /// The rows of a Raft snapshot are not put in place.
    RowsNotInstalled,
    /// Writes wait for nothing behind a mark, and have their effect there.
    NoHold,
    /// An entry says that it has seen the mark before it, whether that is resolved or not.
    SeenFromMark,
    /// A snapshot is released and sealed when most groups are marked.
    ReleasedByMajority,
    /// A snapshot whose time is over is sealed.
    SealedByTime,
    /// The mark of a group is forgotten by a restart.
    MarkNotStored,
    /// What comes behind a mark is captured with it.
    CapturedLate,
    /// A group is marked again, and captured again.
    CapturedTwice,
    /// A Raft snapshot does not say that its group is marked.
    MarkNotSent,
    /// A snapshot whose time is over is released, and sealed when its marks come after all.
    OpenedByTime,
    /// A node that is removed keeps its place in the groups.
    RemovedKeepsItsPlace,
    /// A replica that has ended votes for whoever asks.
    EndedVotes,
    /// A leader takes acknowledgements of a replica that has ended for those of the next one.
    TenureIgnored,
    /// A node that is leaving says that it holds nothing while it still does.
    DepartsEarly,
    /// Who joins gets no places of nodes that are away.
    CountsTheDead,
    /// An operation is said to be done before groups are where they should be.
    FinishedEarly,
}

impl Mutation {
    pub const ALL: [Mutation; 32] = [
        Mutation::AckBeforeSync,
        Mutation::LeaseForEver,
        Mutation::VotesAtOnce,
        Mutation::ReadsUnasked,
        Mutation::VoteLost,
        Mutation::ExtentForgotten,
        Mutation::PagesUnchecked,
        Mutation::TruncatedEarly,
        Mutation::RetriedTwice,
        Mutation::RequestsNotStored,
        Mutation::BatchInPart,
        Mutation::NotAnswered,
        Mutation::TombstoneDropped,
        Mutation::LineageWithoutNonce,
        Mutation::HistoriesMixed,
        Mutation::StaleReuse,
        Mutation::RowsNotInstalled,
        Mutation::NoHold,
        Mutation::SeenFromMark,
        Mutation::ReleasedByMajority,
        Mutation::SealedByTime,
        Mutation::MarkNotStored,
        Mutation::CapturedLate,
        Mutation::CapturedTwice,
        Mutation::MarkNotSent,
        Mutation::OpenedByTime,
        Mutation::RemovedKeepsItsPlace,
        Mutation::EndedVotes,
        Mutation::TenureIgnored,
        Mutation::DepartsEarly,
        Mutation::CountsTheDead,
        Mutation::FinishedEarly,
    ];
}

#[cfg(all(feature = "fault-injection", not(debug_assertions)))]
compile_error!(
    "the feature `fault-injection` makes mistakes on purpose and is not for release builds"
);

#[cfg(feature = "fault-injection")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Has this thread's engines make a mutation from now on, or none.
#[cfg(feature = "fault-injection")]
pub fn plant(mutation: Option<Mutation>) {
    PLANTED.set(mutation);
}

/// Whether to make it.
#[cfg(feature = "fault-injection")]
pub fn mutated(mutation: Mutation) -> bool {
    PLANTED.get() == Some(mutation)
}

/// Whether to make it: never.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub fn mutated(_: Mutation) -> bool {
    false
}
