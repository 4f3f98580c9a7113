//! Requests a second over time, as SVG.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use buttress_core::Jitter;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::herd::Herd;
use crate::overload::{CAPACITY, Overload, Overloaded};
use crate::server::Trouble;
use crate::stack::Strategy;
use crate::tally::Series;
use crate::whole::herd_backoff;

/// What goes into one picture.
struct Picture<'a> {
    file: &'a str,
    title: &'a str,
    lines: Vec<Line>,
    /// Seconds, from the beginning of the outage.
    outage: f64,
    /// How wide the last line is.
    stroke: u32,
    /// How much wider each line before it is, so that those beneath others are seen.
    widening: u32,
    /// What is counted.
    counted: &'a str,
    /// A dashed line at so many a second, and what it is.
    level: (f64, &'a str),
}

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws all pictures into this directory.
///
/// # Errors
///
/// If a file cannot be written.
pub fn draw_all(directory: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(directory)?;
    for picture in [no_jitter(), jitters(), budget(), breaker(), answers()] {
        picture.draw(directory)?;
    }
    Ok(())
}

const REQUESTS: &str = "requests per second";
const OUTAGE: Duration = Duration::from_secs(10);
/// What is shown of the time before the outage.
const BEFORE: Duration = Duration::from_secs(5);

fn herd(jitter: Jitter, name: &str) -> Line {
    let run = Herd::after(OUTAGE).tail(Duration::from_secs(40)).run(&herd_backoff(jitter));
    let all = Duration::ZERO..run.last;
    let tenths = run.attempts.within(&all);
    let points = (0..).zip(tenths).map(|(tenth, n)| (f64::from(tenth) / 10.0, f64::from(n) * 10.0));
    Line { name: name.to_owned(), points: points.collect() }
}

fn no_jitter() -> Picture<'static> {
    Picture {
        file: "no-jitter.svg",
        title: "1,000 clients cut off at once: without jitter and with",
        lines: vec![herd(Jitter::None, "no jitter"), herd(Jitter::Full, "full jitter")],
        outage: OUTAGE.as_secs_f64(),
        stroke: 2,
        widening: 0,
        counted: REQUESTS,
        level: (1250.0, "capacity"),
    }
}

fn jitters() -> Picture<'static> {
    Picture {
        file: "jitter.svg",
        title: "1,000 clients cut off at once: three kinds of jitter",
        lines: [(Jitter::Full, "full"), (Jitter::Equal, "equal"), (Jitter::Decorrelated, "decorrelated")]
            .map(|(jitter, name)| {
                let mut line = herd(jitter, name);
                // The first tenth of a second, in which all are cut off, would dwarf what follows.
                line.points.remove(0);
                line
            })
            .into(),
        outage: OUTAGE.as_secs_f64(),
        stroke: 1,
        widening: 0,
        counted: REQUESTS,
        level: (1250.0, "capacity"),
    }
}

fn overload(strategy: &Strategy, name: &str, series: fn(&Overloaded) -> &Series) -> Line {
    let run = Overload::of(Trouble::Stall).tail(Duration::from_secs(50)).run(strategy);
    let shown = run.during.start - BEFORE..run.last;
    let seconds = series(&run).seconds(&shown);
    // Each point in the middle of its second.
    let points =
        (0..).zip(seconds).map(|(second, n)| (f64::from(second) + 0.5 - BEFORE.as_secs_f64(), f64::from(n)));
    Line { name: name.to_owned(), points: points.collect() }
}

fn sent(strategy: &Strategy, name: &str) -> Line {
    overload(strategy, name, |run| &run.attempts)
}

fn answered(strategy: &Strategy, name: &str) -> Line {
    overload(strategy, name, |run| &run.calls.prompt)
}

fn budget() -> Picture<'static> {
    Picture {
        file: "budget.svg",
        title: "A server stalls for 10 s: retries without a budget and with",
        lines: vec![
            sent(&Strategy::without_budget(), "2 retries, no budget"),
            sent(&Strategy::default_policy(), "2 retries, default budget"),
            sent(&Strategy::no_retry(), "no retry"),
        ],
        outage: OUTAGE.as_secs_f64(),
        stroke: 2,
        widening: 2,
        counted: REQUESTS,
        level: (CAPACITY, "capacity"),
    }
}

fn breaker() -> Picture<'static> {
    Picture {
        file: "breaker.svg",
        title: "A server stalls for 10 s: without a circuit breaker and with",
        lines: vec![
            sent(&Strategy::default_policy(), "default retry"),
            sent(&Strategy::default_policy().and_breaker(), "default retry and breaker"),
        ],
        outage: OUTAGE.as_secs_f64(),
        stroke: 2,
        widening: 2,
        counted: REQUESTS,
        level: (CAPACITY, "capacity"),
    }
}

fn answers() -> Picture<'static> {
    Picture {
        file: "answers.svg",
        title: "A server stalls for 10 s: calls that are answered within a second",
        lines: vec![
            answered(&Strategy::without_budget(), "2 retries, no budget"),
            answered(&Strategy::default_policy(), "default retry"),
            answered(&Strategy::default_policy().and_breaker(), "default retry and breaker"),
        ],
        outage: OUTAGE.as_secs_f64(),
        stroke: 2,
        widening: 2,
        counted: "answers per second, by the time of the call",
        level: (CAPACITY, "capacity"),
    }
}

/// Above the highest point, for the legend.
const HEADROOM: f64 = 1.4;

/// Distinct for most people who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 3] = [RGBColor(213, 94, 0), RGBColor(0, 114, 178), RGBColor(0, 158, 115)];

impl Picture<'_> {
    fn draw(&self, directory: &Path) -> Result<(), Box<dyn Error>> {
        let path = directory.join(self.file);
        let area = SVGBackend::new(&path, (900, 420)).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (first, last) =
            points().fold((0.0, 0.0), |(first, last): (f64, f64), (x, _)| (first.min(*x), last.max(*x)));
        let top = points().map(|(_, y)| *y).fold(self.level.0, f64::max) * HEADROOM;
        // A line at zero is to be seen above the axis.
        let bottom = top * -0.02;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(first..last.ceil(), bottom..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("seconds since the outage began")
            .y_desc(self.counted)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .draw()?;
        let shade = BLACK.mix(0.1);
        chart
            .draw_series([Rectangle::new([(0.0, bottom), (self.outage, top)], shade.filled())])?
            .label("outage")
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], shade.filled()));
        let level = DashedLineSeries::new([(first, self.level.0), (last, self.level.0)], 4, 4, BLACK.into());
        chart
            .draw_series(level)?
            .label(self.level.1)
            .legend(|(x, y)| DashedPathElement::new([(x, y), (x + 18, y)], 4, 4, BLACK.stroke_width(1)));
        let widths = (0..self.lines.len() as u32).rev().map(|above| self.stroke + above * self.widening);
        for ((line, colour), width) in self.lines.iter().zip(COLOURS).zip(widths) {
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(width)))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(width)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 14))
            .draw()?;
        area.present()?;
        Ok(())
    }
}
