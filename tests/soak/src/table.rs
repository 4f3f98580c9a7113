//! What a run came to: one table, and whether it is as it should be.

use buttress::BoxError;

/// Figures, and those among them that have a bound.
#[derive(Debug)]
pub struct Table {
    title: &'static str,
    rows: Vec<(String, u64, Option<Bound>)>,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(u64),
    Exactly(u64),
}

impl Bound {
    fn holds(self, figure: u64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::Exactly(expected) => figure == expected,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::Exactly(expected) => write!(f, "exactly {expected}"),
        }
    }
}

impl Table {
    /// Without rows.
    pub fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// For information.
    pub fn figure(&mut self, name: &str, figure: u64) {
        self.rows.push((name.to_owned(), figure, None));
    }

    /// One that may be no larger.
    pub fn at_most(&mut self, name: &str, figure: u64, most: u64) {
        self.rows.push((name.to_owned(), figure, Some(Bound::AtMost(most))));
    }

    /// One that has to be as it is.
    pub fn exactly(&mut self, name: &str, figure: u64, expected: u64) {
        self.rows.push((name.to_owned(), figure, Some(Bound::Exactly(expected))));
    }

    /// Prints it.
    ///
    /// # Errors
    ///
    /// If a bound does not hold: the first such row.
    pub fn finish(self) -> Result<(), BoxError> {
        println!("{:<45} {:>12}   bound", self.title, "");
        let mut broken = None;
        for (name, figure, bound) in &self.rows {
            let holds = bound.is_none_or(|bound| bound.holds(*figure));
            let bound = bound.map_or_else(String::new, |bound| bound.to_string());
            println!("{name:<45} {figure:>12}   {bound}{}", if holds { "" } else { "  BROKEN" });
            if !holds {
                broken.get_or_insert_with(|| format!("{name}: {figure}, but {bound}"));
            }
        }
        broken.map_or(Ok(()), |broken| Err(broken.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_table_fails_with_the_first_row_that_is_out_of_bounds() {
        let mut table = Table::new("test");
        table.figure("any", 9);
        table.at_most("most", 3, 3);
        table.exactly("tasks", 1, 0);
        table.at_most("most", 4, 3);
        assert_eq!(table.finish().unwrap_err().to_string(), "tasks: 1, but exactly 0");
    }
}
