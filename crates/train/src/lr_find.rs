//! The learning-rate range test of a recipe, and its picture.

use std::path::Path;

use plotters::prelude::*;
use wgrad_optim::{LrCurve, LrRangeTest};
use wgrad_tensor::DeviceHandle;

use crate::durable;
use crate::error::{Result, TrainError};
use crate::learner::Learner;
use crate::recipe::Recipe;
use crate::task::Opening;
use crate::trainer::warn;

/// Trains a recipe's model from its beginning with growing learning rates (its schedule takes no part), and returns what was
/// measured. `progress` hears of each step's rate and loss. Nothing is written.
///
/// # Errors
/// The data, the device or the settings fail.
pub fn find_lr(
    recipe: &Recipe,
    test: &LrRangeTest,
    device: &DeviceHandle,
    mut progress: impl FnMut(f64, f64),
) -> Result<LrCurve> {
    test.check()?;
    let t = &recipe.train;
    let opening = Opening::Begin { cache: None };
    let task = recipe.task.spec().open(recipe, &opening, device, &mut warn)?;
    let mut batches = task.batches(t.batch_size * t.grad_accumulation, t.seed)?;
    let mut learner = Learner::new(recipe, task, device)?;
    let mut curve = LrCurve::default();
    for i in 0..test.steps {
        let batch = batches(i)?;
        let loss = learner.update_at(&batch, i, test.lr(i))?.loss.item()?;
        progress(test.lr(i), loss);
        if !test.record(&mut curve, loss) {
            break;
        }
    }
    Ok(curve)
}

const SIZE: (u32, u32) = (800, 480);
const RAW: RGBColor = RGBColor(150, 180, 215);
const SMOOTH: RGBColor = RGBColor(31, 90, 160);
const MARK: RGBColor = RGBColor(215, 95, 0);

/// Draws the losses of a range test over the logarithm of the rate into an SVG file, with a line at the suggested rate. An empty
/// curve draws nothing.
///
/// # Errors
/// The picture cannot be drawn or the file not be written.
pub fn draw_lr_curve(path: &Path, title: &str, curve: &LrCurve) -> Result<()> {
    let (Some(&first), Some(&last)) = (curve.lr.first(), curve.lr.last()) else { return Ok(()) };
    // What diverges at the end would flatten all that is of interest.
    let most = curve.smoothed.iter().copied().fold(f64::MIN, f64::max);
    let least = curve.loss.iter().copied().fold(f64::INFINITY, f64::min);
    let begin = curve.smoothed.first().copied().unwrap_or(most);
    let top = most.min(begin + 1.5 * (begin - least).max(1e-3));
    let margin = ((top - least) * 0.05).max(1e-3);
    let points = |values: &[f64]| -> Vec<(f64, f64)> {
        curve.lr.iter().copied().zip(values.iter().map(|y| y.min(top + margin))).collect()
    };
    let mut svg = String::new();
    let drawn = (|| -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d((first..last.max(first * 1.01)).log_scale(), least - margin..top + margin)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_label_formatter(&|x| format!("{x:.0e}"))
            .y_label_formatter(&|y| format!("{y:.2}"))
            .x_desc("learning rate")
            .y_desc("loss")
            .label_style(("sans-serif", 14))
            .draw()?;
        chart.draw_series(LineSeries::new(points(&curve.loss), RAW.stroke_width(1)))?;
        chart
            .draw_series(LineSeries::new(points(&curve.smoothed), SMOOTH.stroke_width(2)))?
            .label("smoothed")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], SMOOTH.stroke_width(2)));
        if let Some(lr) = curve.suggestion() {
            let line = [(lr, least - margin), (lr, top + margin)];
            chart
                .draw_series(LineSeries::new(line, MARK.stroke_width(2)))?
                .label(format!("falls fastest: {lr:.1e}"))
                .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], MARK.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 14))
            .draw()?;
        root.present()
    })();
    drawn.map_err(|error| TrainError::Picture(error.to_string()))?;
    durable::replace_file(path, svg.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_range_test_of_a_recipe_finds_a_rate_and_draws_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gpt-tiny.toml");
        let recipe = Recipe::from_file(&path, &[]).expect("the recipe ships");
        let test = LrRangeTest { start_lr: 1e-5, end_lr: 3.0, steps: 40, ..LrRangeTest::default() };
        let device: DeviceHandle = Arc::new(wgrad_cpu::CpuDevice::new());
        let mut heard = 0;
        let curve = find_lr(&recipe, &test, &device, |_, _| heard += 1).expect("a curve");
        let suggestion = curve.suggestion().expect("it falls");
        assert!((1e-4..1.0).contains(&suggestion) && heard >= curve.lr.len(), "{suggestion}");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("lr.svg");
        draw_lr_curve(&file, "t", &LrCurve::default()).expect("nothing to draw");
        assert!(!file.exists());
        draw_lr_curve(&file, "gpt-tiny", &curve).expect("drawn");
        let svg = std::fs::read_to_string(&file).expect("written");
        for text in ["<svg", "gpt-tiny", "learning rate", "falls fastest", "polyline"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("NaN"));
        if let Ok(copy) = std::env::var("WGRAD_KEEP_PICTURE") {
            std::fs::copy(&file, copy).expect("copied");
        }
    }
}
