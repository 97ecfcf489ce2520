//! Mixed precision: the products of an expression that is written in `f32`, of 16-bit operands.

use std::{
    num::NonZeroUsize,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use lru::LruCache;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use wgrad_ir::{DType, Function, Graph, IrError, NodeId, Op};

use crate::{
    Tensor, TensorError,
    tensor::Source,
    trace::{Trace, Until},
};

/// Functions in halves that are kept, so that a step rewrites nothing anew.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// A function and the dtype that its products are to round to.
type Key = (Arc<Function>, DType);

impl Tensor {
    /// The same expression in mixed precision: every `f32` matrix product and convolution that it was computed from takes operands rounded to
    /// `dtype` (f16 or bf16), accumulates in `f32`, and rounds its result to `dtype`. Everything else (norms, softmax, losses,
    /// residuals, and attention, where the device has a kernel for it) stays in `f32`, and so do the leaves: gradients arrive at
    /// parameters in `f32`, by products that are rounded in the same way (Micikevicius et al., *Mixed Precision Training*, 2018;
    /// PyTorch's `autocast`). `DType::F32` changes nothing.
    ///
    /// What has been computed from a product is another tensor in the new expression: ask for gradients of leaves. Loops,
    /// and in f16 functions with a gradient of their own, are left in `f32`. In f16, small gradients vanish unless the loss is scaled up.
    ///
    /// What is computed [alongside](Tensor::alongside) is rewritten too: [`Tensor::outside`] of the old handle gives the new one.
    ///
    /// ```
    /// # fn main() -> Result<(), wgrad_tensor::TensorError> {
    /// # let device: wgrad_tensor::DeviceHandle = std::sync::Arc::new(wgrad_cpu::CpuDevice::new());
    /// use wgrad_tensor::{DType, Tensor, grad};
    /// let w = Tensor::from_vec(vec![1.0f32, 1.001], [2, 1], &device);
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0], [1, 2], &device);
    /// let loss = x.matmul(&w).sum_all().autocast(DType::BF16);
    /// // 1.001 is 1 in bf16.
    /// assert_eq!(loss.to_vec::<f32>()?, [3.0]);
    /// assert_eq!(grad(&loss, &[&w])?[0].to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn autocast(&self, dtype: DType) -> Tensor {
        if dtype == DType::F32 || self.error().is_some() {
            return self.clone();
        }
        if !dtype.is_half() {
            return self.fail("autocast", format!("expects f16, bf16 or f32, got {dtype}"));
        }
        match rewritten(self, dtype) {
            Ok(tensor) => tensor,
            Err(error) => Tensor::faulty(error, self.dtype(), self.device().clone()),
        }
    }
}

fn rewritten(root: &Tensor, dtype: DType) -> Result<Tensor, TensorError> {
    let trace = with_companions(root)?;
    let halved = halved(&trace.graph, dtype)?;
    let mut tensors: Vec<Tensor> = Vec::with_capacity(halved.graph.nodes().len());
    for (node, origin) in halved.graph.nodes().iter().zip(&halved.origins) {
        tensors.push(match origin {
            Some(same) => trace.tensors[same.index()].clone(),
            None => {
                let operands = node.inputs.iter().map(|i| tensors[i.index()].clone()).collect();
                let source = Source::Op(node.op.clone(), operands);
                Tensor::new(source, node.shape.clone(), node.dtype, root.device().clone(), None)
            }
        });
    }
    let new = |old: &Tensor| {
        let node = trace.node(old).map(|id| halved.nodes[id.index()]);
        node.and_then(|id| tensors.get(id.index()).cloned()).unwrap_or_else(|| old.clone())
    };
    let mut result = new(root);
    // What the old expression would have computed alongside, the new one does, where a handle from before finds it.
    for companion in trace.tensors.iter().filter_map(|tensor| tensor.0.companion.as_ref()) {
        let rewritten = new(companion);
        if !rewritten.is_same(companion) {
            // Where an expression is rewritten twice, the first one counts.
            let _ = companion.0.outside.set(rewritten.clone());
            result = result.alongside(&rewritten);
        }
    }
    Ok(result)
}

/// The graph of a tensor and of everything that is computed alongside.
fn with_companions(root: &Tensor) -> Result<Trace, TensorError> {
    let mut roots = vec![root.clone()];
    loop {
        let trace = Trace::new(&roots.iter().collect::<Vec<_>>(), Until::Leaves)?;
        let known = roots.len();
        for companion in trace.tensors.iter().filter_map(|tensor| tensor.0.companion.as_ref()) {
            if trace.node(companion).is_none() && !roots.iter().any(|root| root.is_same(companion)) {
                roots.push(companion.clone());
            }
        }
        if roots.len() == known {
            return Ok(trace);
        }
    }
}

/// A graph with products of 16-bit operands.
struct Halved {
    graph: Graph,
    /// What has become of each node of the old graph.
    nodes: Vec<NodeId>,
    /// For each node of the new graph the old one that it is, if nothing below it has changed.
    origins: Vec<Option<NodeId>>,
}

fn halved(graph: &Graph, dtype: DType) -> Result<Halved, IrError> {
    let mut out = Graph::new();
    let mut nodes: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    let mut origins: Vec<Option<NodeId>> = Vec::new();
    let mut halves: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    for id in graph.ids() {
        let node = graph.node(id);
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| nodes[i.index()]).collect();
        let mut same = node.inputs.iter().zip(&inputs).all(|(old, new)| origins[new.index()] == Some(*old));
        let new = match &node.op {
            Op::Dot | Op::Conv(_) if node.dtype == DType::F32 => {
                let [a, b] = [inputs[0], inputs[1]].map(|x| half(&mut out, &mut halves, x, dtype));
                let product = out.push(node.op.clone(), &[a?, b?])?;
                same = false;
                out.push(Op::Cast(DType::F32), &[product])?
            }
            Op::Call { function, output } => {
                let halved = function_in_halves(function, dtype)?;
                same &= Arc::ptr_eq(&halved, function);
                out.push(Op::Call { function: halved, output: *output }, &inputs)?
            }
            op => out.push(op.clone(), &inputs)?,
        };
        origins.resize(out.nodes().len(), None);
        origins[new.index()] = same.then_some(id);
        nodes.push(new);
    }
    out.set_outputs(graph.outputs().iter().map(|o| nodes[o.index()]).collect());
    Ok(Halved { graph: out, nodes, origins })
}

/// A node rounded to `dtype`: below what only turns or repeats it, so that one rounded copy serves all uses.
fn half(
    out: &mut Graph,
    known: &mut FxHashMap<NodeId, NodeId>,
    id: NodeId,
    dtype: DType,
) -> Result<NodeId, IrError> {
    if let Some(&half) = known.get(&id) {
        return Ok(half);
    }
    let node = out.node(id).clone();
    let rounded = match (&node.op, node.inputs.first()) {
        (Op::Permute(_) | Op::Expand(_), Some(&inner)) => {
            let inner = half(out, known, inner, dtype)?;
            out.push(node.op.clone(), &[inner])?
        }
        (Op::Cast(DType::F32), Some(&inner)) if out.node(inner).dtype == dtype => inner,
        _ => out.push(Op::Cast(dtype), &[id])?,
    };
    known.insert(id, rounded);
    Ok(rounded)
}

/// The function with products of 16-bit operands; itself where there are none, or where they are not to be touched.
fn function_in_halves(function: &Arc<Function>, dtype: DType) -> Result<Arc<Function>, IrError> {
    static KNOWN: LazyLock<Mutex<LruCache<Key, Arc<Function>>>> =
        LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));
    // A gradient that is computed before the loss is scaled would vanish in f16.
    let early = function.gradient.is_some() && dtype == DType::F16;
    if function.kernel.is_some() || early || !multiplies(&function.body) {
        return Ok(function.clone());
    }
    let key = (function.clone(), dtype);
    if let Some(known) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(known.clone());
    }
    let gradient = match &function.gradient {
        Some(gradient) => Some(function_in_halves(gradient, dtype)?),
        None => None,
    };
    let body = halved(&function.body, dtype)?.graph;
    let made = Arc::new(Function { body, gradient, ..Function::clone(function) });
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).put(key, made.clone());
    Ok(made)
}

/// Whether a graph holds a product that [`halved`] rewrites.
fn multiplies(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| match &node.op {
        Op::Dot | Op::Conv(_) => node.dtype == DType::F32,
        Op::Call { function, .. } => function.kernel.is_none() && multiplies(&function.body),
        _ => false,
    })
}
