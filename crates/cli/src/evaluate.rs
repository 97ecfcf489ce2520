//! `wgrad evaluate`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wgrad::train::{Pretrained, Recipe, Validation};

use crate::Failure;
use crate::args::EvaluateArgs;

pub(crate) fn run(args: EvaluateArgs) -> Result<ExitCode, Failure> {
    let path = match args.recipe {
        Some(path) => path,
        None => recipe_of(&args.checkpoint).ok_or_else(|| {
            format!(
                "there is no recipe.toml at or above {}, which would name the validation text; give one with --recipe",
                args.checkpoint.display()
            )
        })?,
    };
    let recipe = Recipe::from_file(&path, &args.overrides)?;
    let opened = wgrad::devices().open(&args.device.device)?;
    let warn = |warning| eprintln!("warning: {warning}");
    let model = Pretrained::load(&args.checkpoint, &opened.device, warn)?;
    let validation = Validation::build(&recipe, model.tokenizer(), None, warn)?;
    let loss = model.evaluate(&validation, recipe.train.batch_size, recipe.train.loss_chunk)?;
    let windows = validation.starts.len();
    println!("checkpoint       {}", model.folder().display());
    println!("windows          {windows} of {} tokens", validation.context);
    println!("validation loss  {loss:.4} nats per token");
    println!("perplexity       {:.3}", loss.exp());
    println!("bits per byte    {:.4}", loss / std::f64::consts::LN_2 / validation.bytes_per_token());
    Ok(ExitCode::SUCCESS)
}

/// The recipe of the run that `checkpoint` is, or is a checkpoint of.
fn recipe_of(checkpoint: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(checkpoint).ok()?;
    // RUN/recipe.toml for RUN, RUN/checkpoints and RUN/checkpoints/step-000500.
    absolute.ancestors().take(3).map(|folder| folder.join("recipe.toml")).find(|path| path.is_file())
}
