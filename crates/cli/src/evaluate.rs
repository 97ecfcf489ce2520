//! `wgrad evaluate`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wgrad::train::{Recipe, evaluate};

use crate::Failure;
use crate::args::EvaluateArgs;

pub(crate) fn run(args: EvaluateArgs) -> Result<ExitCode, Failure> {
    let path = match args.recipe {
        Some(path) => path,
        None => recipe_of(&args.checkpoint).ok_or_else(|| {
            format!(
                "there is no recipe.toml at or above {}, which would name the validation data; give one with --recipe",
                args.checkpoint.display()
            )
        })?,
    };
    let recipe = Recipe::from_file(&path, &args.overrides)?;
    let opened = wgrad::devices().open(&args.device.device)?;
    let warn = |warning| eprintln!("warning: {warning}");
    let found = evaluate(&recipe, &args.checkpoint, &opened.device, warn)?;
    let lines = [("checkpoint".to_owned(), found.folder.display().to_string())];
    for (name, value) in lines.iter().chain(&found.report) {
        println!("{name:15}  {value}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The recipe of the run that `checkpoint` is, or is a checkpoint of.
fn recipe_of(checkpoint: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(checkpoint).ok()?;
    // RUN/recipe.toml for RUN, RUN/checkpoints and RUN/checkpoints/step-000500.
    absolute.ancestors().take(3).map(|folder| folder.join("recipe.toml")).find(|path| path.is_file())
}
