//! `wgrad train`

use std::process::ExitCode;

use wgrad::train::{Interrupt, Outcome, ProfileOptions, RunOptions, TrainError, resume, train};

use crate::Failure;
use crate::args::TrainArgs;

/// What shells return for a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(args: TrainArgs) -> Result<ExitCode, Failure> {
    let interrupt = Interrupt::default();
    let flag = interrupt.clone();
    ctrlc::set_handler(move || {
        if flag.raise() {
            // Asked twice: whoever asks does not want to wait for the checkpoint.
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("\nstopping after this step; once more to stop at once");
    })?;

    // A recipe's mistakes are told before a device is opened.
    let recipe = args
        .recipe
        .as_deref()
        .map(|path| wgrad::train::Recipe::from_file(path, &args.overrides))
        .transpose()?;
    let opened = wgrad::devices().open(&args.device.device)?;
    eprintln!("device {}: {} ({})", opened.device.info().id, opened.device.info().name, opened.reason);
    let profile = args.profile.map(|steps| ProfileOptions { steps, out: args.profile_out.clone() });
    let options = RunOptions { device: opened.device, interrupt, profile };
    let outcome = match (&args.resume, recipe) {
        (Some(folder), recipe) => resume(folder, recipe, &args.overrides, options),
        (None, Some(recipe)) => train(recipe, args.out.as_deref(), options),
        (None, None) => return Err("a recipe is needed, or --resume with a run folder".into()),
    };
    Ok(match outcome.map_err(|error| with_way_out(error, &args))? {
        Outcome::Finished { validation_loss, metrics, folder } => {
            let also: String = metrics.iter().map(|(name, value)| format!(", {name} {value:.4}")).collect();
            println!("done: validation loss {validation_loss:.4}{also}, run folder {}", folder.display());
            ExitCode::SUCCESS
        }
        Outcome::Interrupted { step, folder } => {
            println!(
                "stopped after step {step}, checkpoint saved; continue with: wgrad train --resume {}",
                folder.display()
            );
            ExitCode::from(INTERRUPTED)
        }
    })
}

/// Where a step is too large, names the command that looks for settings with which it is not.
fn with_way_out(error: TrainError, args: &TrainArgs) -> Failure {
    if !error.is_too_large() {
        return error.into();
    }
    let recipe = match (&args.recipe, &args.resume) {
        (Some(recipe), _) => recipe.clone(),
        (None, Some(folder)) => folder.join("recipe.toml"),
        (None, None) => return error.into(),
    };
    let (recipe, device) = (recipe.display(), &args.device.device);
    format!("{error}; `wgrad plan {recipe} --device {device}` says what would fit").into()
}
