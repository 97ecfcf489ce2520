//! Loops: the body is compiled once, and its steps are repeated on other ranges of the buffers in each iteration.
//!
//! Slices of sequences and of stacked results are ranges of these; carries alternate between two buffers. Kernels are shared by all
//! iterations, so that a loop of a thousand iterations has the shaders of one.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use wgrad_ir::{
    Arg, BufferRef, DType, DeviceCaps, Expr, ExprId, ExprNode, Graph, IndexMap, IrError, Kernel, Literal,
    Loop, LoopOutput, LoopRole, MapKernel, NodeId, Op, OutputSource, Program, Shape, Step, Store, View,
};

use super::{NodeArg, NodeKernel, Shared};
use crate::{CompileError, Options, layout::Layout};

/// The programs of a graph's loops.
#[derive(Default, Debug)]
pub struct LoopPrograms {
    programs: FxHashMap<*const Loop, LoopProgram>,
}

/// One iteration of a loop as a program: its outputs are the next carries, then the stacked nodes.
#[derive(Clone, Debug)]
struct LoopProgram {
    program: Program,
    each: Vec<NodeId>,
    finals: Vec<u32>,
    max_args: usize,
}

impl LoopPrograms {
    /// Compiles the bodies of all loops.
    ///
    /// # Errors
    /// As [`crate::compile`].
    pub fn compile(graph: &Graph, caps: &DeviceCaps, options: &Options) -> Result<Self, CompileError> {
        let mut loops: FxHashMap<*const Loop, (&Loop, Vec<NodeId>, Vec<u32>)> = FxHashMap::default();
        for node in graph.nodes() {
            let Op::Loop { body, output } = &node.op else { continue };
            let (_, each, finals) =
                loops.entry(Arc::as_ptr(body)).or_insert_with(|| (body, Vec::new(), Vec::new()));
            match *output {
                LoopOutput::Each(id) if !each.contains(&id) => each.push(id),
                LoopOutput::Final(n) if !finals.contains(&n) => finals.push(n),
                _ => {}
            }
        }
        let mut programs = FxHashMap::default();
        for (key, (body, each, finals)) in loops {
            let mut graph = body.body.clone();
            graph.set_outputs(body.body.outputs().iter().chain(&each).copied().collect());
            let program = crate::compile(&graph, caps, options)?;
            let max_args = caps.max_bindings.saturating_sub(2);
            programs.insert(key, LoopProgram { program, each, finals, max_args });
        }
        Ok(LoopPrograms { programs })
    }

    /// The steps that compute all outputs of a loop; `nodes` are those that the graph holds.
    ///
    /// # Errors
    /// The loop was not compiled, which is a defect.
    pub(super) fn lower(
        &self,
        layout: &Layout<'_>,
        body: &Arc<Loop>,
        nodes: &[NodeId],
    ) -> Result<NodeKernel, IrError> {
        let broken = || IrError::Inconsistent { what: "graph", message: "a loop was not compiled".into() };
        let LoopProgram { program, each, finals, max_args } =
            self.programs.get(&Arc::as_ptr(body)).ok_or_else(broken)?;
        let graph = layout.graph;
        let first = graph.node(*nodes.first().ok_or_else(broken)?);
        let mut args: Vec<NodeArg> =
            first.inputs.iter().map(|&i| NodeArg::Node(layout.contiguous_base(i))).collect();
        let mut result = |wanted: LoopOutput| {
            let is = |n: &&NodeId| matches!(graph.node(**n).op, Op::Loop { output, .. } if output == wanted);
            args.push(NodeArg::Node(*nodes.iter().find(is).ok_or_else(broken)?));
            Ok(args.len() - 1)
        };
        let stacks = each.iter().map(|&id| result(LoopOutput::Each(id))).collect::<Result<_, IrError>>()?;
        let mut last: Vec<Option<usize>> = vec![None; body.carries];
        for &n in finals {
            last[n as usize] = Some(result(LoopOutput::Final(n))?);
        }
        let scratch = |bytes: u64| NodeArg::Scratch(bytes.div_ceil(4) as usize);
        let mut carried: Vec<[usize; 2]> = Vec::new();
        for (n, last) in last.iter().enumerate() {
            let bytes = program.inputs.get(n).map_or(0, |i| i.bytes);
            let inner = body.length - usize::from(last.is_some());
            let begin = args.len();
            args.extend((0..inner.min(2)).map(|_| scratch(bytes)));
            carried.push([begin, begin + usize::from(inner > 1)]);
        }
        let temps = args.len();
        args.extend(program.temps.iter().map(|&bytes| scratch(bytes)));
        let inputs = first.inputs.len();
        let steps = LoopSteps {
            spec: body.clone(),
            inputs,
            stacks,
            last,
            carried,
            temps,
            args: args.len(),
            steps: Vec::new(),
        };
        let steps = steps.with_steps(program, *max_args);
        Ok(NodeKernel { work: super::Work::Loop(Box::new(steps)), args, ops: vec!["loop"] })
    }
}

/// A loop's iterations as steps on numbered arguments: operands, stacked results, final carries, carries on their way, scratch.
#[derive(Clone, Debug)]
pub struct LoopSteps {
    spec: Arc<Loop>,
    /// How many arguments are operands.
    inputs: usize,
    /// The arguments that are stacks.
    stacks: Vec<usize>,
    /// For each carry, the argument that gets its last value, if that is wanted.
    last: Vec<Option<usize>>,
    /// For each carry, the two arguments that it alternates between.
    carried: Vec<[usize; 2]>,
    /// The first argument that is scratch of an iteration.
    temps: usize,
    args: usize,
    /// The steps of one iteration.
    steps: Vec<BodyStep>,
}

/// A step of one iteration.
#[derive(Clone, Debug)]
struct BodyStep {
    kernel: Kernel,
    args: Vec<BodyArg>,
    label: String,
}

/// An argument of a step: a range of something.
#[derive(Clone, Copy, Debug)]
struct BodyArg {
    place: Place,
    offset: u64,
    bytes: u64,
}

/// Where an argument of an iteration's step lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// An input of the body.
    Input(usize),
    /// A carry for the next iteration.
    Next(usize),
    /// The slice of a stack, by number and bytes of the slice.
    Slice(usize, u64),
    /// Scratch.
    Temp(usize),
}

impl LoopSteps {
    /// Everything behind the operands is written.
    pub(super) fn writes(&self) -> Vec<u32> {
        (self.inputs as u32..self.args as u32).collect()
    }

    /// The steps of an iteration, with those that copy what no kernel stores where it is wanted.
    fn with_steps(mut self, program: &Program, max_args: usize) -> Self {
        // Where each output goes: carries first, then stacks.
        let place = |output: usize| match output.checked_sub(self.spec.carries) {
            None => Place::Next(output),
            Some(stack) => {
                let out = &program.outputs[output];
                let bytes = match out.source {
                    OutputSource::Result(r) => program.results[r as usize].bytes,
                    OutputSource::Input(i) => program.inputs[i as usize].bytes,
                };
                Place::Slice(stack, bytes)
            }
        };
        let mut homes: Vec<Vec<Place>> = vec![Vec::new(); program.results.len()];
        let mut copies: Vec<(BodyArg, Place, DType)> = Vec::new();
        for (output, spec) in program.outputs.iter().enumerate() {
            match spec.source {
                OutputSource::Result(r) => homes[r as usize].push(place(output)),
                OutputSource::Input(i) => {
                    let bytes = program.inputs[i as usize].bytes;
                    let from = BodyArg { place: Place::Input(i as usize), offset: 0, bytes };
                    copies.push((from, place(output), spec.dtype));
                }
            }
        }
        for step in &program.steps {
            let arg = |arg: &Arg| {
                let place = match arg.buffer {
                    BufferRef::Input(i) => Place::Input(i as usize),
                    BufferRef::Output(i) => homes[i as usize][0],
                    BufferRef::Temp(i) => Place::Temp(i as usize),
                };
                BodyArg { place, offset: arg.offset, bytes: arg.bytes }
            };
            self.steps.push(BodyStep {
                kernel: (*step.kernel).clone(),
                args: step.args.iter().map(arg).collect(),
                label: step.label.clone(),
            });
        }
        for (result, homes) in homes.iter().enumerate() {
            let buffer = BufferRef::Output(result as u32);
            for &home in homes.iter().skip(1) {
                let writes =
                    |s: &Step| s.kernel.writes().iter().any(|&a| s.args[a as usize].buffer == buffer);
                let writers: Vec<usize> =
                    (0..program.steps.len()).filter(|&s| writes(&program.steps[s])).collect();
                let spec = &program.results[result];
                let stored = match writers.as_slice() {
                    &[one] => store_twice(&mut self.steps[one], homes[0], home, spec.bytes, max_args),
                    _ => false,
                };
                if !stored {
                    let from = BodyArg { place: homes[0], offset: 0, bytes: spec.bytes };
                    copies.push((from, home, spec.dtype));
                }
            }
        }
        for (from, to, dtype) in copies {
            let elements = match from.place {
                Place::Input(i) => program.inputs[i].shape.elements(),
                _ => {
                    let at = homes.iter().position(|h| h.first() == Some(&from.place)).unwrap_or_default();
                    program.results[at].shape.elements()
                }
            };
            let args = vec![BodyArg { place: to, offset: 0, bytes: from.bytes }, from];
            self.steps.push(BodyStep { kernel: copy(elements, dtype), args, label: "copy".into() });
        }
        self
    }

    /// Appends the steps of all iterations; `args` are this loop's arguments in memory.
    pub(crate) fn unroll(&self, args: &[Arg], shared: &mut Shared, steps: &mut Vec<Step>) {
        let kernels: Vec<Arc<Kernel>> = self.steps.iter().map(|s| shared.get(&s.kernel)).collect();
        let length = self.spec.length;
        let mut current: Vec<Arg> = args[..self.spec.carries].to_vec();
        for (n, t) in self.spec.order().enumerate() {
            let next: Vec<Arg> = (0..self.spec.carries)
                .map(|c| match self.last[c] {
                    Some(last) if n + 1 == length => args[last],
                    _ => args[self.carried[c][n % 2]],
                })
                .collect();
            let range = |whole: Arg, at: u64, bytes: u64| Arg { offset: whole.offset + at, bytes, ..whole };
            let locate = |arg: &BodyArg| match arg.place {
                Place::Input(i) => match self.spec.role(i as u32) {
                    LoopRole::Carry(c) => range(current[c], arg.offset, arg.bytes),
                    LoopRole::Sequence(_) => {
                        let slice = args[i].bytes / length as u64;
                        range(args[i], t as u64 * slice + arg.offset, arg.bytes)
                    }
                    LoopRole::Constant(_) => range(args[i], arg.offset, arg.bytes),
                },
                Place::Next(c) => range(next[c], arg.offset, arg.bytes),
                Place::Slice(stack, bytes) => {
                    range(args[self.stacks[stack]], t as u64 * bytes + arg.offset, arg.bytes)
                }
                Place::Temp(i) => range(args[self.temps + i], arg.offset, arg.bytes),
            };
            for (step, kernel) in self.steps.iter().zip(&kernels) {
                steps.push(Step {
                    kernel: kernel.clone(),
                    args: step.args.iter().map(locate).collect(),
                    label: step.label.clone(),
                });
            }
            current = next;
        }
    }
}

/// Lets a step store what it stores at `from`, as a whole, at `to` as well; whether that is possible.
fn store_twice(step: &mut BodyStep, from: Place, to: Place, bytes: u64, max_args: usize) -> bool {
    let is = |a: &BodyArg| a.place == from && a.offset == 0 && a.bytes == bytes;
    let Some(arg) = step.args.iter().position(is) else { return false };
    if step.args.len() >= max_args || step.args.iter().filter(|a| a.place == from).count() != 1 {
        return false;
    }
    let stores: &mut Vec<Store> = match &mut step.kernel {
        Kernel::Map(k) => &mut k.stores,
        Kernel::Row(k) => &mut k.stores,
        Kernel::MatMul(k) => &mut k.stores,
        _ => return false,
    };
    let own: Vec<&Store> = stores.iter().filter(|s| s.arg as usize == arg).collect();
    let [store] = own.as_slice() else { return false };
    let second = Store { arg: step.args.len() as u32, ..(*store).clone() };
    stores.push(second);
    step.args.push(BodyArg { place: to, offset: 0, bytes });
    true
}

/// Copies elements, argument 1 to argument 0.
fn copy(elements: usize, dtype: DType) -> Kernel {
    let space = Shape::from([elements]);
    let load = Expr::Load { arg: 1, map: IndexMap::contiguous(space.clone()), fill: Literal::zero(dtype) };
    let stores = vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(space.clone()) }];
    Kernel::Map(MapKernel { space, exprs: vec![ExprNode { expr: load, dtype }], stores })
}
