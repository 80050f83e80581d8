//! What is found by more than its identity: names, the resources of a group, dependents. Kept in
//! step with the objects by [`Database::reindex`], so that no update walks over all objects.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::{GroupId, ResourceId};

use super::Database;
use super::key::Key;

/// What the index knows of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    name: String,
    group: GroupId,
    depends_on: Vec<ResourceId>,
}

/// The index. A function of the groups and resources alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    group_names: BTreeMap<String, GroupId>,
    resource_names: BTreeMap<String, ResourceId>,
    members: BTreeSet<(GroupId, ResourceId)>,
    /// (the one depended on, the one that depends).
    dependents: BTreeSet<(ResourceId, ResourceId)>,
    groups: BTreeMap<GroupId, String>,
    resources: BTreeMap<ResourceId, Facts>,
}

impl Index {
    pub(super) fn group(&self, name: &str) -> Option<GroupId> {
        self.group_names.get(name).copied()
    }

    pub(super) fn resource(&self, name: &str) -> Option<ResourceId> {
        self.resource_names.get(name).copied()
    }

    pub(super) fn members(&self, group: GroupId) -> impl Iterator<Item = ResourceId> {
        let least = (group, ResourceId::default());
        self.members.range(least..).take_while(move |(g, _)| *g == group).map(|&(_, r)| r)
    }

    pub(super) fn dependent(&self, on: ResourceId) -> Option<ResourceId> {
        let least = (on, ResourceId::default());
        self.dependents.range(least..).next().filter(|(o, _)| *o == on).map(|&(_, r)| r)
    }

    /// Whether so many groups and resources have as many names.
    pub(super) fn names_are_unique(&self, groups: usize, resources: usize) -> bool {
        self.group_names.len() == groups && self.resource_names.len() == resources
    }

    fn forget_resource(&mut self, id: ResourceId) {
        let Some(old) = self.resources.remove(&id) else { return };
        if self.resource_names.get(&old.name) == Some(&id) {
            self.resource_names.remove(&old.name);
        }
        self.members.remove(&(old.group, id));
        for on in old.depends_on {
            self.dependents.remove(&(on, id));
        }
    }
}

impl Database {
    /// Brings the index in line with an object that may have changed.
    pub(super) fn reindex(&mut self, key: &Key) {
        let index = &mut self.index;
        match key {
            Key::Group(id) => {
                let name = self.groups.get(id).map(|g| &g.name);
                if index.groups.get(id) == name {
                    return;
                }
                if let Some(old) = index.groups.remove(id)
                    && index.group_names.get(&old) == Some(id)
                {
                    index.group_names.remove(&old);
                }
                if let Some(name) = name {
                    index.groups.insert(*id, name.clone());
                    index.group_names.insert(name.clone(), *id);
                }
            }
            Key::Resource(id) => {
                let resource = self.resources.get(id);
                let same = match (index.resources.get(id), resource) {
                    (None, None) => true,
                    (Some(old), Some(new)) => {
                        (&old.name, old.group, &old.depends_on)
                            == (&new.name, new.group, &new.depends_on)
                    }
                    _ => false,
                };
                if same {
                    return;
                }
                index.forget_resource(*id);
                if let Some(r) = resource {
                    index.resource_names.insert(r.name.clone(), *id);
                    index.members.insert((r.group, *id));
                    index.dependents.extend(r.depends_on.iter().map(|&on| (on, *id)));
                    let (name, depends_on) = (r.name.clone(), r.depends_on.clone());
                    index.resources.insert(*id, Facts { name, group: r.group, depends_on });
                }
            }
            _ => {}
        }
    }
}
