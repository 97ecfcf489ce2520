//! Workloads that other frameworks are timed on too, a JSON line for each.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use clap::{ValueEnum, builder::RangedU64ValueParser};
use serde::Serialize;
use wgrad::{
    prelude::DeviceHandle,
    runtime::{DeviceError, DeviceKind, Executable},
    train::Profile,
};
use wgrad_ir::Program;

use crate::Result;

#[cfg(test)]
mod counts;
pub(crate) mod workloads;

use workloads::{Expression, Generation, MaskedLanguageModel, Step, language_model};

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
    #[arg(long, default_value_t = 20, value_parser = at_least_one())]
    steps: usize,
    /// Steps before the timed ones; the first of them is reported as `first_step_s`.
    #[arg(long, default_value_t = 5, value_parser = at_least_one())]
    warmup: usize,
    /// JSON lines alone, without the readable line that goes to the terminal's error stream.
    #[arg(long)]
    json: bool,
    /// Also prints the step's program, kernel by kernel, and how many kernels of each kind it has, to the error stream.
    #[arg(long)]
    program: bool,
    /// Then measures the kernels of some more steps, prints them by time to the error stream, and writes a trace for
    /// <https://ui.perfetto.dev>.
    #[arg(long)]
    profile: bool,
    /// The folder of the traces; one is named WORKLOAD-DEVICE.json.
    #[arg(long, value_name = "DIR", default_value = "target/profile")]
    profile_out: PathBuf,
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Steps that `--profile` measures.
const PROFILED: usize = 5;

#[derive(Clone, Copy, ValueEnum)]
enum Workload {
    /// `C = A B`, f32, 1024 x 1024.
    Matmul,
    /// A training step of a 4-layer GPT: width 128, context 128, batch 8, AdamW.
    GptNano,
    /// A training step of a 6-layer GPT: width 384, context 256, batch 4, AdamW.
    GptMini,
    /// A training step of a 4-layer masked language model: width 256, 16 texts of 128 tokens out of 8,192, AdamW.
    BertMini,
    /// Causal attention and its gradient: 4 sequences of 512, 8 heads of width 64.
    Attention,
    /// Softmax of 4,096 rows of 1,024.
    Softmax,
    /// Layer norm of 4,096 rows of 1,024.
    LayerNorm,
    /// Forward and backward pass of a ResNet block: two 3 x 3 convolutions of 64 channels with batch norm on 8 images of 56 x 56.
    ResnetBlock,
    /// Forward and backward pass of a small CNN: three 3 x 3 convolutions with batch norm, ReLU and max pooling on 128 images of 28 x 28.
    SmallCnn,
    /// A depthwise 3 x 3 convolution of 64 channels on 8 images of 56 x 56, with its gradients.
    Depthwise,
    /// A token of greedy generation by a LLaMA of SmolLM2-135M's shape; its first step is a prompt of 32 tokens.
    Generate,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Workload::Matmul => "matmul",
            Workload::GptNano => "gpt-nano",
            Workload::GptMini => "gpt-mini",
            Workload::BertMini => "bert-mini",
            Workload::Attention => "attention",
            Workload::Softmax => "softmax",
            Workload::LayerNorm => "layer-norm",
            Workload::ResnetBlock => "resnet-block",
            Workload::SmallCnn => "small-cnn",
            Workload::Depthwise => "depthwise",
            Workload::Generate => "generate-smollm2-135m",
        }
    }

    /// The workload, for so many steps.
    fn step(self, steps: usize, device: &DeviceHandle) -> Result<Box<dyn Step>> {
        Ok(match self {
            Workload::Matmul => Box::new(Expression::matmul(1024, device)),
            Workload::GptNano | Workload::GptMini => Box::new(language_model(self.name(), device)?),
            Workload::BertMini => Box::new(MaskedLanguageModel::bert_mini(device)?),
            Workload::Attention => Box::new(Expression::attention(device)),
            Workload::Softmax => Box::new(Expression::softmax(device)),
            Workload::LayerNorm => Box::new(Expression::layer_norm(device)),
            Workload::ResnetBlock => Box::new(Expression::resnet_block(device)),
            Workload::SmallCnn => Box::new(Expression::small_cnn(device)),
            Workload::Depthwise => Box::new(Expression::depthwise(device)),
            Workload::Generate => Box::new(Generation::smollm2(steps, device)?),
        })
    }
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
    /// Host work per step: tracing, hashing and look-up; on a GPU encoding too. Neither the batch nor the program's own run.
    host_s: f64,
    gflops: f64,
}

/// Runs the workloads.
///
/// # Errors
/// The device does not open, or a step fails.
pub(crate) fn run(args: &Args) -> Result {
    let device = wgrad::devices().open(&args.device)?.device;
    for &workload in &args.workload {
        let steps = args.warmup.max(1) + args.steps.max(1) + if args.profile { PROFILED } else { 0 };
        let mut step = workload.step(steps, &device)?;
        let line = time(workload.name(), &mut *step, args, &device)?;
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
        if args.profile {
            profile(workload.name(), &mut *step, args, &device)?;
        }
        // The next workload's longest program must be its own.
        device.cache().clear();
    }
    Ok(())
}

fn time(workload: &'static str, step: &mut dyn Step, args: &Args, device: &DeviceHandle) -> Result<Line> {
    let mut seconds = Vec::new();
    let mut host = Vec::new();
    let mut first = 0.0;
    let mut before = device.stats();
    for n in 0..args.warmup + args.steps {
        if n == args.warmup {
            before = device.stats();
        }
        let run_before = device.stats().run_nanos;
        let start = Instant::now();
        step.prepare();
        let prepared = start.elapsed().as_secs_f64();
        step.run()?;
        let queued = start.elapsed().as_secs_f64() - prepared;
        device.synchronize()?;
        let elapsed = start.elapsed().as_secs_f64();
        if n == 0 {
            first = elapsed;
        }
        if n >= args.warmup {
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
    let executable = longest(device)?;
    let program = executable.program();
    if args.program {
        let kinds: Vec<String> = kinds(program).iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        eprintln!("{program}{workload}: {} kernels: {}", program.steps.len(), kinds.join(", "));
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

/// The program of a step is the longest that a device holds: the others are uploads' and initialisers'.
fn longest(device: &DeviceHandle) -> Result<Arc<dyn Executable>> {
    let size = |e: &Arc<dyn Executable>| (e.program().flops(), e.program().bytes_moved());
    Ok(device.cache().executables().into_iter().max_by_key(size).ok_or("the workload ran no program")?)
}

/// Kernels of a program by kind.
fn kinds(program: &Program) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for step in &program.steps {
        *kinds.entry(step.kernel.name()).or_default() += 1;
    }
    kinds
}

/// Measures the kernels of some steps, prints them, and writes their trace.
fn profile(workload: &'static str, step: &mut dyn Step, args: &Args, device: &DeviceHandle) -> Result {
    let mut profile = Profile::new(device)?;
    for _ in 0..PROFILED {
        let mut outcome = Ok(());
        profile.measure(|| {
            step.prepare();
            outcome = step.run();
            Ok::<_, DeviceError>(())
        })?;
        outcome?;
    }
    std::fs::create_dir_all(&args.profile_out)?;
    let id = device.info().id.replace(':', "-");
    let path = args.profile_out.join(format!("{workload}-{id}.json"));
    profile.write_trace(&path)?;
    eprintln!("{profile}trace for https://ui.perfetto.dev: {}", path.display());
    Ok(())
}

/// Sorts, and takes the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
