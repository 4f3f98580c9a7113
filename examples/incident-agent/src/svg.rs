//! The timeline as a picture: a band for the steps, one for the level, and one for each dependency.

use std::fmt::Write;
use std::time::Duration;

use buttress::core::observe::CircuitState;

use crate::run::Handled;
use crate::steps::{Name, Status};
use crate::timeline::{Moment, What};
use crate::vendors::Vendor;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 24.0;
const BAND: f64 = 30.0;

const GREEN: &str = "#2e9e5b";
const RED: &str = "#d0433b";
const AMBER: &str = "#d99a1c";
const GREY: &str = "#8a94a0";

/// Both runs, one below the other, on one scale.
pub(crate) fn draw(title: &str, with: &Handled, without: Option<&Handled>) -> String {
    let runs = [Some(("with Buttress", with)), without.map(|run| ("without", run))];
    let end = runs.iter().flatten().filter_map(|(_, run)| run.moments.last()).map(|moment| moment.at).max();
    let end = end.unwrap_or_default().max(Duration::from_secs(1)).as_secs_f64() * 1.02;
    let mut picture = Picture { svg: String::new(), end, y: 28.0 };
    picture.text(12.0, 20.0, "start", "bold", title);
    for (name, run) in runs.into_iter().flatten() {
        picture.run(name, &run.moments);
    }
    picture.legend();
    let height = picture.y + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{}</svg>\n",
        picture.svg
    )
}

struct Picture {
    svg: String,
    /// Seconds.
    end: f64,
    y: f64,
}

impl Picture {
    fn x(&self, at: Duration) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * at.as_secs_f64() / self.end
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.svg, "{element}");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, weight: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\" \
             fill=\"#20262d\">{text}</text>"
        ));
    }

    fn bar(&mut self, from: Duration, to: Duration, height: f64, colour: &str, opacity: f64) {
        let (x, width, y) =
            (self.x(from), (self.x(to) - self.x(from)).max(1.0), self.y + (BAND - height) / 2.0);
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\" \
             fill-opacity=\"{opacity}\"/>"
        ));
    }

    fn run(&mut self, name: &str, moments: &[Moment]) {
        let end = moments.last().map(|moment| moment.at).unwrap_or_default();
        self.y += 14.0;
        let words = format!("{name}: {:.1} s", end.as_secs_f64());
        self.text(12.0, self.y + 8.0, "start", "bold", &words);
        self.y += 16.0;
        self.label("steps");
        self.steps(moments, end);
        self.y += BAND;
        if moments.iter().any(|moment| matches!(moment.what, What::Level(_))) {
            self.label("level");
            self.levels(moments, end);
            self.y += BAND;
        }
        for vendor in Vendor::ALL {
            self.label(vendor.as_str());
            self.circuit(vendor, moments, end);
            self.answers(vendor, moments);
            self.y += BAND;
        }
        self.axis();
    }

    fn label(&mut self, text: &str) {
        self.text(LEFT - 10.0, self.y + BAND / 2.0 + 4.0, "end", "normal", text);
    }

    fn steps(&mut self, moments: &[Moment], end: Duration) {
        for (at, moment) in moments.iter().enumerate() {
            let What::Began(name) = moment.what else { continue };
            let ended = moments[at..].iter().find_map(|later| match later.what {
                What::Ended(step, status) if step == name => Some((later.at, status)),
                _ => None,
            });
            let (to, colour) = match ended {
                Some((to, Status::Done)) => (to, GREEN),
                Some((to, Status::Degraded)) => (to, AMBER),
                Some((to, _)) => (to, RED),
                None => (end, GREY),
            };
            self.bar(moment.at, to, 18.0, colour, 0.75);
            self.step_name(name, moment.at, to);
        }
    }

    /// Where there is room for it.
    fn step_name(&mut self, name: Name, from: Duration, to: Duration) {
        let (from, to) = (self.x(from), self.x(to));
        if to - from > 7.0 * name.as_str().len() as f64 {
            let (x, y) = (f64::midpoint(from, to), self.y + BAND / 2.0 + 4.0);
            self.text(x, y, "middle", "normal", name.as_str());
        }
    }

    fn levels(&mut self, moments: &[Moment], end: Duration) {
        let changes = moments.iter().filter_map(|moment| match moment.what {
            What::Level(level) => Some((moment.at, level)),
            _ => None,
        });
        let height = |level: u8| self.y + 4.0 + f64::from(level) * 5.5;
        let mut path = format!("M{:.1} {:.1}", self.x(Duration::ZERO), height(0));
        for (at, level) in changes {
            let _ = write!(path, "H{:.1}V{:.1}", self.x(at), height(level));
        }
        let _ = write!(path, "H{:.1}", self.x(end));
        self.add(format_args!("<path d=\"{path}\" fill=\"none\" stroke=\"#3566b8\" stroke-width=\"2\"/>"));
    }

    fn circuit(&mut self, vendor: Vendor, moments: &[Moment], end: Duration) {
        let changes = moments.iter().filter_map(|moment| match moment.what {
            What::Circuit(of, to) if of == vendor => Some((moment.at, to)),
            _ => None,
        });
        let (mut since, mut state) = (Duration::ZERO, CircuitState::Closed);
        for (at, to) in changes.chain([(end, CircuitState::Closed)]) {
            let (colour, opacity) = match state {
                CircuitState::Closed => (GREY, 0.10),
                CircuitState::HalfOpen => (AMBER, 0.35),
                CircuitState::Open | CircuitState::Isolated => (RED, 0.25),
            };
            self.bar(since, at, 16.0, colour, opacity);
            (since, state) = (at, to);
        }
    }

    fn answers(&mut self, vendor: Vendor, moments: &[Moment]) {
        let y = self.y + BAND / 2.0;
        for moment in moments {
            let x = self.x(moment.at);
            match moment.what {
                What::Answer(of, is_well) if of == vendor => {
                    let colour = if is_well { GREEN } else { RED };
                    self.add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"));
                }
                What::Spared(of) if of == vendor => self.add(format_args!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#ffffff\" stroke=\"{RED}\"/>"
                )),
                What::Generation(of, generation) if of == vendor && generation > 1 => {
                    let words = format!("client {generation}");
                    self.text(x + 5.0, y + 4.0, "start", "normal", &words);
                    let (top, bottom) = (y - 12.0, y + 12.0);
                    self.add(format_args!(
                        "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" stroke=\"#3566b8\" stroke-width=\"2\"/>"
                    ));
                }
                _ => {}
            }
        }
    }

    fn axis(&mut self) {
        let every = [1.0, 2.0, 5.0, 10.0, 60.0, 600.0].into_iter().find(|every| self.end / every <= 16.0);
        let every: f64 = every.unwrap_or(3600.0);
        let mut at = 0.0;
        while at <= self.end {
            let x = self.x(Duration::from_secs_f64(at));
            self.text(x, self.y + 12.0, "middle", "normal", &format!("{at} s"));
            at += every;
        }
        self.y += 18.0;
    }

    fn legend(&mut self) {
        self.y += 16.0;
        let words = "dots: answers and failures, calls that the circuit breaker spared (hollow); bands: the circuit is \
                     open (red), half-open (amber); level: 0 above, 4 below";
        self.text(12.0, self.y, "start", "normal", words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_drawn_where_it_happened() {
        let at = |seconds, what| Moment { at: Duration::from_secs(seconds), what };
        let moments = [
            at(0, What::Began(Name::Gather)),
            at(1, What::Answer(Vendor::Aws, false)),
            at(2, What::Circuit(Vendor::Aws, CircuitState::Open)),
            at(2, What::Level(2)),
            at(3, What::Spared(Vendor::Aws)),
            at(10, What::Ended(Name::Gather, Status::Degraded)),
        ];
        let mut picture = Picture { svg: String::new(), end: 10.0, y: 0.0 };
        picture.run("a < b", &moments);
        let svg = picture.svg;
        assert!(svg.contains("a &lt; b: 10.0 s") && svg.contains(">gather</text>"), "{svg}");
        let width = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("<circle cx=\"{:.1}\"", LEFT + width / 10.0)), "{svg}");
        let open = format!("<rect x=\"{:.1}\"", LEFT + width / 5.0);
        assert!(svg.lines().any(|line| line.starts_with(&open) && line.contains(RED)), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
    }
}
