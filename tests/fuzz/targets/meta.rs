//! The configuration: its rows as they are stored, and commands as other nodes forward them.
//!
//! The law of both: the rows that are stored are the state. Whatever a command did not name as
//! changed has not changed.

use std::collections::BTreeMap;

use devicedb::{
    base::{
        error::Kind,
        ids::{ClusterId, Lineage, NodeId, Topology},
    },
    cluster::{Changed, Command, Node, State, level::Level, state::Settings},
    proto::internal::v1::MetaCommand,
    wire,
};
use prost::Message as _;

/// More would only take time.
const COMMANDS_MAX: usize = 24;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Rows as pairs of pieces, up to an empty name; then commands that the state they make is given.
pub fn rows(input: &[u8]) -> bool {
    let mut feed = super::Feed(input);
    let mut stored = Rows::new();
    loop {
        let name = feed.piece();
        if name.is_empty() {
            break;
        }
        stored.insert(name.to_vec(), feed.piece().to_vec());
    }
    match decode(&stored) {
        Ok(state) => {
            // One state has one set of rows; what was read may have had others beside them, of
            // unknown fields for one.
            let rows = all_rows(&state);
            assert_eq!(decode(&rows).as_ref(), Ok(&state));
            assert!(rows.keys().eq(stored.keys()), "a row says nothing, or two say the same");
            play(state, rows, &mut feed);
            true
        }
        Err(e) => {
            assert_eq!(e.kind, Kind::Corrupt, "damage on disk is called {e:?}");
            false
        }
    }
}

/// Commands, each a piece, for a cluster of one node.
pub fn commands(input: &[u8]) -> bool {
    let node = Node {
        id: NodeId(1),
        address: "a:1".into(),
        capacity_percent: 100,
        version: String::new(),
        snapshot_store: true,
        lineage: Lineage(1),
        level: Level::own(),
        leaving: false,
        draining: false,
        certificate_name: None,
    };
    let topology = Topology::new(64, 4).expect("a shape that can be");
    let settings = Settings::founding(ClusterId(uuid::Uuid::nil()), Lineage(1), 2, topology)
        .expect("settings that can be");
    let state = State::found(settings, node).expect("a node that can be");
    let rows = all_rows(&state);
    play(state, rows, &mut super::Feed(input)) > 0
}

/// How many commands were taken.
fn play(mut state: State, mut rows: Rows, feed: &mut super::Feed<'_>) -> usize {
    let mut taken = 0;
    for _ in 0..COMMANDS_MAX {
        if feed.is_empty() {
            break;
        }
        let Some(command) = command(feed.piece()) else { continue };
        let (before, mut other) = (state.clone(), state.clone());
        let applied = state.apply(&command);
        assert_eq!((&other.apply(&command), &other), (&applied, &state), "two replicas differ");
        for row in &applied.changed {
            match wire::encode_meta_row(&state, row) {
                Some(bytes) => rows.insert(wire::meta_row_name(row), bytes.to_vec()),
                None => rows.remove(&wire::meta_row_name(row)),
            };
        }
        assert_eq!(
            decode(&rows).as_ref(),
            Ok(&state),
            "a restart would find another state behind {command:?}"
        );
        match applied.reply {
            Ok(_) => taken += 1,
            Err(_) => assert_eq!(
                (applied.changed, state.clone()),
                (Vec::new(), before),
                "refused, and yet it did something: {command:?}"
            ),
        }
    }
    taken
}

fn command(bytes: &[u8]) -> Option<Command> {
    let command = MetaCommand::decode(bytes).ok()?;
    let command = wire::parse_meta_command(command)
        .inspect_err(|e| assert_eq!(e.kind, Kind::Invalid, "a peer's mistake is called {e:?}"))
        .ok()?;
    assert_eq!(wire::parse_meta_command(wire::meta_command(&command)).as_ref(), Ok(&command));
    Some(command)
}

fn decode(rows: &Rows) -> devicedb::base::error::Result<State> {
    wire::decode_meta(rows.iter().map(|(name, row)| (name.as_slice(), row.as_slice())))
}

pub fn all_rows(state: &State) -> Rows {
    let row = |row: &Changed| {
        (
            wire::meta_row_name(row),
            wire::encode_meta_row(state, row).expect("it is in the state").to_vec(),
        )
    };
    state.all_rows().iter().map(row).collect()
}
