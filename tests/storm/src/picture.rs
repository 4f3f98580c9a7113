//! Requests a second over time, as SVG.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use buttress_core::Jitter;
use plotters::prelude::*;

use crate::herd::Herd;
use crate::overload::{CAPACITY, Overload};
use crate::server::Trouble;
use crate::stack::Strategy;
use crate::whole::herd_backoff;

/// What goes into one picture.
struct Picture<'a> {
    file: &'a str,
    title: &'a str,
    lines: Vec<Line>,
    /// Seconds, from the beginning of the outage.
    outage: f64,
    /// A dashed line at so many requests a second, and what it is.
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
    for picture in [no_jitter(), jitters(), budget(), breaker()] {
        picture.draw(directory)?;
    }
    Ok(())
}

const OUTAGE: Duration = Duration::from_secs(10);

fn herd(jitter: Jitter, name: &str) -> Line {
    let run = Herd::after(OUTAGE).tail(Duration::from_secs(40)).run(&herd_backoff(jitter));
    let tenths = run.attempts.within(&(Duration::ZERO..run.last)).iter();
    let points = (0..).zip(tenths).map(|(tenth, n)| (f64::from(tenth) / 10.0, f64::from(*n) * 10.0));
    Line { name: name.to_owned(), points: points.collect() }
}

fn no_jitter() -> Picture<'static> {
    Picture {
        file: "no-jitter.svg",
        title: "1,000 clients cut off at once: without jitter and with",
        lines: vec![herd(Jitter::None, "no jitter"), herd(Jitter::Full, "full jitter")],
        outage: OUTAGE.as_secs_f64(),
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
        level: (1250.0, "capacity"),
    }
}

fn overload(strategy: &Strategy, name: &str) -> Line {
    let run = Overload::of(Trouble::Stall).tail(Duration::from_secs(50)).run(strategy);
    let (before, shown) = (5, run.during.start - Duration::from_secs(5)..run.last);
    let seconds = run.attempts.within(&shown).chunks(10).map(|second| second.iter().sum::<u32>());
    let points =
        (0_u32..).zip(seconds).map(|(second, n)| (f64::from(second) - f64::from(before), f64::from(n)));
    Line { name: name.to_owned(), points: points.collect() }
}

fn budget() -> Picture<'static> {
    Picture {
        file: "budget.svg",
        title: "A server stalls for 10 s: retries without a budget and with",
        lines: vec![
            overload(&Strategy::without_budget(), "2 retries, no budget"),
            overload(&Strategy::default_policy(), "2 retries, default budget"),
            overload(&Strategy::no_retry(), "no retry"),
        ],
        outage: OUTAGE.as_secs_f64(),
        level: (CAPACITY, "capacity"),
    }
}

fn breaker() -> Picture<'static> {
    Picture {
        file: "breaker.svg",
        title: "A server stalls for 10 s: without a circuit breaker and with",
        lines: vec![
            overload(&Strategy::default_policy(), "default retry"),
            overload(&Strategy::default_policy().and_breaker(), "default retry and breaker"),
        ],
        outage: OUTAGE.as_secs_f64(),
        level: (CAPACITY, "capacity"),
    }
}

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
        let top = points().map(|(_, y)| *y).fold(self.level.0, f64::max) * 1.08;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(first..last.ceil(), 0.0..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("seconds since the outage began")
            .y_desc("requests per second")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .draw()?;
        let shade = BLACK.mix(0.1);
        chart
            .draw_series([Rectangle::new([(0.0, 0.0), (self.outage, top)], shade.filled())])?
            .label("outage")
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], shade.filled()));
        let level = DashedLineSeries::new([(first, self.level.0), (last, self.level.0)], 4, 4, BLACK.into());
        chart
            .draw_series(level)?
            .label(self.level.1)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.stroke_width(1)));
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
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
