//! Injects real faults and measures recoveries.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use heal_tests::arms::Arm;
use heal_tests::fault::Fault;
use heal_tests::goals::{self, Bounds};
use heal_tests::namespace::Place;
use heal_tests::report::{Entry, Report};
use heal_tests::schedule::{self, Plan};
use heal_tests::{backend, namespace, network, picture};
use lexopt::prelude::{Long, Short, Value, ValueExt};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
Usage: recovery [OPTION]...

  --fault NAME      only this fault; may be repeated (see below)
  --client NAME     only this client (alone, restarted, healed); may be repeated
  --injections N    of each fault, for each client (30)
  --minutes N       without a fault (10), for the fault `calm`, which is beside the others
  --lanes N         side by side at most (15)
  --seed N          from which all moments are drawn (1)
  --json FILE       adds the figures to this file, in the place of those of the same faults, and reports all that is in it
  --svg FILE        draws all that is reported
  --report          measures nothing: reports what is in the JSON file
  --short           holds the figures to bounds that also hold on a machine that does other things

Faults: kill stop black-hole unplug cut exhaust kill-session kill-postmaster password full-disk calm

Exit status: 0 if every figure is within its bounds, 1 if not, 2 if the arguments cannot be used.";

/// What is done with the processes of faults, which is no option for people: this is the one that injects them.
const INJECT: &str = "inject";

#[derive(Debug)]
struct Options {
    faults: Vec<Fault>,
    plan: Plan,
    json: Option<PathBuf>,
    svg: Option<PathBuf>,
    measure: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help" | "-h"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        [backend::COMMAND, port, words] => serve(port, words),
        [INJECT, json, ..] => inject(Path::new(json), &arguments[2..]),
        _ => match options(&arguments) {
            Ok(options) => all(&options, &arguments),
            Err(error) => {
                eprintln!("{error}\n\n{HELP}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("recovery: {error}");
            ExitCode::FAILURE
        }
    }
}

type Done = Result<bool, Box<dyn Error>>;

fn options(arguments: &[String]) -> Result<Options, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut faults, mut arms) = (Vec::new(), Vec::new());
    let calm = Duration::from_secs(600);
    let bounds = Bounds::Exact;
    let mut plan = Plan { injections: 30, calm, lanes: 15, seed: 1, arms: Vec::new(), bounds };
    let (mut json, mut svg, mut measure) = (None, None, true);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("fault") => {
                let named =
                    |name: &str| Fault::named(name).ok_or_else(|| format!("there is no fault `{name}`"));
                faults.push(parser.value()?.parse_with(named)?);
            }
            Long("client") => {
                let named =
                    |name: &str| Arm::named(name).ok_or_else(|| format!("there is no client `{name}`"));
                arms.push(parser.value()?.parse_with(named)?);
            }
            Long("injections") => plan.injections = parser.value()?.parse()?,
            Long("minutes") => plan.calm = Duration::from_secs_f64(60.0 * parser.value()?.parse::<f64>()?),
            Long("lanes") => plan.lanes = parser.value()?.parse()?,
            Long("seed") => plan.seed = parser.value()?.parse()?,
            Long("json") => json = Some(parser.value()?.into()),
            Long("svg") => svg = Some(parser.value()?.into()),
            Long("report") => measure = false,
            Long("short") => plan.bounds = Bounds::Generous,
            Value(_) | Long(_) | Short(_) => return Err(argument.unexpected()),
        }
    }
    faults = if faults.is_empty() { Fault::ALL.to_vec() } else { faults };
    plan.arms = if arms.is_empty() { Arm::ALL.to_vec() } else { arms };
    Ok(Options { faults, plan, json, svg, measure })
}

/// Everything: injects each fault where it can be, and reports.
fn all(options: &Options, arguments: &[String]) -> Done {
    // No folder, which would be left if this is killed.
    let own = std::env::temp_dir().join(format!("buttress-heal-{}.json", std::process::id()));
    let json = options.json.clone().unwrap_or_else(|| own.clone());
    if options.measure {
        for (place, faults) in places(&options.faults) {
            let names = faults.iter().flat_map(|fault| ["--fault".to_owned(), fault.name().to_owned()]);
            let inject = [INJECT.to_owned(), json.to_string_lossy().into_owned()];
            let arguments: Vec<String> =
                inject.into_iter().chain(without_faults(arguments)).chain(names).collect();
            if !namespace::run(place, &arguments)? {
                return Err("the faults could not all be injected".into());
            }
        }
    }
    let report = Report::read(&json)?;
    let _ = std::fs::remove_file(own);
    let goals = goals::of(&report, options.plan.bounds);
    println!("\nMedian / 95th percentile / maximum.\n\n{report}");
    println!("| goal | | measured | |\n|---|---|---:|---|");
    goals.iter().for_each(|goal| println!("{goal}"));
    if let Some(svg) = &options.svg {
        picture::draw(&report, svg)?;
    }
    Ok(goals.iter().all(|goal| goal.holds))
}

/// Which faults are injected where: those of PostgreSQL may have another place than the others.
fn places(faults: &[Fault]) -> Vec<(Place, Vec<Fault>)> {
    let needs_postgres = |fault: &Fault| fault.needs_postgres() || *fault == Fault::Calm;
    let (postgres, others): (Vec<_>, Vec<_>) = faults.iter().copied().partition(needs_postgres);
    match (namespace::place(false), namespace::place(true)) {
        (one, other) if one == other => vec![(one, faults.to_vec())],
        (one, other) => vec![(one, others), (other, postgres)],
    }
    .into_iter()
    .filter(|(_, faults)| !faults.is_empty())
    .collect()
}

fn without_faults(arguments: &[String]) -> Vec<String> {
    let mut rest = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--fault" {
            arguments.next();
        } else if !argument.starts_with("--fault=") {
            rest.push(argument.clone());
        }
    }
    rest
}

/// Injects all faults one after the other, and writes each into the file as soon as it is measured; nothing is wrong with some
/// clients all the while.
fn inject(json: &Path, arguments: &[String]) -> Done {
    namespace::end_with_parent();
    let Options { faults, plan, .. } = options(arguments)?;
    let network = network::prepare();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        end_when_interrupted()?;
        let calm = faults.contains(&Fault::Calm).then(|| {
            let plan = plan.clone();
            tokio::spawn(async move { schedule::run(Fault::Calm, &plan).await })
        });
        for fault in faults.into_iter().filter(|fault| *fault != Fault::Calm) {
            if let Some(reason) = cannot(fault, &network) {
                println!("{}: skipped: {reason}", fault.name());
                continue;
            }
            println!("{}: {}", fault.name(), fault.title());
            record(json, fault, schedule::run(fault, &plan).await)?;
        }
        if let Some(calm) = calm {
            println!("{}: {}", Fault::Calm.name(), Fault::Calm.title());
            record(json, Fault::Calm, calm.await?)?;
        }
        Ok(true)
    })
}

fn record(json: &Path, fault: Fault, entries: Vec<Entry>) -> Result<(), Box<dyn Error>> {
    if entries.is_empty() {
        return Err(format!("{} was not injected at all", fault.name()).into());
    }
    let mut report = Report::read(json)?;
    report.replace(fault, entries);
    Ok(report.write(json)?)
}

/// Why a fault cannot be injected here.
fn cannot(fault: Fault, network: &Result<(), String>) -> Option<String> {
    match fault {
        Fault::Cut => network.clone().err(),
        Fault::FullDisk if !namespace::is_inside() => {
            Some("there is no namespace to mount a disk in".to_owned())
        }
        _ => None,
    }
}

/// The first process of a namespace has to ask for signals to get any.
fn end_when_interrupted() -> std::io::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signal = signal(kind)?;
        tokio::spawn(async move {
            signal.recv().await;
            std::process::exit(130);
        });
    }
    Ok(())
}

fn serve(port: &str, words: &str) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(backend::serve(port.parse()?, words.to_owned()))?;
    Ok(true)
}
