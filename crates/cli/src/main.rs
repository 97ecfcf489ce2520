//! The `wgrad` command: train, plan, find learning rates, generate, export, evaluate, list devices.
#![forbid(unsafe_code)]

mod args;
mod devices;
mod evaluate;
mod export;
mod generate;
mod lr_find;
mod plan;
mod train;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};

/// Any command's failure; its causes are printed with it.
type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Train(args) => train::run(args),
        Command::Plan(args) => plan::run(args),
        Command::LrFind(args) => lr_find::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Export(args) => export::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Devices => devices::run(),
    };
    done.unwrap_or_else(|failure| {
        eprintln!("error: {}", with_causes(&*failure));
        ExitCode::FAILURE
    })
}

/// The message, and those causes that it does not contain already.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text.push_str("\n  caused by: ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}
