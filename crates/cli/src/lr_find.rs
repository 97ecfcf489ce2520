//! `wgrad lr-find`

use std::process::ExitCode;

use wgrad::optim::LrRangeTest;
use wgrad::train::{Recipe, draw_lr_curve, find_lr};

use crate::Failure;
use crate::args::LrFindArgs;

pub(crate) fn run(args: LrFindArgs) -> Result<ExitCode, Failure> {
    // A recipe's mistakes are told before a device is opened.
    let recipe = Recipe::from_file(&args.recipe, &args.overrides)?;
    let test =
        LrRangeTest { start_lr: args.start, end_lr: args.end, steps: args.steps, ..LrRangeTest::default() };
    test.check()?;
    let device = wgrad::devices().open(&args.device.device)?.device;
    let curve = find_lr(&recipe, &test, &device, |lr, loss| println!("lr {lr:.3e}  loss {loss:.4}"))?;
    draw_lr_curve(&args.out, &format!("{}: learning-rate range test", recipe.name), &curve)?;
    if curve.diverged {
        println!("ended where the loss exploded");
    }
    match curve.suggestion() {
        Some(lr) => {
            println!("the loss falls fastest at a learning rate of {lr:.2e}; picture {}", args.out.display())
        }
        None => println!("the loss does not fall at any of these rates; picture {}", args.out.display()),
    }
    Ok(ExitCode::SUCCESS)
}
