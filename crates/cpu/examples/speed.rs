//! Prints what elementwise, row and reducing kernels of the CPU runtime reach on this machine, in GB/s of reads and writes.
//!
//! `cargo run --release -p wgrad-cpu --example speed`

mod bench;

use std::error::Error;

use bench::{Bench, load, map, node};
use wgrad_ir::{
    BinaryOp, DType, Expr, ExprId, ExprNode, Kernel, Literal, MapKernel, ReduceKernel, ReduceOp, Reduction,
    RowKernel, Shape, Store, UnaryOp, View,
};

/// Expressions, appended one by one.
#[derive(Default)]
struct Tree(Vec<ExprNode>);

impl Tree {
    fn push(&mut self, node: ExprNode) -> ExprId {
        self.0.push(node);
        ExprId(self.0.len() as u32 - 1)
    }
    fn load(&mut self, arg: u32, space: &Shape, strides: &[i64]) -> ExprId {
        self.push(load(arg, space, strides))
    }
    fn number(&mut self, x: f64) -> ExprId {
        self.push(node(Expr::Const(Literal::from_f64(DType::F32, x))))
    }
    fn op(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> ExprId {
        self.push(node(Expr::Binary(op, a, b)))
    }
    fn one(&mut self, op: UnaryOp, a: ExprId) -> ExprId {
        self.push(node(Expr::Unary(op, a)))
    }
    fn row(&mut self, op: ReduceOp, a: ExprId) -> ExprId {
        self.push(node(Expr::Row(op, a)))
    }
}

fn row_kernel(rows: usize, columns: usize, tree: Tree, stores: &[(ExprId, bool)]) -> Kernel {
    let (outer, inner) = (Shape::from([rows]), Shape::from([columns]));
    let store = |(arg, &(value, full)): (usize, &(ExprId, bool))| {
        let shape = if full { Shape::from([rows, columns]) } else { outer.clone() };
        Store { arg: arg as u32, value, view: View::contiguous(shape) }
    };
    let stores = stores.iter().enumerate().map(store).collect();
    Kernel::Row(RowKernel { outer, inner, exprs: tree.0, stores })
}

/// `y = (x - mean) rstd γ + β`, and the two statistics.
fn layer_norm(rows: usize, columns: usize) -> Kernel {
    use BinaryOp::{Add, Mul, Sub};
    let space = Shape::from([rows, columns]);
    let mut t = Tree::default();
    let x = t.load(3, &space, &[columns as i64, 1]);
    let part = t.number(1.0 / columns as f64);
    let sum = t.row(ReduceOp::Sum, x);
    let mean = t.op(Mul, sum, part);
    let centred = t.op(Sub, x, mean);
    let square = t.op(Mul, centred, centred);
    let sum = t.row(ReduceOp::Sum, square);
    let variance = t.op(Mul, sum, part);
    let tiny = t.number(1e-5);
    let variance = t.op(Add, variance, tiny);
    let rstd = t.one(UnaryOp::Rsqrt, variance);
    let unit = t.op(Mul, centred, rstd);
    let gamma = t.load(4, &space, &[0, 1]);
    let y = t.op(Mul, unit, gamma);
    let beta = t.load(5, &space, &[0, 1]);
    let y = t.op(Add, y, beta);
    row_kernel(rows, columns, t, &[(y, true), (mean, false), (rstd, false)])
}

/// `dx = rstd (dy γ - mean(dy γ) - x̂ mean(dy γ x̂))`
fn layer_norm_grad(rows: usize, columns: usize) -> Kernel {
    use BinaryOp::{Mul, Sub};
    let space = Shape::from([rows, columns]);
    let mut t = Tree::default();
    let x = t.load(1, &space, &[columns as i64, 1]);
    let dy = t.load(2, &space, &[columns as i64, 1]);
    let gamma = t.load(3, &space, &[0, 1]);
    let mean = t.load(4, &space, &[1, 0]);
    let rstd = t.load(5, &space, &[1, 0]);
    let part = t.number(1.0 / columns as f64);
    let centred = t.op(Sub, x, mean);
    let unit = t.op(Mul, centred, rstd);
    let g = t.op(Mul, dy, gamma);
    let first = t.row(ReduceOp::Sum, g);
    let first = t.op(Mul, first, part);
    let product = t.op(Mul, g, unit);
    let second = t.row(ReduceOp::Sum, product);
    let second = t.op(Mul, second, part);
    let along = t.op(Mul, unit, second);
    let d = t.op(Sub, g, first);
    let d = t.op(Sub, d, along);
    let d = t.op(Mul, d, rstd);
    row_kernel(rows, columns, t, &[(d, true)])
}

/// `p = exp(x - max) / Σ`, and `max + ln Σ`.
fn softmax(rows: usize, columns: usize) -> Kernel {
    use BinaryOp::{Add, Mul, Sub};
    let space = Shape::from([rows, columns]);
    let mut t = Tree::default();
    let x = t.load(2, &space, &[columns as i64, 1]);
    let top = t.row(ReduceOp::Max, x);
    let below = t.op(Sub, x, top);
    let e = t.one(UnaryOp::Exp, below);
    let sum = t.row(ReduceOp::Sum, e);
    let log = t.one(UnaryOp::Log, sum);
    let lse = t.op(Add, top, log);
    let part = t.one(UnaryOp::Recip, sum);
    let p = t.op(Mul, e, part);
    row_kernel(rows, columns, t, &[(p, true), (lse, false)])
}

/// AdamW over flat arenas: parameters, two moments and gradients; the first three are updated in place.
fn adamw(n: usize) -> Kernel {
    use BinaryOp::{Add, Div, Mul, Sub};
    let space = Shape::from([n]);
    let mut t = Tree::default();
    let [p, m, v, g] = [0, 1, 2, 3].map(|arg| t.load(arg, &space, &[1]));
    let [b1, c1, b2, c2, rate, decay, tiny] =
        [0.9, 0.1, 0.999, 0.001, 1e-3, 0.999, 1e-8].map(|x| t.number(x));
    let (old, new) = (t.op(Mul, m, b1), t.op(Mul, g, c1));
    let m = t.op(Add, old, new);
    let square = t.op(Mul, g, g);
    let (old, new) = (t.op(Mul, v, b2), t.op(Mul, square, c2));
    let v = t.op(Add, old, new);
    let root = t.one(UnaryOp::Sqrt, v);
    let root = t.op(Add, root, tiny);
    let step = t.op(Div, m, root);
    let step = t.op(Mul, step, rate);
    let kept = t.op(Mul, p, decay);
    let p = t.op(Sub, kept, step);
    let store = |(arg, value): (usize, ExprId)| Store {
        arg: arg as u32,
        value,
        view: View::contiguous(space.clone()),
    };
    let stores = [p, m, v].into_iter().enumerate().map(store).collect();
    Kernel::Map(MapKernel { space: space.clone(), exprs: t.0, stores })
}

/// Column sums of `dy` and `dy x̂` (`both`), or of the former alone.
fn column_sums(rows: usize, columns: usize, both: bool) -> Kernel {
    let full = Shape::from([columns, rows]);
    let mut t = Tree::default();
    let outs = 1 + u32::from(both);
    let dy = t.load(outs, &full, &[1, columns as i64]);
    let mut list = vec![Reduction { op: ReduceOp::Sum, value: dy, arg: 0 }];
    if both {
        let x = t.load(outs + 1, &full, &[1, columns as i64]);
        let value = t.op(BinaryOp::Mul, dy, x);
        list.push(Reduction { op: ReduceOp::Sum, value, arg: 1 });
    }
    Kernel::Reduce(ReduceKernel { outer: [columns].into(), inner: [rows].into(), exprs: t.0, outs: list })
}

fn squares(n: usize) -> Kernel {
    let mut t = Tree::default();
    let x = t.load(1, &[n].into(), &[1]);
    let value = t.op(BinaryOp::Mul, x, x);
    let outs = vec![Reduction { op: ReduceOp::Sum, value, arg: 0 }];
    Kernel::Reduce(ReduceKernel { outer: Shape::scalar(), inner: [n].into(), exprs: t.0, outs })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut bench = Bench::new();
    for (rows, columns) in [(1024usize, 128usize), (4096, 4096)] {
        let space = Shape::from([rows, columns]);
        let (r, c) = (Shape::from([rows]), Shape::from([columns]));
        let whole = [columns as i64, 1];
        let add = |a, b| node(Expr::Binary(BinaryOp::Add, ExprId(a), ExprId(b)));
        let sum = |name: &str, second: [i64; 2], shape: &Shape, bench: &mut Bench| {
            let kernel = map(&space, vec![load(1, &space, &whole), load(2, &space, &second), add(0, 1)]);
            bench.bytes(&format!("{name} {space}"), kernel, &[&space], &[&space, shape])
        };
        sum("a + b", whole, &space, &mut bench)?;
        sum("a + row", [0, 1], &c, &mut bench)?;
        sum("a + column", [1, 0], &r, &mut bench)?;
        let kernel = map(&space, vec![load(1, &space, &[1, rows as i64])]);
        bench.bytes(&format!("transpose {space}"), kernel, &[&space], &[&space])?;
        for op in [UnaryOp::Exp, UnaryOp::Log, UnaryOp::Tanh, UnaryOp::Erf] {
            let kernel = map(&space, vec![load(1, &space, &whole), node(Expr::Unary(op, ExprId(0)))]);
            bench.bytes(&format!("{} {space}", op.name()), kernel, &[&space], &[&space])?;
        }
    }
    for (rows, columns) in [(1024, 128), (1024, 384), (1024, 1536), (1024, 4096)] {
        let (space, r, c) = (Shape::from([rows, columns]), Shape::from([rows]), Shape::from([columns]));
        let kernel = layer_norm(rows, columns);
        bench.bytes(&format!("layer norm {space}"), kernel, &[&space, &r, &r], &[&space, &c, &c])?;
        let inputs = [&space, &space, &c, &r, &r];
        bench.bytes(
            &format!("layer norm grad {space}"),
            layer_norm_grad(rows, columns),
            &[&space],
            &inputs,
        )?;
    }
    for (rows, columns) in [(1024, 256), (1024, 2048), (1024, 8192), (256, 50257)] {
        let (space, r) = (Shape::from([rows, columns]), Shape::from([rows]));
        bench.bytes(&format!("softmax {space}"), softmax(rows, columns), &[&space, &r], &[&space])?;
    }
    for (rows, columns) in [(1024, 128), (1024, 384), (1024, 512), (1024, 1536)] {
        let (space, c) = (Shape::from([rows, columns]), Shape::from([columns]));
        bench.bytes(&format!("column sums {space}"), column_sums(rows, columns, false), &[&c], &[&space])?;
        let kernel = column_sums(rows, columns, true);
        bench.bytes(&format!("two column sums {space}"), kernel, &[&c, &c], &[&space, &space])?;
    }
    for n in [875_264, 10_942_464] {
        let space = Shape::from([n]);
        bench.bytes(&format!("sum of squares {space}"), squares(n), &[&Shape::scalar()], &[&space])?;
        bench.updates(&format!("adamw {space}"), adamw(n), &[&space; 4])?;
    }
    Ok(())
}
