//! Prints the GFLOP/s that products and attention reach in the CPU runtime on this machine.
//!
//! `cargo run --release -p wgrad-cpu --example products`

mod bench;

use std::{error::Error, time::Instant};

use bench::{Bench, load, node};
use wgrad_ir::{
    AttentionDims, AttentionGradKernel, AttentionKernel, AttentionSpec, BinaryOp, DType, Expr, ExprId,
    Kernel, Literal, MatMulKernel, Operand, Shape, Store, UnaryOp, View,
};

/// Batch, m, n, k; whether the left and the right operand are transposed.
type Extents = (usize, usize, usize, usize, bool, bool);

#[derive(Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Bias,
    /// Bias, kept, and its GELU.
    Gelu,
}

fn matmul((batch, m, n, k, ta, tb): Extents, after: After) -> (Kernel, [Shape; 3]) {
    let operand = |arg: u32, rows: usize, columns: usize, transposed: bool| {
        let strides = if transposed { [rows * columns, 1, rows] } else { [rows * columns, columns, 1] };
        let view = View {
            shape: [batch, rows, columns].into(),
            strides: strides.iter().map(|&s| s as i64).collect(),
            offset: 0,
            mask: None,
        };
        Operand { arg, view }
    };
    let outs = 1 + u32::from(after == After::Gelu);
    let (a, b) = (operand(outs, m, k, ta), operand(outs + 1, k, n, tb));
    let space = Shape::from([batch, m, n]);
    let mut exprs = vec![node(Expr::Product)];
    let mut values = vec![0];
    let mut push = |expr| {
        exprs.push(node(expr));
        ExprId(exprs.len() as u32 - 1)
    };
    if after != After::Nothing {
        let Expr::Load { arg, map, fill } = load(outs + 2, &space, &[0, 0, 1]).expr else { unreachable!() };
        let bias = push(Expr::Load { arg, map, fill });
        let u = push(Expr::Binary(BinaryOp::Add, ExprId(0), bias));
        values = vec![u.0];
        if after == After::Gelu {
            let [cubic, inner, one, half] = [0.044715, 0.797_884_6, 1.0, 0.5]
                .map(|x| push(Expr::Const(Literal::from_f64(DType::F32, x))));
            let mut op = |op, a, b| push(Expr::Binary(op, a, b));
            let square = op(BinaryOp::Mul, u, u);
            let scaled = op(BinaryOp::Mul, square, cubic);
            let factor = op(BinaryOp::Add, scaled, one);
            let product = op(BinaryOp::Mul, u, factor);
            let argument = op(BinaryOp::Mul, product, inner);
            let tanh = push(Expr::Unary(UnaryOp::Tanh, argument));
            let mut op = |op, a, b| push(Expr::Binary(op, a, b));
            let sum = op(BinaryOp::Add, tanh, one);
            let weight = op(BinaryOp::Mul, sum, half);
            values.push(op(BinaryOp::Mul, weight, u).0);
        }
    }
    let store = |(arg, &value): (usize, &u32)| Store {
        arg: arg as u32,
        value: ExprId(value),
        view: View::contiguous(space.clone()),
    };
    let stores = values.iter().enumerate().map(store).collect();
    let shapes = [a.view.shape.clone(), b.view.shape.clone(), space.clone()];
    let batch = Shape::from([batch]);
    (
        Kernel::MatMul(MatMulKernel {
            batch,
            m,
            n,
            k,
            dtype: DType::F32,
            operands: [DType::F32; 2],
            a,
            b,
            exprs,
            stores,
            column_sums: None,
            split: None,
        }),
        shapes,
    )
}

fn attention(
    bench: &mut Bench,
    batch: usize,
    heads: usize,
    time: usize,
    width: usize,
) -> Result<(), Box<dyn Error>> {
    let scale = Literal::from_f64(DType::F32, 0.2);
    let spec = AttentionSpec { causal: true, window: None, masked: false, scale };
    let dims = AttentionDims { batch, heads, kv_heads: heads, queries: time, keys: time, width, spec };
    // As they lie in one product's result: queries, keys and values of all heads side by side.
    let row = heads * width;
    let packed = |arg, part: usize| Operand {
        arg,
        view: View {
            shape: [batch, time, heads, width].into(),
            strides: [time * 3 * row, 3 * row, width, 1].iter().map(|&s| s as i64).collect(),
            offset: (part * row) as i64,
            mask: None,
        },
    };
    let alone = |arg| Operand { arg, view: View::contiguous([batch, time, heads, width].into()) };
    let (all, one, logs) = (
        Shape::from([batch, time, 3 * row]),
        Shape::from([batch, time, row]),
        Shape::from([batch, heads, time]),
    );
    let kernel = AttentionKernel {
        q: packed(2, 0),
        k: packed(2, 1),
        v: packed(2, 2),
        mask: None,
        out: alone(0),
        lse: 1,
        dims: dims.clone(),
    };
    let name = format!("{batch} x {heads} heads, {time} x {width}");
    bench.flops(&format!("attention {name}"), Kernel::Attention(kernel), &[&one, &logs], &[&all])?;
    let kernel = AttentionGradKernel {
        q: packed(2, 0),
        k: packed(2, 1),
        v: packed(2, 2),
        mask: None,
        out: alone(3),
        lse: 4,
        grad_out: alone(5),
        grad_q: packed(0, 0),
        grad_k: packed(0, 1),
        grad_v: packed(0, 2),
        delta: 1,
        dims,
    };
    let inputs = [&all, &one, &logs, &one];
    bench.flops(&format!("attention grad {name}"), Kernel::AttentionGrad(kernel), &[&all, &logs], &inputs)
}

/// The `gemm` crate alone, on all threads: what the first product is compared with.
fn bare_gemm(n: usize) {
    let (a, b, mut c) = (vec![0.5f32; n * n], vec![0.25f32; n * n], vec![0.0f32; n * n]);
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        let (columns, rows) = (1, n as isize);
        // SAFETY: three row-major matrices of `n` rows and columns.
        unsafe {
            gemm::gemm(
                n,
                n,
                n,
                c.as_mut_ptr(),
                columns,
                rows,
                false,
                a.as_ptr(),
                columns,
                rows,
                b.as_ptr(),
                columns,
                rows,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    let rate = 2.0 * (n * n * n) as f64 / best / 1e9;
    println!("{:40} {:9.1} us {rate:7.1} GFLOP/s", format!("the gemm crate, {n} x {n} x {n}"), best * 1e6);
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut bench = Bench::new();
    bare_gemm(1024);
    for extents in [
        (1usize, 1024usize, 1024usize, 1024usize, false, false),
        (1, 1024, 384, 128, false, true),
        (1, 1024, 128, 128, false, true),
        (1, 1024, 512, 128, false, true),
        (1, 1024, 128, 512, false, true),
        (1, 1024, 128, 384, false, false),
        (1, 128, 384, 1024, true, false),
        (1, 384, 128, 1024, true, false),
        (1, 128, 128, 1024, true, false),
        (1, 512, 128, 1024, true, false),
        (1, 1024, 1536, 384, false, true),
        (1, 1024, 384, 1536, false, true),
        (1, 384, 1536, 1024, true, false),
        (32, 128, 128, 32, false, true),
        (1, 1, 576, 576, false, true),
        (1, 1, 1536, 576, false, true),
        (1, 1, 576, 1536, false, true),
        (1, 1, 49152, 576, false, true),
        (1, 1, 2304, 768, false, false),
        (1, 4, 49152, 576, false, true),
    ] {
        let (batch, m, n, k, ta, tb) = extents;
        let sign = |t: bool| if t { "^T" } else { "  " };
        let name = format!("{batch:2} x [{m}, {k}]{} x [{k}, {n}]{}", sign(ta), sign(tb));
        let (kernel, [a, b, c]) = matmul(extents, After::Nothing);
        bench.flops(&format!("matmul {name}"), kernel, &[&c], &[&a, &b])?;
        let bias = Shape::from([n]);
        let (kernel, _) = matmul(extents, After::Bias);
        bench.flops(&format!("  bias {name}"), kernel, &[&c], &[&a, &b, &bias])?;
        let (kernel, _) = matmul(extents, After::Gelu);
        bench.flops(&format!("  gelu {name}"), kernel, &[&c, &c], &[&a, &b, &bias])?;
    }
    attention(&mut bench, 8, 4, 128, 32)?;
    attention(&mut bench, 8, 6, 128, 64)?;
    attention(&mut bench, 2, 6, 1024, 64)
}
