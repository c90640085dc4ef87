//! Mistakes on purpose, so that the simulator can show that it would find them.
//!
//! They are there only with the feature `planted`, which a release build refuses; otherwise `planted` is always false and costs nothing. One mistake at a time
//! is made, by the engines of one thread.

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mistake {
    /// Entries are acknowledged before they are synced.
    AckBeforeSync,
    /// A lease never ends while nobody else is known to lead.
    LeaseForEver,
    /// A follower stands and votes at once when a stream of its leader ends, whatever it has promised.
    VotesAtOnce,
    /// Whoever believes to lead answers reads at once.
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
    /// Of a batch only the first changed key is written.
    BatchInPart,
    /// Now and then nobody is told what became of a request.
    NotAnswered,
    /// A deleted key's row goes at once, with what it knew of older values.
    TombstoneDropped,
    /// A restored history is named by its snapshot alone, so that a second restore mints the dots of the first again.
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
}

impl Mistake {
    pub const ALL: [Mistake; 26] = [
        Mistake::AckBeforeSync,
        Mistake::LeaseForEver,
        Mistake::VotesAtOnce,
        Mistake::ReadsUnasked,
        Mistake::VoteLost,
        Mistake::ExtentForgotten,
        Mistake::PagesUnchecked,
        Mistake::TruncatedEarly,
        Mistake::RetriedTwice,
        Mistake::RequestsNotStored,
        Mistake::BatchInPart,
        Mistake::NotAnswered,
        Mistake::TombstoneDropped,
        Mistake::LineageWithoutNonce,
        Mistake::HistoriesMixed,
        Mistake::StaleReuse,
        Mistake::RowsNotInstalled,
        Mistake::NoHold,
        Mistake::SeenFromMark,
        Mistake::ReleasedByMajority,
        Mistake::SealedByTime,
        Mistake::MarkNotStored,
        Mistake::CapturedLate,
        Mistake::CapturedTwice,
        Mistake::MarkNotSent,
        Mistake::OpenedByTime,
    ];
}

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` makes mistakes on purpose and is not for release builds");

#[cfg(feature = "planted")]
thread_local! {
    static MISTAKE: std::cell::Cell<Option<Mistake>> = const { std::cell::Cell::new(None) };
}

/// Has this thread's engines make a mistake from now on, or none.
#[cfg(feature = "planted")]
pub fn plant(mistake: Option<Mistake>) {
    MISTAKE.set(mistake);
}

/// Whether to make it.
#[cfg(feature = "planted")]
pub fn planted(mistake: Mistake) -> bool {
    MISTAKE.get() == Some(mistake)
}

/// Whether to make it: never.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub fn planted(_: Mistake) -> bool {
    false
}
