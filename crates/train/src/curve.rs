//! The loss curve as a picture.

use std::path::Path;

use plotters::prelude::*;

use crate::durable;
use crate::error::{Result, TrainError};
use crate::metrics::{Metric, Split};

const SIZE: (u32, u32) = (800, 480);
const TRAIN: RGBColor = RGBColor(150, 180, 215);
const SMOOTH: RGBColor = RGBColor(31, 90, 160);
const VALIDATION: RGBColor = RGBColor(215, 95, 0);

/// Draws training loss (as it was, and smoothed) and validation loss (in nats per `unit`) over the steps into an SVG file, which is
/// replaced atomically. Without any finite loss nothing is drawn.
///
/// # Errors
/// The picture cannot be drawn or the file not be written.
pub fn draw_loss_curve(path: &Path, title: &str, unit: &str, lines: &[Metric]) -> Result<()> {
    let points = |split| -> Vec<(f64, f64)> {
        let of_split = lines.iter().filter(|m| m.split == split && m.loss.is_finite());
        of_split.map(|m| (m.step as f64, m.loss)).collect()
    };
    let (train, validation) = (thinned(points(Split::Train)), points(Split::Validation));
    let all = || train.iter().chain(&validation);
    let (Some(lowest), Some(highest), Some(last)) = (
        all().map(|p| p.1).min_by(f64::total_cmp),
        all().map(|p| p.1).max_by(f64::total_cmp),
        all().map(|p| p.0).max_by(f64::total_cmp),
    ) else {
        return Ok(());
    };
    let margin = ((highest - lowest) * 0.05).max(1e-3);
    let mut svg = String::new();
    let drawn = (|| -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..last.max(1.0), lowest - margin..highest + margin)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.2}"))
            .x_desc("step")
            .y_desc(format!("loss, nats per {unit}"))
            .label_style(("sans-serif", 14))
            .draw()?;
        chart.draw_series(LineSeries::new(train.iter().copied(), TRAIN.stroke_width(1)))?;
        chart
            .draw_series(LineSeries::new(smoothed(&train), SMOOTH.stroke_width(2)))?
            .label("training (smoothed)")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], SMOOTH.stroke_width(2)));
        chart
            .draw_series(
                LineSeries::new(validation.iter().copied(), VALIDATION.stroke_width(2)).point_size(3),
            )?
            .label("validation")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], VALIDATION.stroke_width(2)));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 14))
            .draw()?;
        root.present()
    })();
    drawn.map_err(|error| TrainError::Picture(error.to_string()))?;
    durable::replace_file(path, svg.as_bytes())
}

/// At most about 2,000 points, each the mean of its neighbours: more than a picture shows, and less than a long run has.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(2000).max(1);
    points
        .chunks(group)
        .map(|c| (c[c.len() - 1].0, c.iter().map(|p| p.1).sum::<f64>() / c.len() as f64))
        .collect()
}

/// Exponential moving average over about a fiftieth of the points, without the pull of its start (as Adam corrects it).
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(1.0);
    let (mut mean, mut weight) = (0.0, 0.0);
    let average = |&(x, y): &(f64, f64)| {
        mean = keep * mean + (1.0 - keep) * y;
        weight = keep * weight + (1.0 - keep);
        (x, mean / weight)
    };
    points.iter().map(average).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Speed;

    fn line(step: u64, split: Split, loss: f64) -> Metric {
        Metric {
            step,
            split,
            loss,
            lr: 0.0,
            speed: Speed::Tokens(0.0),
            grad_norm: None,
            metrics: Default::default(),
        }
    }

    #[test]
    fn the_picture_shows_both_losses_and_names_its_axes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("loss.svg");
        draw_loss_curve(&path, "t", "token", &[]).expect("nothing to draw");
        assert!(!path.exists());
        let mut lines: Vec<Metric> = (1..=3000)
            .map(|i| line(i, Split::Train, 2.0 + 3.0 / (i as f64).sqrt() + 0.1 * (i as f64).sin()))
            .collect();
        lines.extend(
            (1..=15).map(|i| line(i * 200, Split::Validation, 2.1 + 3.0 / (i as f64 * 200.0).sqrt())),
        );
        lines.push(line(3001, Split::Train, f64::NAN));
        draw_loss_curve(&path, "gpt-nano", "token", &lines).expect("drawn");
        let svg = std::fs::read_to_string(&path).expect("written");
        for text in ["<svg", "gpt-nano", "step", "nats per token", "validation", "polyline"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("NaN"));
        if let Ok(copy) = std::env::var("WGRAD_KEEP_PICTURE") {
            std::fs::copy(&path, copy).expect("copied");
        }
    }

    #[test]
    fn a_constant_is_its_own_average_from_the_first_point_on() {
        let flat: Vec<(f64, f64)> = (0..500).map(|i| (f64::from(i), 2.5)).collect();
        assert!(smoothed(&flat).iter().all(|p| (p.1 - 2.5).abs() < 1e-12));
        assert_eq!(thinned(flat).len(), 500);
    }
}
