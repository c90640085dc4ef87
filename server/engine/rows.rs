//! The rows of a data group as its state machine sees them: keys and rows of the domain over the
//! bytes of the overlay and the store.

use std::ops::Range;

use super::overlay::{Overlay, Reader};
use crate::{
    base::error::{Error, Result},
    data::{self, Row, RowKey},
    store::{View, keys},
    wire,
};

/// The rows of a data group as its machine sees them.
pub struct GroupRows<'a> {
    pub overlay: &'a mut Overlay,
    pub view: &'a View,
}

/// The same, only to look at.
pub struct SeenRows<'a>(pub Reader<'a>);

impl data::Rows for GroupRows<'_> {
    fn get(&self, key: &RowKey) -> Result<Option<Row>> {
        get(&Reader { overlay: self.overlay, view: self.view }, key)
    }
    fn set(&mut self, key: &RowKey, row: Option<Row>) -> Result<()> {
        self.overlay.set(keys::data(&key.encode()), row.map(|row| wire::encode_row(&row)));
        Ok(())
    }
    fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
    ) -> Result<()> {
        visit(&Reader { overlay: self.overlay, view: self.view }, from, to, each)
    }
}

impl data::Rows for SeenRows<'_> {
    fn get(&self, key: &RowKey) -> Result<Option<Row>> {
        get(&self.0, key)
    }
    fn set(&mut self, key: &RowKey, _: Option<Row>) -> Result<()> {
        Err(Error::conflict(format!(
            "a read tried to change a row of site {:?}",
            key.site.as_str()
        )))
    }
    fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
    ) -> Result<()> {
        visit(&self.0, from, to, each)
    }
}

fn get(reader: &Reader<'_>, key: &RowKey) -> Result<Option<Row>> {
    reader
        .get(&keys::data(&key.encode()))?
        .map(|bytes| wire::decode_row(&key.place, &bytes))
        .transpose()
}

fn visit(
    reader: &Reader<'_>,
    from: &[u8],
    to: &[u8],
    each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
) -> Result<()> {
    let range: Range<Vec<u8>> = keys::data(from)..keys::data(to);
    for row in reader.range(&range)? {
        let (key, bytes) = row?;
        let key = RowKey::decode(&key[1..])?;
        let row = wire::decode_row(&key.place, &bytes)?;
        if !each(key, row)? {
            break;
        }
    }
    Ok(())
}
