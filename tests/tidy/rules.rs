//! The habits themselves, as tables: what stands above what, who has the one door to a crate, and
//! which words are not written where.

/// The library in reading order: a file imports only what stands above it. Inside a folder the
/// order is that of its `mod` lines. `ctl` is the code under `cli/`; `main` are the two binaries.
pub const LAYERS: &[&str] = &[
    "base faults",
    "data cluster cut part/seal part/chunk part/manifest part/shelf part/traces part/tar \
     part/directory part/source part/parallel part/verify part/set part/reseal part/ways \
     repository entry",
    "proto wire",
    "net/cork net/tls store log engine/consensus engine net",
    "service rpc boot signals node",
    "ctl main",
];

/// Crates with one door: path, the layers that may name it, what the others do.
pub const DOORS: &[(&str, &str, &str)] = &[
    ("redb", "store", "ask `store`"),
    ("raft_engine", "log", "ask `log`"),
    (
        "raft",
        "engine/consensus log wire",
        "ask `engine::consensus`; only `log` keeps and `wire` converts raft's structs",
    ),
    ("tokio_rustls", "net/tls repository", "ask `net::tls`"),
    ("object_store", "repository", "ask `repository::store::Store`"),
    ("x509_parser", "net/tls", "ask `net::tls::Certificate`"),
    ("ring", "part/seal net/tls repository", "blake3 for hashes, `part::seal` for secrets"),
    ("age", "part/seal", "ask `part::seal`"),
    ("aes_gcm_siv", "part/seal", "ask `part::seal::Keys`"),
    ("rcgen", "ctl", "certificates are made by `ddbctl cert` alone"),
    (
        "protobuf",
        "engine/consensus log wire",
        "prost, through `proto`: protobuf 2 reads nothing but our own disk",
    ),
];

/// Layers that decide and do nothing, and what they therefore cannot reach.
pub const PURE: &str = "data cluster cut part/manifest part/chunk entry";
pub const DEEDS: &[&str] = &[
    "tokio",
    "tonic",
    "prost",
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// `ddbctl` speaks the contract, and checks parts where no server is.
pub const CTL: &str = "ctl proto base faults net/cork net/tls part/set part/verify part/directory \
                       part/tar part/manifest part/chunk part/source part/seal part/reseal \
                       part/ways repository";

pub const FILE_LINES_MAX: usize = 700;

/// What rustfmt lays out is no wider; this holds comments, strings and macros to it too.
pub const LINE_WIDTH_MAX: usize = 100;

/// Crates that no file names: only what build.rs generates speaks to them, or `Cargo.toml` says
/// with which features another crate gets them.
pub const NAMED_ELSEWHERE: &[&str] = &["reqwest", "tonic-prost"];

/// Names that fit everything tell nothing.
pub const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "managers", "handler", "handlers"];

/// What a line must not hold.
pub struct Ban {
    /// Any of these, as written; a `#` at the end stands for a digit.
    pub words: &'static [&'static str],
    /// Where: paths that begin so.
    pub within: &'static [&'static str],
    pub except: &'static [&'static str],
    /// Whether comments and test code count too.
    pub everywhere: bool,
    pub instead: &'static str,
}

pub const EVERYWHERE: &[&str] = &[""];
pub const SHIPPED: &[&str] = &["server/", "cli/"];

/// Where every bound stands.
pub const LIMITS: &str = "server/base/limits/";

pub const BANS: &[Ban] = &[
    Ban {
        words: &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")],
        within: EVERYWHERE,
        except: &[],
        everywhere: true,
        instead: "do it, or open an issue: the code speaks of today",
    },
    Ban {
        words: &[concat!("to", "do!("), concat!("unimple", "mented!(")],
        within: EVERYWHERE,
        except: &[],
        everywhere: true,
        instead: "write it, or return an Error that says what is not there",
    },
    Ban {
        words: &[concat!("dbg", "!(")],
        within: EVERYWHERE,
        except: &[],
        everywhere: true,
        instead: "tracing, with the fact as a field",
    },
    Ban {
        words: &[concat!("#[", "ignore")],
        within: EVERYWHERE,
        except: &[],
        everywhere: true,
        instead: "mend the test or delete it: one that does not run proves nothing",
    },
    Ban {
        words: &["\t"],
        within: EVERYWHERE,
        except: &[],
        everywhere: true,
        instead: "four spaces; \\t inside text",
    },
    Ban {
        words: &[".unwrap()"],
        within: SHIPPED,
        except: &[],
        everywhere: false,
        instead: "`?`, or expect(\"why it cannot fail\")",
    },
    Ban {
        words: &["unbounded_channel", "mpsc::channel()"],
        within: SHIPPED,
        except: &[],
        everywhere: false,
        instead: "a queue bounded by a number of base/limits (sync_channel, tokio's channel(n))",
    },
    Ban {
        words: &[
            "thread::spawn(",
            "thread::Builder",
            "tokio::spawn(",
            "task::spawn",
            "spawn_blocking",
            "JoinSet",
        ],
        within: &["server/"],
        except: &["server/base/crew.rs"],
        everywhere: false,
        instead: "a Role of `crew`: a panic that nobody hears of leaves a node that goes on \
                  without a limb",
    },
    Ban {
        words: &["println!(", "print!("],
        within: &["server/"],
        except: &["server/main.rs"],
        everywhere: false,
        instead: "tracing, or `let _ = writeln!(...)`: these panic where nobody reads",
    },
    Ban {
        words: &["from_secs(#", "from_millis(#"],
        within: &["server/"],
        except: &[LIMITS],
        everywhere: false,
        instead: "a named wait in base/limits, so that every bound stands in one place",
    },
    Ban {
        words: &["channel(#", "<< 20", "<< 10"],
        within: SHIPPED,
        // The runs of pages there lay out a format.
        except: &[LIMITS, "server/store/large.rs"],
        everywhere: false,
        instead: "a named bound in base/limits, with a sentence that says what happens beyond it",
    },
];
