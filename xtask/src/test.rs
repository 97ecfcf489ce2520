//! The test suite, its stages timed and its tests counted.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{Result, adapters, docs};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also runs the tests that take minutes.
    #[arg(long)]
    pub(crate) full: bool,
}

/// Runs every stage and prints the counts.
///
/// # Errors
/// The first stage that fails.
pub(crate) fn run(args: &Args) -> Result {
    let start = Instant::now();
    stage("adapter", adapters::ensure)?;
    stage("format", || cargo(&["fmt", "--all", "--check"], &[]))?;
    stage("generated pages", || docs::run(&docs::Args { check: true }))?;
    let counts = stage("tests", || unit_tests(args.full))?;
    stage("shaders", || again(&["shaders", "--check"]))?;
    let devices: &[&str] = if adapters::left_out() { &["--device", "cpu"] } else { &[] };
    stage("parity", || again(&[["parity"].as_slice(), devices].concat()))?;

    for name in &counts.not_run {
        println!("not run without --full: {name}");
    }
    if adapters::left_out() {
        println!("GPU tests were left out: WGRAD_TEST_DEVICES=cpu");
    }
    println!(
        "\nall green in {:.0} s; {} of the tests ran on a GPU",
        start.elapsed().as_secs_f64(),
        counts.gpu
    );
    println!("{} passed, 0 failed, {} skipped", counts.passed, counts.not_run.len());
    if counts.gpu == 0 && !adapters::left_out() {
        return Err("no test ran on a GPU, though one is there; the suite is broken".into());
    }
    Ok(())
}

/// Prints what begins and how long it took.
pub(crate) fn stage<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("\n== {name}");
    let start = Instant::now();
    let result = work().map_err(|e| format!("{name}: {e}"))?;
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// Runs cargo with the given environment on top.
pub(crate) fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result {
    let mut command = Command::new(env!("CARGO"));
    let status = command.args(arguments).envs(environment.iter().copied()).status()?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` failed", arguments.join(" ")).into()) }
}

/// Runs another task in a process of its own, which sees drivers installed since this one began.
fn again(arguments: &[&str]) -> Result {
    let status = Command::new(std::env::current_exe()?).args(arguments).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`cargo xtask {}` failed", arguments.join(" ")).into())
    }
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: Vec<String>,
    not_run: Vec<String>,
    gpu: usize,
}

/// `cargo test` over the workspace, its lines passed on and counted. A test counts as a GPU test if its name or that of its
/// binary says `gpu`: tests that need an adapter are named so.
fn unit_tests(full: bool) -> Result<Counts> {
    // Built first, so that compiler messages do not mix with results.
    cargo(&["test", "--workspace", "--all-features", "--no-run", "--quiet"], &[])?;
    let mut command = Command::new("sh");
    let ignored = if full { "--include-ignored" } else { "" };
    // One stream, so that the names of test binaries and their results stay in order.
    command.args([
        "-c",
        &format!("\"$0\" test --workspace --all-features --no-fail-fast -- {ignored} 2>&1"),
        env!("CARGO"),
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let Some(stdout) = child.stdout.take() else { return Err("cargo's output is not readable".into()) };
    let mut counts = Counts::default();
    let mut binary = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        let trimmed = line.trim_start();
        if trimmed.starts_with("Running ") || trimmed.starts_with("Doc-tests ") {
            binary = trimmed.to_owned();
        }
        let Some((name, verdict)) = trimmed.strip_prefix("test ").and_then(|t| t.rsplit_once(" ... ")) else {
            continue;
        };
        if verdict == "ok" {
            counts.passed += 1;
            counts.gpu += usize::from(name.contains("gpu") || binary.contains("gpu"));
        } else if verdict.starts_with("FAILED") {
            counts.failed.push(name.to_owned());
        } else if verdict.starts_with("ignored") {
            counts.not_run.push(name.to_owned());
        }
    }
    let status = child.wait()?;
    if !counts.failed.is_empty() {
        let names = counts.failed.join(", ");
        println!(
            "{} passed, {} failed, {} skipped",
            counts.passed,
            counts.failed.len(),
            counts.not_run.len()
        );
        return Err(format!("failed: {names}").into());
    }
    if status.success() {
        Ok(counts)
    } else {
        Err("a test binary did not build or crashed; see above".into())
    }
}
