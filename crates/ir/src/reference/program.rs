//! Programs, one index of one kernel at a time.

use super::{binary, cast, compare, indices, random, reduce, round, row, unary};
use crate::{
    BinaryOp, BufferRef, DType, Expr, ExprId, ExprNode, Kernel, MapKernel, MatMulKernel, OutputSource,
    Program, ReduceKernel, ReduceOp, ScatterAddKernel, Step, View,
};

/// What becomes of `f32` values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// They stay real numbers in `f64`, as in [`run_graph`](super::run_graph): what a compiler's result is compared with.
    None,
    /// Every expression and every stored value is rounded to `f32`, as devices do. Sums and products within one kernel
    /// accumulate in `f64` before.
    EachOperation,
}

/// The elements of a program's outputs, row-major. Results and scratch start as NaN, so that reading what was not written
/// shows, and so do elements of an output that no step writes.
///
/// # Panics
/// Where inputs or scalars are missing or shorter than the program reads.
pub fn run_program(
    program: &Program,
    inputs: &[Vec<f64>],
    scalars: &[f64],
    rounding: Rounding,
) -> Vec<Vec<f64>> {
    let mut memory = Memory {
        inputs,
        results: program.results.iter().map(|r| vec![f64::NAN; r.shape.elements()]).collect(),
        // No element is smaller than a byte.
        temps: program.temps.iter().map(|&bytes| vec![f64::NAN; bytes as usize]).collect(),
    };
    for step in &program.steps {
        let writes = Run { step, memory: &memory, scalars, rounding }.writes();
        for Write { arg, address, value } in writes {
            memory.set(step.args[arg as usize], address, value);
        }
    }
    let output = |source| match source {
        OutputSource::Result(i) => memory.results[i as usize].clone(),
        OutputSource::Input(i) => inputs[i as usize].clone(),
    };
    program.outputs.iter().map(|o| output(o.source)).collect()
}

struct Memory<'a> {
    inputs: &'a [Vec<f64>],
    results: Vec<Vec<f64>>,
    temps: Vec<Vec<f64>>,
}

impl Memory<'_> {
    fn buffer(&self, buffer: BufferRef) -> &[f64] {
        match buffer {
            BufferRef::Input(i) => &self.inputs[i as usize],
            BufferRef::Output(i) => &self.results[i as usize],
            BufferRef::Temp(i) => &self.temps[i as usize],
        }
    }

    fn set(&mut self, buffer: BufferRef, address: usize, value: f64) {
        match buffer {
            BufferRef::Input(i) => panic!("a step writes input {i}, which verify_program refuses"),
            BufferRef::Output(i) => self.results[i as usize][address] = value,
            BufferRef::Temp(i) => self.temps[i as usize][address] = value,
        }
    }
}

/// One element to store, once the whole step has read.
struct Write {
    arg: u32,
    address: usize,
    value: f64,
}

/// One step at work.
struct Run<'a> {
    step: &'a Step,
    memory: &'a Memory<'a>,
    scalars: &'a [f64],
    rounding: Rounding,
}

impl Run<'_> {
    fn writes(&self) -> Vec<Write> {
        match &*self.step.kernel {
            Kernel::Map(k) => self.map(k),
            Kernel::Reduce(k) => self.reduce(k),
            Kernel::MatMul(k) => self.matmul(k),
            Kernel::ScatterAdd(k) => self.scatter_add(k),
        }
    }

    fn map(&self, k: &MapKernel) -> Vec<Write> {
        let mut writes = Vec::new();
        for index in indices(&k.space) {
            let values = self.values(&k.exprs, &index);
            writes.extend(k.stores.iter().map(|store| Write {
                arg: store.arg,
                address: unmasked(&store.view, &index),
                value: values[store.value.index()],
            }));
        }
        writes
    }

    fn reduce(&self, k: &ReduceKernel) -> Vec<Write> {
        let dtype = k.exprs[k.value.index()].dtype;
        let inner = indices(&k.inner);
        let combine = |outer: Vec<usize>| {
            let terms =
                inner.iter().map(|i| self.values(&k.exprs, &[&outer[..], i].concat())[k.value.index()]);
            self.rounded(dtype, reduce(k.op, dtype, terms))
        };
        whole(k.out, indices(&k.outer).into_iter().map(combine))
    }

    fn matmul(&self, k: &MatMulKernel) -> Vec<Write> {
        let element = |index: Vec<usize>| {
            let (batch, at) = index.split_at(k.batch.rank());
            let term = |l: usize| {
                let a = unmasked(&k.a, &[batch, &[at[0], l]].concat());
                let b = unmasked(&k.b, &[batch, &[l, at[1]]].concat());
                self.load(1, a) * self.load(2, b)
            };
            self.rounded(k.dtype, reduce(ReduceOp::Sum, k.dtype, (0..k.k).map(term)))
        };
        let out = k.batch.iter().copied().chain([k.m, k.n]).collect();
        whole(0, indices(&out).into_iter().map(element))
    }

    fn scatter_add(&self, k: &ScatterAddKernel) -> Vec<Write> {
        let mut out = vec![0.0; k.rows * k.row_len];
        for i in 0..k.count {
            let first = row(self.load(1, i), k.rows) * k.row_len;
            for column in 0..k.row_len {
                let sum = &mut out[first + column];
                *sum = binary(BinaryOp::Add, k.dtype, *sum, self.load(2, i * k.row_len + column));
            }
        }
        whole(0, out.into_iter().map(|sum| self.rounded(k.dtype, sum)))
    }

    /// Every expression at one index.
    fn values(&self, exprs: &[ExprNode], index: &[usize]) -> Vec<f64> {
        let mut values: Vec<f64> = Vec::with_capacity(exprs.len());
        for node in exprs {
            let v = |id: ExprId| values[id.index()];
            let dtype_of = |id: ExprId| exprs[id.index()].dtype;
            let value = match &node.expr {
                Expr::Const(literal) => literal.as_f64(),
                Expr::Scalar(i) => self.scalars[*i as usize],
                Expr::Load { arg, map, fill } => {
                    map.address(index).map_or(fill.as_f64(), |at| self.load(*arg, at as usize))
                }
                Expr::Index { map } => map.address(index).unwrap_or(0) as f64,
                Expr::Random { stream, kind, map, key } => {
                    map.address(index).map_or(0.0, |at| random(*kind, at as usize, *stream, key.map(v)))
                }
                Expr::Gather { table, ids, rows, row_len, map, .. } => map.address(index).map_or(0.0, |at| {
                    let (id, column) = (at as usize / row_len, at as usize % row_len);
                    self.load(*table, row(self.load(*ids, id), *rows) * row_len + column)
                }),
                Expr::Unary(op, a) => unary(*op, node.dtype, v(*a)),
                Expr::Binary(op, a, b) => binary(*op, node.dtype, v(*a), v(*b)),
                Expr::Compare(op, a, b) => f64::from(compare(*op, v(*a), v(*b))),
                Expr::Select(c, a, b) => v(if v(*c) != 0.0 { *a } else { *b }),
                Expr::Cast(a) => cast(dtype_of(*a), node.dtype, v(*a)),
            };
            values.push(self.rounded(node.dtype, value));
        }
        values
    }

    fn load(&self, arg: u32, address: usize) -> f64 {
        self.memory.buffer(self.step.args[arg as usize])[address]
    }

    fn rounded(&self, dtype: DType, x: f64) -> f64 {
        match self.rounding {
            Rounding::None => x,
            Rounding::EachOperation => round(dtype, x),
        }
    }
}

/// The values of a whole buffer, row-major.
fn whole(arg: u32, values: impl Iterator<Item = f64>) -> Vec<Write> {
    values.enumerate().map(|(address, value)| Write { arg, address, value }).collect()
}

/// The address of an index in a view that has no mask, as stores and the operands of products have none.
fn unmasked(view: &View, index: &[usize]) -> usize {
    match view.address(index) {
        Some(address) => address as usize,
        None => panic!("a mask where verify_program allows none: {view:?} at {index:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{BufferSpec, IndexMap, Literal, OutputSpec, Shape, Store, UnaryOp};

    fn load(space: &Shape) -> ExprNode {
        let map = IndexMap::contiguous(space.clone());
        ExprNode { expr: Expr::Load { arg: 0, map, fill: Literal::zero(DType::F32) }, dtype: DType::F32 }
    }

    /// `Σ 1/x` by two steps with scratch between them.
    fn harmonic(n: usize) -> Program {
        let space = Shape::from([n]);
        let recip = ExprNode { expr: Expr::Unary(UnaryOp::Recip, ExprId(0)), dtype: DType::F32 };
        let view = View::contiguous(space.clone());
        let map = MapKernel {
            space: space.clone(),
            exprs: vec![load(&space), recip],
            stores: vec![Store { arg: 1, value: ExprId(1), view }],
        };
        let sum = ReduceKernel {
            outer: Shape::scalar(),
            inner: space.clone(),
            op: ReduceOp::Sum,
            exprs: vec![load(&space)],
            value: ExprId(0),
            out: 1,
        };
        let step = |kernel, args: [BufferRef; 2]| Step {
            kernel: Arc::new(kernel),
            args: args.into(),
            label: "test".into(),
        };
        let dtype = DType::F32;
        Program {
            inputs: vec![BufferSpec { shape: space, dtype, bytes: 4 * n as u64 }],
            results: vec![BufferSpec { shape: Shape::scalar(), dtype, bytes: 4 }],
            temps: vec![4 * n as u64],
            outputs: vec![OutputSpec { source: OutputSource::Result(0), shape: Shape::scalar(), dtype }],
            steps: vec![
                step(Kernel::Map(map), [BufferRef::Input(0), BufferRef::Temp(0)]),
                step(Kernel::Reduce(sum), [BufferRef::Temp(0), BufferRef::Output(0)]),
            ],
            ..Program::default()
        }
    }

    #[test]
    fn steps_hand_on_their_values_rounded_or_not() {
        let program = harmonic(3);
        crate::verify_program(&program).unwrap();
        let inputs = [vec![1.0, 3.0, 7.0]];
        let exact = run_program(&program, &inputs, &[], Rounding::None);
        assert_eq!(exact, [[1.0 + 1.0 / 3.0 + 1.0 / 7.0]]);
        let rounded = run_program(&program, &inputs, &[], Rounding::EachOperation);
        let terms = [1.0f32, 1.0 / 3.0, 1.0 / 7.0].map(f64::from);
        assert_eq!(rounded, [[f64::from((terms[0] + terms[1] + terms[2]) as f32)]]);
    }

    #[test]
    fn reading_scratch_that_no_step_wrote_gives_nan() {
        let mut program = harmonic(3);
        program.steps.remove(0);
        assert!(run_program(&program, &[vec![1.0; 3]], &[], Rounding::None)[0][0].is_nan());
    }
}
