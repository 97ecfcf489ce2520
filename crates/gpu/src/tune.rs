//! Which variant of a matrix product, and which tiles of attention, are fastest on this adapter, found by trying and remembered on disk.
//!
//! Kernels of one class (extents rounded up to powers of two, and the operands' layouts) share a choice. A choice changes the order of
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
use wgrad_ir::{
    Arg, AttentionDims, BufferRef, DeviceCaps, Expr, Kernel, Literal, MatMulKernel, Operand, Program, Step,
};
use wgrad_kernels::{AttentionVariant, Choices, MatMulVariant};
use wgrad_runtime::{DeviceInfo, Executable};

use crate::{device::Shared, executable::GpuExecutable};

/// The first line of a file of choices.
const HEADER: &str = "wgrad tuning 1";

/// Runs of a kernel in one submission, so that its time outweighs the submission's.
const REPEATS: usize = 8;

/// How a kernel of which there are several variants is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// A matrix product.
    MatMul(MatMulVariant),
    /// Attention, or its gradient.
    Attention(AttentionVariant),
}

impl From<MatMulVariant> for Variant {
    fn from(variant: MatMulVariant) -> Self {
        Variant::MatMul(variant)
    }
}

impl From<AttentionVariant> for Variant {
    fn from(variant: AttentionVariant) -> Self {
        Variant::Attention(variant)
    }
}

impl Variant {
    /// Whether it is one of a kernel's.
    fn suits(self, kernel: &Kernel) -> bool {
        match self {
            Variant::MatMul(_) => matches!(kernel, Kernel::MatMul(_)),
            Variant::Attention(_) => matches!(kernel, Kernel::Attention(_) | Kernel::AttentionGrad(_)),
        }
    }

    /// These choices with this one, where nothing has been chosen.
    fn into_choices(self, choices: &Choices) -> Choices {
        match self {
            Variant::MatMul(v) => Choices { matmul: choices.matmul.or(Some(v)), ..*choices },
            Variant::Attention(v) => Choices { attention: choices.attention.or(Some(v)), ..*choices },
        }
    }
}

/// The choices of one device.
#[derive(Default)]
pub(crate) struct Tuner {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<String, Variant>,
    candidates: Vec<Variant>,
    /// What the device does by cooperative matrices.
    matrices: Option<Variant>,
    file: Option<PathBuf>,
}

impl State {
    /// Whether the device runs a variant.
    fn can(&self, variant: Variant) -> bool {
        !matches!(variant, Variant::MatMul(MatMulVariant::Cooperative { .. }))
            || self.matrices == Some(variant)
    }
}

impl Tuner {
    /// Tuning as `caps` suggest: off on software adapters, whose kernels have a fixed choice.
    pub(crate) fn new(caps: &DeviceCaps, info: &DeviceInfo) -> Self {
        let tuner = Tuner::default();
        if !caps.software && caps.max_workgroup_invocations >= 256 {
            let tiled =
                [32, 64, 128].into_iter().filter(|b| caps.max_workgroup_bytes >= 2 * 16 * (b + 1) * 4);
            let mut candidates: Vec<Variant> =
                tiled.map(|block| MatMulVariant::Tiled { block }.into()).collect();
            candidates.push(MatMulVariant::Direct { rows: 8, quads: 2 }.into());
            // Blocks that do not fit in workgroup memory do not run, and so are not chosen.
            let tiles = [32, 64].map(|block| AttentionVariant::Tiles { block });
            candidates.extend(tiles.map(Variant::from));
            candidates.push(AttentionVariant::Rows { rows: 2, span: 16 }.into());
            tuner.set(candidates, default_file(info));
        }
        tuner
    }

    /// Tries these variants from now on (none: tries nothing), and remembers the fastest in `file`.
    pub(crate) fn set(&self, candidates: Vec<Variant>, file: Option<PathBuf>) {
        let found = file.as_deref().map(read).unwrap_or_default();
        let mut state = self.lock();
        // What is in use stays in use.
        for (class, variant) in found {
            state.known.entry(class).or_insert(variant);
        }
        state.candidates = candidates;
        state.file = file;
    }

    /// Tries this variant by cooperative matrices, too, wherever others are tried: the device has been found to compute it rightly.
    pub(crate) fn allow(&self, matrices: MatMulVariant) {
        let mut state = self.lock();
        state.matrices = Some(matrices.into());
        if !state.candidates.is_empty() {
            state.candidates.push(matrices.into());
        }
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

    /// `given`, and what was found for a step on which it is silent, if that is of a known class, or of one that can be tried now.
    pub(crate) fn choose(
        &self,
        shared: &Arc<Shared>,
        program: &Program,
        step: &Step,
        given: &Choices,
    ) -> Choices {
        let is_given = match &*step.kernel {
            Kernel::MatMul(_) => given.matmul.is_some(),
            _ => given.attention.is_some(),
        };
        let found = if is_given { None } else { self.find(shared, program, step) };
        found.map_or(*given, |variant| variant.into_choices(given))
    }

    fn find(&self, shared: &Arc<Shared>, program: &Program, step: &Step) -> Option<Variant> {
        let class = class(&step.kernel)?;
        let candidates: Vec<Variant> = {
            let state = self.lock();
            // A checkpoint may come from a machine whose matrices this one lacks.
            let known = state.known.get(&class).copied();
            if let Some(known) = known.filter(|&variant| state.can(variant) && variant.suits(&step.kernel)) {
                return Some(known);
            }
            state.candidates.iter().copied().filter(|v| v.suits(&step.kernel)).collect()
        };
        // Indices in memory that nobody has written would raise the device's status.
        let gathers = step.kernel.exprs().iter().any(|node| matches!(node.expr, Expr::Gather { .. }));
        if candidates.is_empty() || gathers {
            return None;
        }
        let trial = Arc::new(trial(program, step));
        let times = candidates.into_iter().filter_map(|v| Some((time(shared, &trial, v)?, v)));
        let (_, best) = times.min_by_key(|(time, _)| *time)?;
        let mut state = self.lock();
        let known = state.known.get(&class).copied();
        let known = known.filter(|&variant| state.can(variant) && variant.suits(&step.kernel));
        let best = known.unwrap_or(best);
        state.known.insert(class, best);
        if let Some(file) = &state.file {
            write(file, &state.known);
        }
        Some(best)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What kernels share a choice; `None` where there is none.
fn class(kernel: &Kernel) -> Option<String> {
    match kernel {
        Kernel::MatMul(k) => Some(class_of_product(k)),
        Kernel::Attention(k) => Some(class_of_attention("attention", &k.dims)),
        Kernel::AttentionGrad(k) => Some(class_of_attention("attention_grad", &k.dims)),
        _ => None,
    }
}

fn class_of_attention(name: &str, dims: &AttentionDims) -> String {
    let up = usize::next_power_of_two;
    let AttentionDims { batch, heads, kv_heads, queries, keys, width, spec } = *dims;
    let seen = match (spec.causal, spec.window) {
        (false, None) => "all".to_owned(),
        (true, None) => "causal".to_owned(),
        (_, Some(window)) => format!("window {}", up(window)),
    };
    let masked = if spec.masked { " masked" } else { "" };
    format!(
        "{name} {}x{} of {} {}x{}x{width} {seen}{masked}",
        up(batch),
        up(heads),
        up(heads / kv_heads.max(1)),
        up(queries),
        up(keys)
    )
}

fn class_of_product(kernel: &MatMulKernel) -> String {
    let layout = |operand: &Operand| {
        let strides = &operand.view.strides;
        if strides.last() == Some(&1) { "rows" } else { "columns" }
    };
    let up = usize::next_power_of_two;
    let parts = kernel.split.map_or(1, |split| split.parts);
    format!(
        "matmul {} {}x{}x{}x{} {} {}",
        kernel.dtype,
        up(kernel.batch.elements() * parts),
        up(kernel.m),
        up(kernel.n),
        up(kernel.k / parts),
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
fn time(shared: &Arc<Shared>, trial: &Arc<Program>, variant: Variant) -> Option<Duration> {
    let choices = variant.into_choices(&Choices::default());
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

fn name(variant: Variant) -> String {
    match variant {
        Variant::MatMul(MatMulVariant::Direct { rows, quads }) => format!("direct {rows} {quads}"),
        Variant::MatMul(MatMulVariant::Subgroup { rows, quads }) => format!("subgroup {rows} {quads}"),
        Variant::MatMul(MatMulVariant::Tiled { block }) => format!("tiled {block}"),
        Variant::MatMul(MatMulVariant::Cooperative { size, subgroup }) => {
            format!("cooperative {size} {subgroup}")
        }
        Variant::Attention(AttentionVariant::Rows { rows, span }) => format!("rows {rows} {span}"),
        Variant::Attention(AttentionVariant::Tiles { block }) => format!("tiles {block}"),
    }
}

/// The variant of a name. Only such as a file may hold: sizes that make no shader are none.
fn parse(text: &str) -> Option<Variant> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let numbers =
        words.map(|w| w.parse().ok().filter(|n| (1..=256).contains(n))).collect::<Option<Vec<u32>>>()?;
    match (kind, numbers.as_slice()) {
        ("direct", &[rows, quads]) => Some(MatMulVariant::Direct { rows, quads }.into()),
        ("subgroup", &[rows @ (8 | 16 | 32), quads]) => Some(MatMulVariant::Subgroup { rows, quads }.into()),
        ("cooperative", &[size @ (8 | 16), subgroup @ (16 | 32 | 64)]) => {
            Some(MatMulVariant::Cooperative { size, subgroup }.into())
        }
        ("tiled", &[block]) if block % 16 == 0 => Some(MatMulVariant::Tiled { block }.into()),
        ("rows", &[rows, span]) if span % 8 == 0 => Some(AttentionVariant::Rows { rows, span }.into()),
        ("tiles", &[block]) if block % 16 == 0 => Some(AttentionVariant::Tiles { block }.into()),
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
fn read(file: &Path) -> BTreeMap<String, Variant> {
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
fn write(file: &Path, known: &BTreeMap<String, Variant>) {
    let mut text = format!("{HEADER}\n");
    for (class, variant) in known {
        text += &format!("{class}\t{}\n", name(*variant));
    }
    // Another process may read at any time: the name appears with the whole content.
    let fresh = file.with_extension(format!("{}.tmp", std::process::id()));
    let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
    let _ = folder.and_then(|()| fs::write(&fresh, text)).and_then(|()| fs::rename(&fresh, file));
}
