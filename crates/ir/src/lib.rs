//! The representations that every layer of wgrad shares: the [`Graph`] of primitive operations that
//! tensors trace, the [`Program`] of kernels that devices run, and the small nouns both are made of.
//!
//! Data flows one way: `Tensor` call → [`Graph`] → autograd → compiler → [`Program`] → device. This crate
//! names no tensor, no device and no shader; it has no `unsafe` and depends on nothing but small helpers.
//!
//! ```
//! use wgrad_ir::{DType, Graph, Op, Shape, UnaryOp};
//! let mut g = Graph::new();
//! let x = g.push(Op::Input { index: 0, shape: Shape::from([2, 3]), dtype: DType::F32 }, &[])?;
//! let y = g.push(Op::Unary(UnaryOp::Exp), &[x])?;
//! g.set_outputs(vec![y]);
//! assert_eq!(g.to_string(), "%0 = input 0 : f32[2, 3]\n%1 = exp %0 : f32[2, 3]\nreturn %1\n");
//! # Ok::<(), wgrad_ir::IrError>(())
//! ```
#![forbid(unsafe_code)]

mod caps;
mod conv;
mod dtype;
mod error;
mod function;
mod graph;
mod infer;
mod kernel;
mod literal;
mod loops;
mod op;
pub mod philox;
mod print;
mod program;
#[cfg(any(test, feature = "reference"))]
pub mod reference;
mod shape;
mod verify;
mod view;

pub use caps::DeviceCaps;
pub use conv::{ConvAxis, ConvSpec};
pub use dtype::DType;
pub use error::IrError;
pub use function::{AttentionSpec, Function, FunctionKernel};
pub use graph::{Graph, Node, NodeId};
pub use kernel::{
    AttentionDims, AttentionGradKernel, AttentionKernel, ConvKernel, CumulateKernel, Expr, ExprId, ExprNode,
    Kernel, MapKernel, MatMulKernel, Operand, ReduceKernel, Reduction, RowKernel, ScatterAddKernel,
    SortKernel, SplitK, Store,
};
pub use literal::Literal;
pub use loops::{Loop, LoopOutput, LoopRole};
pub use op::{BinaryOp, CompareOp, CumulateOp, Op, RandomKind, ReduceOp, UnaryOp};
pub use program::{Arg, BufferRef, BufferSpec, OutputSource, OutputSpec, Program, Step};
pub use shape::Shape;
pub use verify::{row_constant, verify_graph, verify_program};
pub use view::{IndexMap, View};
