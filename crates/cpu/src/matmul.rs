//! MatMul kernels, through the `gemm` crate.

use bytemuck::Pod;
use gemm::Parallelism;
use smallvec::SmallVec;
use wgrad_ir::{DType, MatMulKernel, View};

use crate::{
    args::{Args, Out},
    frame::{self, Frame},
    ops::Element,
    scratch::Scratch,
    store::{self, Stores},
    tape::{Tape, Uses},
    threads,
    walk::Path,
};

/// Elements of a product that are computed before their epilogue: they fit the second-level cache beside the operands.
const PART: usize = 64 * 1024;

/// A matrix within a buffer: `[i, j]` lies at `offset + i * rows + j * columns`.
#[derive(Clone, Copy, Debug)]
struct Matrix {
    offset: i64,
    rows: i64,
    columns: i64,
}

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
                product(out, i * size, (a, x), (b, y), (self.m, self.n, self.k), (zero, one), parallelism);
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
                let x = &Matrix { offset: x.offset + x.rows * first as i64, ..*x };
                if k == 0 {
                    part.fill(zero);
                } else {
                    product(Out::of(part), 0, (a, x), (b, y), (rows, n, k), (zero, one), Parallelism::None);
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

/// One product: `out[first..][i, j] = Σ a[i, l] b[l, j]`.
fn product<T: Pod>(
    out: Out<T>,
    first: usize,
    (a, a_at): (&[T], &Matrix),
    (b, b_at): (&[T], &Matrix),
    (m, n, k): (usize, usize, usize),
    (zero, one): (T, T),
    parallelism: Parallelism,
) {
    let inside = |x: &Matrix, rows: usize, columns: usize, len: usize| {
        let (r, c) = (x.rows * (rows as i64 - 1), x.columns * (columns as i64 - 1));
        x.offset + r.min(0) + c.min(0) >= 0 && ((x.offset + r.max(0) + c.max(0)) as usize) < len
    };
    assert!(inside(a_at, m, k, a.len()) && inside(b_at, k, n, b.len()), "a matrix leaves its buffer");
    assert!(first <= out.len() && m * n <= out.len() - first, "a product leaves its buffer");
    // SAFETY: every address that the extents and strides form lies within the buffers, as asserted; `m`, `n` and `k` are not
    // zero; the result is not an operand (`verify_program`), and no other task writes this part of it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_ptr().add(first),
            1,
            n as isize,
            false,
            a.as_ptr().offset(a_at.offset as isize),
            a_at.columns as isize,
            a_at.rows as isize,
            b.as_ptr().offset(b_at.offset as isize),
            b_at.columns as isize,
            b_at.rows as isize,
            zero,
            one,
            false,
            false,
            false,
            parallelism,
        );
    }
}
