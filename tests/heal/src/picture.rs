//! How long each injection took, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::arms::Arm;
use crate::fault::Fault;
use crate::figures::percentiles;
use crate::report::Report;

/// Distinct for most people who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 3] = [RGBColor(213, 94, 0), RGBColor(0, 114, 178), RGBColor(0, 158, 115)];
/// Seconds; what is shorter, also what took no time at all, is drawn at the left edge.
const SHORTEST: f64 = 0.01;
const LONGEST: f64 = 20.0;
/// Where those are drawn who never recovered.
const NEVER: f64 = 40.0;
const END: f64 = 70.0;

/// Draws a point for each injection, and a line at the median of each client.
///
/// # Errors
///
/// If the file cannot be written.
pub fn draw(report: &Report, path: &Path) -> Result<(), Box<dyn Error>> {
    let measured = |fault: &Fault| {
        *fault != Fault::Calm && Arm::ALL.iter().any(|arm| !report.of(*fault, *arm).is_empty())
    };
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(measured).collect();
    let height = 160 + 78 * faults.len() as u32;
    let area = SVGBackend::new(path, (900, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let top = faults.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption("From the first failed call until all calls are good again", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .build_cartesian_2d((SHORTEST..END).log_scale(), 0.0..top + 1.1)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds; at the right edge: not as long as the client was watched")
        .x_label_formatter(&|x| if *x > LONGEST { String::new() } else { format!("{x}") })
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for (arm, colour) in Arm::ALL.into_iter().zip(COLOURS) {
        let mut points = Vec::new();
        let mut medians = Vec::new();
        for (row, fault) in faults.iter().enumerate() {
            let all: Vec<_> = report.of(*fault, arm).iter().map(|figures| figures.recovered).collect();
            let height = top - row as f64 - 0.42 - 0.2 * f64::from(arm as u8);
            let place =
                |seconds: Option<f64>| seconds.map_or(NEVER, |seconds| seconds.clamp(SHORTEST, LONGEST));
            points.extend(
                all.iter()
                    .map(|seconds| Circle::new((place(*seconds), height), 3, colour.mix(0.45).filled())),
            );
            if let Some([median, ..]) = percentiles(&all) {
                let ends = [(place(median), height - 0.09), (place(median), height + 0.09)];
                medians.push(PathElement::new(ends, colour.stroke_width(3)));
            }
        }
        chart
            .draw_series(points)?
            .label(arm.name())
            .legend(move |(x, y)| Circle::new((x + 9, y), 4, colour.filled()));
        chart.draw_series(medians)?;
    }
    for (row, fault) in faults.iter().enumerate() {
        let height = top - row as f64;
        let title = Text::new(fault.title(), (SHORTEST * 1.05, height - 0.06), ("sans-serif", 14));
        chart.draw_series([title])?;
        let line = PathElement::new([(SHORTEST, height), (END, height)], BLACK.mix(0.2));
        chart.draw_series([line])?;
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
