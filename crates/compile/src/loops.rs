//! Loops as kernels want them.
//!
//! Of a loop only what is needed stays: operands and carries that some wanted result depends on. What is the same in every
//! iteration is computed once, before the loop. A slice of a sequence is then a range of its buffer, for which slices
//! are padded to whole multiples of [`Arg::ALIGNMENT`] where they are not, and truth values travel as numbers.

use std::{
    collections::{BTreeMap, hash_map::Entry},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use wgrad_ir::{
    Arg, DType, DeviceCaps, Graph, IrError, Literal, Loop, LoopOutput, LoopRole, NodeId, Op, Shape,
};

type Operands = SmallVec<[NodeId; 3]>;

/// The graph with its loops prepared.
///
/// # Errors
/// A rewrite broke the graph, which is a defect.
pub fn prepare(graph: &Graph, caps: &DeviceCaps) -> Result<Graph, IrError> {
    if !graph.nodes().iter().any(|n| matches!(n.op, Op::Loop { .. })) {
        return Ok(graph.clone());
    }
    let live = graph.live();
    let mut wanted: FxHashMap<(*const Loop, &Operands), Vec<LoopOutput>> = FxHashMap::default();
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        if let Op::Loop { body, output } = &node.op {
            wanted.entry((Arc::as_ptr(body), &node.inputs)).or_default().push(*output);
        }
    }
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = vec![NodeId(0); graph.nodes().len()];
    let mut made: FxHashMap<(*const Loop, &Operands), BTreeMap<LoopOutput, NodeId>> = FxHashMap::default();
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let inputs: Operands = node.inputs.iter().map(|i| map[i.index()]).collect();
        map[id.index()] = match &node.op {
            Op::Loop { body, output } => {
                let key = (Arc::as_ptr(body), &node.inputs);
                let results = match made.entry(key) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        new.insert(Preparation::new(body, &wanted[&key], &inputs, caps)?.build(&mut out)?)
                    }
                };
                results[output]
            }
            op => out.push(op.clone(), &inputs)?,
        };
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    out.set_donated(graph.donated().to_vec());
    Ok(out)
}

/// One loop, and what is known of it.
struct Preparation<'a> {
    spec: &'a Loop,
    wanted: &'a [LoopOutput],
    operands: &'a [NodeId],
    caps: &'a DeviceCaps,
    /// Nodes of the body that something wanted depends on.
    live: Vec<bool>,
    /// Carries that something wanted depends on.
    carries: Vec<usize>,
    /// Nodes of the body that do not change from iteration to iteration.
    fixed: Vec<bool>,
    /// Those of them that are worth computing before the loop.
    hoisted: Vec<bool>,
}

impl<'a> Preparation<'a> {
    fn new(
        spec: &'a Loop,
        wanted: &'a [LoopOutput],
        operands: &'a [NodeId],
        caps: &'a DeviceCaps,
    ) -> Result<Self, IrError> {
        let body = &spec.body;
        let count = body.nodes().len();
        let next = body.outputs();
        let mut live = vec![false; count];
        let mut carried = vec![false; spec.carries];
        for output in wanted {
            match output {
                LoopOutput::Final(n) => carried[*n as usize] = true,
                LoopOutput::Each(id) => live[id.index()] = true,
            }
        }
        // A carry that is read is computed, for which others may be read.
        loop {
            let before = carried.clone();
            (0..spec.carries).filter(|&n| carried[n]).for_each(|n| live[next[n].index()] = true);
            for index in (0..count).rev() {
                if !live[index] {
                    continue;
                }
                let node = &body.nodes()[index];
                node.inputs.iter().for_each(|i| live[i.index()] = true);
                if let Op::Input { index, .. } = node.op
                    && let LoopRole::Carry(n) = spec.role(index)
                {
                    carried[n] = true;
                }
            }
            if carried == before {
                break;
            }
        }
        let (mut fixed, mut hoisted) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut of_constant: Vec<bool> = Vec::with_capacity(count);
        for node in body.nodes() {
            let all = |flags: &[bool]| node.inputs.iter().all(|i| flags[i.index()]);
            let any = |flags: &[bool]| node.inputs.iter().any(|i| flags[i.index()]);
            let (is_fixed, from_constant) = match node.op {
                Op::Input { index, .. } => {
                    let constant = matches!(spec.role(index), LoopRole::Constant(_));
                    (constant, constant)
                }
                _ => (all(&fixed), any(&of_constant)),
            };
            // Movements of constants cost nothing inside, and neither do numbers.
            let work = !matches!(node.op, Op::Input { .. }) && !node.op.is_movement();
            let heavy = is_fixed && from_constant && (work || any(&hoisted));
            fixed.push(is_fixed);
            of_constant.push(from_constant);
            hoisted.push(heavy);
        }
        let carries = (0..spec.carries).filter(|&n| carried[n]).collect();
        Ok(Preparation { spec, wanted, operands, caps, live, carries, fixed, hoisted })
    }

    /// Appends the loop; gives the nodes of the wanted results.
    fn build(&self, out: &mut Graph) -> Result<BTreeMap<LoopOutput, NodeId>, IrError> {
        let spec = self.spec;
        if spec.length == 0 {
            return self.wanted.iter().map(|&output| Ok((output, self.nothing(out, output)?))).collect();
        }
        let mut body = Graph::new();
        let mut sequences: Vec<NodeId> = Vec::new();
        let mut constants: Vec<NodeId> = Vec::new();
        let mut map: Vec<NodeId> = vec![NodeId(u32::MAX); self.live.len()];
        // The numbers of the inputs: carries are known, the others are counted as they are met. Constants come last, so
        // that they are counted from the end of all possible sequences for now.
        let most = spec.sequences;
        let mut inputs: FxHashMap<u32, NodeId> = FxHashMap::default();
        for (n, &carry) in self.carries.iter().enumerate() {
            let (shape, dtype) = {
                let node = out.node(self.operands[carry]);
                (node.shape.clone(), node.dtype)
            };
            inputs.insert(carry as u32, body.push(Op::Input { index: n as u32, shape, dtype }, &[])?);
        }
        let mut outside: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        for id in spec.body.ids().filter(|id| self.live[id.index()]) {
            let node = spec.body.node(id);
            if self.hoisted[id.index()] {
                // Only where something inside reads it.
                let read = spec.body.ids().any(|user| {
                    self.live[user.index()]
                        && !self.hoisted[user.index()]
                        && spec.body.node(user).inputs.contains(&id)
                });
                let wanted = self.wanted.contains(&LoopOutput::Each(id))
                    || self.carries.iter().any(|&n| spec.body.outputs()[n] == id);
                if read || wanted {
                    let operand = self.hoist(out, id, &mut outside)?;
                    map[id.index()] = self.constant(&mut body, out, operand, most, &mut constants)?;
                }
                continue;
            }
            let mapped: Operands = node.inputs.iter().map(|i| map[i.index()]).collect();
            map[id.index()] = match &node.op {
                Op::Input { index, .. } => match inputs.get(index) {
                    Some(&known) => known,
                    None => {
                        let operand = self.operands[*index as usize];
                        let made = match spec.role(*index) {
                            LoopRole::Sequence(_) => {
                                self.sequence(&mut body, out, operand, &node.shape, &mut sequences)?
                            }
                            _ => self.constant(&mut body, out, operand, most, &mut constants)?,
                        };
                        inputs.insert(*index, made);
                        made
                    }
                },
                op => body.push(op.clone(), &mapped)?,
            };
        }
        let next: Vec<NodeId> = self.carries.iter().map(|&n| map[spec.body.outputs()[n].index()]).collect();
        let mut each: BTreeMap<LoopOutput, NodeId> = BTreeMap::new();
        for output in self.wanted {
            if let LoopOutput::Each(id) = output {
                each.insert(*output, self.pack(&mut body, map[id.index()])?);
            }
        }
        body.set_outputs(next);
        let body = renumbered(&body, self.carries.len() + sequences.len(), self.carries.len() + most)?;
        let mut operands: Operands = self.carries.iter().map(|&n| self.operands[n]).collect();
        let count = sequences.len();
        operands.extend(sequences);
        operands.extend(constants);
        let prepared = Arc::new(Loop {
            body,
            carries: self.carries.len(),
            sequences: count,
            length: spec.length,
            reverse: spec.reverse,
        });
        let mut results = BTreeMap::new();
        for (&output, &node) in &each {
            let LoopOutput::Each(id) = output else { continue };
            let op = Op::Loop { body: prepared.clone(), output: LoopOutput::Each(node) };
            let stacked = out.push(op, &operands)?;
            let original = spec.body.node(id);
            results.insert(output, self.unpack(out, stacked, &original.shape, original.dtype)?);
        }
        for &output in self.wanted {
            let LoopOutput::Final(n) = output else { continue };
            // The last of what is stacked anyway.
            let same = LoopOutput::Each(spec.body.outputs()[n as usize]);
            let result = match results.get(&same) {
                Some(&stacked) => {
                    let shape = out.node(stacked).shape.clone();
                    let mut ranges: SmallVec<[(usize, usize, usize); 6]> =
                        shape.iter().map(|&d| (0, d, 1)).collect();
                    ranges[0] = (if spec.reverse { 0 } else { shape[0] - 1 }, 1, 1);
                    let last = out.push(Op::Slice { ranges }, &[stacked])?;
                    out.push(Op::Reshape(shape[1..].into()), &[last])?
                }
                None => {
                    let n = self.carries.iter().position(|&c| c == n as usize).unwrap_or_default();
                    let op = Op::Loop { body: prepared.clone(), output: LoopOutput::Final(n as u32) };
                    out.push(op, &operands)?
                }
            };
            results.insert(output, result);
        }
        Ok(results)
    }

    /// A result of no iterations.
    fn nothing(&self, out: &mut Graph, output: LoopOutput) -> Result<NodeId, IrError> {
        match output {
            LoopOutput::Final(n) => Ok(self.operands[n as usize]),
            LoopOutput::Each(id) => {
                let node = self.spec.body.node(id);
                let zero = out.push(Op::Const(Literal::zero(node.dtype)), &[])?;
                let shape: Shape = [0].into_iter().chain(node.shape.iter().copied()).collect();
                let zero = out.push(Op::Reshape(shape.iter().map(|_| 1).collect()), &[zero])?;
                out.push(Op::Expand(shape), &[zero])
            }
        }
    }

    /// A node of the body that does not change, computed before the loop.
    fn hoist(
        &self,
        out: &mut Graph,
        id: NodeId,
        known: &mut FxHashMap<NodeId, NodeId>,
    ) -> Result<NodeId, IrError> {
        // Operands before users, without recursion: bodies may be deep.
        let mut stack = vec![id];
        while let Some(&top) = stack.last() {
            if known.contains_key(&top) {
                stack.pop();
                continue;
            }
            let node = self.spec.body.node(top);
            debug_assert!(self.fixed[top.index()]);
            let missing: Vec<NodeId> =
                node.inputs.iter().copied().filter(|i| !known.contains_key(i)).collect();
            if !missing.is_empty() {
                stack.extend(missing);
                continue;
            }
            let made = match &node.op {
                Op::Input { index, .. } => self.operands[*index as usize],
                op => {
                    let inputs: Operands = node.inputs.iter().map(|i| known[i]).collect();
                    out.push(op.clone(), &inputs)?
                }
            };
            known.insert(top, made);
            stack.pop();
        }
        Ok(known[&id])
    }

    fn constant(
        &self,
        body: &mut Graph,
        out: &Graph,
        operand: NodeId,
        most: usize,
        constants: &mut Vec<NodeId>,
    ) -> Result<NodeId, IrError> {
        let node = out.node(operand);
        // Known numbers need no buffer.
        if matches!(node.op, Op::Const(_)) {
            return body.push(node.op.clone(), &[]);
        }
        let index = (self.carries.len() + most + constants.len()) as u32;
        constants.push(operand);
        body.push(Op::Input { index, shape: node.shape.clone(), dtype: node.dtype }, &[])
    }

    /// An input of the body for the slices of a sequence.
    fn sequence(
        &self,
        body: &mut Graph,
        out: &mut Graph,
        operand: NodeId,
        shape: &Shape,
        sequences: &mut Vec<NodeId>,
    ) -> Result<NodeId, IrError> {
        let (mut operand, dtype) = (operand, out.node(operand).dtype);
        let travels = travelling(dtype);
        if travels != dtype {
            operand = out.push(Op::Cast(travels), &[operand])?;
        }
        let (elements, padded) = (shape.elements(), self.padded(shape.elements(), travels));
        let index = (self.carries.len() + sequences.len()) as u32;
        let mut input = if padded == elements {
            body.push(Op::Input { index, shape: shape.clone(), dtype: travels }, &[])?
        } else {
            operand = out.push(Op::Reshape([self.spec.length, elements].into()), &[operand])?;
            let widths = SmallVec::from_slice(&[(0, 0), (0, padded - elements)]);
            operand = out.push(Op::Pad { widths, fill: Literal::zero(travels) }, &[operand])?;
            let input = body.push(Op::Input { index, shape: [padded].into(), dtype: travels }, &[])?;
            let ranges = SmallVec::from_slice(&[(0, elements, 1)]);
            let input = body.push(Op::Slice { ranges }, &[input])?;
            body.push(Op::Reshape(shape.clone()), &[input])?
        };
        sequences.push(operand);
        if travels != dtype {
            input = body.push(Op::Cast(dtype), &[input])?;
        }
        Ok(input)
    }

    /// A node of the body as slices of a stack are.
    fn pack(&self, body: &mut Graph, id: NodeId) -> Result<NodeId, IrError> {
        let (shape, dtype) = (body.node(id).shape.clone(), body.node(id).dtype);
        let travels = travelling(dtype);
        let id = if travels == dtype { id } else { body.push(Op::Cast(travels), &[id])? };
        let (elements, padded) = (shape.elements(), self.padded(shape.elements(), travels));
        if padded == elements {
            return Ok(id);
        }
        let flat = body.push(Op::Reshape([elements].into()), &[id])?;
        let widths = SmallVec::from_slice(&[(0, padded - elements)]);
        body.push(Op::Pad { widths, fill: Literal::zero(travels) }, &[flat])
    }

    /// A stack of packed slices as the stack of a node of this shape and dtype.
    fn unpack(
        &self,
        out: &mut Graph,
        stacked: NodeId,
        shape: &Shape,
        dtype: DType,
    ) -> Result<NodeId, IrError> {
        let length = self.spec.length;
        let (travels, elements) = (travelling(dtype), shape.elements());
        let mut result = stacked;
        if self.padded(elements, travels) != elements {
            let ranges = SmallVec::from_slice(&[(0, length, 1), (0, elements, 1)]);
            result = out.push(Op::Slice { ranges }, &[result])?;
            let long = [length].into_iter().chain(shape.iter().copied()).collect();
            result = out.push(Op::Reshape(long), &[result])?;
        }
        if travels == dtype { Ok(result) } else { out.push(Op::Cast(dtype), &[result]) }
    }

    /// Elements of a slice, with those that align the next one.
    fn padded(&self, elements: usize, dtype: DType) -> usize {
        let unit = (Arg::ALIGNMENT as usize / self.caps.storage_bytes(dtype)).max(1);
        if self.spec.length == 1 { elements } else { elements.next_multiple_of(unit) }
    }
}

/// What elements of a dtype are within stacks, of which every device takes slices alike.
fn travelling(dtype: DType) -> DType {
    if matches!(dtype, DType::Bool | DType::U8) { DType::U32 } else { dtype }
}

/// The body with its constants, which are counted from `from` on, counted from `to` on.
fn renumbered(body: &Graph, to: usize, from: usize) -> Result<Graph, IrError> {
    let mut out = Graph::new();
    for node in body.nodes() {
        let op = match &node.op {
            Op::Input { index, shape, dtype } if *index as usize >= from => {
                let index = *index - from as u32 + to as u32;
                Op::Input { index, shape: shape.clone(), dtype: *dtype }
            }
            op => op.clone(),
        };
        out.push(op, &node.inputs)?;
    }
    out.set_outputs(body.outputs().to_vec());
    Ok(out)
}
