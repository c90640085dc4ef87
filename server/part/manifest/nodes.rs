//! Node ids as texts, since many tools round large numbers.

pub mod node_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::base::ids::NodeId;

    pub fn serialize<S: Serializer>(node: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&node.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }

    /// A number as `NodeId` writes it: nodes have one spelling each.
    pub fn parse(text: &str) -> Result<NodeId, String> {
        let node = text.parse().map(NodeId).ok().filter(|node| node.to_string() == text);
        node.ok_or_else(|| format!("{text:?} is not the id of a node"))
    }
}

pub mod node_texts {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::base::ids::NodeId;

    pub fn of(nodes: &[NodeId]) -> Vec<String> {
        nodes.iter().map(NodeId::to_string).collect()
    }

    pub fn serialize<S: Serializer>(nodes: &[NodeId], serializer: S) -> Result<S::Ok, S::Error> {
        of(nodes).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<NodeId>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts
            .iter()
            .map(|text| super::node_text::parse(text))
            .collect::<Result<_, _>>()
            .map_err(de::Error::custom)
    }
}
