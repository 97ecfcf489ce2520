//! Attention kernels from calls.

use wgrad_ir::{
    AttentionDims, AttentionGradKernel, AttentionKernel, AttentionSpec, Function, FunctionKernel, IrError,
    Kernel, NodeId, Op, Operand,
};

use super::{NodeArg, NodeKernel, operand, place};
use crate::layout::Layout;

/// The kernel that computes all outputs of a call; `nodes` are those that the graph holds.
///
/// # Errors
/// The call is not of a function with a kernel, which inlining rules out.
pub(super) fn lower(
    layout: &Layout<'_>,
    function: &Function,
    nodes: &[NodeId],
) -> Result<NodeKernel, IrError> {
    let graph = layout.graph;
    let broken =
        || IrError::Inconsistent { what: "graph", message: format!("`{}` has no kernel", function.name) };
    let first = graph.node(*nodes.first().ok_or_else(broken)?);
    let mut args = Vec::new();
    let read = |args: &mut Vec<NodeArg>, index: usize| -> Result<Operand, IrError> {
        let (base, view) = operand(layout, first.inputs[index])?;
        Ok(Operand { arg: place(args, base), view })
    };
    let whole =
        |args: &mut Vec<NodeArg>, index: usize| place(args, layout.contiguous_base(first.inputs[index]));
    // An output that nothing wants is scratch.
    let body_output = |output: usize| &function.body.node(function.body.outputs()[output]).shape;
    let node_of = |output: usize| {
        nodes
            .iter()
            .copied()
            .find(|&n| matches!(graph.node(n).op, Op::Call { output: o, .. } if o as usize == output))
    };
    let write = |args: &mut Vec<NodeArg>, output: usize| -> Operand {
        match node_of(output) {
            Some(node) => {
                let (target, view) = layout.target(node);
                Operand { arg: place(args, target), view }
            }
            None => {
                let shape = body_output(output).clone();
                args.push(NodeArg::Scratch(shape.elements()));
                Operand { arg: args.len() as u32 - 1, view: wgrad_ir::View::contiguous(shape) }
            }
        }
    };
    let dims = |spec: AttentionSpec| -> AttentionDims {
        let (q, k) = (&graph.node(first.inputs[0]).shape, &graph.node(first.inputs[1]).shape);
        AttentionDims {
            batch: q[0],
            heads: q[2],
            kv_heads: k[2],
            queries: q[1],
            keys: k[1],
            width: q[3],
            spec,
        }
    };
    let kernel = match &function.kernel {
        Some(FunctionKernel::Attention(spec)) => {
            let [q, k, v] = [read(&mut args, 0)?, read(&mut args, 1)?, read(&mut args, 2)?];
            let mask = spec.masked.then(|| whole(&mut args, 3));
            let out = write(&mut args, 0);
            let lse = write(&mut args, 1).arg;
            Kernel::Attention(AttentionKernel { dims: dims(*spec), q, k, v, mask, out, lse })
        }
        Some(FunctionKernel::AttentionGrad(spec)) => {
            let [q, k, v] = [read(&mut args, 0)?, read(&mut args, 1)?, read(&mut args, 2)?];
            let mask = spec.masked.then(|| whole(&mut args, 3));
            let rest = 3 + usize::from(spec.masked);
            let out = read(&mut args, rest)?;
            let lse = whole(&mut args, rest + 1);
            let grad_out = read(&mut args, rest + 2)?;
            let [grad_q, grad_k, grad_v] = [write(&mut args, 0), write(&mut args, 1), write(&mut args, 2)];
            let dims = dims(*spec);
            args.push(NodeArg::Scratch(dims.batch * dims.heads * dims.queries));
            let delta = args.len() as u32 - 1;
            Kernel::AttentionGrad(AttentionGradKernel {
                dims,
                q,
                k,
                v,
                mask,
                out,
                lse,
                grad_out,
                grad_q,
                grad_k,
                grad_v,
                delta,
            })
        }
        None => return Err(broken()),
    };
    let name = kernel.name();
    Ok(NodeKernel { work: kernel.into(), args, ops: vec![name] })
}
