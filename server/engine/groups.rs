//! The replicas of a node, by group.
//!
//! Data groups are numbered from 0 without a gap, so each has a place of its own in a vector; the
//! meta group, whose number is the largest there is, comes behind them all. Most of what the engine
//! does begins with finding a group.

use std::ops::Index;

use super::group::Group;
use crate::base::ids::GroupId;

/// See the module.
#[derive(Default)]
pub struct Groups {
    data: Vec<Option<Box<Group>>>,
    meta: Option<Box<Group>>,
}

impl Groups {
    pub fn get(&self, id: GroupId) -> Option<&Group> {
        match id.is_meta() {
            true => self.meta.as_deref(),
            false => self.data.get(id.0 as usize)?.as_deref(),
        }
    }

    pub fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        match id.is_meta() {
            true => self.meta.as_deref_mut(),
            false => self.data.get_mut(id.0 as usize)?.as_deref_mut(),
        }
    }

    pub fn has(&self, id: GroupId) -> bool {
        self.get(id).is_some()
    }

    /// Takes a group in. Its number is below that of the cluster's groups, or the meta group's:
    /// whoever lets numbers in from outside sees to that.
    pub fn insert(&mut self, group: Group) {
        let (id, group) = (group.id(), Some(Box::new(group)));
        if id.is_meta() {
            self.meta = group;
            return;
        }
        let place = id.0 as usize;
        if self.data.len() <= place {
            self.data.resize_with(place + 1, || None);
        }
        self.data[place] = group;
    }

    /// All of them, by number.
    pub fn all(&self) -> impl Iterator<Item = &Group> {
        self.data.iter().chain([&self.meta]).filter_map(Option::as_deref)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.data.iter_mut().chain([&mut self.meta]).filter_map(Option::as_deref_mut)
    }

    pub fn ids(&self) -> impl Iterator<Item = GroupId> {
        self.all().map(Group::id)
    }
}

impl Index<GroupId> for Groups {
    type Output = Group;

    fn index(&self, id: GroupId) -> &Group {
        self.get(id).expect("the engine keeps every group that it has opened")
    }
}
