//! MatMul kernels: large products of f32 by `large`, which hands blocks to their epilogues while the cache has them, those of few
//! rows by `few_rows`, all others
//! through the `gemm` crate.

use gemm::Parallelism;
use smallvec::SmallVec;
use wgrad_ir::{DType, MatMulKernel, View};

use crate::{
    after::{After, Epilogue, Finish},
    ahead::Ahead,
    args::{Args, Out},
    column_sums::column_sums,
    few_rows::{self, FewRows},
    fold::Fold,
    large::{self, Block, Large, Sink},
    ops::Element,
    product::{Combine, Matrix, product},
    scratch::Scratch,
    tape::Code,
    threads,
};

/// Elements of a product that are computed before their epilogue: they fit the second-level cache beside the operands.
/// Measured on a Zen 4 with 1 MiB: parts of 128 rows of 512 lose 10 % to packing the right operand again, parts of 256 lose 3 %.
const PART: usize = 128 * 1024;
/// Columns of such a part, at most.
const COLUMNS: usize = 512;
/// Parts begin at multiples of this many rows or columns, so that only the last has a ragged edge.
const ALIGN: usize = 48;

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
    /// The buffer that gets the column sums of the right operand.
    column_sums: Option<u32>,
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
            && kernel.column_sums.is_none()
            && rest.iter().enumerate().all(|(i, (x, y))| {
                y.offset == b.offset && x.offset == a.offset + a.rows * (m * (i + 1)) as i64
            })
        {
            m *= products.len();
            products.truncate(1);
        }
        let plain = MatMulKernel { column_sums: None, ..kernel.clone() }.is_plain();
        let after = After::new(plain, &kernel.exprs, &kernel.stores);
        let operands = [kernel.a.arg, kernel.b.arg];
        MatMulPlan {
            m,
            n: kernel.n,
            k: kernel.k,
            dtype: kernel.dtype,
            operands,
            products,
            after,
            column_sums: kernel.column_sums,
        }
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let rate = if self.dtype == DType::F64 { 50.0 } else { 100.0 };
        let (size, count) = ((self.m * self.n) as f64, self.products.len() as f64);
        count * (2.0 * size * self.k as f64 / rate + size * self.after.cost() + 200.0)
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        match self.dtype {
            DType::F32 if large::pays(self.m, self.n, self.k) => self.large(args),
            DType::F32 if self.products.iter().all(|(_, b)| few_rows::pays(self.m, self.k, b)) => {
                self.few_rows(args)
            }
            DType::F32 => self.typed::<f32>(args, 0.0, 1.0),
            DType::F64 => self.typed::<f64>(args, 0.0, 1.0),
            // `Op::Dot` takes floats only, and halves are widened before.
            DType::F16 | DType::BF16 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => {}
        }
    }

    fn typed<T: Fold>(&self, args: &Args<'_>, zero: T, one: T) {
        if let Some(sums) = self.column_sums {
            let matrices: Vec<Matrix> = self.products.iter().map(|p| p.1).collect();
            column_sums(args.out::<T>(sums), args.read::<T>(self.operands[1]), &matrices, (self.k, self.n));
        }
        match &self.after {
            After::Result(arg) => self.plain(args, args.out::<T>(*arg), zero, one),
            After::Epilogue(_) => self.fused::<T>(args, zero, one),
        }
    }

    /// Large products of f32 matrices.
    fn large(&self, args: &Args<'_>) {
        let (a, b) = (args.read::<f32>(self.operands[0]), args.read::<f32>(self.operands[1]));
        let column_sums = self.column_sums.map(|sums| args.out(sums));
        let large = Large { a, b, products: &self.products, m: self.m, n: self.n, k: self.k, column_sums };
        let tasks = threads::tasks_for(self.cost());
        match &self.after {
            After::Result(arg) => large.run(tasks, &Direct { out: args.out(*arg), m: self.m, n: self.n }),
            After::Epilogue(epilogue) => {
                let uniforms = self.after.uniforms(args);
                let (m, n) = (self.m, self.n);
                large.run(tasks, &Fused { args, after: &self.after, epilogue, uniforms, m, n });
            }
        }
    }

    /// Few rows of f32.
    fn few_rows(&self, args: &Args<'_>) {
        let (a, b) = (args.read::<f32>(self.operands[0]), args.read::<f32>(self.operands[1]));
        if let Some(sums) = self.column_sums {
            let matrices: Vec<Matrix> = self.products.iter().map(|p| p.1).collect();
            column_sums(args.out(sums), b, &matrices, (self.k, self.n));
        }
        let (m, n, k) = (self.m, self.n, self.k);
        let wide = self.products.first().map_or(1, |(_, b)| few_rows::block(b));
        let across = n.div_ceil(wide);
        let items = self.products.len() * across;
        // The matrix comes from memory.
        let bytes = (self.products.len() * n * k * size_of::<f32>()) as f64;
        let tasks = threads::tasks_for(self.cost().max(bytes / 16.0)).min(items);
        let uniforms = self.after.uniforms(args);
        threads::for_each(tasks, &|task| {
            let mut finish = Finish::new(&self.after, args, &uniforms);
            let (mut left, mut part) = (Scratch::new(4 * m * k), Scratch::new(4 * m * few_rows::COLUMNS));
            let (left, part) = (left.slice::<f32>(m * k), part.slice::<f32>(m * few_rows::COLUMNS));
            let mut there = None;
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (product, first) = (item / across, item % across * wide);
                let (x, y) = self.products[product];
                if there.replace(product) != Some(product) {
                    few_rows::rows(a, x, (m, k), left);
                }
                let count = wide.min(n - first);
                FewRows { a: left, b, b_at: y, m, k, first, count, to: part }.multiply();
                for (row, line) in part.chunks_exact(few_rows::COLUMNS).enumerate() {
                    finish.put((product * m + row) * n + first, &line[..count]);
                }
            }
        });
    }

    /// Without an epilogue: large products are cut along their longer side, one part for each thread.
    fn plain<T: Element>(&self, args: &Args<'_>, out: Out<T>, zero: T, one: T) {
        let (a, b) = (args.read::<T>(self.operands[0]), args.read::<T>(self.operands[1]));
        let (m, n, k) = (self.m, self.n, self.k);
        let size = m * n;
        let count = self.products.len();
        if k == 0 {
            // SAFETY: this step alone writes its result, and no task runs.
            unsafe { out.slice(0, size * count) }.fill(zero);
            return;
        }
        let tasks = threads::tasks_for(self.cost());
        let threads = rayon::current_num_threads();
        let cut = if count >= threads || tasks == 1 { 1 } else { tasks.min(threads.div_ceil(count)) };
        let by_rows = m >= n;
        let step = if by_rows { m } else { n }.div_ceil(cut).next_multiple_of(ALIGN);
        let parts = if by_rows { m } else { n }.div_ceil(step);
        let items = count * parts;
        let tasks = tasks.min(items);
        let combine = Combine { keep: None, scale: one };
        threads::for_each(tasks, &|task| {
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (x, y) = &self.products[item / parts];
                let first = item % parts * step;
                let to = Matrix { offset: (item / parts * size) as i64, ..Matrix::row_major(n) };
                let none = Parallelism::None;
                // SAFETY: one task per part of a product.
                unsafe {
                    if by_rows {
                        let (to, x) = (to.skip_rows(first), x.skip_rows(first));
                        product((out, to), (a, x), (b, *y), (step.min(m - first), n, k), combine, none);
                    } else {
                        let (to, y) = (to.skip_columns(first), y.skip_columns(first));
                        product((out, to), (a, *x), (b, y), (m, step.min(n - first), k), combine, none);
                    }
                }
            }
        });
    }

    /// Computes the product in parts, each of which stays in the cache until its epilogue is done.
    fn fused<T: Element>(&self, args: &Args<'_>, zero: T, one: T) {
        let (a, b) = (args.read::<T>(self.operands[0]), args.read::<T>(self.operands[1]));
        let (m, n, k) = (self.m, self.n, self.k);
        if m * n == 0 {
            return;
        }
        let uniforms = self.after.uniforms(args);
        let tasks = threads::tasks_for(self.cost());
        let columns = n.div_ceil(n.div_ceil(COLUMNS)).next_multiple_of(ALIGN).min(n);
        let across = n.div_ceil(columns);
        // As few parts as there are threads and cache for: each part packs its right operand anew.
        let wanted = rayon::current_num_threads().min(tasks).div_ceil(self.products.len() * across);
        let rows = m.div_ceil(wanted).min(PART / columns).max(1);
        let rows = m.div_ceil(m.div_ceil(rows)).next_multiple_of(ALIGN).min(m);
        let down = m.div_ceil(rows);
        let items = self.products.len() * down * across;
        let tasks = tasks.min(items);
        threads::for_each(tasks, &|task| {
            let mut scratch = Scratch::new(rows * columns * size_of::<T>());
            let mut finish = Finish::new(&self.after, args, &uniforms);
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (i, row) = (item / (down * across), item / across % down * rows);
                let column = item % across * columns;
                let (rows, columns) = (rows.min(m - row), columns.min(n - column));
                let part = scratch.slice::<T>(rows * columns);
                let (x, y) = &self.products[i];
                if k == 0 {
                    part.fill(zero);
                } else {
                    let to = (Out::of(part), Matrix::row_major(columns));
                    let (x, y) = ((a, x.skip_rows(row)), (b, y.skip_columns(column)));
                    let combine = Combine { keep: None, scale: one };
                    // SAFETY: the part is this task's own.
                    unsafe { product(to, x, y, (rows, columns, k), combine, Parallelism::None) };
                }
                finish.put_rows(part, columns, ((i * m + row) * n + column, n));
            }
        });
    }
}

/// The product is the result.
struct Direct {
    out: Out<f32>,
    m: usize,
    n: usize,
}

impl Sink for Direct {
    type Task = ();
    fn task(&self) {}
    fn ahead(&self, block: Block) -> SmallVec<[Ahead; 6]> {
        let at = Matrix { offset: self.first(block) as i64, ..Matrix::row_major(self.n) };
        SmallVec::from_iter([Ahead::new(self.out.as_ptr(), at, block.rows, block.columns)])
    }
    unsafe fn take(&self, (): &mut (), block: Block, write: impl FnOnce(Out<f32>, Matrix)) {
        write(self.out, Matrix { offset: self.first(block) as i64, ..Matrix::row_major(self.n) });
    }
}

impl Direct {
    /// Where a block begins.
    fn first(&self, block: Block) -> usize {
        (block.product * self.m + block.row) * self.n + block.column
    }
}

/// The results are computed from the product.
struct Fused<'a> {
    args: &'a Args<'a>,
    after: &'a After,
    epilogue: &'a Epilogue,
    uniforms: Vec<u64>,
    m: usize,
    n: usize,
}

impl<'a> Sink for Fused<'a> {
    type Task = (Scratch, Finish<'a>);
    fn task(&self) -> Self::Task {
        (Scratch::new(0), Finish::new(self.after, self.args, &self.uniforms))
    }
    fn ahead(&self, block: Block) -> SmallVec<[Ahead; 6]> {
        let first = (block.product * self.m + block.row) * self.n + block.column;
        let loads = self.epilogue.tape.instrs.iter().filter_map(|i| match &i.code {
            Code::Load { arg, path, .. } if i.dtype == DType::F32 => Some((*arg, path.contiguous()?)),
            _ => None,
        });
        // What is stored in order, be it by the evaluation itself or afterwards.
        let stores = self.epilogue.written.iter().copied();
        let ahead = |(arg, offset): (u32, i64)| {
            let at = Matrix { offset: offset + first as i64, ..Matrix::row_major(self.n) };
            Ahead::new(self.args.out::<f32>(arg).as_ptr(), at, block.rows, block.columns)
        };
        loads.chain(stores).map(ahead).collect()
    }
    unsafe fn take(
        &self,
        (part, finish): &mut Self::Task,
        block: Block,
        write: impl FnOnce(Out<f32>, Matrix),
    ) {
        let size = block.rows * block.columns;
        part.grow(4 * size);
        let part = part.slice::<f32>(size);
        write(Out::of(part), Matrix::row_major(block.columns));
        let start = (block.product * self.m + block.row) * self.n + block.column;
        finish.put_rows(part, block.columns, (start, self.n));
    }
}
