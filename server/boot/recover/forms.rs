//! What the three commands of a recovery write and read: the report on one store, and the plan for
//! all of them. Both are JSON for people and tools; `docs/formats.md` has every field.
//!
//! - `format` stands first. A number that this program does not know is refused before the rest is
//!   read, and so are unknown fields.
//! - Node ids, lineages and groups are texts, since many tools round large numbers.
//! - A plan ends with the digest of all of it, so that one that was cut off or edited is refused.
//!   That is against accidents: nothing is signed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::choose::{Copied, Replica};
use crate::{
    base::{
        error::{Error, Result},
        ids::{ClusterId, GroupId, Lineage, NodeId, SnapshotId, SnapshotSeq, Topology},
    },
    cluster::{State, reconfigure::Membership, sites::SiteState},
    entry::{Identity, Position},
    wire,
};

pub const REPORT_FORMAT: u32 = 1;
pub const PLAN_FORMAT: u32 = 1;

/// What one store holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub format: u32,
    #[serde(with = "node_text")]
    pub node: NodeId,
    /// Where the cluster knows the node, as far as this store knows; empty where it does not.
    pub address: String,
    pub history: History,
    pub meta: Option<Configuration>,
    pub replicas: Vec<ReplicaForm>,
}

/// Which cluster and which of its histories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    pub cluster: ClusterId,
    #[serde(with = "lineage_text")]
    pub lineage: Lineage,
    pub restored_from: Option<SnapshotId>,
    pub partitions: u32,
    pub groups: u32,
}

/// The meta group's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    pub replication_factor: u32,
    pub level: u32,
    pub snapshots_begun: u64,
    pub snapshots_resolved: u64,
    pub nodes: Vec<NodeForm>,
    pub removed: Vec<NodeForm>,
    pub assignments: BTreeMap<String, Vec<String>>,
    pub sites: BTreeMap<String, String>,
    /// The rows at the end of the log, names and values in hex. What stands above is of the applied
    /// entry.
    pub rows: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeForm {
    #[serde(with = "node_text")]
    pub node: NodeId,
    pub address: String,
}

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub term: u64,
    pub index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembersForm {
    pub voters: Vec<String>,
    pub learners: Vec<String>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaForm {
    #[serde(with = "group_text")]
    pub group: GroupId,
    pub applied: Place,
    pub last: Place,
    pub commit: u64,
    pub term: u64,
    pub mark: u64,
    /// By what the replica knew to be committed, then after each change behind that.
    pub members: Vec<MembersForm>,
    /// Why the replica cannot be kept; absent where its log is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
}

/// What every survivor is to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub format: u32,
    /// Names the recovery. The history that begins with it is told from others by this id.
    pub id: SnapshotId,
    pub made_ms: u64,
    pub history: History,
    pub survivors: Vec<Survivor>,
    pub lost: Vec<NodeForm>,
    pub meta: MetaPlan,
    pub groups: Vec<GroupPlan>,
    /// BLAKE3 of the plan with this field empty.
    pub digest: String,
}

/// A store that the plan was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivor {
    #[serde(with = "node_text")]
    pub node: NodeId,
    pub address: String,
    /// BLAKE3 of its report.
    pub report: String,
    /// The ends of its logs.
    pub logs: BTreeMap<String, Place>,
}

/// Where the meta group begins, with whom and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaPlan {
    #[serde(with = "node_text")]
    pub kept_from: NodeId,
    pub may_lack: bool,
    pub at: Place,
    pub members: MembersForm,
    pub rows: BTreeMap<String, String>,
}

/// What becomes of a data group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupPlan {
    #[serde(with = "group_text")]
    pub group: GroupId,
    /// The node with which the group begins.
    #[serde(with = "node_text")]
    pub on: NodeId,
    /// The end of the log that is kept. Absent where the group begins empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Place>,
    /// Whether entries that clients were told of may be missing.
    pub may_lack: bool,
    pub lost: Vec<String>,
    pub sites: Vec<String>,
}

impl Report {
    pub fn of(identity: &Identity, applied: Option<&State>, log: Vec<ReplicaForm>) -> Report {
        Report {
            format: REPORT_FORMAT,
            node: identity.node,
            address: applied
                .and_then(|state| state.node(identity.node))
                .map_or(String::new(), |node| node.address.clone()),
            history: History::of(identity),
            meta: None,
            replicas: log,
        }
    }

    pub fn encode(&self) -> Result<String> {
        written(self, "a report")
    }

    pub fn parse(text: &[u8]) -> Result<Report> {
        parsed(text, REPORT_FORMAT, "report of devicedb recover inspect")
    }

    pub fn digest(&self) -> Result<String> {
        Ok(blake3::hash(self.encode()?.as_bytes()).to_hex().to_string())
    }

    /// The report as `choose` takes it.
    pub fn copied(&self) -> Result<Copied> {
        let meta = match &self.meta {
            Some(configuration) => Some(decode_rows(&configuration.rows)?),
            None => None,
        };
        let replica = |form: &ReplicaForm| {
            let members = form.members.iter().map(MembersForm::parse).collect::<Result<_>>()?;
            let replica = Replica {
                last: form.last.position(),
                members,
                mark: SnapshotSeq(form.mark),
                unfit: form.unfit.clone(),
            };
            Ok((form.group, replica))
        };
        Ok(Copied {
            node: self.node,
            cluster: self.history.cluster,
            lineage: self.history.lineage,
            restored_from: self.history.restored_from,
            topology: self.history.topology()?,
            meta,
            replicas: self.replicas.iter().map(replica).collect::<Result<_>>()?,
        })
    }

    /// The ends of all logs.
    pub fn logs(&self) -> BTreeMap<String, Place> {
        self.replicas.iter().map(|r| (r.group.to_string(), r.last)).collect()
    }
}

impl History {
    pub fn of(identity: &Identity) -> History {
        History {
            cluster: identity.cluster,
            lineage: identity.lineage,
            restored_from: identity.restored_from,
            partitions: identity.topology.partitions(),
            groups: identity.topology.groups(),
        }
    }

    pub fn topology(&self) -> Result<Topology> {
        Topology::new(self.partitions, self.groups)
    }

    /// What people are shown of a cluster's id, and what they type to confirm.
    pub fn short(&self) -> String {
        self.cluster.to_string().chars().take(8).collect()
    }
}

impl Configuration {
    /// `applied` is for people, `end` is what is gone on with.
    pub fn of(applied: &State, end: &State) -> Configuration {
        let settings = applied.settings();
        let site = |state: SiteState| match state {
            SiteState::Adding => "adding",
            SiteState::Present => "present",
            SiteState::Removing => "removing",
        };
        Configuration {
            replication_factor: settings.replication_factor,
            level: settings.level.0,
            snapshots_begun: settings.begun.0,
            snapshots_resolved: settings.resolved.0,
            nodes: applied.nodes().values().map(|n| NodeForm::of(n.id, &n.address)).collect(),
            removed: applied.removed().values().map(|n| NodeForm::of(n.id, &n.address)).collect(),
            assignments: applied
                .assignments()
                .iter()
                .map(|(group, nodes)| (group.to_string(), texts(nodes)))
                .collect(),
            sites: applied
                .sites()
                .sites()
                .iter()
                .map(|(id, now)| (id.as_str().to_owned(), site(now.state).to_owned()))
                .collect(),
            rows: encode_rows(end),
        }
    }
}

impl NodeForm {
    pub fn of(node: NodeId, address: &str) -> NodeForm {
        NodeForm { node, address: address.to_owned() }
    }
}

impl Place {
    pub fn of(at: Position) -> Place {
        Place { term: at.term, index: at.index }
    }
    pub fn position(self) -> Position {
        Position { index: self.index, term: self.term }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entry {} of term {}", self.index, self.term)
    }
}

impl MembersForm {
    pub fn of(members: &Membership) -> MembersForm {
        MembersForm { voters: texts(&members.voters), learners: texts(&members.learners) }
    }

    pub fn parse(&self) -> Result<Membership> {
        let set = |texts: &[String]| -> Result<BTreeSet<NodeId>> {
            texts.iter().map(|text| parse_node(text)).collect()
        };
        Ok(Membership { voters: set(&self.voters)?, learners: set(&self.learners)? })
    }
}

impl Plan {
    /// With its digest.
    pub fn sealed(mut self) -> Result<Plan> {
        self.digest = self.own_digest()?;
        Ok(self)
    }

    fn own_digest(&self) -> Result<String> {
        let unsealed = Plan { digest: String::new(), ..self.clone() };
        Ok(blake3::hash(written(&unsealed, "a plan")?.as_bytes()).to_hex().to_string())
    }

    pub fn encode(&self) -> Result<String> {
        written(self, "a plan")
    }

    pub fn parse(text: &[u8]) -> Result<Plan> {
        let plan: Plan = parsed(text, PLAN_FORMAT, "plan of devicedb recover plan")?;
        if plan.digest != plan.own_digest()? {
            return Err(Error::invalid(
                "the plan is not as it was made: its digest does not fit. Copy it once more, or \
                 make it again; nobody may edit it",
            ));
        }
        Ok(plan)
    }
}

/// All rows of a meta state, names and values in hex.
pub fn encode_rows(state: &State) -> BTreeMap<String, String> {
    let rows = state.all_rows().into_iter();
    let row = |row| Some((wire::meta_row_name(&row), wire::encode_meta_row(state, &row)?));
    rows.filter_map(row).map(|(name, row)| (hex(&name), hex(&row))).collect()
}

/// The same, as bytes.
pub fn rows_in_bytes(rows: &BTreeMap<String, String>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    rows.iter().map(|(name, row)| Ok((from_hex(name)?, from_hex(row)?))).collect()
}

pub fn decode_rows(rows: &BTreeMap<String, String>) -> Result<State> {
    let rows = rows_in_bytes(rows)?;
    wire::decode_meta(rows.iter().map(|(name, row)| (name.as_slice(), row.as_slice())))
}

pub fn texts<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<String> {
    nodes.into_iter().map(NodeId::to_string).collect()
}

fn parse_node(text: &str) -> Result<NodeId> {
    let id = text.parse().ok().filter(|id| *id != 0);
    id.map(NodeId).ok_or_else(|| Error::invalid(format!("{text:?} is not a node id")))
}

/// From `meta` or a number.
pub fn parse_group(text: &str) -> Result<GroupId> {
    if text == "meta" {
        return Ok(GroupId::META);
    }
    text.parse()
        .map(GroupId)
        .map_err(|_| Error::invalid(format!("{text:?} is not a group: groups are numbers")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digit = |at: usize| {
        let pair = text.get(at..at + 2)?;
        let digits = pair.bytes().all(|byte| byte.is_ascii_hexdigit());
        u8::from_str_radix(pair, 16).ok().filter(|_| digits)
    };
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
    bytes.ok_or_else(|| Error::invalid("a row of the configuration is not written in hex digits"))
}

fn written(form: &impl Serialize, what: &str) -> Result<String> {
    let text = serde_json::to_string_pretty(form);
    let text = text.map_err(|e| Error::invalid(format!("{what} cannot be written: {e}")))?;
    Ok(text + "\n")
}

/// Only the number, whatever else there is.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn parsed<T: DeserializeOwned>(text: &[u8], newest: u32, what: &str) -> Result<T> {
    let broken = |e: serde_json::Error| {
        Error::invalid(format!("it is no {what}: {e}. Is the file whole?")).with_source(e)
    };
    let Format { format } = serde_json::from_slice(text).map_err(broken)?;
    if format != newest {
        return Err(Error::conflict(format!(
            "it is a {what} of format {format}, and this program reads {newest}: use the version \
             that wrote it"
        )));
    }
    serde_json::from_slice(text).map_err(broken)
}

macro_rules! as_text {
    ($module:ident, $type:ty, $parse:expr) => {
        mod $module {
            use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

            pub fn serialize<S: Serializer>(id: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                id.to_string().serialize(serializer)
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map_err(de::Error::custom)
            }
        }
    };
}
as_text!(node_text, crate::base::ids::NodeId, super::parse_node);
as_text!(group_text, crate::base::ids::GroupId, super::parse_group);
as_text!(lineage_text, crate::base::ids::Lineage, str::parse::<crate::base::ids::Lineage>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{clock::Random, error::Kind};

    fn identity() -> Identity {
        Identity {
            format: 3,
            node: NodeId(u64::MAX),
            cluster: ClusterId(Random::seeded(1).uuid()),
            lineage: Lineage(5),
            restored_from: None,
            topology: Topology::new(64, 8).unwrap(),
        }
    }

    fn report() -> Report {
        let members = MembersForm { voters: vec!["1".into(), "2".into()], learners: vec![] };
        let place = Place { term: 7, index: 10 };
        let replica = ReplicaForm {
            group: GroupId::META,
            applied: place,
            last: place,
            commit: 10,
            term: 8,
            mark: 0,
            members: vec![members],
            unfit: Some("its log lacks entry 9".into()),
        };
        Report::of(&identity(), None, vec![replica])
    }

    fn plan() -> Plan {
        let report = report();
        let members = report.replicas[0].members[0].clone();
        let at = report.replicas[0].last;
        Plan {
            format: PLAN_FORMAT,
            id: SnapshotId(Random::seeded(2).uuid()),
            made_ms: 1,
            history: report.history.clone(),
            survivors: vec![Survivor {
                node: report.node,
                address: String::new(),
                report: report.digest().unwrap(),
                logs: report.logs(),
            }],
            lost: vec![NodeForm::of(NodeId(2), "n2:1")],
            meta: MetaPlan {
                kept_from: report.node,
                may_lack: true,
                at,
                members,
                rows: BTreeMap::new(),
            },
            groups: Vec::new(),
            digest: String::new(),
        }
        .sealed()
        .unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_large_numbers_are_texts() {
        let text = report().encode().unwrap();
        assert_eq!(Report::parse(text.as_bytes()), Ok(report()));
        for words in ["\"18446744073709551615\"", "\"meta\"", "\"0000000000000005\""] {
            assert!(text.contains(words), "{text}");
        }
        let text = plan().encode().unwrap();
        assert_eq!(Plan::parse(text.as_bytes()), Ok(plan()));
        // A plan is never taken for a report, nor a report for a plan.
        assert_eq!(Report::parse(text.as_bytes()).unwrap_err().kind, Kind::Invalid);
    }

    #[test]
    fn forms_of_another_format_with_unknown_fields_or_not_whole_are_refused() {
        let refused = |text: &str| {
            [Report::parse(text.as_bytes()).err(), Plan::parse(text.as_bytes()).err()]
                .map(|e| e.unwrap_or_else(|| panic!("it was read: {text}")).kind)
        };
        assert_eq!(refused("{\"format\": 2, \"more\": []}"), [Kind::Conflict; 2]);
        assert_eq!(refused("{\"format\": 1, \"more\": []}"), [Kind::Invalid; 2]);
        assert_eq!(refused("{}"), [Kind::Invalid; 2]);
        assert_eq!(refused(""), [Kind::Invalid; 2]);
        for text in [report().encode().unwrap(), plan().encode().unwrap()] {
            assert_eq!(refused(&text[..text.len() / 2]), [Kind::Invalid; 2]);
        }
        let broken = report().encode().unwrap().replace("\"meta\"", "\"metal\"");
        assert_eq!(Report::parse(broken.as_bytes()).unwrap_err().kind, Kind::Invalid);
    }

    #[test]
    fn a_plan_that_was_edited_does_not_fit_its_digest() {
        let text = plan().encode().unwrap();
        let edited = text.replace("\"may_lack\": true", "\"may_lack\": false");
        assert_ne!(edited, text);
        let e = Plan::parse(edited.as_bytes()).unwrap_err();
        assert!(e.message.contains("its digest does not fit"), "{e}");
    }

    #[test]
    fn rows_are_hex_and_nothing_else() {
        assert_eq!(from_hex(&hex(&[0, 9, 255])), Ok(vec![0, 9, 255]));
        for text in ["0", "0g", "zz", "+1", "ä"] {
            assert!(from_hex(text).is_err(), "{text:?}");
        }
    }
}
