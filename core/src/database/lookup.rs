//! Objects by name, with a hint where a name is close to one that exists.

use wolfpack_types::objects::{Group, Node, Resource};
use wolfpack_types::update::Refusal;

use super::Database;

/// Names longer than any valid one are not compared: the distance costs length times length.
const COMPARED_BYTES_MAX: usize = 63;

impl Database {
    /// # Errors
    /// [`Refusal::Unknown`], with the name that may have been meant.
    pub(crate) fn group_by_name(&self, name: &str) -> Result<&Group, Refusal> {
        let all = || self.groups.values();
        self.index
            .group(name)
            .and_then(|id| self.groups.get(&id))
            .ok_or_else(|| unknown("group", name, all().map(|g| g.name.as_str())))
    }

    /// # Errors
    /// [`Refusal::Unknown`], with the name that may have been meant.
    pub(crate) fn resource_by_name(&self, name: &str) -> Result<&Resource, Refusal> {
        let all = || self.resources.values();
        self.index
            .resource(name)
            .and_then(|id| self.resources.get(&id))
            .ok_or_else(|| unknown("resource", name, all().map(|r| r.name.as_str())))
    }

    /// # Errors
    /// [`Refusal::Unknown`], with the name that may have been meant.
    pub(crate) fn node_by_name(&self, name: &str) -> Result<&Node, Refusal> {
        let all = || self.nodes.values();
        all()
            .find(|n| n.name == name)
            .ok_or_else(|| unknown("node", name, all().map(|n| n.name.as_str())))
    }
}

/// A refusal that helps: "did you mean", or what there is.
pub(crate) fn unknown<'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Refusal {
    let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
    Refusal::Unknown { what: what.into(), name: shown, hint: hint(name, known) }
}

fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    const LISTED: usize = 8;
    let best = (name.len() <= COMPARED_BYTES_MAX)
        .then(|| known.clone().map(|k| (distance(name, k), k)).min())
        .flatten();
    if let Some((away, best)) = best
        && away <= 1.max(name.len() / 3)
    {
        return format!("; did you mean '{best}'?");
    }
    let listed: Vec<_> = known.clone().take(LISTED + 1).collect();
    match listed.len() {
        0 => "; there is none yet".into(),
        1..=LISTED => format!("; there is: {}", listed.join(", ")),
        _ => String::new(),
    }
}

/// Edit distance (Levenshtein), without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("web", "web"), 0);
        assert_eq!(distance("wbe", "web"), 2);
        assert_eq!(distance("", "web"), 3);
        assert_eq!(distance("WEB1", "web"), 1);
    }

    #[test]
    fn hints_name_the_nearest_or_list_what_there_is() {
        let known = ["web", "mail"];
        assert_eq!(hint("wep", known.into_iter()), "; did you mean 'web'?");
        assert_eq!(hint("database", known.into_iter()), "; there is: web, mail");
        assert_eq!(hint("web", [].into_iter()), "; there is none yet");
        assert_eq!(hint(&"x".repeat(100_000), known.into_iter()), "; there is: web, mail");
    }
}
