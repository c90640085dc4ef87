//! Draws a run: the rate above, latencies below, both over time.
//!
//! PNG and SVG come from the same strokes. The font is DejaVu Sans and is part of the program, so
//! that a PNG looks the same on a machine without any; an SVG names it, and whoever shows it
//! chooses.

use std::{ffi::OsStr, path::Path};

use plotters::prelude::*;

use super::report::Point;
use crate::ctl::term::exit::{self, Failure};

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 800;
pub const FONT: &str = "DejaVu Sans";
const TITLE: u32 = 22;
pub const LABEL: u32 = 15;

/// What went wrong between here and the file.
type Trouble = Box<dyn std::error::Error>;

/// A line of the picture.
struct Curve {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Whether a plot can be drawn there: in this build always.
pub fn check(_path: &Path) -> Result<(), Failure> {
    Ok(())
}

/// Draws into a file that ends in .svg, or as a PNG.
pub fn draw(title: &str, points: &[Point], path: &Path) -> Result<(), Failure> {
    let drawn = if path.extension() == Some(OsStr::new("svg")) {
        svg(title, points, path)
    } else {
        png(title, points, path)
    };
    drawn.map_err(|e| {
        Failure::new(
            exit::FAILED,
            format!("cannot draw the plot: {e}"),
            path.display().to_string(),
            "see that it can be written there",
        )
    })
}

fn svg(title: &str, points: &[Point], path: &Path) -> Result<(), Trouble> {
    let mut text = String::new();
    panels(SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area(), title, points)?;
    Ok(std::fs::write(path, text)?)
}

fn png(title: &str, points: &[Point], path: &Path) -> Result<(), Trouble> {
    let mut pixels = vec![0; (WIDTH * HEIGHT * 3) as usize];
    panels(
        BitMapBackend::with_buffer(&mut pixels, (WIDTH, HEIGHT)).into_drawing_area(),
        title,
        points,
    )?;
    let mut encoder = png::Encoder::new(std::fs::File::create(path)?, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    Ok(writer.finish()?)
}

fn panels<B: DrawingBackend>(
    area: DrawingArea<B, plotters::coord::Shift>,
    title: &str,
    points: &[Point],
) -> Result<(), Trouble>
where
    B::ErrorType: 'static,
{
    register_font();
    area.fill(&WHITE)?;
    let (above, below) = area.titled(title, (FONT, TITLE))?.split_vertically(HEIGHT * 2 / 5);
    let over_time = |value: fn(&Point) -> f64| {
        points.iter().map(|point| (point.seconds, value(point))).collect()
    };
    let mut rates = vec![Curve {
        name: "answers",
        colour: BLUE,
        points: over_time(|point| point.requests_per_second),
    }];
    if points.iter().any(|point| point.errors_per_second > 0.0) {
        rates.push(Curve {
            name: "errors",
            colour: RED,
            points: over_time(|point| point.errors_per_second),
        });
    }
    panel(&above, "requests a second", &rates)?;
    let spreads = || points.iter().filter_map(|point| Some((point.seconds, point.latency_ms?)));
    let latencies = [
        Curve {
            name: "max",
            colour: RGBColor(170, 170, 170),
            points: spreads().map(|(at, spread)| (at, spread.max)).collect(),
        },
        Curve {
            name: "p99",
            colour: RGBColor(230, 120, 0),
            points: spreads().map(|(at, spread)| (at, spread.p99)).collect(),
        },
        Curve {
            name: "p50",
            colour: BLUE,
            points: spreads().map(|(at, spread)| (at, spread.p50)).collect(),
        },
    ];
    panel(&below, "latency in ms", &latencies)?;
    Ok(area.present()?)
}

fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    what: &str,
    curves: &[Curve],
) -> Result<(), Trouble>
where
    B::ErrorType: 'static,
{
    let most = |of: fn(&(f64, f64)) -> f64| {
        curves.iter().flat_map(|curve| &curve.points).map(of).fold(0.001, f64::max)
    };
    let (time, value) = (most(|point| point.0), most(|point| point.1) * 1.05);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..time, 0.0..value)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style((FONT, LABEL))
        .axis_desc_style((FONT, LABEL))
        .x_desc("seconds")
        .y_desc(what)
        .x_label_formatter(&|n| label(*n, time))
        .y_label_formatter(&|n| label(*n, value))
        .draw()?;
    for Curve { name, colour, points } in curves {
        let style = colour.stroke_width(2);
        let series = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        series.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    let mut legend = chart.configure_series_labels();
    legend
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, LABEL));
    Ok(legend.draw()?)
}

/// As many digits as an axis that ends at `most` needs.
fn label(n: f64, most: f64) -> String {
    let digits = if most >= 10.0 {
        0
    } else if most >= 1.0 {
        1
    } else {
        3
    };
    format!("{n:.digits$}")
}

/// Makes the font known to whoever draws next.
pub fn register_font() {
    let registered =
        plotters::style::register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    registered.unwrap_or_else(|_| unreachable!("the font is part of the program and is one"));
}

#[cfg(test)]
mod tests {
    use super::{super::report::Spread, *};

    fn points() -> Vec<Point> {
        let point = |n: u32| Point {
            seconds: f64::from(n),
            requests_per_second: 100.0 + f64::from(n),
            errors_per_second: f64::from(n % 2),
            latency_ms: (n != 3).then_some(Spread { p50: 1.0, p99: f64::from(n), max: 9.5 }),
        };
        (0..10).map(point).collect()
    }

    #[test]
    fn a_picture_is_what_its_name_says() {
        let directory = tempfile::tempdir().unwrap();
        let (svg, png) = (directory.path().join("a.svg"), directory.path().join("a.png"));
        for points in [points(), vec![]] {
            draw("put, 8 clients", &points, &svg).unwrap();
            draw("put, 8 clients", &points, &png).unwrap();
            let text = std::fs::read_to_string(&svg).unwrap();
            assert!(
                ["put, 8 clients", "requests a second", "latency in ms", "p99"]
                    .iter()
                    .all(|word| text.contains(word)),
                "{text}"
            );
            let mut reader =
                png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&png).unwrap()))
                    .read_info()
                    .unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            // Letters are there also where no line is drawn: the title is black on white.
            let dark =
                pixels[..(WIDTH * TITLE * 3) as usize].iter().filter(|byte| **byte < 100).count();
            assert!(dark > 100, "only {dark} bytes of the title are dark");
        }
    }

    #[test]
    fn a_link_stays_and_what_is_no_file_is_written_through() {
        use std::os::unix::fs::FileTypeExt as _;
        let directory = tempfile::tempdir().unwrap();
        for extension in ["svg", "png"] {
            let named = |name: &str| directory.path().join(format!("{name}.{extension}"));
            std::os::unix::fs::symlink(named("target"), named("link")).unwrap();
            draw("t", &points(), &named("link")).unwrap();
            assert!(std::fs::symlink_metadata(named("link")).unwrap().is_symlink());
            assert!(
                std::process::Command::new("mkfifo").arg(named("fifo")).status().unwrap().success()
            );
            let reader = std::thread::spawn({
                let fifo = named("fifo");
                move || std::fs::read(fifo).unwrap()
            });
            draw("t", &points(), &named("fifo")).unwrap();
            assert_eq!(reader.join().unwrap(), std::fs::read(named("target")).unwrap());
            assert!(std::fs::symlink_metadata(named("fifo")).unwrap().file_type().is_fifo());
        }
    }

    #[test]
    fn where_no_picture_can_be_written_the_path_is_named() {
        let failure = draw("t", &points(), Path::new("/does/not/exist/a.png")).unwrap_err();
        assert_eq!((failure.exit, failure.place.as_str()), (exit::FAILED, "/does/not/exist/a.png"));
    }
}
