//! Memory: which buffer each realized node lives in.
//!
//! Intermediates whose lives do not overlap share a buffer. They share whole buffers, never ranges of one, because a
//! GPU refuses a dispatch that binds one buffer both read-only and read-write, even in disjoint ranges.

use rustc_hash::FxHashMap;
use wgrad_ir::{
    Arg, BufferRef, BufferSpec, DType, DeviceCaps, Expr, Graph, Kernel, NodeId, Op, OutputSource, OutputSpec,
    Program, Step, Store,
};

use crate::{
    Options,
    layout::Layout,
    lower::{NodeArg, NodeKernel, Shared, Work},
    merge::drop_dead_stores,
};

/// The program: kernels, labels and buffers. `original` is the graph as traced, which says what the caller passes (inputs may
/// have died since).
pub fn plan(
    original: &Graph,
    layout: &Layout<'_>,
    mut kernels: Vec<NodeKernel>,
    caps: &DeviceCaps,
    options: &Options,
) -> Program {
    let graph = layout.graph;
    let bytes_of = |id: NodeId| {
        let node = graph.node(id);
        (node.shape.elements() * caps.storage_bytes(node.dtype)) as u64
    };
    let mut program = interface(original, caps);
    let mut place: FxHashMap<NodeId, BufferRef> = FxHashMap::default();
    for id in graph.ids() {
        if let Op::Input { index, .. } = graph.node(id).op {
            place.insert(id, BufferRef::Input(index));
        }
    }
    let wanted: Vec<NodeId> = graph.outputs().iter().map(|&o| layout.contiguous_base(o)).collect();
    let part = |n: NodeId| layout.parts[n.index()].is_some();
    drop_dead_stores(&mut kernels, |n| part(n) || wanted.contains(&n));
    if options.in_place {
        for &input in original.donated() {
            if let Some(node) = update_in_place(layout, &mut kernels, &wanted, &place, input) {
                place.insert(node, BufferRef::Input(input));
                program.updates.push(input);
            }
        }
        program.updates.sort_unstable();
    }
    for (&o, &base) in graph.outputs().iter().zip(&wanted) {
        let source = match place.get(&base) {
            Some(BufferRef::Input(i)) => OutputSource::Input(*i),
            Some(BufferRef::Output(i)) => OutputSource::Result(*i),
            _ => {
                let (index, node) = (program.results.len() as u32, graph.node(base));
                let spec = BufferSpec { shape: node.shape.clone(), dtype: node.dtype, bytes: bytes_of(base) };
                program.results.push(spec);
                place.insert(base, BufferRef::Output(index));
                OutputSource::Result(index)
            }
        };
        let node = graph.node(o);
        program.outputs.push(OutputSpec { source, shape: node.shape.clone(), dtype: node.dtype });
    }

    let lives = Lives::of(layout, &kernels, &place, bytes_of);
    let assigned = lives.assign(options.reuse_memory, &mut program.temps);
    let mut shared = Shared::default();
    for (step, kernel) in kernels.iter().enumerate() {
        let mut args = Vec::with_capacity(kernel.args.len());
        for (position, arg) in kernel.args.iter().enumerate() {
            args.push(match *arg {
                NodeArg::Node(node) => {
                    let (owner, offset) = layout.owner(node);
                    let temp = || BufferRef::Temp(assigned[&Tenant::Node(owner)]);
                    let buffer = place.get(&owner).copied().unwrap_or_else(temp);
                    let offset = (offset * caps.storage_bytes(graph.node(node).dtype)) as u64;
                    Arg { buffer, offset, bytes: bytes_of(node) }
                }
                NodeArg::Scratch(words) => {
                    let temp = assigned[&Tenant::Scratch(step, position)];
                    let bytes = (words * DType::U32.host_bytes()) as u64;
                    Arg { buffer: BufferRef::Temp(temp), offset: 0, bytes }
                }
            });
        }
        match &kernel.work {
            Work::Kernel(k) => {
                program.steps.push(Step { kernel: shared.get(k), args, label: kernel.label() });
            }
            Work::Loop(steps) => steps.unroll(&args, &mut shared, &mut program.steps),
        }
    }
    program
}

/// Realized parts of buffers that must move out, because a kernel would read one part while it writes another, or bind a part and
/// the whole.
pub fn conflicts(layout: &Layout<'_>, kernels: &[NodeKernel]) -> Vec<NodeId> {
    let mut found: Vec<NodeId> = Vec::new();
    for kernel in kernels {
        let written: Vec<NodeId> = kernel.written().collect();
        let others: Vec<NodeId> = kernel.read().chain(written.iter().copied()).collect();
        for &w in &written {
            let (owner, _) = layout.owner(w);
            for &other in &others {
                let both_written = written.contains(&other);
                let same = other != w && layout.owner(other).0 == owner;
                if !same || both_written && !layout.overlap(w, other) {
                    continue;
                }
                let scattered = layout.graph.ids().filter(|n| {
                    layout.scattered[n.index()].as_ref().is_some_and(|(o, _)| layout.owner(*o).0 == owner)
                });
                let movable = [w, other].into_iter().filter(|n| layout.parts[n.index()].is_some());
                found.extend(movable.chain(scattered).filter(|n| !layout.is_given(*n)));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Lets the last kernel that reads a donated input write a wanted node into its memory, if it stores each element where it read
/// the input's; gives that node.
fn update_in_place(
    layout: &Layout<'_>,
    kernels: &mut [NodeKernel],
    wanted: &[NodeId],
    place: &FxHashMap<NodeId, BufferRef>,
    input: u32,
) -> Option<NodeId> {
    let graph = layout.graph;
    let id =
        graph.ids().find(|&id| matches!(graph.node(id).op, Op::Input { index, .. } if index == input))?;
    if wanted.contains(&id) {
        return None;
    }
    let touches = |k: &NodeKernel| k.args.iter().filter_map(|a| a.node()).any(|n| layout.owner(n).0 == id);
    let last = kernels.iter().rposition(touches)?;
    // A node that several kernels write (a concatenation) is begun while the input may still be read.
    let writers =
        |node: NodeId| kernels.iter().filter(|k| k.written().any(|w| layout.owner(w).0 == node)).count();
    let once: Vec<NodeId> = kernels[last].written().filter(|&w| writers(w) == 1).collect();
    let NodeKernel { work: Work::Kernel(Kernel::Map(map)), args, .. } = &mut kernels[last] else {
        return None;
    };
    let of_input: Vec<usize> =
        (0..args.len()).filter(|&a| args[a].node().is_some_and(|n| layout.owner(n).0 == id)).collect();
    let &[from] = of_input.as_slice() else { return None };
    if args[from].node() != Some(id) {
        return None;
    }
    let fits = |store: &&Store| {
        let Some(node) = args[store.arg as usize].node() else { return false };
        let fits = wanted.contains(&node)
            && once.contains(&node)
            && store.view.is_contiguous()
            && store.view.shape.elements() == graph.node(node).shape.elements()
            && !place.contains_key(&node)
            && graph.node(node).dtype == graph.node(id).dtype
            && graph.node(node).shape.elements() == graph.node(id).shape.elements();
        fits && map.stores.iter().filter(|s| s.arg == store.arg).count() == 1
            && map.exprs.iter().all(|e| match &e.expr {
                Expr::Load { arg, map, .. } if *arg as usize == from => map.single() == Some(&store.view),
                Expr::Gather { table, ids, .. } => ![*table, *ids].contains(&(from as u32)),
                _ => true,
            })
    };
    // The first one wanted: who wants new values in the order of the donated inputs finds each where the old one lay, step after step.
    let order = |store: &&Store| wanted.iter().position(|&w| args[store.arg as usize].node() == Some(w));
    let store = map.stores.iter().filter(fits).min_by_key(order)?;
    let (to, node) = (store.arg, args[store.arg as usize].node()?);
    // The two arguments become one.
    let renumber = |arg: u32| {
        let arg = if arg as usize == from { to } else { arg };
        if arg as usize > from { arg - 1 } else { arg }
    };
    for e in &mut map.exprs {
        match &mut e.expr {
            Expr::Load { arg, .. } => *arg = renumber(*arg),
            Expr::Gather { table, ids, .. } => {
                *table = renumber(*table);
                *ids = renumber(*ids);
            }
            _ => {}
        }
    }
    for store in &mut map.stores {
        store.arg = renumber(store.arg);
    }
    args.remove(from);
    Some(node)
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

/// What needs scratch memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Tenant {
    /// A realized node.
    Node(NodeId),
    /// An argument of a step.
    Scratch(usize, usize),
}

/// Who needs scratch memory, how much, and from which step to which.
struct Lives(Vec<(Tenant, u64, (usize, usize))>);

impl Lives {
    fn of(
        layout: &Layout<'_>,
        kernels: &[NodeKernel],
        place: &FxHashMap<NodeId, BufferRef>,
        bytes_of: impl Fn(NodeId) -> u64,
    ) -> Self {
        let mut lives: Vec<(Tenant, u64, (usize, usize))> = Vec::new();
        let mut known: FxHashMap<NodeId, usize> = FxHashMap::default();
        for (step, kernel) in kernels.iter().enumerate() {
            for (position, arg) in kernel.args.iter().enumerate() {
                match *arg {
                    NodeArg::Scratch(words) => {
                        let bytes = (words * DType::U32.host_bytes()) as u64;
                        lives.push((Tenant::Scratch(step, position), bytes, (step, step)));
                    }
                    NodeArg::Node(node) => {
                        let (owner, _) = layout.owner(node);
                        if place.contains_key(&owner) {
                            continue;
                        }
                        let at = *known.entry(owner).or_insert_with(|| {
                            lives.push((Tenant::Node(owner), bytes_of(owner), (step, step)));
                            lives.len() - 1
                        });
                        lives[at].2.1 = step;
                    }
                }
            }
        }
        Lives(lives)
    }

    /// A buffer for each tenant: the largest first, each into the smallest buffer whose tenants are gone or not there yet.
    fn assign(mut self, reuse: bool, temps: &mut Vec<u64>) -> FxHashMap<Tenant, u32> {
        // Large ones first: so a buffer's size is that of its first tenant. Equal ones stay in the order of their lives.
        self.0.sort_by_key(|(_, bytes, life)| (std::cmp::Reverse(*bytes), *life));
        let mut lives: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut assigned = FxHashMap::default();
        for (tenant, bytes, life) in self.0 {
            let free = |l: &Vec<(usize, usize)>| l.iter().all(|o| o.1 < life.0 || life.1 < o.0);
            // Of buffers of one size, the one that is left shortest before.
            let idle = |l: &Vec<(usize, usize)>| {
                l.iter().filter(|o| o.1 < life.0).map(|o| life.0 - o.1).min().unwrap_or(usize::MAX)
            };
            let found = (0..lives.len())
                .filter(|&t| reuse && free(&lives[t]))
                .min_by_key(|&t| (temps[t], idle(&lives[t])));
            let temp = found.unwrap_or_else(|| {
                lives.push(Vec::new());
                temps.push(bytes);
                lives.len() - 1
            });
            lives[temp].push(life);
            assigned.insert(tenant, temp as u32);
        }
        assigned
    }
}
