//! Rows in a map, for tests. Keyed by encoded bytes, as the store is, so that tests meet the same
//! order.

use std::collections::BTreeMap;

use super::{Row, RowKey, Rows};
use crate::base::error::Result;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub rows: BTreeMap<Vec<u8>, Row>,
}

impl Rows for Memory {
    fn get(&self, key: &RowKey) -> Result<Option<Row>> {
        Ok(self.rows.get(&key.encode()).cloned())
    }

    fn set(&mut self, key: &RowKey, row: Option<Row>) -> Result<()> {
        match row {
            Some(row) => self.rows.insert(key.encode(), row),
            None => self.rows.remove(&key.encode()),
        };
        Ok(())
    }

    fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
    ) -> Result<()> {
        for (key, row) in self.rows.range(from.to_vec()..to.to_vec()) {
            if !each(RowKey::decode(key)?, row.clone())? {
                break;
            }
        }
        Ok(())
    }
}
