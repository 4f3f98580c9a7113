//! Pairs of slices, and the table that comes of them.

use std::fmt;
use std::time::Duration;

use buttress::BoxError;
use serde_json::{Value, json};

use crate::clients::{BARE, BRIDGE, HYPER, LEAKED, MIDDLEWARE, REQWEST, STACK, TONIC};
use crate::load::{Client, Slice, Until};

/// What one client did in all rounds.
#[derive(Debug)]
struct Row {
    group: &'static str,
    name: &'static str,
    /// Round by round.
    slices: Vec<Slice>,
}

pub(crate) struct Report(Vec<Row>);

impl Report {
    /// Lets the clients of each group call in turn, round after round, forwards and backwards: what disturbs the machine
    /// then disturbs all of them alike.
    pub(crate) async fn run(clients: &[Client], rounds: usize, slice: Duration) -> Result<Self, BoxError> {
        let row = |client: &Client| Row { group: client.group, name: client.name, slices: Vec::new() };
        let mut rows: Vec<Row> = clients.iter().map(row).collect();
        for group in clients.chunk_by(|one, other| one.group == other.group) {
            let first = clients.iter().position(|client| client.group == group[0].group).unwrap_or_default();
            for round in 0..=rounds {
                for turn in 0..group.len() {
                    let turn = if round % 2 == 0 { turn } else { group.len() - 1 - turn };
                    let slice = group[turn].run(Until::Time(slice)).await?;
                    // The first round opens connections and fills pools.
                    if round > 0 {
                        rows[first + turn].slices.push(slice);
                    }
                }
            }
        }
        Ok(Self(rows))
    }

    fn row(&self, group: &str, name: &str) -> Option<&Row> {
        self.0.iter().find(|row| row.group == group && row.name == name)
    }

    /// The requests per second of one client in terms of another's, which called in the same rounds: the quartiles.
    fn ratio(&self, group: &str, name: &str, other: &str) -> Option<[f64; 3]> {
        let (row, other) = (self.row(group, name)?, self.row(group, other)?);
        let pairs = row.slices.iter().zip(&other.slices);
        Some(quartiles(pairs.map(|(slice, other)| slice.per_second() / other.per_second())))
    }

    /// Name, ratio of requests per second, and the least that it should be.
    fn targets(&self) -> Vec<(&'static str, f64, f64)> {
        let target =
            |what, group, name, other, least| Some((what, self.ratio(group, name, other)?[1], least));
        let all = [
            target("hyper: four layers / bare", HYPER, STACK, BARE, 0.95),
            target("hyper: four layers, leaked / bare", HYPER, LEAKED, BARE, 0.95),
            target("reqwest: the bridge / nothing in it", REQWEST, BRIDGE, MIDDLEWARE, 0.95),
            target("tonic: four layers / bare", TONIC, STACK, BARE, 0.97),
            target("tonic: four layers, leaked / bare", TONIC, LEAKED, BARE, 0.97),
        ];
        all.into_iter().flatten().collect()
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            let Row { group, name, .. } = row;
            let [per_second, cpu, p50, p99] = row.figures();
            let ratio = self.ratio(group, name, BARE);
            json!({
                "group": group, "client": name, "requests_per_second": per_second, "p50_us": p50, "p99_us": p99,
                "client_cpu_us": cpu, "over_bare_quartiles": ratio,
            })
        };
        let target = |(what, ratio, least)| json!({ "target": what, "ratio": ratio, "at_least": least, "holds": ratio >= least });
        json!({
            "clients": self.0.iter().map(row).collect::<Vec<_>>(),
            "targets": self.targets().into_iter().map(target).collect::<Vec<_>>(),
        })
    }
}

impl Row {
    /// Requests per second, microseconds of the client's processor for each, and two percentiles of their time.
    fn figures(&self) -> [f64; 4] {
        let [_, per_second, _] = quartiles(self.slices.iter().map(Slice::per_second));
        let [_, cpu, _] = quartiles(self.slices.iter().map(Slice::cpu_per_call));
        let mut latencies: Vec<u32> =
            self.slices.iter().flat_map(|slice| slice.latencies.iter().copied()).collect();
        latencies.sort_unstable();
        let percentile = |percent| {
            let at = latencies.len().saturating_sub(1) * percent / 100;
            latencies.get(at).map_or(f64::NAN, |&nanos| f64::from(nanos) / 1e3)
        };
        [per_second, cpu, percentile(50), percentile(99)]
    }
}

fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values.get(values.len() * share / 4).copied().unwrap_or(f64::NAN);
    [at(1), at(2), at(3)]
}

/// A table that Markdown understands.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut group = "";
        for row in &self.0 {
            if row.group != group {
                group = row.group;
                writeln!(
                    f,
                    "\n| {group} | requests/s | p50, µs | p99, µs | client's CPU, µs | × bare [quartiles] |\n|---|---:|---:|---:|---:|---:|"
                )?;
            }
            let [per_second, cpu, p50, p99] = row.figures();
            let name =
                if row.name.contains("Buttress") { format!("**{}**", row.name) } else { row.name.to_owned() };
            let ratio = self.ratio(group, row.name, BARE).filter(|_| row.name != BARE);
            let ratio = ratio
                .map_or(String::new(), |[low, median, high]| format!("{median:.3} [{low:.3}, {high:.3}]"));
            writeln!(f, "| {name} | {per_second:.0} | {p50:.0} | {p99:.0} | {cpu:.2} | {ratio} |")?;
        }
        writeln!(f, "\n| target | at least | measured | |\n|---|---:|---:|---|")?;
        for (what, ratio, least) in self.targets() {
            let holds = if ratio >= least { "holds" } else { "**missed**" };
            writeln!(f, "| {what} | {least:.3} | {ratio:.3} | {holds} |")?;
        }
        Ok(())
    }
}
