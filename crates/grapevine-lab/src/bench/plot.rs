//! Pictures of what grows: SVG files with a line, or two, for each side.

use std::path::Path;

use anyhow::Context;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

const SIZE: (u32, u32) = (720, 420);
const FONT: &str = "sans-serif";
/// One for each side, in the order in which they come; told apart by people who do not see all colours, too.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 90, 180),
    RGBColor(200, 80, 0),
    RGBColor(0, 140, 100),
    RGBColor(150, 80, 150),
    RGBColor(90, 90, 90),
];
/// Above the highest value.
const HEADROOM: f64 = 1.1;

/// The share of the width that leaves room for names beside all points.
const NAMES_BESIDE: f64 = 1.3;

/// One line: points by their place on the horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Whose it is: all of a side have one colour.
    pub(super) side: String,
    /// What it shows of it, if there are several.
    pub(super) what: &'static str,
    /// The first of several is drawn through.
    pub(super) dashed: bool,
    pub(super) points: Vec<(f64, f64)>,
}

impl Line {
    fn name(&self) -> String {
        match self.what {
            "" => self.side.clone(),
            what => format!("{}, {what}", self.side),
        }
    }
}

/// How values stand along the vertical axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From nothing on.
    Linear,
    /// For sides that are powers of ten apart.
    Logarithmic,
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
    pub(super) scale: Scale,
    pub(super) lines: Vec<Line>,
}

/// What drawing may fail of.
type Failure<'a> = Box<dyn std::error::Error + 'a>;

impl Plot {
    /// Writes it into a directory.
    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(self.name).with_extension("svg");
        let mut text = String::new();
        self.draw(&mut text)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    fn draw<'a>(&self, into: &'a mut String) -> Result<(), Failure<'a>> {
        let values = || self.lines.iter().flat_map(|line| &line.points);
        let top = values().map(|point| point.1).fold(0.0, f64::max) * HEADROOM;
        match self.scale {
            Scale::Linear => self.draw_on(into, 0.0..top),
            Scale::Logarithmic => {
                let positive = values().map(|point| point.1).filter(|value| *value > 0.0);
                let bottom = positive.fold(top, f64::min) / HEADROOM;
                self.draw_on(into, (bottom..top).log_scale())
            }
        }
    }

    fn draw_on<'a, Y>(&self, into: &'a mut String, up: Y) -> Result<(), Failure<'a>>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let area = SVGBackend::with_string(into, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = self.lines.iter().flat_map(|line| &line.points);
        let right = points.map(|point| point.0).fold(0.0, f64::max);
        // What grows from nothing leaves the upper left to the names; other lines may be anywhere.
        let (right, names) = match self.scale {
            Scale::Linear => (right, SeriesLabelPosition::UpperLeft),
            Scale::Logarithmic => (right * NAMES_BESIDE, SeriesLabelPosition::MiddleRight),
        };
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, (FONT, 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right, up)?;
        chart
            .configure_mesh()
            .x_desc(self.across)
            .y_desc(self.up)
            .x_label_formatter(&|value| label(*value))
            .y_label_formatter(&|value| label(*value))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for line in &self.lines {
            draw_line(&mut chart, line, self.colour(line))?;
        }
        chart
            .configure_series_labels()
            .position(names)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
        Ok(())
    }

    /// The same for all lines of a side.
    fn colour(&self, line: &Line) -> RGBColor {
        let mut sides: Vec<&str> = Vec::new();
        for other in &self.lines {
            if !sides.contains(&other.side.as_str()) {
                sides.push(&other.side);
            }
        }
        let place = sides.iter().position(|side| *side == line.side);
        COLOURS[place.unwrap_or_default() % COLOURS.len()]
    }
}

/// A number at an axis: a whole one as such, and none with more digits than are seen.
fn label(value: f64) -> String {
    ((value * 1e3).round() / 1e3).to_string()
}

/// The chart of a picture.
type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;

fn draw_line<'b, Y: Ranged<ValueType = f64>>(
    chart: &mut Chart<'_, 'b, Y>,
    line: &Line,
    colour: RGBColor,
) -> Result<(), Failure<'b>> {
    const DASH: (u32, u32) = (6, 4);
    let style = colour.stroke_width(2);
    let points = line.points.iter().copied();
    if line.dashed {
        let (dash, gap) = DASH;
        chart
            .draw_series(DashedLineSeries::new(points.clone(), dash, gap, style))?
            .label(line.name())
            .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 18, y)], dash, gap, style));
    } else {
        chart
            .draw_series(LineSeries::new(points.clone(), style))?
            .label(line.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart.draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn line(side: &str, what: &'static str, points: &[(f64, f64)]) -> Line {
        Line {
            side: side.to_owned(),
            what,
            dashed: what == "p99",
            points: points.to_vec(),
        }
    }

    fn plot(scale: Scale, lines: Vec<Line>) -> Plot {
        Plot {
            name: "growth",
            title: "Growth of something",
            across: "sidecars",
            up: "ms",
            scale,
            lines,
        }
    }

    #[test]
    fn a_picture_has_its_lines_names_and_points() {
        let plot = plot(
            Scale::Linear,
            vec![
                line("grapevine", "", &[(10.0, 1.0), (50.0, 4.0)]),
                line("tcp", "", &[(10.0, 0.5), (50.0, 2.0), (60.0, 2.5)]),
            ],
        );
        let dir = tempfile::tempdir().unwrap();
        plot.write(dir.path()).unwrap();
        let svg = std::fs::read_to_string(dir.path().join("growth.svg")).unwrap();
        for text in ["Growth of something", "sidecars", "ms", "grapevine", "tcp"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 5);
        assert!(svg.contains("\n50\n") && !svg.contains("50.0"), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
        let error = plot.write(&dir.path().join("missing")).unwrap_err();
        assert!(error.to_string().contains("growth.svg"), "{error}");
    }

    #[test]
    fn sides_that_are_powers_of_ten_apart_are_told_apart() {
        let sides = ["grapevine", "tcp", "serf", "chitchat"];
        let lines = sides.into_iter().zip([1.0, 0.1, 300.0, 50.0]);
        let lines = lines.flat_map(|(side, ms)| {
            [("p50", 1.0), ("p99", 2.0)]
                .map(|(what, times)| line(side, what, &[(10.0, ms * times), (50.0, ms * times)]))
        });
        let plot = plot(Scale::Logarithmic, lines.collect());
        let mut svg = String::new();
        plot.draw(&mut svg).unwrap();
        for side in sides {
            assert!(svg.contains(&format!("{side}, p50")), "{side}");
            assert!(svg.contains(&format!("{side}, p99")), "{side}");
        }
        // One colour for each side, on two points of each of its two lines.
        let circles = svg.split("<circle").skip(1);
        let fill = |circle: &str| {
            let (_, rest) = circle.split_once("fill=\"").unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        let mut colours = std::collections::BTreeMap::new();
        circles.for_each(|circle| *colours.entry(fill(circle)).or_insert(0) += 1);
        assert_eq!(colours.into_values().collect::<Vec<_>>(), [4; 4]);
        // The smallest stands as far above the bottom as its share of the powers of ten says.
        let height = |at: usize| {
            let circle = svg.split("<circle").nth(at + 1).unwrap();
            let (_, rest) = circle.split_once("cy=\"").unwrap();
            let height = rest.split('"').next().unwrap();
            height.parse::<f64>().unwrap()
        };
        let (ours, theirs, serf) = (height(0), height(4), height(8));
        let ratio = (theirs - ours) / (ours - serf);
        assert!((ratio - 1.0 / 300f64.log10()).abs() < 0.02, "{ratio}");
    }
}
