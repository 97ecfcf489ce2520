//! A confusion matrix as a picture.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Confusion;
use crate::durable;
use crate::error::{Result, TrainError};

/// Classes that are drawn at most: more cells are no picture any more.
const MOST_CLASSES: usize = 100;
/// Above this number of classes cells are too small for counts.
const MOST_COUNTED: usize = 20;

/// Draws the matrix into an SVG file, which is replaced atomically: a row for each true class, darker cells for larger shares of it, and the
/// counts where there is room.
///
/// # Errors
/// [`TrainError::Picture`] if there are no classes, more than 100, or another number of names; and files that cannot be written.
pub fn draw_confusion(path: &Path, title: &str, names: &[String], confusion: &Confusion) -> Result<()> {
    let classes = confusion.classes();
    if classes != names.len() || !(1..=MOST_CLASSES).contains(&classes) {
        return Err(TrainError::Picture(format!(
            "a confusion matrix has 1 to {MOST_CLASSES} classes and a name for each, found {classes} and {} names",
            names.len()
        )));
    }
    let cell = (560 / classes as i32).clamp(8, 90);
    let (left, top) = (140, 80);
    let side = cell * classes as i32;
    let size = ((left + side + 24) as u32, (top + side + 48) as u32);
    let mut svg = String::new();
    let drawn = (|| -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let small = (cell * 2 / 5).clamp(6, 14);
        root.draw_text(title, &text_style(18, &BLACK, HPos::Center, VPos::Center), (size.0 as i32 / 2, 18))?;
        let middle = left + side / 2;
        root.draw_text("predicted", &text_style(14, &BLACK, HPos::Center, VPos::Center), (middle, 42))?;
        root.draw_text("true", &text_style(14, &BLACK, HPos::Left, VPos::Center), (12, top - 16))?;
        for (truth, name) in names.iter().enumerate() {
            let cases: u64 = (0..classes).map(|other| confusion.count(truth, other)).sum();
            let y = top + cell * truth as i32;
            let label = shortened(name);
            root.draw_text(
                &label,
                &text_style(small, &BLACK, HPos::Right, VPos::Center),
                (left - 8, y + cell / 2),
            )?;
            let x = left + cell * truth as i32 + cell / 2;
            root.draw_text(&label, &text_style(small, &BLACK, HPos::Center, VPos::Center), (x, top - 10))?;
            for prediction in 0..classes {
                let count = confusion.count(truth, prediction);
                let share = count as f64 / cases.max(1) as f64;
                let x = left + cell * prediction as i32;
                let shade = |full: u8| (255.0 - share * f64::from(255 - full)) as u8;
                let fill = RGBColor(shade(31), shade(90), shade(160));
                root.draw(&Rectangle::new([(x, y), (x + cell, y + cell)], fill.filled()))?;
                root.draw(&Rectangle::new([(x, y), (x + cell, y + cell)], BLACK.mix(0.15)))?;
                if classes <= MOST_COUNTED {
                    let ink = if share > 0.5 { &WHITE } else { &BLACK };
                    let style = text_style(small, ink, HPos::Center, VPos::Center);
                    root.draw_text(&count.to_string(), &style, (x + cell / 2, y + cell / 2))?;
                }
            }
        }
        let summary = format!("accuracy {:.4}, macro F1 {:.4}", confusion.accuracy(), confusion.f1_macro());
        let below = (middle, top + side + 24);
        root.draw_text(&summary, &text_style(14, &BLACK, HPos::Center, VPos::Center), below)?;
        root.present()
    })();
    drawn.map_err(|error| TrainError::Picture(error.to_string()))?;
    durable::replace_file(path, svg.as_bytes())
}

fn text_style(height: i32, color: &RGBColor, h: HPos, v: VPos) -> TextStyle<'_> {
    TextStyle::from(("sans-serif", height).into_font()).color(color).pos(Pos::new(h, v))
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(14) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_names_and_counts() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("confusion.svg");
        let names = ["ham".to_owned(), "spam & more of the same".to_owned()];
        let confusion = Confusion::of(2, [(0, 0); 41].into_iter().chain([(1, 0), (1, 1)])).expect("known");
        draw_confusion(&path, "sms", &names, &confusion).expect("drawn");
        let svg = std::fs::read_to_string(&path).expect("written");
        for text in ["<svg", "sms", "ham", "spam &amp; more", "41", "predicted", "accuracy 0.9767"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        for (names, classes) in [(&names[..1], 2), (&names[..0], 0)] {
            let refused = draw_confusion(&path, "", names, &Confusion::new(classes));
            assert!(matches!(refused, Err(TrainError::Picture(_))));
        }
        if let Ok(copy) = std::env::var("WGRAD_KEEP_PICTURE") {
            std::fs::copy(&path, copy).expect("copied");
        }
    }
}
