//! MatMul kernels, through the `gemm` crate.

use gemm::Parallelism;
use smallvec::SmallVec;
use wgrad_ir::{DType, MatMulKernel, View};

use crate::{
    args::{Args, Out},
    frame::{self, Frame},
    ops::Element,
    product::{Combine, Matrix, product},
    scratch::Scratch,
    store::{self, Stores},
    tape::{Tape, Uses},
    threads,
    walk::Path,
};

/// Elements of a product that are computed before their epilogue: they fit the second-level cache beside the operands.
const PART: usize = 64 * 1024;

/// A MatMul kernel, compiled.
#[derive(Debug)]
pub(crate) struct MatMulPlan {
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    /// Arguments of the operands.
    operands: [u32; 2],
    /// The operands of each product, in the order of results.
    products: Vec<(Matrix, Matrix)>,
    after: After,
}

/// What becomes of the product.
#[derive(Debug)]
enum After {
    /// It is the result, row-major.
    Result(u32),
    /// The results are computed from it.
    Epilogue { tape: Tape, stores: Stores },
}

impl MatMulPlan {
    pub(crate) fn new(kernel: &MatMulKernel) -> MatMulPlan {
        let rank = kernel.batch.rank();
        let count = kernel.batch.elements();
        let mut m = kernel.m;
        let matrix = |view: &View, index: &[usize]| Matrix {
            offset: view.offset + index.iter().zip(&view.strides).map(|(&i, &s)| i as i64 * s).sum::<i64>(),
            rows: view.strides[rank],
            columns: view.strides[rank + 1],
        };
        let mut products = Vec::with_capacity(count);
        if m * kernel.n > 0 {
            let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, rank);
            for _ in 0..count {
                products.push((matrix(&kernel.a.view, &index), matrix(&kernel.b.view, &index)));
                for d in (0..rank).rev() {
                    index[d] += 1;
                    if index[d] < kernel.batch[d] {
                        break;
                    }
                    index[d] = 0;
                }
            }
        }
        // One right operand for all, and left ones that continue each other, make one tall product.
        if let [(a, b), rest @ ..] = products.as_slice()
            && !rest.is_empty()
            && rest.iter().enumerate().all(|(i, (x, y))| {
                y.offset == b.offset && x.offset == a.offset + a.rows * (m * (i + 1)) as i64
            })
        {
            m *= products.len();
            products.truncate(1);
        }
        let after = if kernel.is_plain() {
            After::Result(kernel.stores[0].arg)
        } else {
            let wanted: Vec<usize> = kernel.stores.iter().map(|s| s.value.index()).collect();
            let direct = store::direct(&kernel.stores, &[]);
            let tape = Tape::new(&kernel.exprs, Path::new, &Uses { direct, wanted: &wanted, in_place: &[] });
            let stores = Stores::new(&kernel.stores, &tape, None);
            After::Epilogue { tape, stores }
        };
        let operands = [kernel.a.arg, kernel.b.arg];
        MatMulPlan { m, n: kernel.n, k: kernel.k, dtype: kernel.dtype, operands, products, after }
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let rate = if self.dtype == DType::F64 { 50.0 } else { 100.0 };
        let each = match &self.after {
            After::Result(_) => 0.0,
            After::Epilogue { tape, stores } => tape.cost + stores.cost(),
        };
        let (size, count) = ((self.m * self.n) as f64, self.products.len() as f64);
        count * (2.0 * size * self.k as f64 / rate + size * each + 200.0)
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        match self.dtype {
            DType::F32 => self.typed::<f32>(args, 0.0, 1.0),
            DType::F64 => self.typed::<f64>(args, 0.0, 1.0),
            // `Op::Dot` takes floats only.
            DType::I32 | DType::U32 | DType::Bool => {}
        }
    }

    fn typed<T: Element>(&self, args: &Args<'_>, zero: T, one: T) {
        match &self.after {
            After::Result(arg) => self.plain(args, args.out::<T>(*arg), zero, one),
            After::Epilogue { tape, stores } => self.fused::<T>(args, tape, stores, zero, one),
        }
    }

    fn plain<T: Element>(&self, args: &Args<'_>, out: Out<T>, zero: T, one: T) {
        let (a, b) = (args.read::<T>(self.operands[0]), args.read::<T>(self.operands[1]));
        let size = self.m * self.n;
        let count = self.products.len();
        if self.k == 0 {
            // SAFETY: this step alone writes its result, and no task runs.
            unsafe { out.slice(0, size * count) }.fill(zero);
            return;
        }
        let threads = rayon::current_num_threads();
        let tasks = threads::tasks_for(self.cost()).min(count);
        let wide = tasks > 1 && count >= threads;
        let inside =
            self.cost() > threads::PARALLEL_NS && rayon::current_thread_index().is_some() && threads > 1;
        let parallelism = if inside && !wide { Parallelism::Rayon(0) } else { Parallelism::None };
        let tasks = if wide { tasks } else { 1 };
        threads::for_each(tasks, &|task| {
            for i in count * task / tasks..count * (task + 1) / tasks {
                let (x, y) = &self.products[i];
                let to = Matrix { offset: (i * size) as i64, ..Matrix::row_major(self.n) };
                let combine = Combine { keep: None, scale: one };
                // SAFETY: one task per product.
                unsafe {
                    product((out, to), (a, *x), (b, *y), (self.m, self.n, self.k), combine, parallelism);
                }
            }
        });
    }

    /// Computes the product in parts of some rows, each of which stays in the cache until its epilogue is done.
    fn fused<T: Element>(&self, args: &Args<'_>, tape: &Tape, stores: &Stores, zero: T, one: T) {
        let (a, b) = (args.read::<T>(self.operands[0]), args.read::<T>(self.operands[1]));
        let (m, n, k) = (self.m, self.n, self.k);
        if m * n == 0 {
            return;
        }
        let uniforms = frame::uniforms(tape, args);
        let rows = (PART / n).clamp(1, m);
        let parts = m.div_ceil(rows);
        let items = self.products.len() * parts;
        let tasks = threads::tasks_for(self.cost()).min(items);
        threads::for_each(tasks, &|task| {
            let mut scratch = Scratch::new(rows * n * size_of::<T>());
            let mut frame = Frame::new(tape, args, &uniforms);
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (i, first) = (item / parts, item % parts * rows);
                let rows = rows.min(m - first);
                let part = scratch.slice::<T>(rows * n);
                let (x, y) = &self.products[i];
                if k == 0 {
                    part.fill(zero);
                } else {
                    let (to, combine) = (Matrix::row_major(n), Combine { keep: None, scale: one });
                    let operands = ((a, x.from_row(first)), (b, *y));
                    // SAFETY: the part is this task's own.
                    unsafe {
                        product(
                            (Out::of(part), to),
                            operands.0,
                            operands.1,
                            (rows, n, k),
                            combine,
                            Parallelism::None,
                        );
                    }
                }
                let mut start = (i * m + first) * n;
                for block in part.chunks(tape.block) {
                    frame.eval_product(start, block);
                    stores.put(args, &frame, start, block.len());
                    start += block.len();
                }
            }
        });
    }
}
