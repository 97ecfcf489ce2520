//! Convolutions as kernels take them: of operands without holes, with paddings that are not negative.
//!
//! A convolution over an operand with zeros between its elements (a transposed convolution; the input gradient of one with strides)
//! would mostly multiply by zeros. Outputs whose places agree modulo some period see the same taps, though: each such *phase* is a
//! plain convolution with some of the taps, and the phases interleaved are the result.

use smallvec::SmallVec;
use wgrad_ir::{ConvAxis, ConvSpec, Graph, IrError, Literal, NodeId, Op, Shape};

/// The graph with such convolutions only.
///
/// # Errors
/// A rewrite broke the graph, which is a defect.
pub fn split_phases(graph: &Graph) -> Result<Graph, IrError> {
    let is_plain = |a: &ConvAxis| a.spread == 1 && a.before >= 0 && a.after >= 0;
    if graph.nodes().iter().all(|n| !matches!(&n.op, Op::Conv(spec) if !spec.axes.iter().all(is_plain))) {
        return Ok(graph.clone());
    }
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
        map.push(match &node.op {
            Op::Conv(spec) if !spec.axes.iter().all(is_plain) => {
                interleaved(&mut out, spec, [inputs[0], inputs[1]], &node.shape)?
            }
            op => out.push(op.clone(), &inputs)?,
        });
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    Ok(out)
}

/// What one axis contributes to the outputs `q = Q * period + r`.
struct Phase {
    axis: ConvAxis,
    /// Its taps: the first one, how many, and the distance between them.
    taps: (usize, usize, usize),
}

/// The phases of an axis of `len` elements, `taps` taps and `outputs` outputs; `None` where a phase sees nothing.
fn phases(a: &ConvAxis, len: usize, taps: usize, outputs: usize) -> Vec<Option<Phase>> {
    let period = a.spread / gcd(a.stride, a.spread);
    let between = a.spread / gcd(a.dilation, a.spread);
    let count = outputs.div_ceil(period);
    let phase = |r: usize| {
        let at = |j: usize| (r * a.stride + j * a.dilation) as i64 - a.before;
        let first = (0..between.min(taps)).find(|&j| at(j) % a.spread as i64 == 0)?;
        let kept = (taps - first).div_ceil(between);
        let stride = period * a.stride / a.spread;
        let dilation = between * a.dilation / a.spread;
        let before = -(at(first) / a.spread as i64);
        // As many outputs as the longest phase has; what is too much is cut off.
        let reach = (count as i64 - 1) * stride as i64 + (kept as i64 - 1) * dilation as i64 + 1;
        let after = reach - len as i64 - before;
        Some(Phase {
            axis: ConvAxis { stride, dilation, spread: 1, before, after },
            taps: (first, kept, between),
        })
    };
    (0..period).map(phase).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn interleaved(
    g: &mut Graph,
    spec: &ConvSpec,
    [x, w]: [NodeId; 2],
    result: &Shape,
) -> Result<NodeId, IrError> {
    let (x_shape, w_shape) = (g.node(x).shape.clone(), g.node(w).shape.clone());
    let axes: Vec<Vec<Option<Phase>>> = (0..spec.axes.len())
        .map(|d| phases(&spec.axes[d], x_shape[3 + d], w_shape[3 + d], result[3 + d]))
        .collect();
    let counts: Vec<usize> = axes.iter().zip(&result[3..]).map(|(p, &n)| n.div_ceil(p.len())).collect();
    let head = &result[..3];
    let part: Shape = head.iter().chain(&counts).copied().collect();
    let all: usize = axes.iter().map(Vec::len).product();
    let mut parts: Vec<NodeId> = Vec::with_capacity(all);
    for number in 0..all {
        // The phase of each axis, the last axis fastest.
        let mut rest = number;
        let mut chosen: Vec<Option<&Phase>> = Vec::with_capacity(axes.len());
        for list in axes.iter().rev() {
            chosen.push(list[rest % list.len()].as_ref());
            rest /= list.len();
        }
        chosen.reverse();
        let chosen: Option<Vec<&Phase>> = chosen.into_iter().collect();
        parts.push(match chosen {
            Some(chosen) => plain(g, spec.by_group, &chosen, [x, w], &part)?,
            None => zeros(g, x, &part)?,
        });
    }
    let joined = if let [part] = parts.as_slice() {
        *part
    } else {
        let apart: Shape = part.iter().copied().chain([1]).collect();
        for part in &mut parts {
            *part = g.push(Op::Reshape(apart.clone()), &[*part])?;
        }
        let joined = g.push(Op::Concat { axis: part.rank() }, &parts)?;
        let periods = axes.iter().map(Vec::len);
        let split: Shape = part.iter().copied().chain(periods.clone()).collect();
        let joined = g.push(Op::Reshape(split), &[joined])?;
        let pairs = (0..axes.len()).flat_map(|d| [3 + d, 3 + axes.len() + d]);
        let joined = g.push(Op::Permute((0..3).chain(pairs).collect()), &[joined])?;
        let merged = counts.iter().zip(periods).map(|(&n, p)| n * p);
        g.push(Op::Reshape(head.iter().copied().chain(merged).collect()), &[joined])?
    };
    if g.node(joined).shape == *result {
        return Ok(joined);
    }
    g.push(Op::Slice { ranges: result.iter().map(|&n| (0, n, 1)).collect() }, &[joined])
}

/// One phase: a convolution by some of the taps, of what a negative padding leaves of the operand.
fn plain(
    g: &mut Graph,
    by_group: bool,
    phases: &[&Phase],
    [x, w]: [NodeId; 2],
    result: &Shape,
) -> Result<NodeId, IrError> {
    let mut kept: SmallVec<[(usize, usize, usize); 6]> = g.node(x).shape.iter().map(|&n| (0, n, 1)).collect();
    let mut taps: SmallVec<[(usize, usize, usize); 6]> = g.node(w).shape.iter().map(|&n| (0, n, 1)).collect();
    let mut axes: SmallVec<[ConvAxis; 3]> = SmallVec::new();
    for (d, phase) in phases.iter().enumerate() {
        let (len, ConvAxis { before, after, .. }) = (kept[3 + d].1 as i64, phase.axis);
        let (start, end) = ((-before).max(0), len - (-after).max(0));
        if start >= end {
            return zeros(g, x, result);
        }
        kept[3 + d] = (start as usize, (end - start) as usize, 1);
        taps[3 + d] = phase.taps;
        axes.push(ConvAxis { before: before.max(0), after: after.max(0), ..phase.axis });
    }
    let x = g.push(Op::Slice { ranges: kept }, &[x])?;
    let w = g.push(Op::Slice { ranges: taps }, &[w])?;
    g.push(Op::Conv(ConvSpec { axes, by_group }), &[x, w])
}

fn zeros(g: &mut Graph, like: NodeId, shape: &Shape) -> Result<NodeId, IrError> {
    let zero = g.push(Op::Const(Literal::zero(g.node(like).dtype)), &[])?;
    let zero = g.push(Op::Reshape(shape.iter().map(|_| 1).collect()), &[zero])?;
    g.push(Op::Expand(shape.clone()), &[zero])
}
