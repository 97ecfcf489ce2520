//! The column sums of B: taken along by the first row of tiles, which loads all of B anyway.

use wgrad_ir::{
    DeviceCaps, Expr, ExprId, ExprNode, Literal, MatMulKernel, ReduceKernel, ReduceOp, Reduction,
};

use crate::{Dispatch, KernelError, expr::Emitter};

/// `store_sum(batch, col, sum)`; nothing if the sums are not wanted.
pub(super) fn single(kernel: &MatMulKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let Some(arg) = kernel.column_sums else { return Ok(String::new()) };
    let buffer = emitter.bindings.arg(arg, "f32", true)?;
    let n = kernel.n;
    Ok(format!(
        "fn store_sum(batch: u32, col: i32, sum: f32) {{ {buffer}[i32(batch) * {n}i + col] = sum; }}\n"
    ))
}

/// `store_sums(batch, first, sums)`: columns `first` to `first + 3`, without those past the edge.
pub(super) fn quad(kernel: &MatMulKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let Some(arg) = kernel.column_sums else { return Ok(String::new()) };
    let head = "fn store_sums(batch: u32, first: i32, sums: vec4<f32>) {\n";
    let n = kernel.n;
    if n.is_multiple_of(4) {
        let buffer = emitter.bindings.arg(arg, "vec4<f32>", true)?;
        return Ok(format!("{head}{buffer}[(i32(batch) * {n}i + first) / 4i] = sums;\n}}\n"));
    }
    let lanes = (0..4).map(|lane| {
        format!("if (first + {lane}i < {n}i) {{ store_sum(batch, first + {lane}i, sums[{lane}]); }}\n")
    });
    Ok(format!("{}{head}{}}}\n", single(kernel, emitter)?, lanes.collect::<String>()))
}

/// The sums as a reduction of its own, for a product without rows, which has no tiles.
pub(super) fn alone(kernel: &MatMulKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    let Some(arg) = kernel.column_sums else { return Ok(Vec::new()) };
    let mut turned = kernel.b.view.clone();
    let rank = turned.shape.rank();
    turned.strides.swap(rank - 2, rank - 1);
    turned.shape = kernel.batch.iter().copied().chain([kernel.n, kernel.k]).collect();
    let load = Expr::Load { arg: kernel.b.arg, map: turned.into(), fill: Literal::zero(kernel.dtype) };
    let sums = ReduceKernel {
        outer: kernel.batch.iter().copied().chain([kernel.n]).collect(),
        inner: [kernel.k].into(),
        exprs: vec![ExprNode { expr: load, dtype: kernel.dtype }],
        outs: vec![Reduction { op: ReduceOp::Sum, value: ExprId(0), arg }],
    };
    crate::reduce::generate(&sums, caps)
}
