//! Named operations that carry their own definition.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::{Graph, Literal};

/// A named operation with a definition in primitives, and optionally a gradient and a kernel of its own.
///
/// `body` says what is computed: its inputs `Op::Input { index }` are the call's operands in order (no `Op::Scalar`), its outputs
/// are the function's. The first `public` outputs are what a caller sees; the others are residuals that only the gradient reads.
/// A device that has the kernel uses it; everywhere else the body is inlined.
#[derive(Clone, PartialEq, Eq)]
pub struct Function {
    /// For printed graphs, labels and messages.
    pub name: String,
    /// The definition.
    pub body: Graph,
    /// How many outputs are public.
    pub public: usize,
    /// Operands: the function's operands, all its outputs, then the cotangents of its public floating-point outputs; outputs: the
    /// cotangents of the floating-point operands, in order. Without it, autograd differentiates the body.
    pub gradient: Option<Arc<Function>>,
    /// What a device may have code for.
    pub kernel: Option<FunctionKernel>,
    /// Keep no values of the body for the gradient: compute them again there (activation checkpointing, Chen et al.,
    /// *Training Deep Nets with Sublinear Memory Cost*, 2016). Only without a `gradient`.
    pub recompute: bool,
}

impl Hash for Function {
    /// Hashes the name and the size of the definition, not the definition: a graph with many calls is hashed at every step.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.body.nodes().len().hash(state);
        (self.public, &self.kernel, self.recompute).hash(state);
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.name)
            .field("nodes", &self.body.nodes().len())
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

/// The functions that devices may have kernels for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum FunctionKernel {
    /// Operands `q [b, i, h, d]`, `k` and `v [b, j, g, d]`, and `mask` (bool `[b, j]`) if the spec says so; outputs
    /// `out [b, i, h, d]` and the residual `lse [b, h, i]`. See [`AttentionKernel`](crate::AttentionKernel).
    Attention(AttentionSpec),
    /// The gradient: operands of the above, `out`, `lse`, `grad_out`; outputs `grad_q`, `grad_k`, `grad_v`. See
    /// [`AttentionGradKernel`](crate::AttentionGradKernel).
    AttentionGrad(AttentionSpec),
}

/// What attention sees, and how scores are scaled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AttentionSpec {
    /// Query `i` sees key `j` only if `j <= i`.
    pub causal: bool,
    /// Query `i` sees key `j` only if `|i - j| < window` (at least 1).
    pub window: Option<usize>,
    /// Whether there is a mask of keys.
    pub masked: bool,
    /// What scores are multiplied by, `f32`.
    pub scale: Literal,
}
