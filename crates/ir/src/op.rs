//! The primitive operations.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{ConvSpec, DType, Function, Literal, Loop, LoopOutput, Shape};

/// Elementwise functions of one operand; the result has the operand's dtype.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnaryOp {
    /// `-x` (float, i32).
    Neg,
    /// `|x|` (float, i32).
    Abs,
    /// `eˣ` (float).
    Exp,
    /// Natural logarithm (float).
    Log,
    /// Square root (float).
    Sqrt,
    /// `1/√x` (float).
    Rsqrt,
    /// `1/x` (float).
    Recip,
    /// Hyperbolic tangent (float).
    Tanh,
    /// The error function `2/√π ∫₀ˣ e^(-t²) dt` (float).
    Erf,
    /// Sine (float, radians).
    Sin,
    /// Cosine (float, radians).
    Cos,
    /// Largest integer not above `x` (float). Its gradient is zero.
    Floor,
    /// Logical negation (bool).
    Not,
}

/// Elementwise functions of two operands of one shape and dtype.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BinaryOp {
    /// `a + b`; integers wrap.
    Add,
    /// `a - b`; integers wrap.
    Sub,
    /// `a * b`; integers wrap.
    Mul,
    /// `a / b`; integer division truncates, and by zero gives 0.
    Div,
    /// Larger of the two; a NaN operand gives NaN on the CPU, either operand on a GPU.
    Max,
    /// Smaller of the two; NaN as in `Max`.
    Min,
    /// `aᵇ` (float).
    Pow,
    /// Remainder with the sign of `a` (C's `fmod`); an integer divided by zero gives 0.
    Rem,
    /// Logical and (bool).
    And,
    /// Logical or (bool).
    Or,
}

/// Elementwise comparisons; the result is `bool`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CompareOp {
    /// `a == b`
    Eq,
    /// `a != b`
    Ne,
    /// `a < b`
    Lt,
    /// `a <= b`
    Le,
    /// `a > b`
    Gt,
    /// `a >= b`
    Ge,
}

/// How a reduction combines elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReduceOp {
    /// Sum, in an order fixed by shape and device.
    Sum,
    /// Largest element.
    Max,
    /// Smallest element.
    Min,
}

/// How [`Op::Cumulate`] combines the elements of a line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CumulateOp {
    /// Sums of all elements so far: one operand `x`, `yᵢ = yᵢ₋₁ + xᵢ`.
    Sum,
    /// First-order linear recurrences: operands `a` and `b`, `yᵢ = aᵢ yᵢ₋₁ + bᵢ`. Cumulative products are these with `b = 0` but for
    /// the first element; the gradient of either is again one, so that zeros need no special care.
    Linear,
}

/// What a [`Op::Random`] node yields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RandomKind {
    /// Uniform 32-bit words (`u32`).
    Bits,
    /// Uniform `f32` in `[0, 1)`: the upper 24 bits of a word times 2⁻²⁴.
    Uniform,
}

/// A primitive operation. Together with its operands' shapes and dtypes it determines the result's
/// ([`Op::infer`]). The list is closed and short on purpose: compilers, printers and gradient rules match
/// on it exhaustively, so a new primitive is found everywhere by the Rust compiler.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// A buffer given when the program runs. Indices are dense, in order of first use.
    Input {
        /// Position among the program's inputs.
        index: u32,
        /// Extents.
        shape: Shape,
        /// Element type.
        dtype: DType,
    },
    /// A scalar given when the program runs (rank 0): learning rates, steps and every Rust number that enters an
    /// expression, so that a program is compiled once though they change.
    Scalar {
        /// Position among the program's scalars.
        index: u32,
        /// Element type.
        dtype: DType,
    },
    /// A scalar that is part of the graph's structure (rank 0).
    Const(Literal),
    /// `0, 1, ..., len - 1` as `i32[len]`.
    Iota {
        /// Number of elements.
        len: usize,
    },
    /// Counter-based random elements; operands: key low, key high, step (rank-0 `u32` each). Element `i` is word
    /// `i % 4` of Philox4x32-10 with counter `(i / 4, stream, step, 0)` and the key: see [`crate::philox`].
    Random {
        /// Tells two draws of one step apart; kept by every pass.
        stream: u32,
        /// Words or uniforms.
        kind: RandomKind,
        /// Extents.
        shape: Shape,
    },
    /// Elementwise, one operand.
    Unary(UnaryOp),
    /// Elementwise, two operands of equal shape and dtype.
    Binary(BinaryOp),
    /// Elementwise comparison of two operands of equal shape and dtype.
    Compare(CompareOp),
    /// `c ? a : b` elementwise; operands `c` (bool), `a`, `b` of equal shape.
    Select,
    /// Conversion. Float to integer truncates and saturates; to `bool` is `x != 0`.
    Cast(DType),
    /// The identity, through which no gradient flows (PyTorch's `detach`).
    StopGradient,
    /// The same elements in row-major order under another shape.
    Reshape(Shape),
    /// Result axis `i` is operand axis `perm[i]`.
    Permute(SmallVec<[usize; 6]>),
    /// Repeats axes of extent 1 up to the given shape (equal rank).
    Expand(Shape),
    /// Elements `start + i * step` for `i < len`, for each axis.
    Slice {
        /// `(start, len, step)` per axis; `step >= 1`.
        ranges: SmallVec<[(usize, usize, usize); 6]>,
    },
    /// Surrounds the operand with `fill`.
    Pad {
        /// `(before, after)` per axis.
        widths: SmallVec<[(usize, usize); 6]>,
        /// The new elements.
        fill: Literal,
    },
    /// Reverses the given axes.
    Flip(SmallVec<[usize; 6]>),
    /// Overlapping windows along an axis, `[.., n, ..] -> [.., out, .., size]`: element `(o, .., j)` is element
    /// `o * step + j * dilation` of the axis, and there are as many windows as fit.
    Window {
        /// The axis that becomes the number of the window.
        axis: usize,
        /// Elements of a window, at least 1.
        size: usize,
        /// Elements between the starts of neighbouring windows, at least 1.
        step: usize,
        /// Elements between neighbours within a window, at least 1.
        dilation: usize,
    },
    /// Joins operands along an axis.
    Concat {
        /// The axis whose extents add up.
        axis: usize,
    },
    /// Combines elements along `axes`, which stay with extent 1.
    Reduce {
        /// The combination.
        op: ReduceOp,
        /// Reduced axes, ascending.
        axes: SmallVec<[usize; 6]>,
    },
    /// Combines elements one after the other along `axis`, from `y₋₁ = 0` on; the result has the operands' shape. A flip on both
    /// sides makes it go backwards.
    Cumulate {
        /// The combination.
        op: CumulateOp,
        /// Along which axis.
        axis: usize,
    },
    /// Batched matrix product `[batch.., m, k] x [batch.., k, n] -> [batch.., m, n]`; batch extents are equal
    /// (an `Expand` broadcasts at no cost). Other contractions are permutes and reshapes around it.
    Dot,
    /// Convolution (cross-correlation, as in PyTorch): operands `x [n, g, c, sp..]` (batch, groups, channels of a group, spatial axes) and
    /// `w [g, o, c, taps..]`, floats, give `y [n, g, o, p..] = Σ_{c, taps} w x`, where [`ConvAxis`](crate::ConvAxis) says which element of
    /// `x` an output sees through a tap. Both of its gradients are convolutions of permuted operands.
    Conv(ConvSpec),
    /// Rows of a table: operands `table [v, rest..]`, `ids [idx..]` (i32 or u32) give `[idx.., rest..]`. An id out of
    /// range is clamped and reported by the device at the next read.
    Gather,
    /// The transpose of [`Op::Gather`]: operands `ids [idx..]`, `src [idx.., rest..]` give `[rows, rest..]`, where row `r` is the
    /// sum, in order, of the source rows whose id is `r`.
    ScatterAdd {
        /// Rows of the result.
        rows: usize,
    },
    /// Where the elements of the last axis stand that put it in order, as `i32`: result `i` is the position of the element of rank
    /// `i`. Equal elements keep their order, and NaN counts as largest.
    Sort {
        /// From the largest to the smallest.
        descending: bool,
    },
    /// One output of a [`Function`] of the operands. The outputs of one call are separate nodes with equal functions and
    /// operands; a compiler computes them together.
    Call {
        /// What is called.
        function: Arc<Function>,
        /// Which of its outputs.
        output: u32,
    },
    /// One output of a recurrence: operands are initial carries, sequences and constants, see [`Loop`]. The outputs of one loop are
    /// separate nodes with equal loops and operands; a compiler computes them together.
    Loop {
        /// What is repeated.
        body: Arc<Loop>,
        /// Which of its results.
        output: LoopOutput,
    },
    /// The operand, unchanged; what is computed from the result is never merged with what is computed from the operand, so
    /// that it is computed again.
    Barrier,
}

impl Op {
    /// The name used in printed graphs and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input { .. } => "input",
            Op::Scalar { .. } => "scalar",
            Op::Const(_) => "const",
            Op::Iota { .. } => "iota",
            Op::Random { .. } => "random",
            Op::Unary(op) => op.name(),
            Op::Binary(op) => op.name(),
            Op::Compare(op) => op.name(),
            Op::Select => "select",
            Op::Cast(_) => "cast",
            Op::StopGradient => "stop_gradient",
            Op::Reshape(_) => "reshape",
            Op::Permute(_) => "permute",
            Op::Expand(_) => "expand",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::Flip(_) => "flip",
            Op::Window { .. } => "window",
            Op::Concat { .. } => "concat",
            Op::Reduce { op, .. } => op.name(),
            Op::Cumulate { op, .. } => op.name(),
            Op::Dot => "dot",
            Op::Conv(_) => "conv",
            Op::Gather => "gather",
            Op::ScatterAdd { .. } => "scatter_add",
            Op::Sort { .. } => "sort",
            Op::Call { .. } => "call",
            Op::Loop { .. } => "loop",
            Op::Barrier => "barrier",
        }
    }

    /// Whether the operation computes each result element from the operands' elements at the same index.
    pub fn is_elementwise(&self) -> bool {
        matches!(
            self,
            Op::Unary(_)
                | Op::Binary(_)
                | Op::Compare(_)
                | Op::Select
                | Op::Cast(_)
                | Op::StopGradient
                | Op::Barrier
        )
    }

    /// Whether the operation only says where elements of its one operand lie.
    pub fn is_movement(&self) -> bool {
        matches!(
            self,
            Op::Reshape(_)
                | Op::Permute(_)
                | Op::Expand(_)
                | Op::Slice { .. }
                | Op::Pad { .. }
                | Op::Flip(_)
                | Op::Window { .. }
        )
    }
}

macro_rules! names {
    ($type:ident: $($variant:ident $name:literal),* $(,)?) => {
        impl $type {
            /// Every variant, for tables of tests.
            pub const ALL: &'static [$type] = &[$($type::$variant),*];
            /// The name used in printed graphs and messages.
            pub fn name(self) -> &'static str {
                match self { $($type::$variant => $name),* }
            }
        }
    };
}

names!(UnaryOp: Neg "neg", Abs "abs", Exp "exp", Log "log", Sqrt "sqrt", Rsqrt "rsqrt", Recip "recip", Tanh "tanh",
    Erf "erf", Sin "sin", Cos "cos", Floor "floor", Not "not");
names!(BinaryOp: Add "add", Sub "sub", Mul "mul", Div "div", Max "max", Min "min", Pow "pow", Rem "rem", And "and", Or "or");
names!(CompareOp: Eq "eq", Ne "ne", Lt "lt", Le "le", Gt "gt", Ge "ge");
names!(ReduceOp: Sum "reduce_sum", Max "reduce_max", Min "reduce_min");
names!(CumulateOp: Sum "cumulate_sum", Linear "cumulate_linear");
