//! What the database wants of this node: which resources are to be online here, in which order.

use std::collections::{BTreeMap, BTreeSet};

use wolfpack_types::objects::{Group, Wanted};
use wolfpack_types::{NodeInc, ResourceId};

use crate::database::Database;

/// The wish for all resources known here.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// Each after all that it depends on.
    pub(super) order: Vec<ResourceId>,
    /// To be online here, all they depend on included.
    pub(super) online: BTreeSet<ResourceId>,
    /// Of groups that this life does not own: to be ended at once.
    pub(super) foreign: BTreeSet<ResourceId>,
    pub(super) dependents: BTreeMap<ResourceId, Vec<ResourceId>>,
}

impl Wish {
    /// `runs` says of an owned group that its resources may run here at all.
    pub(super) fn new(
        database: &Database,
        me: NodeInc,
        known: impl Iterator<Item = ResourceId>,
        runs: impl Fn(&Group) -> bool,
    ) -> Self {
        let mut wish = Self { order: database.in_dependency_order(known), ..Self::default() };
        // In dependency order, so that what each depends on is decided before it.
        for &id in &wish.order {
            let Some(resource) = database.resources.get(&id) else {
                wish.foreign.insert(id);
                continue;
            };
            for &dependency in &resource.depends_on {
                wish.dependents.entry(dependency).or_default().push(id);
            }
            match database.groups.get(&resource.group) {
                Some(group) if group.owner == Some(me) => {
                    let wanted = resource.wanted == Wanted::Online && runs(group);
                    if wanted && resource.depends_on.iter().all(|d| wish.online.contains(d)) {
                        wish.online.insert(id);
                    }
                }
                _ => {
                    wish.foreign.insert(id);
                }
            }
        }
        wish
    }
}
