//! The receiving end of a download, as a pure machine: pieces in, steps out, across as many streams
//! as it takes.
//!
//! - It has the whole tar only when a trailer came behind as many bytes as the header promised, and
//!   the digest of all of them is the trailer's.
//! - Every stream of one download tells of the same node and the same size, and begins where the
//!   last one broke off.

use std::fmt;

use bytes::Bytes;

use crate::proto::v1::{DownloadSnapshotResponse, download_snapshot_response::Piece};

pub struct Receiver {
    node_id: u64,
    total_bytes: Option<u64>,
    received: u64,
    hasher: blake3::Hasher,
    in_stream: bool,
}

/// What to do with a piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A stream has begun.
    Begin,
    Write(Bytes),
    /// Everything is here and is what was sent.
    Finish {
        digest: String,
    },
}

/// Why what arrives cannot be the part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    OtherNode {
        asked: u64,
        got: u64,
    },
    OtherOffset {
        asked: u64,
        got: u64,
    },
    OtherSize {
        before: u64,
        now: u64,
    },
    /// What an earlier download left is longer than the part.
    TooMuchBefore {
        had: u64,
        total: u64,
    },
    TooMuch {
        total: u64,
    },
    TooEarly {
        received: u64,
        total: u64,
    },
    OutOfOrder(&'static str),
    Digest {
        ours: String,
        theirs: String,
    },
}

impl Flaw {
    /// Whether the bytes received so far can never become the part.
    pub fn ruins_what_was_received(&self) -> bool {
        matches!(self, Flaw::Digest { .. } | Flaw::OtherSize { .. })
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::OtherNode { asked, got } => {
                write!(f, "the part of node {asked} was asked for and that of node {got} came")
            }
            Flaw::OtherOffset { asked, got } => {
                write!(f, "the stream begins at byte {got} and not at {asked}")
            }
            Flaw::OtherSize { before, now } => {
                write!(f, "the part had {before} bytes and now has {now}")
            }
            Flaw::TooMuchBefore { had, total } => {
                write!(f, "{had} bytes were here before, and the part has {total}")
            }
            Flaw::TooMuch { total } => write!(f, "more came than the {total} bytes of the part"),
            Flaw::TooEarly { received, total } => {
                write!(f, "the stream says that it is complete after {received} of {total} bytes")
            }
            Flaw::OutOfOrder(what) => write!(f, "the stream is not a download: {what}"),
            Flaw::Digest { ours, theirs } => write!(
                f,
                "the bytes are not what was sent: their blake3 is {ours} and should be {theirs}"
            ),
        }
    }
}

impl Receiver {
    /// For the part of a node, or with 0 of the one that answers; `received` bytes with this hash
    /// are here.
    pub fn new(node_id: u64, received: u64, hasher: blake3::Hasher) -> Receiver {
        Receiver { node_id, total_bytes: None, received, hasher, in_stream: false }
    }

    /// Whose part it is; 0 while nobody has answered.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }
    pub fn received(&self) -> u64 {
        self.received
    }
    pub fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    /// A stream is about to begin at the byte `received`.
    pub fn begin(&mut self) {
        self.in_stream = false;
    }

    pub fn take(&mut self, message: DownloadSnapshotResponse) -> Result<Step, Flaw> {
        match (self.in_stream, self.total_bytes, message.piece) {
            (false, _, Some(Piece::Header(header))) => {
                self.check_header(header.node_id, header.total_bytes, header.offset)?;
                self.in_stream = true;
                self.node_id = header.node_id;
                self.total_bytes = Some(header.total_bytes);
                Ok(Step::Begin)
            }
            (false, ..) => Err(Flaw::OutOfOrder("it does not begin with a header")),
            (true, Some(total), Some(Piece::Data(bytes))) => {
                if bytes.len() as u64 > total - self.received {
                    return Err(Flaw::TooMuch { total });
                }
                self.hasher.update(&bytes);
                self.received += bytes.len() as u64;
                Ok(Step::Write(bytes))
            }
            (true, Some(total), Some(Piece::Trailer(trailer))) => {
                self.check_trailer(total, trailer.total_bytes, trailer.digest)
            }
            (true, _, Some(Piece::Header(_))) => Err(Flaw::OutOfOrder("a second header came")),
            (true, ..) => Err(Flaw::OutOfOrder("an empty message came")),
        }
    }

    fn check_header(&self, node: u64, total: u64, offset: u64) -> Result<(), Flaw> {
        if self.node_id != 0 && node != self.node_id {
            return Err(Flaw::OtherNode { asked: self.node_id, got: node });
        }
        if self.received > total {
            return Err(Flaw::TooMuchBefore { had: self.received, total });
        }
        if let Some(before) = self.total_bytes.filter(|before| *before != total) {
            return Err(Flaw::OtherSize { before, now: total });
        }
        if offset != self.received {
            return Err(Flaw::OtherOffset { asked: self.received, got: offset });
        }
        Ok(())
    }

    fn check_trailer(&self, total: u64, claimed: u64, theirs: String) -> Result<Step, Flaw> {
        if claimed != total {
            return Err(Flaw::OtherSize { before: total, now: claimed });
        }
        if self.received < total {
            return Err(Flaw::TooEarly { received: self.received, total });
        }
        let ours = self.hasher.finalize().to_hex().to_string();
        if !ours.eq_ignore_ascii_case(&theirs) {
            return Err(Flaw::Digest { ours, theirs });
        }
        Ok(Step::Finish { digest: ours })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::v1::{DownloadHeader, DownloadTrailer};

    fn piece(piece: Piece) -> DownloadSnapshotResponse {
        DownloadSnapshotResponse { piece: Some(piece) }
    }
    fn header(node_id: u64, total_bytes: u64, offset: u64) -> DownloadSnapshotResponse {
        piece(Piece::Header(DownloadHeader { node_id, total_bytes, offset }))
    }
    fn data(bytes: &[u8]) -> DownloadSnapshotResponse {
        piece(Piece::Data(Bytes::copy_from_slice(bytes)))
    }
    fn trailer(total_bytes: u64, of: &[u8]) -> DownloadSnapshotResponse {
        piece(Piece::Trailer(DownloadTrailer {
            total_bytes,
            digest: blake3::hash(of).to_hex().to_string(),
        }))
    }
    fn fresh(node: u64) -> Receiver {
        Receiver::new(node, 0, blake3::Hasher::new())
    }
    fn run(mut receiver: Receiver, messages: Vec<DownloadSnapshotResponse>) -> Result<Step, Flaw> {
        messages
            .into_iter()
            .map(|message| receiver.take(message))
            .try_fold(Step::Begin, |_, step| step)
    }

    #[test]
    fn a_whole_stream_is_whole() {
        let end = run(
            fresh(0),
            vec![header(7, 4, 0), data(b"ab"), data(b""), data(b"cd"), trailer(4, b"abcd")],
        )
        .unwrap();
        assert!(matches!(end, Step::Finish { .. }));
    }

    #[test]
    fn every_stream_that_is_not_the_part_is_refused_with_its_reason() {
        let mut other = fresh(0);
        other.take(header(7, 4, 0)).unwrap();
        other.begin();
        let mut longer = fresh(0);
        longer.take(header(7, 4, 0)).unwrap();
        longer.begin();
        let had = || Receiver::new(7, 9, blake3::Hasher::new());
        let cases = [
            ("another node's part", fresh(8), vec![header(7, 4, 0)]),
            ("another node's part on the second stream", other, vec![header(8, 4, 0)]),
            ("another size on the second stream", longer, vec![header(7, 5, 0)]),
            ("an offset that was not asked for", had(), vec![header(7, 20, 0)]),
            ("more here before than there is", had(), vec![header(7, 4, 9)]),
            ("more than was promised", fresh(0), vec![header(7, 4, 0), data(b"abcde")]),
            (
                "a trailer before the bytes",
                fresh(0),
                vec![header(7, 4, 0), data(b"ab"), trailer(4, b"ab")],
            ),
            (
                "a trailer of another size",
                fresh(0),
                vec![header(7, 4, 0), data(b"abcd"), trailer(5, b"abcd")],
            ),
            ("other bytes", fresh(0), vec![header(7, 4, 0), data(b"abXd"), trailer(4, b"abcd")]),
            ("data first", fresh(0), vec![data(b"ab")]),
            ("two headers", fresh(0), vec![header(7, 4, 0), header(7, 4, 0)]),
            (
                "an empty message",
                fresh(0),
                vec![header(7, 4, 0), DownloadSnapshotResponse { piece: None }],
            ),
        ];
        let mut story = String::new();
        for (name, receiver, messages) in cases {
            let flaw = run(receiver, messages).unwrap_err();
            let then = if flaw.ruins_what_was_received() { "thrown away" } else { "kept" };
            story += &format!("{name}: {flaw} ({then})\n");
        }
        crate::ctl::golden::check("flaws.txt", &story);
    }

    proptest! {
        #[test]
        fn however_often_a_stream_breaks_the_whole_is_the_whole(
            tar: Vec<u8>,
            cuts in prop::collection::vec((0..40usize, any::<bool>()), 0..20),
        ) {
            let total = tar.len() as u64;
            let mut receiver = fresh(0);
            let mut written = Vec::new();
            receiver.begin();
            receiver.take(header(7, total, 0)).unwrap();
            for (len, breaks) in cuts {
                if breaks {
                    receiver.begin();
                    receiver.take(header(7, total, receiver.received())).unwrap();
                }
                let rest = &tar[written.len()..];
                let Step::Write(bytes) = receiver.take(data(&rest[..len.min(rest.len())])).unwrap()
                else {
                    panic!("data is written")
                };
                written.extend_from_slice(&bytes);
            }
            receiver.take(data(&tar[written.len()..])).unwrap();
            let finished =
                matches!(receiver.take(trailer(total, &tar)).unwrap(), Step::Finish { .. });
            prop_assert!(finished);
        }

        #[test]
        fn any_changed_byte_is_noticed(
            tar in prop::collection::vec(any::<u8>(), 1..200),
            at: prop::sample::Index,
            flip in 1..=255u8,
        ) {
            let total = tar.len() as u64;
            let mut changed = tar.clone();
            changed[at.index(tar.len())] ^= flip;
            let end =
                run(fresh(0), vec![header(7, total, 0), data(&changed), trailer(total, &tar)]);
            let noticed = matches!(end, Err(Flaw::Digest { .. }));
            prop_assert!(noticed);
        }
    }
}
