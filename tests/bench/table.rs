//! Figures, what is asked of them, and how they are printed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use comfy_table::{Cell, CellAlignment, Table as Grid, presets};
use serde::Serialize;

use crate::chart::Chart;

/// What is asked of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// It is only stated.
    Stated,
    /// At most this, in its unit.
    AtMost(f64),
    /// At least this share of its yardstick.
    RatioAtLeast(f64),
    /// At most this multiple of its yardstick.
    RatioAtMost(f64),
}

/// One measured figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    yardstick: Option<f64>,
    ratio: Option<f64>,
    #[serde(skip)]
    target: Target,
    /// How it was measured: how often, how large, with which settings.
    #[serde(skip)]
    note: String,
}

impl Figure {
    /// A figure that is only stated.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str, note: impl Into<String>) -> Self {
        let (name, note) = (name.into(), note.into());
        Self { name, value, unit, yardstick: None, ratio: None, target: Target::Stated, note }
    }

    /// With what it is to be compared.
    #[must_use]
    pub(crate) fn over(self, yardstick: f64) -> Self {
        Self { yardstick: Some(yardstick), ratio: Some(self.value / yardstick), ..self }
    }

    /// What is asked of it.
    #[must_use]
    pub(crate) fn target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// Whether it is as asked; `None` if nothing is.
    fn passes(&self) -> Option<bool> {
        match self.target {
            Target::Stated => None,
            Target::AtMost(most) => Some(self.value <= most),
            Target::RatioAtLeast(least) => Some(self.ratio.is_some_and(|ratio| ratio >= least)),
            Target::RatioAtMost(most) => Some(self.ratio.is_some_and(|ratio| ratio <= most)),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.passes() {
            None => "",
            Some(true) => "pass",
            Some(false) => "MISS",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stated => Ok(()),
            Self::AtMost(most) => write!(f, "≤ {}", short(*most)),
            Self::RatioAtLeast(least) => write!(f, "≥ {} ×", short(*least)),
            Self::RatioAtMost(most) => write!(f, "≤ {} ×", short(*most)),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, short(self.value), self.unit)?;
        if let (Some(yardstick), Some(ratio)) = (self.yardstick, self.ratio) {
            write!(f, ", {ratio:.2} × {}", short(yardstick))?;
        }
        let (target, verdict) = (self.target, self.verdict());
        if target != Target::Stated {
            write!(f, " ({target}: {verdict})")?;
        }
        Ok(())
    }
}

/// Three significant digits or all before the point, with thousands set apart.
pub(crate) fn short(value: f64) -> String {
    if value.abs() < 99.95 {
        let decimals = if value.abs() < 9.995 { 2 } else { 1 };
        let text = format!("{value:.decimals$}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let first = digits.len() % 3;
    let groups = (0..digits.len().div_ceil(3)).map(|index| {
        let end = if first == 0 { 3 * (index + 1) } else { first + 3 * index };
        &digits[end.saturating_sub(3)..end]
    });
    groups.collect::<Vec<_>>().join(",")
}

/// All figures, in the order in which they were measured, and the rows that failed.
#[derive(Debug, Default)]
pub(crate) struct Table {
    figures: Vec<Figure>,
    failures: Vec<String>,
    /// Where charts are drawn.
    charts: Option<PathBuf>,
}

impl Table {
    /// One that draws its charts into `charts`.
    pub(crate) fn new(charts: Option<PathBuf>) -> Self {
        Self { charts, ..Self::default() }
    }

    /// Draws a chart, if charts were asked for.
    pub(crate) fn draw(&self, chart: &Chart) -> Result<()> {
        match &self.charts {
            Some(directory) => chart.draw(directory),
            None => Ok(()),
        }
    }

    /// Adds a figure and says it.
    pub(crate) fn add(&mut self, figure: Figure) {
        eprintln!("  {figure}");
        self.figures.push(figure);
    }

    /// The value of a figure measured before.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// Adds a row that could not be measured.
    pub(crate) fn fail(&mut self, name: &str, error: &anyhow::Error) {
        eprintln!("  FAILED: {error:#}");
        self.failures.push(format!("{name}: {error:#}"));
    }

    /// What went wrong.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Writes all figures as JSON.
    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.figures)?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

/// As Markdown.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut grid = Grid::new();
        grid.load_style(presets::ASCII_MARKDOWN);
        grid.set_header(["figure", "value", "unit", "yardstick", "ratio", "target", "", "measured"]);
        for index in [1, 3, 4, 5] {
            grid.column_mut(index).expect("there are eight").set_cell_alignment(CellAlignment::Right);
        }
        for figure in &self.figures {
            grid.add_row([
                Cell::new(format!("`{}`", figure.name)),
                Cell::new(short(figure.value)),
                Cell::new(figure.unit),
                Cell::new(figure.yardstick.map(short).unwrap_or_default()),
                Cell::new(figure.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()),
                Cell::new(figure.target),
                Cell::new(figure.verdict()),
                Cell::new(&figure.note),
            ]);
        }
        writeln!(f, "{grid}")?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "\nFAILED {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_met_or_missed() {
        let check = |target, expected| {
            let figure = Figure::new("x", 5.0, "s", "").over(10.0).target(target);
            assert_eq!(figure.passes(), expected, "{target:?}");
        };
        check(Target::Stated, None);
        check(Target::AtMost(5.0), Some(true));
        check(Target::AtMost(4.9), Some(false));
        check(Target::RatioAtLeast(0.5), Some(true));
        check(Target::RatioAtLeast(0.51), Some(false));
        check(Target::RatioAtMost(0.5), Some(true));
        check(Target::RatioAtMost(0.49), Some(false));
        let without = Figure::new("x", 5.0, "s", "").target(Target::RatioAtLeast(0.1));
        assert_eq!(without.passes(), Some(false));
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.4, "0.4"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (99.96, "100"),
            (999.9, "1,000"),
            (1234.5, "1,234"),
            (123_456.0, "123,456"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn json_has_five_fields() {
        let figure = Figure::new("e2e_1", 5.0, "deliveries/s", "note").over(10.0);
        let json = serde_json::to_string(&figure).unwrap();
        assert_eq!(json, r#"{"name":"e2e_1","value":5.0,"unit":"deliveries/s","yardstick":10.0,"ratio":0.5}"#);
    }
}
