//! The table, and the targets beside it.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cases;
use crate::contention::{self, Shared};
use crate::measure::{Cost, Side, measure};

pub(crate) struct Report {
    rows: Vec<Row>,
    shared: Vec<Shared>,
    sizes: Vec<(&'static str, f64)>,
}

pub(crate) struct Row {
    group: &'static str,
    name: String,
    side: Side,
    cost: Cost,
}

/// `limit` is the most that `value` may be.
struct Target {
    what: &'static str,
    value: f64,
    limit: f64,
}

impl Report {
    /// Measures the cases whose group or name has this text in it, each for so long a slice.
    pub(crate) fn run(only: &str, slice: Duration) -> Self {
        let wanted = |group: &str, name: &str| group.contains(only) || name.contains(only);
        let mut rows = rows(cases::all().into_iter().filter(|case| wanted(case.group, &case.name)), slice);
        for (group, keys) in [
            ("breaker per key, 1 key", 1),
            ("breaker per key, 1,000 keys", 1000),
            ("breaker per key, 1,000,000 keys", 1_000_000),
        ] {
            if wanted(group, "") {
                rows.extend(self::rows(cases::keyed(group, keys).into_iter(), slice));
            }
        }
        let all = only.is_empty();
        let shared = if all { contention::measure(1_000_000) } else { Vec::new() };
        let sizes = if all { cases::sizes() } else { Vec::new() };
        Self { rows, shared, sizes }
    }

    /// Measures chains and stores only.
    pub(crate) fn degrade(slice: Duration) -> Self {
        let rows = rows(cases::degrade().into_iter(), slice);
        Self { rows, shared: contention::store(1_000_000), sizes: cases::degrade_sizes() }
    }

    /// Measures supervised services only.
    pub(crate) fn heal(slice: Duration) -> Self {
        let rows = rows(cases::heal().into_iter(), slice);
        Self { rows, shared: contention::supervised(1_000_000), sizes: cases::heal_sizes() }
    }

    fn cost(&self, group: &str, name: &str) -> Option<&Cost> {
        let found = self.rows.iter().find(|row| row.group == group && row.name.starts_with(name));
        found.map(|row| &row.cost)
    }

    fn size(&self, name: &str) -> Option<f64> {
        self.sizes.iter().find(|size| size.0.starts_with(name)).map(|size| size.1)
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let mut ratio = |what, limit, ours: (&str, &str), other: (&str, &str)| {
            if let (Some(ours), Some(other)) = (self.cost(ours.0, ours.1), self.cost(other.0, other.1)) {
                targets.push(Target { what, value: ours.best / other.best, limit });
            }
        };
        let closed = |name| ("breaker, closed", name);
        let consecutive = closed("5 consecutive");
        ratio("consecutive breaker / atomic check by hand", 1.5, consecutive, closed("atomic"));
        ratio("consecutive breaker / tower-resilience", 0.05, consecutive, closed("tower-resilience, cons"));
        ratio("consecutive breaker / recloser", 0.6, consecutive, closed("recloser"));
        ratio("consecutive breaker / failsafe", 0.6, consecutive, closed("failsafe, cons"));
        ratio("window of 100 / consecutive breaker", 1.5, closed("window of 100"), consecutive);
        let open = |name| ("breaker, open", name);
        ratio("refused / tower-resilience", 0.25, open("refused"), open("tower-resilience"));
        let retry = |name| ("retry, not taken, u64", name);
        ratio("retry of u64 / tower::retry", 1.5, retry("default"), retry("tower::retry"));
        let http = |name| ("retry, not taken, HTTP request with 10 headers", name);
        ratio("retry of an HTTP request / tower::retry", 1.1, http("default"), http("tower::retry"));
        let ready = |name| ("deadline, ready at once", name);
        ratio("deadline, ready / tower::timeout", 1.0 / 6.0, ready("nothing"), ready("tower::timeout"));
        let pending = |name| ("deadline, pending once", name);
        ratio("deadline, pending / tower::timeout", 1.1, pending("nothing"), pending("tower::timeout"));
        let stack = |name| ("stack: total deadline, retry, breaker, attempt deadline", name);
        ratio("stack, ready / tower-resilience", 1.0 / 15.0, stack("four"), stack("tower-resilience"));
        let stack = |name| ("stack, pending once", name);
        ratio("stack, pending / tower-resilience", 0.25, stack("four"), stack("tower-resilience"));
        let chain = |name| ("degrade, not triggered", name);
        ratio("untriggered chain, leaked / bare service", 1.2, chain("closed chain, leaked"), chain("bare"));
        let chain = |name| ("degrade, not triggered, pending once", name);
        ratio("the same, pending once", 1.2, chain("closed chain, leaked"), chain("bare"));
        let chain = |name| ("degrade, not triggered, HTTP answer with 10 headers", name);
        let leaked = chain("closed chain, leaked");
        ratio("the same, an HTTP answer with 10 headers", 1.2, leaked, chain("bare"));
        let hit = |name| ("degrade, store hit, 1,024 keys of 36 characters, 1 KiB", name);
        let peer = hit("tower-resilience cache, String");
        ratio("store hit / tower-resilience's cache, String key", 0.6, hit("last good"), peer);
        self.absolute_targets(&mut targets);
        self.degrade_targets(&mut targets);
        self.heal_targets(&mut targets);
        targets
    }

    fn heal_targets(&self, targets: &mut Vec<Target>) {
        let mut at_most = |what, limit, value: Option<f64>| {
            targets.extend(value.map(|value| Target { what, value, limit }));
        };
        let healthy = |name| self.cost("heal, healthy", name);
        let by_hand = healthy("supervised").zip(healthy("atomic"));
        at_most("supervised / atomic check by hand", 2.0, by_hand.map(|(ours, hand)| ours.best / hand.best));
        at_most("supervised, allocations", 0.0, healthy("supervised").map(|cost| cost.allocations));
        let shared = self.shared.iter().find(|shared| shared.name == "one supervised service");
        at_most(
            "supervised, two threads / one thread",
            2.0,
            shared.map(|shared| shared.two.0 / shared.one.0),
        );
        at_most("a supervised client, bytes", 2048.0, self.size("a supervised client"));
        at_most("threads for 10,000 of them", 0.0, self.size("threads that"));
    }

    fn degrade_targets(&self, targets: &mut Vec<Target>) {
        let mut at_most = |what, limit, value: Option<f64>| {
            targets.extend(value.map(|value| Target { what, value, limit }));
        };
        let allocations = |group, name| self.cost(group, name).map(|cost| cost.allocations);
        at_most(
            "untriggered chain, allocations",
            0.0,
            allocations("degrade, not triggered", "closed chain, counted"),
        );
        let hit = "degrade, store hit, 1,024 keys of 36 characters, 1 KiB";
        at_most("store hit, allocations", 0.0, allocations(hit, "last good"));
        let store = self.shared.iter().find(|shared| shared.name.contains("one store"));
        at_most("store hit, two threads / one thread", 2.0, store.map(|shared| shared.two.0 / shared.one.0));
        at_most("a store of 1 MiB, bytes", 1_048_576.0, self.size("a store of 1 MiB"));
    }

    fn absolute_targets(&self, targets: &mut Vec<Target>) {
        let mut at_most = |what, limit, value: Option<f64>| {
            targets.extend(value.map(|value| Target { what, value, limit }));
        };
        let best = |group, name| self.cost(group, name).map(|cost| cost.best);
        let over = |name, base| Some(best("breaker, closed", name)? - best("breaker, closed", base)?);
        let machine = |name| best("the machine", name).unwrap_or_default();
        let clock = machine("a clock read");
        let without = |reads: f64, name| over(name, "5 consecutive").map(|ns| ns - reads * clock);
        at_most(
            "time window over consecutive, less one clock read, ns",
            20.0,
            without(1.0, "window of 10 s"),
        );
        let slow = Some(("breaker, closed, pending once", "slow calls"));
        let slow = slow.and_then(|(group, name)| Some(best(group, name)? - best(group, "5 consecutive")?));
        at_most(
            "slow calls over consecutive, pending, less two clock reads, ns",
            20.0,
            slow.map(|ns| ns - 2.0 * clock),
        );
        at_most("refused, ns", 30.0, best("breaker, open", "refused"));
        let allocations = |group, name| self.cost(group, name).map(|cost| cost.allocations);
        at_most("refused, allocations", 1.0, allocations("breaker, open", "refused"));
        let http = "retry, not taken, HTTP request with 10 headers";
        let beyond = allocations(http, "default").zip(allocations(http, "tower::retry"));
        at_most(
            "retry of an HTTP request, allocations beyond tower's",
            0.0,
            beyond.map(|(ours, tower)| ours - tower),
        );
        at_most("stack, allocations", 0.0, allocations("stack, pending once", "four"));
        let outside = cases::OUTSIDE;
        let layer = best(outside, "journaled").zip(best(outside, "bare"));
        at_most("checkpoint layer over bare, ns", 5.0, layer.map(|(ours, bare)| ours - bare));
        at_most("checkpoint layer, allocations", 0.0, allocations(outside, "journaled"));
        let metric = "one metric, Prometheus recorder";
        let metric = best(metric, "breaker, observed").zip(best(metric, "breaker, not observed"));
        let added = metric.map(|(with, without)| with - without);
        at_most("one metric, ns", 6.0, added);
        at_most(
            "one metric, less the counter itself, ns",
            6.0,
            added.map(|ns| ns - machine("a registered counter")),
        );
        let worker = self.shared.iter().find(|shared| shared.name.contains("per_worker"));
        at_most(
            "two threads, .per_worker() / one thread",
            1.5,
            worker.map(|shared| shared.two.0 / shared.one.0),
        );
        at_most("stack, bytes of the future", 320.0, self.size("future of the four-layer stack"));
        at_most("a key of 41 characters, bytes", 200.0, self.size("a key"));
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            let Cost { best, median, allocations } = row.cost;
            let side = format!("{:?}", row.side).to_lowercase();
            let (over_bare, ours) = (self.over_bare(row), self.ours_over(row));
            json!({
                "group": row.group, "case": row.name, "side": side, "best_ns": best, "median_ns": median,
                "allocations": allocations, "over_bare": over_bare, "buttress_over_it": ours,
            })
        };
        let shared = |shared: &Shared| {
            let Shared { name, one, two, .. } = shared;
            json!({ "case": name, "one_thread_ns": one.0, "two_threads_ns": two.0, "two_threads_median_ns": two.1 })
        };
        let target = |Target { what, value, limit }: Target| json!({ "target": what, "value": value, "limit": limit, "holds": value <= limit });
        json!({
            "cases": self.rows.iter().map(row).collect::<Vec<_>>(),
            "shared": self.shared.iter().map(shared).collect::<Vec<_>>(),
            "sizes": self.sizes.iter().map(|(name, value)| json!({ "what": name, "value": value })).collect::<Vec<_>>(),
            "targets": self.targets().into_iter().map(target).collect::<Vec<_>>(),
        })
    }

    /// How many times the bare service's cost a row is.
    fn over_bare(&self, row: &Row) -> f64 {
        let same = |other: &&Row| other.group == row.group && other.name.starts_with("bare service");
        let bare =
            self.rows.iter().find(same).or_else(|| self.rows.iter().find(|other| other.group == "bare"));
        bare.map_or(f64::NAN, |bare| row.cost.best / bare.cost.best)
    }

    /// What our first case of the same group costs, in terms of this one.
    fn ours_over(&self, row: &Row) -> Option<f64> {
        let ours = self.rows.iter().find(|other| other.group == row.group && other.side == Side::Buttress)?;
        (row.side != Side::Buttress).then(|| ours.cost.best / row.cost.best)
    }
}

fn rows(cases: impl Iterator<Item = crate::measure::Case>, slice: Duration) -> Vec<Row> {
    let mut cases: Vec<_> = cases.collect();
    let costs = measure(&mut cases, slice);
    let row = |(case, cost): (crate::measure::Case, Cost)| Row {
        group: case.group,
        name: case.name,
        side: case.side,
        cost,
    };
    cases.into_iter().zip(costs).map(row).collect()
}

/// A table that Markdown understands.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut group = "";
        for row in &self.rows {
            if row.group != group {
                group = row.group;
                writeln!(
                    f,
                    "\n| {group} | ns best | ns median | allocations | × bare | ours ÷ it |\n|---|---:|---:|---:|---:|---:|"
                )?;
            }
            let Cost { best, median, allocations } = row.cost;
            let name =
                if row.side == Side::Buttress { format!("**{}**", row.name) } else { row.name.clone() };
            let ours = self.ours_over(row).map_or(String::new(), |ratio| format!("{ratio:.3}"));
            let over_bare = self.over_bare(row);
            writeln!(f, "| {name} | {best:.2} | {median:.2} | {allocations:.2} | {over_bare:.2} | {ours} |")?;
        }
        if !self.shared.is_empty() {
            writeln!(
                f,
                "\n| shared by threads | 1 thread, ns | 2 threads, ns best | 2 threads, ns median | best ÷ 1 thread |\n|---|---:|---:|---:|---:|"
            )?;
        }
        for Shared { name, side, one, two } in &self.shared {
            let name = if *side == Side::Buttress { format!("**{name}**") } else { (*name).to_owned() };
            let times = two.0 / one.0;
            writeln!(f, "| {name} | {:.2} | {:.2} | {:.2} | {times:.2} |", one.0, two.0, two.1)?;
        }
        if !self.sizes.is_empty() {
            writeln!(f, "\n| size | |\n|---|---:|")?;
        }
        for (name, value) in &self.sizes {
            writeln!(f, "| {name} | {value:.1} |")?;
        }
        writeln!(f, "\n| target | at most | measured | |\n|---|---:|---:|---|")?;
        for Target { what, value, limit } in self.targets() {
            let holds = if value <= limit { "holds" } else { "**missed**" };
            writeln!(f, "| {what} | {limit:.3} | {value:.3} | {holds} |")?;
        }
        Ok(())
    }
}
