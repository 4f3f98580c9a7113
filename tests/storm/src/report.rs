//! Results against their intervals, as tables.

use std::fmt;

use crate::goals::{Goal, Short};

/// One figure.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    measured: f64,
    goal: Option<Goal>,
}

impl Cell {
    /// A measurement, infinite for what never came to pass, and where it must lie; without a goal it is shown to compare.
    pub fn new(measured: f64, goal: impl Into<Option<Goal>>) -> Self {
        Self { measured, goal: goal.into() }
    }

    fn missed(self) -> bool {
        self.goal.is_some_and(|goal| !goal.holds(self.measured))
    }
}

/// `21.8 (at most 25.0)`; a miss says so.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Short(self.measured))?;
        match self.goal {
            Some(goal) if self.missed() => write!(f, " MISSED ({goal})"),
            Some(goal) => write!(f, " ({goal})"),
            None => Ok(()),
        }
    }
}

/// What one strategy came to under one model's circumstances.
#[derive(Clone, Debug)]
struct Row {
    circumstances: String,
    strategy: String,
    cells: Vec<Cell>,
}

/// The results of one model.
#[derive(Clone, Debug)]
pub struct Table {
    title: &'static str,
    figures: &'static [&'static str],
    rows: Vec<Row>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(title: &'static str, figures: &'static [&'static str]) -> Self {
        Self { title, figures, rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn add(&mut self, circumstances: impl Into<String>, strategy: impl Into<String>, cells: Vec<Cell>) {
        self.rows.push(Row { circumstances: circumstances.into(), strategy: strategy.into(), cells });
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Report(pub Vec<Table>);

impl Report {
    /// How many figures have a goal, and how many of them miss it.
    pub fn checked_and_missed(&self) -> (usize, usize) {
        let cells = || self.0.iter().flat_map(|table| &table.rows).flat_map(|row| &row.cells);
        let checked = cells().filter(|cell| cell.goal.is_some()).count();
        (checked, cells().filter(|cell| cell.missed()).count())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|table| write!(f, "{table}\n\n"))?;
        let (checked, missed) = self.checked_and_missed();
        writeln!(f, "{} of {checked} figures within their intervals, {missed} outside", checked - missed)
    }
}

/// Markdown, aligned for those who read it as it is.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [self.title, "strategy"].into_iter().chain(self.figures.iter().copied());
        let mut lines: Vec<Vec<String>> = vec![head.map(str::to_owned).collect()];
        lines.extend(self.rows.iter().map(|row| {
            let cells = row.cells.iter().map(Cell::to_string);
            [row.circumstances.clone(), row.strategy.clone()].into_iter().chain(cells).collect()
        }));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
        lines.insert(1, rule);
        let lines: Vec<String> = lines
            .iter()
            .map(|line| {
                let cells = line.iter().zip(&widths).map(|(cell, width)| format!("| {cell:<width$} "));
                cells.collect::<String>() + "|"
            })
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_every_figure_and_counts_what_misses_its_goal() {
        let mut table = Table::new("model", &["peak", "recovery, s"]);
        table.add("stall", "default", vec![Cell::new(1.4, Goal::at_most(1.65)), Cell::new(21.8, None)]);
        let never = Cell::new(f64::INFINITY, Goal::at_most(25.0));
        table.add("stall", "no budget", vec![Cell::new(4.0, None), never]);
        let report = Report(vec![table]);
        assert_eq!(report.checked_and_missed(), (2, 1));
        let text = report.to_string();
        assert!(text.starts_with("| model | strategy  | peak "), "{text}");
        assert!(text.contains("| stall | default   | 1.400 (at most 1.650) | 21.8 "), "{text}");
        assert!(text.contains("| never MISSED (at most 25.0) |"), "{text}");
        assert!(text.ends_with("1 of 2 figures within their intervals, 1 outside\n"), "{text}");
    }
}
