//! Which events a reader wants: filters, and from where on.

use serde::{Deserialize, Serialize};

use super::{EventId, Severity, StampedEvent};

/// What a reader of the event log asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only events of this node later than this number. With `all_nodes`: only what this node has
    /// received after that event.
    pub after: u64,
    /// Go on with new ones as they happen.
    pub follow: bool,
    /// The events of the other nodes too, as far as they have come here.
    #[serde(default)]
    pub all_nodes: bool,
    #[serde(default)]
    pub filter: EventFilter,
    /// Only this event and what led to it, the first cause first. All else but `follow`, which is
    /// refused, is ignored.
    #[serde(default)]
    pub chain: Option<EventId>,
}

/// All that is given must match; nothing given matches everything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventFilter {
    /// One of these kinds, by [`super::EventKind::name`].
    pub kinds: Vec<String>,
    /// At least so severe.
    pub severity: Option<Severity>,
    pub group: Option<String>,
    pub resource: Option<String>,
    pub network: Option<String>,
    /// Logged by this node, or about it.
    pub node: Option<String>,
}

impl EventFilter {
    /// Whether the event is wanted.
    #[must_use]
    pub fn matches(&self, e: &StampedEvent) -> bool {
        let same = |wanted: &Option<String>, is: &Option<String>| {
            wanted.as_ref().is_none_or(|w| is.as_ref() == Some(w))
        };
        (self.kinds.is_empty() || self.kinds.iter().any(|k| k == e.event.kind.name()))
            && self.severity.is_none_or(|s| e.event.severity >= s)
            && same(&self.group, &e.about.group)
            && same(&self.resource, &e.about.resource)
            && same(&self.network, &e.about.network)
            && self.node.as_ref().is_none_or(|n| e.node == *n || e.about.nodes.contains(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;
    use crate::event::{About, Event, EventKind};

    #[test]
    fn a_query_needs_little_and_takes_nothing_strange() {
        use crate::api::Request;
        let query = r#"{"verb":"events","after":7,"follow":true}"#;
        let wanted = EventQuery { after: 7, follow: true, ..EventQuery::default() };
        assert_eq!(serde_json::from_str::<Request>(query).unwrap(), Request::Events(wanted));
        for bad in [
            r#"{"verb":"events","after":7,"follow":true,"colour":1}"#,
            r#"{"verb":"events","after":7,"follow":true,"filter":{"colour":1}}"#,
            r#"{"verb":"events","after":7,"follow":true,"chain":"2"}"#,
            r#"{"verb":"events","after":-1,"follow":true}"#,
        ] {
            serde_json::from_str::<Request>(bad).unwrap_err();
        }
    }

    #[test]
    fn all_that_is_given_must_match() {
        let event =
            Event { kind: EventKind::QuorumLost, severity: Severity::Warning, text: String::new() };
        let about = About {
            nodes: vec!["b".into()],
            group: Some("web".into()),
            resource: Some("ip".into()),
            network: None,
        };
        let id = EventId::new(NodeId::new(1).unwrap(), 1);
        let e = StampedEvent { about, ..StampedEvent::plain(id, "a", event) };
        let none = EventFilter::default();
        let web = || Some("web".to_owned());
        let cases = [
            (none.clone(), true),
            (EventFilter { kinds: vec!["x".into(), "quorum-lost".into()], ..none.clone() }, true),
            (EventFilter { kinds: vec!["x".into()], ..none.clone() }, false),
            (EventFilter { severity: Some(Severity::Warning), ..none.clone() }, true),
            (EventFilter { severity: Some(Severity::Error), ..none.clone() }, false),
            (EventFilter { group: web(), resource: Some("ip".into()), ..none.clone() }, true),
            (EventFilter { group: web(), resource: Some("disk".into()), ..none.clone() }, false),
            (EventFilter { network: web(), ..none.clone() }, false),
            (EventFilter { node: Some("a".into()), ..none.clone() }, true),
            (EventFilter { node: Some("b".into()), ..none.clone() }, true),
            (EventFilter { node: Some("c".into()), ..none }, false),
        ];
        for (filter, wanted) in cases {
            assert_eq!(filter.matches(&e), wanted, "{filter:?}");
        }
    }
}
