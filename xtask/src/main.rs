//! Repository tasks: `cargo xtask test | parity | interop | bench | results | shaders | docs | data | ci`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod adapters;
mod bench;
mod ci;
mod data;
mod docs;
mod interop;
mod parity;
mod profiles;
mod results;
mod shaders;
mod test;

/// What every task returns: an error is printed, with its causes, and makes the exit code 1.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Repository tasks of wgrad.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the whole test suite: formatting, unit and GPU tests, shaders, parity on both devices.
    ///
    /// Where no Vulkan adapter is found on a Debian-like system, Mesa's software Vulkan is installed first.
    /// WGRAD_TEST_DEVICES=cpu leaves the GPU out.
    Test(test::Args),
    /// Compares with reference data computed by PyTorch and Hugging Face.
    Parity(parity::Args),
    /// Saves a small model of each family, and compares with what Hugging Face's `transformers` computes from the folder.
    Interop(interop::Args),
    /// Times workloads; prints a JSON line for each.
    Bench(bench::Args),
    /// Makes a table of what workloads took, wgrad's and other frameworks', from their JSON lines.
    Results(results::Args),
    /// Checks the WGSL that training generates for the back ends of Vulkan, Metal and DX12.
    Shaders(shaders::Args),
    /// Writes the pages of the documentation that follow from the code.
    Docs(docs::Args),
    /// Fetches data and models for recipes from packages into `recipes/data`.
    Data(data::Args),
    /// What must hold before a change lands: formatting, lints, documentation and tests.
    Ci,
    /// Exits with 0 if there is an adapter that the GPU tests can use.
    #[command(hide = true)]
    Adapters,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Parity(args) => parity::run(&args),
        Task::Interop(args) => interop::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Results(args) => results::run(&args),
        Task::Shaders(args) => shaders::run(&args),
        Task::Docs(args) => docs::run(&args),
        Task::Data(args) => data::run(&args),
        Task::Ci => ci::run(),
        Task::Adapters => adapters::list(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  caused by: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
