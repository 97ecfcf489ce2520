//! Memory: which buffer each realized node lives in.
//!
//! Intermediates whose lives do not overlap share a buffer. They share whole buffers, never ranges of one, because a
//! GPU refuses a dispatch that binds one buffer both read-only and read-write, even in disjoint ranges.

use rustc_hash::FxHashMap;
use wgrad_ir::{
    Arg, BufferRef, BufferSpec, DType, DeviceCaps, Graph, NodeId, Op, OutputSource, OutputSpec, Program, Step,
};

use crate::{fuse::contiguous_base, lower::NodeKernel, lower::share, merge::drop_dead_stores};

/// The program: kernels, labels and buffers. `original` is the graph as traced, which says what the caller passes (inputs may
/// have died since).
pub fn plan(
    original: &Graph,
    graph: &Graph,
    mut kernels: Vec<NodeKernel>,
    caps: &DeviceCaps,
    reuse: bool,
) -> Program {
    let spec = |id: NodeId| {
        let node = graph.node(id);
        BufferSpec {
            shape: node.shape.clone(),
            dtype: node.dtype,
            bytes: (node.shape.elements() * caps.storage_bytes(node.dtype)) as u64,
        }
    };
    let mut program = interface(original, caps);
    let mut place: FxHashMap<NodeId, BufferRef> = FxHashMap::default();
    for id in graph.ids() {
        if let Op::Input { index, .. } = graph.node(id).op {
            place.insert(id, BufferRef::Input(index));
        }
    }
    for o in graph.outputs() {
        let base = contiguous_base(graph, *o);
        let source = match place.get(&base) {
            Some(BufferRef::Input(i)) => OutputSource::Input(*i),
            Some(BufferRef::Output(i)) => OutputSource::Result(*i),
            _ => {
                let index = program.results.len() as u32;
                program.results.push(spec(base));
                place.insert(base, BufferRef::Output(index));
                OutputSource::Result(index)
            }
        };
        let node = graph.node(*o);
        program.outputs.push(OutputSpec { source, shape: node.shape.clone(), dtype: node.dtype });
    }
    drop_dead_stores(&mut kernels, |n| place.contains_key(&n));

    let mut last_use: FxHashMap<NodeId, usize> = FxHashMap::default();
    for (step, kernel) in kernels.iter().enumerate() {
        for node in kernel.args.iter().flatten() {
            last_use.insert(*node, step);
        }
    }
    let mut pool = Pool { temps: Vec::new(), free: Vec::new(), reuse };
    let mut steps: Vec<(Vec<BufferRef>, String)> = Vec::with_capacity(kernels.len());
    for (step, kernel) in kernels.iter().enumerate() {
        let mut scratch = None;
        let mut args = Vec::with_capacity(kernel.args.len());
        for arg in &kernel.args {
            args.push(match arg {
                Some(node) => {
                    *place.entry(*node).or_insert_with(|| BufferRef::Temp(pool.take(spec(*node).bytes)))
                }
                None => {
                    let temp = pool.take((kernel.scratch_words * DType::U32.host_bytes()) as u64);
                    scratch = Some(temp);
                    BufferRef::Temp(temp)
                }
            });
        }
        for (n, node) in kernel.args.iter().enumerate() {
            let Some(node) = node else { continue };
            let first = !kernel.args[..n].contains(&Some(*node));
            if let (true, Some(BufferRef::Temp(temp))) = (first && last_use[node] == step, place.get(node)) {
                pool.free.push(*temp);
            }
        }
        pool.free.extend(scratch);
        steps.push((args, kernel.label()));
    }
    program.temps = pool.temps;
    let shared = share(kernels.into_iter().map(|k| k.kernel));
    let bytes: Vec<Vec<Arg>> = steps
        .iter()
        .map(|(args, _)| {
            args.iter().map(|&buffer| Arg { buffer, offset: 0, bytes: program.bytes(buffer) }).collect()
        })
        .collect();
    program.steps = shared
        .into_iter()
        .zip(steps)
        .zip(bytes)
        .map(|((kernel, (_, label)), args)| Step { kernel, args, label })
        .collect();
    program
}

/// What the caller passes, as the traced graph says.
fn interface(graph: &Graph, caps: &DeviceCaps) -> Program {
    let mut program = Program::default();
    let empty = || BufferSpec { shape: [0].into(), dtype: DType::F32, bytes: 0 };
    for node in graph.nodes() {
        match &node.op {
            Op::Input { index, shape, dtype } => {
                let index = *index as usize;
                if program.inputs.len() <= index {
                    program.inputs.resize_with(index + 1, empty);
                }
                let bytes = (shape.elements() * caps.storage_bytes(*dtype)) as u64;
                program.inputs[index] = BufferSpec { shape: shape.clone(), dtype: *dtype, bytes };
            }
            Op::Scalar { index, dtype } => {
                let index = *index as usize;
                if program.scalars.len() <= index {
                    program.scalars.resize(index + 1, DType::F32);
                }
                program.scalars[index] = *dtype;
            }
            _ => {}
        }
    }
    program
}

/// Scratch buffers, and which of them are free at the step being planned.
struct Pool {
    temps: Vec<u64>,
    free: Vec<u32>,
    reuse: bool,
}

impl Pool {
    /// A buffer of at least `bytes`: the smallest free one that is large enough, else the largest free one, grown.
    fn take(&mut self, bytes: u64) -> u32 {
        let sized = |temp: &u32| self.temps[*temp as usize];
        let fitting =
            self.free.iter().enumerate().filter(|(_, t)| sized(t) >= bytes).min_by_key(|(_, t)| sized(t));
        let chosen =
            fitting.or_else(|| self.free.iter().enumerate().max_by_key(|(_, t)| sized(t))).map(|(i, _)| i);
        match chosen.filter(|_| self.reuse) {
            Some(index) => {
                let temp = self.free.swap_remove(index);
                let size = &mut self.temps[temp as usize];
                *size = (*size).max(bytes);
                temp
            }
            None => {
                self.temps.push(bytes);
                self.temps.len() as u32 - 1
            }
        }
    }
}
