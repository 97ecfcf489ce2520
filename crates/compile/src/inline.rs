//! Calls of functions become their bodies, but where the device has a kernel for them.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use wgrad_ir::{DType, DeviceCaps, Function, FunctionKernel, Graph, IrError, NodeId, Op};

/// The widest head that attention kernels take.
const MAX_ATTENTION_WIDTH: usize = 256;

/// The graph without calls, but for those that a kernel of the device computes (none with `kernels` off).
///
/// # Errors
/// A body does not fit its call, which [`wgrad_ir::verify_graph`] rules out.
pub fn inline(graph: &Graph, caps: &DeviceCaps, kernels: bool) -> Result<Graph, IrError> {
    if !graph.nodes().iter().any(|n| matches!(n.op, Op::Call { .. })) {
        return Ok(graph.clone());
    }
    let mut out = Graph::new();
    let map = expand(graph, &mut out, caps, kernels, None)?;
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    out.set_donated(graph.donated().to_vec());
    Ok(out)
}

/// Whether a kernel of the device computes the function.
pub fn has_kernel(function: &Function, caps: &DeviceCaps) -> bool {
    let _ = caps;
    let Some(FunctionKernel::Attention(_) | FunctionKernel::AttentionGrad(_)) = &function.kernel else {
        return false;
    };
    let operands = function.body.nodes().iter().filter(|n| matches!(n.op, Op::Input { index: 0..=2, .. }));
    operands
        .clone()
        .all(|n| n.dtype == DType::F32 && n.shape.elements() > 0 && n.shape[3] <= MAX_ATTENTION_WIDTH)
}

/// Appends the nodes of `graph` to `out`; `operands` stand for its inputs, if it is a body.
fn expand(
    graph: &Graph,
    out: &mut Graph,
    caps: &DeviceCaps,
    kernels: bool,
    operands: Option<&[NodeId]>,
) -> Result<Vec<NodeId>, IrError> {
    let live = graph.live();
    // Nodes that nothing needs are not made; nothing that is made names them.
    let mut map: Vec<NodeId> = vec![NodeId(0); graph.nodes().len()];
    // The outputs of one call are made together, where the first of them stands.
    let mut calls: FxHashMap<(*const Function, SmallVec<[NodeId; 3]>), Vec<NodeId>> = FxHashMap::default();
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
        map[id.index()] = match (&node.op, operands) {
            (Op::Input { index, .. }, Some(operands)) => operands[*index as usize],
            (Op::Call { function, output }, _) if !(kernels && has_kernel(function, caps)) => {
                let key = (Arc::as_ptr(function), inputs);
                if !calls.contains_key(&key) {
                    let body = expand(&function.body, out, caps, kernels, Some(&key.1))?;
                    let outputs = function.body.outputs().iter().map(|o| body[o.index()]).collect();
                    calls.insert(key.clone(), outputs);
                }
                calls[&key][*output as usize]
            }
            (op, _) => out.push(op.clone(), &inputs)?,
        };
    }
    Ok(map)
}
