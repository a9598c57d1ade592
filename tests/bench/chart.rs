//! Charts as SVG files.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::table::short;

const WIDTH: u32 = 760;
const HEIGHT: u32 = 380;
const COLOURS: [RGBColor; 2] = [RGBColor(150, 150, 150), RGBColor(0, 98, 177)];

/// One chart, logarithmic across, from zero up.
#[derive(Debug)]
pub(crate) struct Chart {
    /// File name in the charts' directory.
    pub(crate) file: &'static str,
    /// What it shows.
    pub(crate) title: &'static str,
    /// What goes across.
    pub(crate) across: &'static str,
    /// What goes up.
    pub(crate) up: &'static str,
    /// At most as many as there are colours.
    pub(crate) lines: Vec<Line>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Line {
    /// What it is.
    pub(crate) name: &'static str,
    /// Across and up.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Line {
    /// Without points.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, points: Vec::new() }
    }
}

impl Chart {
    /// Draws it into `directory`.
    pub(crate) fn draw(&self, directory: &Path) -> Result<()> {
        let path = directory.join(self.file);
        let area = SVGBackend::new(&path, (WIDTH, HEIGHT)).into_drawing_area();
        self.draw_on(&area).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
    }

    fn draw_on(&self, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (left, right) =
            points().fold((f64::MAX, 0.0_f64), |(least, most), point| (least.min(point.0), most.max(point.0)));
        let top = points().fold(0.0_f64, |most, point| most.max(point.1)) * 1.15;

        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d((left..right * 1.05).log_scale(), 0.0..top)
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(self.across)
            .y_desc(self.up)
            .label_style(("sans-serif", 12))
            .axis_desc_style(("sans-serif", 13))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()
            .map_err(|error| failed(&error))?;
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))
                .map_err(|error| failed(&error))?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            let dots = line.points.iter().map(|&point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(dots).map_err(|error| failed(&error))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE)
            .label_font(("sans-serif", 13))
            .draw()
            .map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_an_svg_file_with_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let line = Line { name: "the line", points: vec![(1.0, 5.0), (100.0, 50_000.0)] };
        let level = Line { name: "the level", points: vec![(1.0, 60_000.0), (100.0, 60_000.0)] };
        let chart =
            Chart { file: "x.svg", title: "the title", across: "how many", up: "how fast", lines: vec![level, line] };
        chart.draw(directory.path()).unwrap();
        let text = std::fs::read_to_string(directory.path().join("x.svg")).unwrap();
        for words in ["<svg", "the title", "the line", "the level", "how many", "how fast"] {
            assert!(text.contains(words), "{words}");
        }
    }
}
