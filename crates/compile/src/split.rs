//! Reductions and contractions in two passes.
//!
//! A sum over several axes of something that was made along the last one (the loss of a softmax) is taken along that axis first,
//! so that the kernel of the rows takes it too.
//!
//! A GPU gives each result of a reduction one invocation or one workgroup; where few results combine many elements, most of
//! it would idle. Summing chunks first and then the chunks' sums keeps it busy, and the order fixed. Likewise the weight gradient of
//! a narrow layer, which has few tiles and a contraction as long as the batch.

use smallvec::SmallVec;
use wgrad_ir::{DeviceCaps, Graph, IrError, Kernel, MatMulKernel, Node, NodeId, Op, Shape, SplitK};

use crate::lower::{NodeArg, NodeKernel, Work};

/// Fewer results than this do not fill a GPU.
const FEW_RESULTS: usize = 4096;
/// As many rows as this are not split.
const ENOUGH_ROWS: usize = 64;
/// Shorter reductions are not worth a second kernel.
const LONG: usize = 4096;

/// The graph with reductions of rows taken row by row, and, for devices with workgroups, long ones split.
///
/// # Errors
/// A rewrite broke the graph, which is a defect.
pub fn split_reductions(graph: &Graph, caps: &DeviceCaps) -> Result<Graph, IrError> {
    let chunks = |node: &Node| if caps.max_workgroup_invocations <= 1 { None } else { chunks(graph, node) };
    if !graph.nodes().iter().any(|n| chunks(n).is_some() || by_rows(graph, n)) {
        return Ok(graph.clone());
    }
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
        let id = match (chunks(node), &node.op) {
            (_, Op::Reduce { op, axes }) if by_rows(graph, node) => {
                let (leading, last) = axes.split_at(axes.len() - 1);
                let row = out.push(Op::Reduce { op: *op, axes: SmallVec::from_slice(last) }, &inputs)?;
                out.push(Op::Reduce { op: *op, axes: SmallVec::from_slice(leading) }, &[row])?
            }
            (Some(count), Op::Reduce { op, axes }) => {
                let from = &graph.node(node.inputs[0]).shape;
                // [.., reduced.., ..] as [before, count, rest, after]: one of before and after is 1.
                let first = axes.first().copied().unwrap_or(0);
                let before: usize = from[..first].iter().product();
                let long: usize = axes.iter().map(|&a| from[a]).product();
                let after: usize = from[first + axes.len()..].iter().product();
                let flat: Shape = [before, count, long / count, after].into();
                let mut id = out.push(Op::Reshape(flat), &inputs)?;
                for axis in [2, 1] {
                    id = out.push(Op::Reduce { op: *op, axes: SmallVec::from_slice(&[axis]) }, &[id])?;
                }
                out.push(Op::Reshape(node.shape.clone()), &[id])?
            }
            _ => out.push(node.op.clone(), &inputs)?,
        };
        map.push(id);
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    Ok(out)
}

/// How far to look for a reduction along the same axis.
const REACH: usize = 64;

/// Whether a reduction over the last axis and others combines what reductions along the last axis entered.
fn by_rows(graph: &Graph, node: &Node) -> bool {
    let Op::Reduce { axes, .. } = &node.op else { return false };
    let operand = node.inputs[0];
    let shape = &graph.node(operand).shape;
    if axes.len() < 2 || axes.last() != Some(&(shape.rank() - 1)) {
        return false;
    }
    let mut open = vec![operand];
    for _ in 0..REACH {
        let Some(id) = open.pop() else { return false };
        let node = graph.node(id);
        match &node.op {
            Op::Reduce { axes, .. } => {
                let from = &graph.node(node.inputs[0]).shape;
                if axes.as_slice() == [shape.rank() - 1] && from == shape {
                    return true;
                }
            }
            op if op.is_elementwise() || op.is_movement() => open.extend(node.inputs.iter()),
            _ => {}
        }
    }
    false
}

/// Into how many chunks to split a reduction, if at all: a divisor of its length near the square root.
fn chunks(graph: &Graph, node: &Node) -> Option<usize> {
    let Op::Reduce { axes, .. } = &node.op else { return None };
    let from = &graph.node(node.inputs[0]).shape;
    let adjacent = axes.windows(2).all(|w| w[1] == w[0] + 1);
    let long: usize = axes.iter().map(|&a| from[a]).product();
    let results = node.shape.elements();
    // Rows have a workgroup each, which keeps a device busy.
    let rows = axes.last().is_some_and(|&a| a + 1 == from.rank()) && results >= ENOUGH_ROWS;
    if rows || !adjacent || results >= FEW_RESULTS || long < LONG || results == 0 {
        return None;
    }
    let root = (long as f64).sqrt() as usize;
    (root / 4..=root * 4).filter(|&c| c > 1 && long.is_multiple_of(c)).min_by_key(|&c| c.abs_diff(root))
}

/// Workgroups that keep a GPU busy: a few for each of some sixty processors.
const ENOUGH_GROUPS: usize = 256;
/// Shorter contractions stay whole.
const LONG_CONTRACTION: usize = 1024;
/// No part is shorter.
const LEAST_PART: usize = 256;
/// Most parts of a contraction.
const MAX_PARTS: usize = 16;

/// Lets products of few results and a long contraction compute in parts, on real GPUs: partial products into scratch, then their sums.
pub fn split_products(kernels: &mut [NodeKernel], caps: &DeviceCaps) {
    // A software adapter has a few cores, which the smallest products fill.
    if caps.software || caps.max_workgroup_invocations < 256 {
        return;
    }
    for NodeKernel { work, args, .. } in kernels {
        let Work::Kernel(Kernel::MatMul(k)) = work else { continue };
        let scratch = 1 + usize::from(k.column_sums.is_some());
        let Some(parts) = parts(k).filter(|_| args.len() + scratch <= caps.max_bindings) else { continue };
        let mut place = |elements: usize| {
            args.push(NodeArg::Scratch(elements));
            args.len() as u32 - 1
        };
        let columns = parts * k.batch.elements() * k.n;
        let products = place(columns * k.m);
        k.split = Some(SplitK { parts, products, sums: k.column_sums.map(|_| place(columns)) });
    }
}

/// Into how many parts to split a contraction, if at all: as many as a GPU has room for beside each other, while writing and reading the
/// partial products moves at most half the bytes of the operands, and each workgroup walks far.
fn parts(k: &MatMulKernel) -> Option<usize> {
    let results = k.batch.elements() * k.m * k.n;
    let tiles = |side: usize| k.batch.elements() * k.m.div_ceil(side) * k.n.div_ceil(side);
    // As the generator chooses its tiles.
    let groups = if tiles(64) >= 64 { tiles(64) } else { tiles(32) };
    if results == 0 || k.k < LONG_CONTRACTION || groups * 16 >= k.k {
        return None;
    }
    let operands = k.batch.elements() * (k.m + k.n) * k.k;
    let most = (ENOUGH_GROUPS / groups).min(k.k / LEAST_PART).min(operands / (4 * results)).min(MAX_PARTS);
    (2..=most).rev().find(|parts| k.k.is_multiple_of(*parts))
}
