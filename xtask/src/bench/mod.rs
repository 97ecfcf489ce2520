//! Workloads that other frameworks are timed on too, a JSON line for each.

use std::time::Instant;

use clap::ValueEnum;
use serde::Serialize;
use wgrad::{prelude::*, runtime::DeviceKind};

use crate::Result;

pub(crate) mod workloads;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to time.
    #[arg(required = true)]
    workload: Vec<Workload>,
    /// `auto`, `cpu`, `gpu` or an id from `wgrad devices`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Timed steps.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Steps before the timed ones; the first of them is reported as `first_step_s`.
    #[arg(long, default_value_t = 5)]
    warmup: usize,
    /// JSON lines alone, without the readable line that goes to the terminal's error stream.
    #[arg(long)]
    json: bool,
    /// Also prints the step's program, kernel by kernel, to the error stream.
    #[arg(long)]
    program: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Workload {
    /// `C = A B`, f32, 1024 x 1024.
    Matmul,
    /// A training step of a 4-layer GPT: width 128, context 128, batch 8, AdamW.
    GptNano,
    /// A training step of a 6-layer GPT: width 384, context 256, batch 4, AdamW.
    GptMini,
}

/// One line of the result. Times are seconds; a step ends when the device is done with it.
#[derive(Serialize)]
struct Line {
    peer: &'static str,
    backend: String,
    workload: &'static str,
    step_s_median: f64,
    step_s_min: f64,
    tokens_per_s: Option<f64>,
    first_step_s: f64,
    params: Option<usize>,
    /// Kernels dispatched per step.
    dispatches: u64,
    bytes_moved: u64,
    bytes_minimum: u64,
    /// Planned bytes of the step's program: inputs, results and scratch.
    peak_bytes: u64,
    /// Host work per step, outside of the program's own run: tracing, hashing, look-up; on a GPU encoding too.
    host_s: f64,
    gflops: f64,
}

/// Runs the workloads.
///
/// # Errors
/// The device does not open, or a step fails.
pub(crate) fn run(args: &Args) -> Result {
    let device = wgrad::devices().open(&args.device)?.device;
    for workload in &args.workload {
        let line = match workload {
            Workload::Matmul => time("matmul", &mut workloads::MatMul::new(1024, &device), args, &device)?,
            Workload::GptNano => {
                time("gpt-nano", &mut workloads::language_model("gpt-nano", &device)?, args, &device)?
            }
            Workload::GptMini => {
                time("gpt-mini", &mut workloads::language_model("gpt-mini", &device)?, args, &device)?
            }
        };
        println!("{}", serde_json::to_string(&line)?);
        if !args.json {
            let tokens = line.tokens_per_s.map_or(String::new(), |t| format!("{t:.0} tokens/s, "));
            eprintln!(
                "{} on {}: {:.2} ms a step, {tokens}{:.0} GFLOP/s, {} dispatches, {:.1} MB moved (minimum {:.1}), peak {:.1} MB, host {:.2} ms",
                line.workload,
                line.backend,
                1e3 * line.step_s_median,
                line.gflops,
                line.dispatches,
                line.bytes_moved as f64 / 1e6,
                line.bytes_minimum as f64 / 1e6,
                line.peak_bytes as f64 / 1e6,
                1e3 * line.host_s
            );
        }
        // The next workload's longest program must be its own; and a profiled program reports when it is dropped.
        device.cache().clear();
    }
    Ok(())
}

fn time(
    workload: &'static str,
    step: &mut dyn workloads::Step,
    args: &Args,
    device: &DeviceHandle,
) -> Result<Line> {
    let mut seconds = Vec::new();
    let mut host = Vec::new();
    let mut first = 0.0;
    let mut before = device.stats();
    for n in 0..args.warmup.max(1) + args.steps.max(1) {
        if n == args.warmup.max(1) {
            before = device.stats();
        }
        let run_before = device.stats().run_nanos;
        let start = Instant::now();
        step.run()?;
        let queued = start.elapsed().as_secs_f64();
        device.synchronize()?;
        let elapsed = start.elapsed().as_secs_f64();
        if n == 0 {
            first = elapsed;
        }
        if n >= args.warmup.max(1) {
            seconds.push(elapsed);
            // The CPU runtime computes while it runs a program; a GPU is only given the work.
            let computing = match device.info().kind {
                DeviceKind::Cpu => (device.stats().run_nanos - run_before) as f64 * 1e-9,
                _ => 0.0,
            };
            host.push(queued - computing);
        }
    }
    let after = device.stats();
    let count = seconds.len() as u64;
    // The step is the longest program that this device holds: the others are uploads' and initialisers'.
    let executables = device.cache().executables();
    let programs = executables.iter().map(|e| e.program());
    let program = programs.max_by_key(|p| p.flops()).ok_or("the workload ran no program")?;
    if args.program {
        eprintln!("{program}");
    }
    let median = median(&mut seconds);
    Ok(Line {
        peer: "wgrad",
        backend: device.info().id.clone(),
        workload,
        step_s_median: median,
        step_s_min: seconds[0],
        tokens_per_s: step.tokens().map(|t| t as f64 / median),
        first_step_s: first,
        params: step.params(),
        dispatches: (after.dispatches - before.dispatches) / count,
        bytes_moved: program.bytes_moved(),
        bytes_minimum: program.bytes_minimum(),
        peak_bytes: program.peak_bytes(),
        host_s: self::median(&mut host),
        gflops: program.flops() as f64 / median / 1e9,
    })
}

/// Sorts, and takes the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
