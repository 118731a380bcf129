//! Pictures of what grows: SVG files with a line for each side.

use std::path::Path;

use anyhow::Context;
use plotters::prelude::*;

const SIZE: (u32, u32) = (720, 420);
const FONT: &str = "sans-serif";
/// Told apart by people who do not see all colours, too.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 90, 180),
    RGBColor(110, 170, 230),
    RGBColor(200, 80, 0),
    RGBColor(240, 170, 80),
];
/// Above the highest value.
const HEADROOM: f64 = 1.1;

/// One line: points by their place on the horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// One picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plot {
    /// The file's name, without its ending.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What the axes show, with their units.
    pub(super) across: &'static str,
    pub(super) up: &'static str,
    pub(super) lines: Vec<Line>,
}

impl Plot {
    /// Writes it into a directory.
    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(self.name).with_extension("svg");
        let mut text = String::new();
        self.draw(&mut text)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    fn draw(&self, into: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = SVGBackend::with_string(into, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
        let (right, top) = (most(|point| point.0), most(|point| point.1) * HEADROOM);
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, (FONT, 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right, 0.0..top)?;
        chart
            .configure_mesh()
            .x_desc(self.across)
            .y_desc(self.up)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            let points = line.points.iter().copied();
            chart
                .draw_series(LineSeries::new(points.clone(), style))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            chart.draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_picture_has_its_lines_names_and_points() {
        let line = |name: &str, points: &[(f64, f64)]| Line {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        let plot = Plot {
            name: "growth",
            title: "Growth of something",
            across: "sidecars",
            up: "ms",
            lines: vec![
                line("grapevine", &[(10.0, 1.0), (50.0, 4.0)]),
                line("tcp", &[(10.0, 0.5), (50.0, 2.0), (60.0, 2.5)]),
            ],
        };
        let dir = tempfile::tempdir().unwrap();
        plot.write(dir.path()).unwrap();
        let svg = std::fs::read_to_string(dir.path().join("growth.svg")).unwrap();
        for text in ["Growth of something", "sidecars", "ms", "grapevine", "tcp"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 5);
        assert!(svg.trim_end().ends_with("</svg>"));
        let error = plot.write(&dir.path().join("missing")).unwrap_err();
        assert!(error.to_string().contains("growth.svg"), "{error}");
    }
}
