//! Charts as SVG files.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::{statistics::number, table::short};

const WIDTH: u32 = 760;
const HEIGHT: u32 = 380;
const COLOURS: [RGBColor; 2] = [RGBColor(150, 150, 150), RGBColor(0, 98, 177)];

/// One chart: what was measured stands side by side, at equal distances, from zero up.
#[derive(Debug)]
pub(crate) struct Chart {
    /// File name in the charts' directory.
    pub(crate) file: &'static str,
    /// What it shows.
    pub(crate) title: &'static str,
    /// What goes across.
    pub(crate) across: &'static str,
    /// What was measured, from left to right.
    pub(crate) places: Vec<u64>,
    /// What goes up.
    pub(crate) up: &'static str,
    /// Whether the lines leave room above them on the left for their names, or else below.
    pub(crate) rises: bool,
    /// At most as many as there are colours.
    pub(crate) lines: Vec<Line>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Line {
    /// What it is.
    pub(crate) name: &'static str,
    /// The value at each place.
    pub(crate) values: Vec<f64>,
}

impl Line {
    /// Without values.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, values: Vec::new() }
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
        let values = self.lines.iter().flat_map(|line| &line.values);
        let top = values.fold(0.0_f64, |most, value| most.max(*value)) * 1.15;
        let last = self.places.len().saturating_sub(1);

        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 21))
            .margin(12)
            .margin_right(36)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(0..last, 0.0..top)
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .max_light_lines(1)
            .light_line_style(TRANSPARENT)
            .x_desc(self.across)
            .y_desc(self.up)
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .x_labels(self.places.len())
            .x_label_formatter(&|&place| self.places.get(place).map(|&place| short(number(place))).unwrap_or_default())
            .y_label_formatter(&|value| short(*value))
            .draw()
            .map_err(|error| failed(&error))?;
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.values.iter().copied().enumerate(), style))
                .map_err(|error| failed(&error))?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            let dots = line.values.iter().copied().enumerate().map(|point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(dots).map_err(|error| failed(&error))?;
        }
        chart
            .configure_series_labels()
            .position(if self.rises { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::LowerLeft })
            .background_style(WHITE)
            .label_font(("sans-serif", 15))
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
        let line = Line { name: "the line", values: vec![5.0, 50_000.0] };
        let level = Line { name: "the level", values: vec![60_000.0; 2] };
        let chart = Chart {
            file: "x.svg",
            title: "the title",
            across: "how many",
            places: vec![1, 10_000],
            up: "how fast",
            rises: false,
            lines: vec![level, line],
        };
        chart.draw(directory.path()).unwrap();
        let text = std::fs::read_to_string(directory.path().join("x.svg")).unwrap();
        for words in ["<svg", "the title", "the line", "the level", "how many", "how fast", "10,000"] {
            assert!(text.contains(words), "{words}");
        }
    }
}
