//! Narrow dtypes are computed with in wider ones.
//!
//! An operation on 16-bit floats becomes that of `f32`, and one on `u8` that of `u32`, between casts: what it takes is widened,
//! what it gives is rounded (or wrapped) once, as PyTorch does. From here on narrow values are only moved, chosen, gathered and
//! cast, which is all that devices know of them. Fusion makes the casts part of loads and stores.

use smallvec::SmallVec;
use wgrad_ir::{DType, Graph, IrError, NodeId, Op};

/// The graph, with no arithmetic on narrow dtypes.
///
/// # Errors
/// A rewrite broke the graph, which is a defect.
pub fn widen(graph: &Graph) -> Result<Graph, IrError> {
    if !graph.nodes().iter().any(|n| n.dtype.is_narrow()) {
        return Ok(graph.clone());
    }
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
        let id = match &node.op {
            Op::Input { .. }
            | Op::Scalar { .. }
            | Op::Const(_)
            | Op::Select
            | Op::Concat { .. }
            | Op::StopGradient
            | Op::Barrier
            | Op::Call { .. }
            // The body is a program of its own.
            | Op::Loop { .. } => out.push(node.op.clone(), &inputs)?,
            op if op.is_movement() => out.push(op.clone(), &inputs)?,
            Op::Gather => {
                let ids = wide(&mut out, inputs[1])?;
                out.push(Op::Gather, &[inputs[0], ids])?
            }
            Op::Cast(to) => cast(&mut out, inputs[0], *to)?,
            op => {
                let operands: SmallVec<[NodeId; 3]> =
                    inputs.iter().map(|&i| wide(&mut out, i)).collect::<Result<_, _>>()?;
                let result = out.push(op.clone(), &operands)?;
                if out.node(result).dtype == node.dtype {
                    result
                } else {
                    out.push(Op::Cast(node.dtype), &[result])?
                }
            }
        };
        map.push(id);
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    out.set_donated(graph.donated().to_vec());
    Ok(out)
}

/// The value in the dtype that it is computed with.
fn wide(out: &mut Graph, id: NodeId) -> Result<NodeId, IrError> {
    let dtype = out.node(id).dtype;
    if dtype.is_narrow() { out.push(Op::Cast(dtype.wide()), &[id]) } else { Ok(id) }
}

/// A conversion, by way of `f32` where one end is a 16-bit float.
fn cast(out: &mut Graph, id: NodeId, to: DType) -> Result<NodeId, IrError> {
    let from = out.node(id).dtype;
    let mut id = id;
    if from != to && (from.is_half() || to.is_half()) && from != DType::F32 {
        id = out.push(Op::Cast(DType::F32), &[id])?;
    }
    if out.node(id).dtype == to { Ok(id) } else { out.push(Op::Cast(to), &[id]) }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use wgrad_ir::{BinaryOp, CompareOp};

    use super::*;

    #[test]
    fn every_operation_on_halves_rounds_once() {
        let mut g = Graph::new();
        let input = |index, dtype| Op::Input { index, shape: [2, 2].into(), dtype };
        let x = g.push(input(0, DType::BF16), &[]).unwrap();
        let n = g.push(input(1, DType::U8), &[]).unwrap();
        let n = g.push(Op::Cast(DType::BF16), &[n]).unwrap();
        let y = g.push(Op::Binary(BinaryOp::Add), &[x, n]).unwrap();
        let y = g.push(Op::Dot, &[y, y]).unwrap();
        let y = g.push(Op::Compare(CompareOp::Lt), &[y, x]).unwrap();
        g.set_outputs(vec![y]);
        expect![[r#"
            %0 = input 0 : bf16[2, 2]
            %1 = input 1 : u8[2, 2]
            %2 = cast %1 : f32[2, 2]
            %3 = cast %2 : bf16[2, 2]
            %4 = cast %0 : f32[2, 2]
            %5 = cast %3 : f32[2, 2]
            %6 = add %4 %5 : f32[2, 2]
            %7 = cast %6 : bf16[2, 2]
            %8 = cast %7 : f32[2, 2]
            %9 = cast %7 : f32[2, 2]
            %10 = dot %8 %9 : f32[2, 2]
            %11 = cast %10 : bf16[2, 2]
            %12 = cast %11 : f32[2, 2]
            %13 = cast %0 : f32[2, 2]
            %14 = lt %12 %13 : bool[2, 2]
            return %14
        "#]]
        .assert_eq(&widen(&g).unwrap().to_string());
    }
}
