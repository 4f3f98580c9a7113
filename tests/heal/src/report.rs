//! All figures, as a table and as JSON.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::arms::Arm;
use crate::fault::Fault;
use crate::figures::{Figures, percentiles};

/// One injection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The fault's name.
    pub fault: String,
    /// Who met it.
    pub arm: Arm,
    /// Which of those side by side.
    pub lane: usize,
    /// Which of those after each other.
    pub round: usize,
    /// What it came to.
    #[serde(flatten)]
    pub figures: Figures,
}

/// All injections so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// In the order of the faults.
    pub injections: Vec<Entry>,
}

impl Report {
    /// Reads one that was written before; an empty one if there is none.
    ///
    /// # Errors
    ///
    /// If the file is something else.
    pub fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(json) => Ok(serde_json::from_slice(&json)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        fs::write(path, json)
    }

    /// Puts these in the place of those of the same fault.
    pub fn replace(&mut self, fault: Fault, entries: Vec<Entry>) {
        self.injections.retain(|entry| entry.fault != fault.name());
        self.injections.extend(entries);
        self.injections.sort_by_key(|entry| (Fault::named(&entry.fault), entry.arm, entry.lane, entry.round));
    }

    /// What a fault did to an arm.
    pub fn of(&self, fault: Fault, arm: Arm) -> Vec<&Figures> {
        let entries = self.injections.iter();
        entries
            .filter(|entry| entry.fault == fault.name() && entry.arm == arm)
            .map(|entry| &entry.figures)
            .collect()
    }
}

/// Median, 95th percentile and maximum of one figure.
#[derive(Clone, Copy, Debug)]
struct Cell(Option<[Option<f64>; 3]>);

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(figures) = self.0 else { return f.write_str("–") };
        let shown = figures
            .map(|figure| figure.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.2}")));
        f.write_str(&shown.join(" / "))
    }
}

const HEAD: &str = "\
| fault | client | n | detected, s | recovered, s | never | first answer after the fault, s | errors, s | actions | pages |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
";

/// The table: median / 95th percentile / maximum.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for fault in Fault::ALL {
            for arm in Arm::ALL {
                let all = self.of(fault, arm);
                if !all.is_empty() {
                    row(f, fault, arm, &all)?;
                }
            }
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, fault: Fault, arm: Arm, all: &[&Figures]) -> fmt::Result {
    let cell = |figure: fn(&Figures) -> Option<f64>| {
        let values: Vec<_> = all.iter().map(|figures| figure(figures)).collect();
        Cell(percentiles(&values))
    };
    let calm = fault == Fault::Calm;
    // What is over before it can be detected needs no healing.
    let found: Vec<_> = all.iter().map(|figures| figures.detected).filter(Option::is_some).collect();
    let mut detected = Cell(percentiles(&found)).to_string();
    if !found.is_empty() && found.len() < all.len() {
        detected = format!("{detected} ({} of {})", found.len(), all.len());
    }
    let recovered = if calm { Cell(None) } else { cell(|figures| figures.recovered) };
    let first_answer =
        if fault.lasts().is_some() { cell(|figures| figures.first_answer) } else { Cell(None) };
    let never = all.iter().filter(|figures| figures.recovered.is_none()).count();
    let errors = cell(|figures| Some(figures.error_seconds));
    let (title, arm, n) = (fault.title(), arm.name(), all.len());
    write!(f, "| {title} | {arm} | {n} | {detected} | {recovered} | {never} | {first_answer} | {errors} ")?;
    let count = |figure: fn(&Figures) -> usize| {
        let counts: Vec<_> = all.iter().map(|figures| Some(figure(figures) as f64)).collect();
        percentiles(&counts)
            .unwrap_or_default()
            .map(|count| count.unwrap_or_default().to_string())
            .join(" / ")
    };
    let (actions, pages) = (count(|figures| figures.actions.len()), count(|figures| figures.pages));
    writeln!(f, "| {actions} | {pages} |")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fault: Fault, arm: Arm, recovered: Option<f64>) -> Entry {
        let figures = Figures { recovered, detected: recovered, ..Figures::default() };
        Entry { fault: fault.name().to_owned(), arm, lane: 0, round: 0, figures }
    }

    #[test]
    fn a_part_that_is_measured_again_takes_the_place_of_the_old_one_and_keeps_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heal.json");
        assert_eq!(Report::read(&path).unwrap(), Report::default());
        let mut report = Report::default();
        report.replace(Fault::Stop, vec![entry(Fault::Stop, Arm::Healed, Some(1.0))]);
        report.replace(Fault::Kill, vec![entry(Fault::Kill, Arm::Alone, None)]);
        report.replace(Fault::Stop, vec![entry(Fault::Stop, Arm::Healed, Some(2.0))]);
        report.write(&path).unwrap();
        let read = Report::read(&path).unwrap();
        assert_eq!(read, report);
        let faults: Vec<_> =
            read.injections.iter().map(|entry| (&*entry.fault, entry.figures.recovered)).collect();
        assert_eq!(faults, [("kill", None), ("stop", Some(2.0))]);
    }

    #[test]
    fn a_row_says_how_many_never_recovered() {
        let mut report = Report::default();
        report.replace(
            Fault::Kill,
            vec![entry(Fault::Kill, Arm::Healed, Some(0.5)), entry(Fault::Kill, Arm::Healed, None)],
        );
        let table = report.to_string();
        assert!(table.ends_with("| healed | 2 | 0.50 / 0.50 / 0.50 (1 of 2) | 0.50 / never / never | 1 | – | 0.00 / 0.00 / 0.00 | 0 / 0 / 0 | 0 / 0 / 0 |\n"), "{table}");
    }
}
