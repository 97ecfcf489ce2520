//! A trained model on a recipe's validation data.

use std::path::{Path, PathBuf};

use wgrad_tensor::DeviceHandle;

use crate::error::Result;
use crate::pretrained::model_folder;
use crate::recipe::{Precision, Recipe};
use crate::task::{Measured, Opening};

/// What was measured, of which model.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The folder that the model was loaded from.
    pub folder: PathBuf,
    /// Loss and metrics.
    pub measured: Measured,
    /// The same for people: names and values.
    pub report: Vec<(String, String)>,
}

/// Measures the model that `path` means (a run folder's last valid checkpoint, a checkpoint, or any folder with the model's files) on the
/// validation data of a recipe, in 32-bit floats. A damaged checkpoint of a run is passed over; `warn` gets a sentence about it.
///
/// # Errors
/// There is no model, or its files are damaged or of another kind; the data cannot be read, or does not fit the model; the device fails.
pub fn evaluate(
    recipe: &Recipe,
    path: &Path,
    device: &DeviceHandle,
    mut warn: impl FnMut(String),
) -> Result<Evaluation> {
    let folder = model_folder(path, &mut warn)?;
    let opening = Opening::Evaluate { folder: &folder };
    let task = recipe.task.spec().open(recipe, &opening, device, &mut warn)?;
    let measured = task.evaluate(recipe.train.batch_size, Precision::F32)?;
    let report = task.report(&measured);
    Ok(Evaluation { folder, measured, report })
}
