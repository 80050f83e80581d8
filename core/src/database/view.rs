//! The tree as readers see it: what programs keep, and in the same tree, read only, the typed
//! objects with the private properties of resources (the layout of the cluster registry: `Cluster`,
//! `Nodes`, `Groups`, `Resources`, and `Parameters` below a resource).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use wolfpack_types::objects::{Group, Resource, Wanted};
use wolfpack_types::tree::{TreeEntry, TreeKey, TreeOp, TreeValue};
use wolfpack_types::update::Refusal;

use super::{Database, unknown};

type Values = BTreeMap<String, TreeValue>;

impl Database {
    /// One key, with its values and the names of its subkeys. The empty key is the root.
    ///
    /// # Errors
    /// There is no such key.
    pub(crate) fn tree_key(&self, key: &str) -> Result<TreeKey, Refusal> {
        self.merged(key).ok_or_else(|| {
            let above = key.rsplit_once('/').map_or("", |(above, _)| above);
            let siblings: Vec<String> = self
                .merged(above)
                .map(|k| k.subkeys)
                .unwrap_or_default()
                .into_iter()
                .map(|name| if above.is_empty() { name } else { format!("{above}/{name}") })
                .collect();
            unknown("key", key, siblings.iter().map(String::as_str))
        })
    }

    /// One value.
    ///
    /// # Errors
    /// There is no such key or value.
    pub(crate) fn tree_value(&self, key: &str, name: &str) -> Result<TreeEntry, Refusal> {
        let found = self.tree_key(key)?;
        let names: Vec<String> = found.values.iter().map(|v| v.name.clone()).collect();
        found
            .values
            .into_iter()
            .find(|v| v.name == name)
            .ok_or_else(|| unknown("value", name, names.iter().map(String::as_str)))
    }

    /// The keys below one, in order of their paths part by part, behind `after`; `visit` says when
    /// to stop.
    ///
    /// # Errors
    /// There is no such key.
    pub(crate) fn tree_walk(
        &self,
        key: &str,
        recursive: bool,
        after: Option<&str>,
        visit: &mut dyn FnMut(TreeKey) -> ControlFlow<()>,
    ) -> Result<(), Refusal> {
        let top = self.tree_key(key)?;
        // Stopping early is no error.
        let _ = self.walk(&top, recursive, after, visit);
        Ok(())
    }

    fn walk(
        &self,
        above: &TreeKey,
        recursive: bool,
        after: Option<&str>,
        visit: &mut dyn FnMut(TreeKey) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let after_parts = after.map(parts);
        for name in &above.subkeys {
            let path =
                if above.key.is_empty() { name.clone() } else { format!("{}/{name}", above.key) };
            if let Some(after) = &after_parts {
                let own = parts(&path);
                // Wholly before the place to go on from: neither it nor anything below it.
                if own < *after && !after.starts_with(&own) {
                    continue;
                }
            }
            let Some(key) = self.merged(&path) else { continue };
            let below = key.clone();
            if after_parts.as_ref().is_none_or(|after| parts(&path) > *after) {
                visit(key)?;
            }
            if recursive {
                self.walk(&below, true, after, visit)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Values of objects are changed by the objects' own commands only.
    pub(super) fn refuse_object_value(&self, op: &TreeOp) -> Result<(), Refusal> {
        let (TreeOp::SetValue { key, name, .. } | TreeOp::DeleteValue { key, name }) = op else {
            return Ok(());
        };
        if self.object_values(key).is_some_and(|values| values.contains_key(name)) {
            return Err(Refusal::Invalid(format!(
                "value '{name}' of key '{key}' is a property of that object: it is changed by the \
                 object's own commands"
            )));
        }
        Ok(())
    }

    fn merged(&self, key: &str) -> Option<TreeKey> {
        let stored = self.tree.get(key);
        let of_object = self.object_values(key);
        if stored.is_none() && of_object.is_none() && !key.is_empty() {
            return None;
        }
        let mut values: BTreeMap<String, TreeEntry> = stored
            .iter()
            .flat_map(|node| &node.values)
            .map(|(name, v)| (name.clone(), (v.value.clone(), v.changed.0)))
            .chain(of_object.iter().flatten().map(|(n, v)| (n.clone(), (v.clone(), 0))))
            .map(|(name, (value, changed))| (name.clone(), TreeEntry { name, value, changed }))
            .collect();
        let mut subkeys: BTreeSet<String> = self.tree.subkeys(key).into_iter().collect();
        subkeys.extend(self.object_subkeys(key));
        Some(TreeKey {
            key: key.to_owned(),
            changed: stored.map_or(0, |node| node.changed.0),
            values: std::mem::take(&mut values).into_values().collect(),
            subkeys: subkeys.into_iter().collect(),
            of_object: of_object.is_some(),
        })
    }

    /// Keys that objects make below this one.
    fn object_subkeys(&self, key: &str) -> Vec<String> {
        if self.cluster.is_none() {
            return Vec::new();
        }
        let parts: Vec<&str> = key.split('/').collect();
        match parts.as_slice() {
            [""] => ["Cluster", "Groups", "Nodes", "Resources"].map(str::to_owned).to_vec(),
            ["Nodes"] => self.nodes.values().map(|n| n.name.clone()).collect(),
            ["Groups"] => self.groups.values().map(|g| g.name.clone()).collect(),
            ["Resources"] => self.resources.values().map(|r| r.name.clone()).collect(),
            ["Resources", name] if self.index.resource(name).is_some() => {
                vec!["Parameters".to_owned()]
            }
            _ => Vec::new(),
        }
    }

    /// The values that objects make at this key; none where it is no object's key.
    fn object_values(&self, key: &str) -> Option<Values> {
        let cluster = self.cluster.as_ref()?;
        let sz = |s: String| TreeValue::Sz(s);
        let parts: Vec<&str> = key.split('/').collect();
        let values = match parts.as_slice() {
            ["Cluster"] => Values::from([
                ("ClusterName".into(), sz(cluster.name.clone())),
                ("ClusterInstanceID".into(), sz(cluster.id.to_string())),
            ]),
            ["Nodes" | "Groups" | "Resources"] => Values::new(),
            ["Nodes", name] => {
                let node = self.nodes.values().find(|n| n.name == *name)?;
                Values::from([("Id".into(), TreeValue::Dword(node.id.get().into()))])
            }
            ["Groups", name] => self.group_values(self.groups.get(&self.index.group(name)?)?),
            ["Resources", name] => {
                self.resource_values(self.resources.get(&self.index.resource(name)?)?)
            }
            ["Resources", name, "Parameters"] => {
                let resource = self.resources.get(&self.index.resource(name)?)?;
                let properties = resource.properties.iter();
                properties.map(|(n, v)| (n.clone(), sz(v.clone()))).collect()
            }
            _ => return None,
        };
        Some(values)
    }

    fn group_values(&self, group: &Group) -> Values {
        let preferred = group.preferred.iter().map(|&n| self.node_name(n)).collect();
        Values::from([
            ("Id".into(), TreeValue::Sz(group.id.to_string())),
            ("PersistentState".into(), persistent_state(group.wanted)),
            ("PreferredOwners".into(), TreeValue::MultiSz(preferred)),
        ])
    }

    fn resource_values(&self, resource: &Resource) -> Values {
        let name = |id| self.resources.get(id).map(|r: &Resource| r.name.clone());
        let depends_on = resource.depends_on.iter().filter_map(name).collect();
        let group = self.groups.get(&resource.group).map(|g| g.name.clone()).unwrap_or_default();
        let policy = &resource.policy;
        Values::from([
            ("Id".into(), TreeValue::Sz(resource.id.to_string())),
            ("Type".into(), TreeValue::Sz(resource.kind.to_string())),
            ("Group".into(), TreeValue::Sz(group)),
            ("PersistentState".into(), persistent_state(resource.wanted)),
            ("DependsOn".into(), TreeValue::MultiSz(depends_on)),
            ("LooksAlivePollInterval".into(), TreeValue::Dword(policy.looks_alive_ms)),
            ("IsAlivePollInterval".into(), TreeValue::Dword(policy.is_alive_ms)),
            ("PendingTimeout".into(), TreeValue::Dword(policy.pending_timeout_ms)),
            ("RestartThreshold".into(), TreeValue::Dword(policy.restart_threshold)),
            ("RestartPeriod".into(), TreeValue::Dword(policy.restart_period_ms)),
            ("RestartDelay".into(), TreeValue::Dword(policy.restart_delay_ms)),
        ])
    }
}

/// 1: wanted online (CMRP 3.1.1.1.2, PersistentState).
fn persistent_state(wanted: Wanted) -> TreeValue {
    TreeValue::Dword(u32::from(wanted == Wanted::Online))
}
