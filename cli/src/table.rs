//! Plain tables: columns as wide as their widest cell, two spaces between them, nothing at the end.

/// Text that may come from elsewhere, on one line and without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A table with a heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&h| h.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: &[&str]) {
        let cells = cells.iter().map(|c| if c.is_empty() { "-".into() } else { clean(c) });
        self.rows.push(cells.collect());
    }

    /// The table, each line indented by `indent` spaces.
    pub(crate) fn render(&self, indent: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| {
            self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (cell, &width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - cell.chars().count() + 2));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_gone() {
        let mut t = Table::new(&["NAME", "STATE", "WHY"]);
        t.row(&["web", "online", ""]);
        t.row(&["database", "failed", "exit\n\x1b[31m1"]);
        assert_eq!(
            t.render(2),
            "  NAME      STATE   WHY\n  web       online  -\n  database  failed  exit  [31m1\n"
        );
    }
}
