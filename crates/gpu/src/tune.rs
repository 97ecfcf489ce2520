//! Which variant of a matrix product is fastest on this adapter, found by trying and remembered on disk.
//!
//! Products of one class (extents rounded up to powers of two, and the operands' layouts) share a choice. A choice changes the order of
//! additions and so the last bits of results: whoever must repeat a run exactly keeps [`GpuDevice::tuning`](crate::GpuDevice::tuning)
//! and gives it back.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use wgpu::PollType;
use wgrad_ir::{Arg, BufferRef, DeviceCaps, Expr, Kernel, Literal, MatMulKernel, Operand, Program, Step};
use wgrad_kernels::{Choices, MatMulVariant};
use wgrad_runtime::{DeviceInfo, Executable};

use crate::{device::Shared, executable::GpuExecutable};

/// The first line of a file of choices.
const HEADER: &str = "wgrad tuning 1";

/// Runs of a kernel in one submission, so that its time outweighs the submission's.
const REPEATS: usize = 8;

/// The choices of one device.
#[derive(Default)]
pub(crate) struct Tuner {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<String, MatMulVariant>,
    candidates: Vec<MatMulVariant>,
    file: Option<PathBuf>,
}

impl Tuner {
    /// Tuning as `caps` suggest: off on software adapters, whose products have a fixed choice.
    pub(crate) fn new(caps: &DeviceCaps, info: &DeviceInfo) -> Self {
        let tuner = Tuner::default();
        if !caps.software && caps.max_workgroup_invocations >= 256 {
            let tiled =
                [32, 64, 128].into_iter().filter(|b| caps.max_workgroup_bytes >= 2 * 16 * (b + 1) * 4);
            let mut candidates: Vec<_> = tiled.map(|block| MatMulVariant::Tiled { block }).collect();
            candidates.push(MatMulVariant::Direct { rows: 8, quads: 2 });
            tuner.set(candidates, default_file(info));
        }
        tuner
    }

    /// Tries these variants from now on (none: tries nothing), and remembers the fastest in `file`.
    pub(crate) fn set(&self, candidates: Vec<MatMulVariant>, file: Option<PathBuf>) {
        let found = file.as_deref().map(read).unwrap_or_default();
        let mut state = self.lock();
        // What is in use stays in use.
        for (class, variant) in found {
            state.known.entry(class).or_insert(variant);
        }
        state.candidates = candidates;
        state.file = file;
    }

    /// The choices in use, as text.
    pub(crate) fn choices(&self) -> BTreeMap<String, String> {
        self.lock().known.iter().map(|(class, variant)| (class.clone(), name(*variant))).collect()
    }

    /// Takes over choices; the first that is none is returned.
    pub(crate) fn restore(&self, choices: &BTreeMap<String, String>) -> Result<(), String> {
        let parsed = choices.iter().map(|(class, text)| match parse(text) {
            Some(variant) => Ok((class.clone(), variant)),
            None => Err(format!("{class}: {text}")),
        });
        let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
        self.lock().known.extend(parsed);
        Ok(())
    }

    /// The variant for a step, if it is a product of a known class, or of one that can be tried now.
    pub(crate) fn choose(
        &self,
        shared: &Arc<Shared>,
        program: &Program,
        step: &Step,
    ) -> Option<MatMulVariant> {
        let Kernel::MatMul(kernel) = &*step.kernel else { return None };
        let class = class(kernel);
        let candidates = {
            let state = self.lock();
            if let Some(&known) = state.known.get(&class) {
                return Some(known);
            }
            state.candidates.clone()
        };
        // Indices in memory that nobody has written would raise the device's status.
        let gathers = kernel.exprs.iter().any(|node| matches!(node.expr, Expr::Gather { .. }));
        if candidates.is_empty() || gathers {
            return None;
        }
        let trial = Arc::new(trial(program, step));
        let times = candidates.into_iter().filter_map(|v| Some((time(shared, &trial, v)?, v)));
        let (_, best) = times.min_by_key(|(time, _)| *time)?;
        let mut state = self.lock();
        let best = *state.known.entry(class).or_insert(best);
        if let Some(file) = &state.file {
            write(file, &state.known);
        }
        Some(best)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What products share a choice.
fn class(kernel: &MatMulKernel) -> String {
    let layout = |operand: &Operand| {
        let strides = &operand.view.strides;
        if strides.last() == Some(&1) { "rows" } else { "columns" }
    };
    let up = usize::next_power_of_two;
    format!(
        "matmul {} {}x{}x{}x{} {} {}",
        kernel.dtype,
        up(kernel.batch.elements()),
        up(kernel.m),
        up(kernel.n),
        up(kernel.k),
        layout(&kernel.a),
        layout(&kernel.b)
    )
}

/// The step alone, several times, on scratch memory of its own.
fn trial(program: &Program, step: &Step) -> Program {
    let mut buffers: Vec<BufferRef> = Vec::new();
    let mut place = |arg: &Arg| {
        let n = buffers.iter().position(|b| *b == arg.buffer).unwrap_or_else(|| {
            buffers.push(arg.buffer);
            buffers.len() - 1
        });
        Arg { buffer: BufferRef::Temp(n as u32), ..*arg }
    };
    let args: Vec<Arg> = step.args.iter().map(&mut place).collect();
    let step = Step { kernel: step.kernel.clone(), args, label: step.label.clone() };
    Program {
        scalars: program.scalars.clone(),
        temps: buffers.iter().map(|&b| program.bytes(b)).collect(),
        steps: vec![step; REPEATS],
        ..Program::default()
    }
}

/// The best of three times; `None` where the variant does not run.
fn time(shared: &Arc<Shared>, trial: &Arc<Program>, variant: MatMulVariant) -> Option<Duration> {
    let choices = Choices { matmul: Some(variant), ..Choices::default() };
    let executable = GpuExecutable::new(shared.clone(), trial.clone(), &choices).ok()?;
    let scalars: Vec<Literal> = trial.scalars.iter().map(|&dtype| Literal::zero(dtype)).collect();
    let run = || -> Option<Duration> {
        let start = Instant::now();
        executable.run(Vec::new(), &scalars).ok()?;
        shared.device.poll(PollType::wait_indefinitely()).ok()?;
        Some(start.elapsed())
    };
    // The first run compiles and allocates.
    run()?;
    (0..3).filter_map(|_| run()).min()
}

fn name(variant: MatMulVariant) -> String {
    match variant {
        MatMulVariant::Direct { rows, quads } => format!("direct {rows} {quads}"),
        MatMulVariant::Subgroup { rows, quads } => format!("subgroup {rows} {quads}"),
        MatMulVariant::Tiled { block } => format!("tiled {block}"),
    }
}

/// The variant of a name. Only such as a file may hold: sizes that make no shader are none.
fn parse(text: &str) -> Option<MatMulVariant> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let numbers =
        words.map(|w| w.parse().ok().filter(|n| (1..=256).contains(n))).collect::<Option<Vec<u32>>>()?;
    match (kind, numbers.as_slice()) {
        ("direct", &[rows, quads]) => Some(MatMulVariant::Direct { rows, quads }),
        ("subgroup", &[rows @ (8 | 16 | 32), quads]) => Some(MatMulVariant::Subgroup { rows, quads }),
        ("tiled", &[block]) if block % 16 == 0 => Some(MatMulVariant::Tiled { block }),
        _ => None,
    }
}

/// Where choices for this adapter and driver are kept.
fn default_file(info: &DeviceInfo) -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = from("XDG_CACHE_HOME")
        .or_else(|| from("LOCALAPPDATA"))
        .or_else(|| from("HOME").map(|home| home.join(".cache")))?;
    let adapter = format!("{} {}", info.name, info.driver);
    let plain: String = adapter.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Some(folder.join("wgrad").join(format!("tuning-{plain}.txt")))
}

/// The choices in a file: of a damaged line or another version nothing, since all can be found again.
fn read(file: &Path) -> BTreeMap<String, MatMulVariant> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return BTreeMap::new();
    }
    lines
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(c, v)| Some((c.to_owned(), parse(v)?)))
        .collect()
}

/// Writes all choices; without success the next process tries again.
fn write(file: &Path, known: &BTreeMap<String, MatMulVariant>) {
    let mut text = format!("{HEADER}\n");
    for (class, variant) in known {
        text += &format!("{class}\t{}\n", name(*variant));
    }
    // Another process may read at any time: the name appears with the whole content.
    let fresh = file.with_extension(format!("{}.tmp", std::process::id()));
    let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
    let _ = folder.and_then(|()| fs::write(&fresh, text)).and_then(|()| fs::rename(&fresh, file));
}
