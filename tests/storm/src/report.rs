//! Results against their intervals, as a table.

use std::fmt;

use crate::goals::{Goal, Short};

/// One figure.
#[derive(Clone, Debug)]
pub struct Row {
    /// The model and its circumstances.
    pub model: String,
    /// What the clients do.
    pub strategy: String,
    /// What was measured.
    pub figure: &'static str,
    /// The measurement; infinite for what never came to pass.
    pub measured: f64,
    /// Where it must lie; `None` if it is shown to compare.
    pub goal: Option<Goal>,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report(Vec<Row>);

impl Report {
    /// Adds a figure with its goal.
    pub fn check(
        &mut self,
        (model, strategy): (&str, &str),
        figure: &'static str,
        measured: f64,
        goal: impl Into<Option<Goal>>,
    ) {
        let (model, strategy, goal) = (model.to_owned(), strategy.to_owned(), goal.into());
        self.0.push(Row { model, strategy, figure, measured, goal });
    }

    /// The figures outside of their intervals.
    pub fn misses(&self) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(|row| row.goal.is_some_and(|goal| !goal.holds(row.measured)))
    }

    /// How many figures have an interval.
    pub fn checked(&self) -> usize {
        self.0.iter().filter(|row| row.goal.is_some()).count()
    }
}

/// Markdown, aligned for those who read it as it is.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = |row: &Row| {
            let (goal, verdict) = match row.goal {
                None => (String::new(), ""),
                Some(goal) => (goal.to_string(), if goal.holds(row.measured) { "holds" } else { "MISSED" }),
            };
            let measured = Short(row.measured).to_string();
            [
                row.model.clone(),
                row.strategy.clone(),
                row.figure.to_owned(),
                measured,
                goal,
                verdict.to_owned(),
            ]
        };
        let head = ["model", "strategy", "figure", "measured", "interval", ""].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.0.iter().map(cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..6).map(width).collect();
        for (number, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                widths.iter().try_for_each(|width| write!(f, "|-{:-<width$}-", ""))?;
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}
