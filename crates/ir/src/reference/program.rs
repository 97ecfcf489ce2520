//! Programs, one index of one kernel at a time.

use super::{binary, cast, compare, indices, order, random, reduce, round, row, unary};
use crate::{
    Arg, BinaryOp, BufferRef, CumulateKernel, DType, Expr, ExprId, ExprNode, Kernel, MapKernel, Operand,
    OutputSource, Program, ReduceKernel, RowKernel, ScatterAddKernel, SortKernel, Step, View,
};

mod contract;

/// What becomes of the values of floats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// They stay real numbers in `f64`, as in [`run_graph`](super::run_graph): what a compiler's result is compared with.
    None,
    /// Every expression and every stored value is rounded to its dtype, as devices do. Sums and products within one kernel
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
        inputs: inputs.to_vec(),
        results: program.results.iter().map(|r| vec![f64::NAN; r.shape.elements()]).collect(),
        // No element is smaller than a byte.
        temps: program.temps.iter().map(|&bytes| vec![f64::NAN; bytes as usize]).collect(),
    };
    for step in &program.steps {
        let writes = Run { step, memory: &memory, scalars, rounding }.writes();
        for Write { arg, dtype, address, value } in writes {
            memory.set(step.args[arg as usize], dtype, address, value);
        }
    }
    let output = |source| match source {
        OutputSource::Result(i) => memory.results[i as usize].clone(),
        OutputSource::Input(i) => memory.inputs[i as usize].clone(),
    };
    program.outputs.iter().map(|o| output(o.source)).collect()
}

struct Memory {
    inputs: Vec<Vec<f64>>,
    results: Vec<Vec<f64>>,
    temps: Vec<Vec<f64>>,
}

impl Memory {
    fn get(&self, arg: Arg, dtype: DType, address: usize) -> f64 {
        let at = first(arg, dtype) + address;
        match arg.buffer {
            BufferRef::Input(i) => self.inputs[i as usize][at],
            BufferRef::Output(i) => self.results[i as usize][at],
            BufferRef::Temp(i) => self.temps[i as usize][at],
        }
    }

    fn set(&mut self, arg: Arg, dtype: DType, address: usize, value: f64) {
        let at = first(arg, dtype) + address;
        match arg.buffer {
            BufferRef::Input(i) => self.inputs[i as usize][at] = value,
            BufferRef::Output(i) => self.results[i as usize][at] = value,
            BufferRef::Temp(i) => self.temps[i as usize][at] = value,
        }
    }
}

/// The element at which an argument starts in its buffer. Parts of buffers are of numbers, which every device stores alike.
fn first(arg: Arg, dtype: DType) -> usize {
    arg.offset as usize / dtype.host_bytes()
}

/// One element to store, once the whole step has read.
struct Write {
    arg: u32,
    dtype: DType,
    address: usize,
    value: f64,
}

/// One step at work.
struct Run<'a> {
    step: &'a Step,
    memory: &'a Memory,
    scalars: &'a [f64],
    rounding: Rounding,
}

impl Run<'_> {
    fn writes(&self) -> Vec<Write> {
        match &*self.step.kernel {
            Kernel::Map(k) => self.map(k),
            Kernel::Row(k) => self.row(k),
            Kernel::Reduce(k) => self.reduce(k),
            Kernel::MatMul(k) => self.matmul(k),
            Kernel::Conv(k) => self.conv(k),
            Kernel::ScatterAdd(k) => self.scatter_add(k),
            Kernel::Cumulate(k) => self.cumulate(k),
            Kernel::Sort(k) => self.sort(k),
            Kernel::Attention(k) => self.attention(k),
            Kernel::AttentionGrad(k) => self.attention_grad(k),
        }
    }

    fn map(&self, k: &MapKernel) -> Vec<Write> {
        let mut writes = Vec::new();
        for index in indices(&k.space) {
            let values = self.values(&k.exprs, &index, f64::NAN);
            writes.extend(k.stores.iter().map(|store| Write {
                arg: store.arg,
                dtype: k.exprs[store.value.index()].dtype,
                address: unmasked(&store.view, &index),
                value: values[store.value.index()],
            }));
        }
        writes
    }

    fn row(&self, k: &RowKernel) -> Vec<Write> {
        let inner = indices(&k.inner);
        let mut writes = Vec::new();
        for outer in indices(&k.outer) {
            let places: Vec<Vec<usize>> = inner.iter().map(|i| [&outer[..], i].concat()).collect();
            // One expression after the other, each along the whole row.
            let mut rows: Vec<Vec<f64>> = Vec::with_capacity(k.exprs.len());
            for node in &k.exprs {
                let row = match node.expr {
                    Expr::Row(op, x) => {
                        let total = reduce(op, node.dtype, rows[x.index()].iter().copied());
                        vec![self.rounded(node.dtype, total); places.len()]
                    }
                    _ => {
                        let at = |(n, index): (usize, &Vec<usize>)| {
                            self.value(&k.exprs, node, index, f64::NAN, &|id| rows[id.index()][n])
                        };
                        places.iter().enumerate().map(at).collect()
                    }
                };
                rows.push(row);
            }
            for store in &k.stores {
                let (dtype, row) = (k.exprs[store.value.index()].dtype, &rows[store.value.index()]);
                let mut write = |index: &[usize], value| {
                    writes.push(Write {
                        arg: store.arg,
                        dtype,
                        address: unmasked(&store.view, index),
                        value,
                    });
                };
                if store.view.shape == k.outer && store.view.shape.rank() < places[0].len() {
                    write(&outer, row[0]);
                } else {
                    places.iter().zip(row).for_each(|(index, &value)| write(index, value));
                }
            }
        }
        writes
    }

    fn reduce(&self, k: &ReduceKernel) -> Vec<Write> {
        let inner = indices(&k.inner);
        let mut writes = Vec::new();
        for (address, outer) in indices(&k.outer).into_iter().enumerate() {
            let values: Vec<Vec<f64>> =
                inner.iter().map(|i| self.values(&k.exprs, &[&outer[..], i].concat(), f64::NAN)).collect();
            for out in &k.outs {
                let dtype = k.exprs[out.value.index()].dtype;
                let terms = values.iter().map(|v| v[out.value.index()]);
                let value = self.rounded(dtype, reduce(out.op, dtype, terms));
                writes.push(Write { arg: out.arg, dtype, address, value });
            }
        }
        writes
    }

    fn scatter_add(&self, k: &ScatterAddKernel) -> Vec<Write> {
        let mut out = vec![0.0; k.rows * k.row_len];
        for i in 0..k.count {
            let first = row(self.load(1, k.ids_dtype, i), k.rows) * k.row_len;
            for column in 0..k.row_len {
                let sum = &mut out[first + column];
                *sum = binary(BinaryOp::Add, k.dtype, *sum, self.load(2, k.dtype, i * k.row_len + column));
            }
        }
        let rounded = out.into_iter().map(|sum| self.rounded(k.dtype, sum)).enumerate();
        rounded.map(|(address, value)| Write { arg: 0, dtype: k.dtype, address, value }).collect()
    }

    fn cumulate(&self, k: &CumulateKernel) -> Vec<Write> {
        let mut writes = Vec::new();
        for line in indices(&k.lines) {
            let mut last = 0.0;
            for i in 0..k.len {
                let at = [&line[..], &[i]].concat();
                let term = self.element(&k.terms, k.dtype, &at);
                if let (Some(factors), true) = (&k.factors, i > 0) {
                    last = binary(BinaryOp::Mul, k.dtype, self.element(factors, k.dtype, &at), last);
                } else if k.factors.is_some() {
                    last = 0.0;
                }
                last = binary(BinaryOp::Add, k.dtype, last, term);
                let (arg, address) = (k.out.arg, unmasked(&k.out.view, &at));
                writes.push(Write { arg, dtype: k.dtype, address, value: self.rounded(k.dtype, last) });
            }
        }
        writes
    }

    fn sort(&self, k: &SortKernel) -> Vec<Write> {
        let mut writes = Vec::new();
        for row in 0..k.rows {
            let values: Vec<f64> = (0..k.len).map(|i| self.load(1, k.dtype, row * k.len + i)).collect();
            let at = |(i, value)| Write { arg: 0, dtype: DType::I32, address: row * k.len + i, value };
            writes.extend(order(&values, k.descending).enumerate().map(at));
        }
        writes
    }

    fn to(&self, operand: &Operand, index: &[usize], value: f64) -> Write {
        let (dtype, address) = (DType::F32, unmasked(&operand.view, index));
        Write { arg: operand.arg, dtype, address, value: self.rounded(dtype, value) }
    }

    fn element(&self, operand: &Operand, dtype: DType, index: &[usize]) -> f64 {
        self.load(operand.arg, dtype, unmasked(&operand.view, index))
    }

    /// Every expression at one index, with the product's element.
    fn values(&self, exprs: &[ExprNode], index: &[usize], product: f64) -> Vec<f64> {
        let mut values: Vec<f64> = Vec::with_capacity(exprs.len());
        for node in exprs {
            let value = self.value(exprs, node, index, product, &|id| values[id.index()]);
            values.push(value);
        }
        values
    }

    /// One expression at one index.
    fn value(
        &self,
        exprs: &[ExprNode],
        node: &ExprNode,
        index: &[usize],
        product: f64,
        v: &dyn Fn(ExprId) -> f64,
    ) -> f64 {
        let dtype_of = |id: ExprId| exprs[id.index()].dtype;
        let value = match &node.expr {
            Expr::Const(literal) => literal.as_f64(),
            Expr::Scalar(i) => self.scalars[*i as usize],
            Expr::Load { arg, map, fill } => {
                map.address(index).map_or(fill.as_f64(), |at| self.load(*arg, node.dtype, at as usize))
            }
            Expr::Index { map } => map.address(index).unwrap_or(0) as f64,
            Expr::Random { stream, kind, map, key } => {
                map.address(index).map_or(0.0, |at| random(*kind, at as usize, *stream, key.map(v)))
            }
            Expr::Gather { table, ids, ids_dtype, rows, row_len, map } => {
                map.address(index).map_or(0.0, |at| {
                    let (id, column) = (at as usize / row_len, at as usize % row_len);
                    self.load(
                        *table,
                        node.dtype,
                        row(self.load(*ids, *ids_dtype, id), *rows) * row_len + column,
                    )
                })
            }
            Expr::Unary(op, a) => unary(*op, node.dtype, v(*a)),
            Expr::Binary(op, a, b) => binary(*op, node.dtype, v(*a), v(*b)),
            Expr::Compare(op, a, b) => f64::from(compare(*op, v(*a), v(*b))),
            Expr::Select(c, a, b) => v(if v(*c) != 0.0 { *a } else { *b }),
            Expr::Cast(a) => cast(dtype_of(*a), node.dtype, v(*a)),
            Expr::Product => product,
            Expr::Row(..) => {
                unreachable!("verify_program allows it in rows only, which combine it themselves")
            }
        };
        self.rounded(node.dtype, value)
    }

    fn load(&self, arg: u32, dtype: DType, address: usize) -> f64 {
        self.memory.get(self.step.args[arg as usize], dtype, address)
    }

    fn rounded(&self, dtype: DType, x: f64) -> f64 {
        match self.rounding {
            Rounding::None => x,
            Rounding::EachOperation => round(dtype, x),
        }
    }
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
    use crate::{BufferSpec, IndexMap, Literal, OutputSpec, ReduceOp, Reduction, Shape, Store, UnaryOp};

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
            exprs: vec![load(&space)],
            outs: vec![Reduction { op: ReduceOp::Sum, value: ExprId(0), arg: 1 }],
        };
        let bytes = 4 * n as u64;
        let step = |kernel, args: [(BufferRef, u64); 2]| Step {
            kernel: Arc::new(kernel),
            args: args.map(|(buffer, bytes)| Arg { buffer, offset: 0, bytes }).into(),
            label: "test".into(),
        };
        let dtype = DType::F32;
        Program {
            inputs: vec![BufferSpec { shape: space, dtype, bytes: 4 * n as u64 }],
            results: vec![BufferSpec { shape: Shape::scalar(), dtype, bytes: 4 }],
            temps: vec![4 * n as u64],
            outputs: vec![OutputSpec { source: OutputSource::Result(0), shape: Shape::scalar(), dtype }],
            steps: vec![
                step(Kernel::Map(map), [(BufferRef::Input(0), bytes), (BufferRef::Temp(0), bytes)]),
                step(Kernel::Reduce(sum), [(BufferRef::Temp(0), bytes), (BufferRef::Output(0), 4)]),
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
