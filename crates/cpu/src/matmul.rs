//! MatMul kernels: large products of f32 by `large`, which hands blocks to their epilogues while the cache has them; all others
//! through the `gemm` crate.

use gemm::Parallelism;
use smallvec::SmallVec;
use wgrad_ir::{DType, MatMulKernel, Store, View};

use crate::{
    ahead::Ahead,
    args::{Args, Out},
    column_sums::column_sums,
    fold::Fold,
    frame::{self, Frame},
    large::{self, Block, Large, Sink},
    ops::Element,
    product::{Combine, Matrix, product},
    scratch::Scratch,
    store::{self, Stores},
    tape::{Code, Tape, Uses},
    threads,
    walk::Path,
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

/// What becomes of the product.
#[derive(Debug)]
enum After {
    /// It is the result, row-major.
    Result(u32),
    /// The results are computed from it.
    Epilogue {
        tape: Tape,
        stores: Stores,
        /// Those that are stored in order: argument and first element.
        written: Vec<(u32, i64)>,
    },
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
        let after = if plain {
            After::Result(kernel.stores[0].arg)
        } else {
            let wanted: Vec<usize> = kernel.stores.iter().map(|s| s.value.index()).collect();
            let direct = store::direct(&kernel.stores, &[]);
            let tape = Tape::new(&kernel.exprs, Path::new, &Uses { direct, wanted: &wanted, in_place: &[] });
            let stores = Stores::new(&kernel.stores, &tape, None);
            let in_order = |s: &Store| match Path::of_view(&s.view).contiguous() {
                Some(first) if kernel.exprs[s.value.index()].dtype == DType::F32 => Some((s.arg, first)),
                _ => None,
            };
            let written = kernel.stores.iter().filter_map(in_order).collect();
            After::Epilogue { tape, stores, written }
        };
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
        let each = match &self.after {
            After::Result(_) => 0.0,
            After::Epilogue { tape, stores, .. } => tape.cost + stores.cost(),
        };
        let (size, count) = ((self.m * self.n) as f64, self.products.len() as f64);
        count * (2.0 * size * self.k as f64 / rate + size * each + 200.0)
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        match self.dtype {
            DType::F32 if large::pays(self.m, self.n, self.k) => self.large(args),
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
            After::Epilogue { tape, stores, .. } => self.fused::<T>(args, tape, stores, zero, one),
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
            After::Epilogue { tape, stores, written } => {
                let uniforms = frame::uniforms(tape, args);
                large.run(tasks, &Epilogue { args, tape, stores, uniforms, written, m: self.m, n: self.n });
            }
        }
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
    fn fused<T: Element>(&self, args: &Args<'_>, tape: &Tape, stores: &Stores, zero: T, one: T) {
        let (a, b) = (args.read::<T>(self.operands[0]), args.read::<T>(self.operands[1]));
        let (m, n, k) = (self.m, self.n, self.k);
        if m * n == 0 {
            return;
        }
        let uniforms = frame::uniforms(tape, args);
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
            let mut frame = Frame::new(tape, args, &uniforms);
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
                finish(&mut frame, stores, part, columns, ((i * m + row) * n + column, n));
            }
        });
    }
}

/// Computes and stores the results of a part of `columns` columns of a product with `n`, whose first element is number `start`.
fn finish<T: Element>(
    frame: &mut Frame<'_>,
    stores: &Stores,
    part: &[T],
    columns: usize,
    (mut start, n): (usize, usize),
) {
    // Rows continue each other where they are whole.
    let stretch = if columns == n { part.len() } else { columns };
    for line in part.chunks_exact(stretch) {
        for (b, block) in line.chunks(frame.tape.block).enumerate() {
            let start = start + b * frame.tape.block;
            frame.eval_product(start, block);
            stores.put(frame.args, frame, start, block.len());
        }
        start += n;
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
struct Epilogue<'a> {
    args: &'a Args<'a>,
    tape: &'a Tape,
    stores: &'a Stores,
    uniforms: Vec<u64>,
    /// Results that are stored in order: argument and first element.
    written: &'a [(u32, i64)],
    m: usize,
    n: usize,
}

impl<'a> Sink for Epilogue<'a> {
    type Task = (Scratch, Frame<'a>);
    fn task(&self) -> Self::Task {
        (Scratch::new(0), Frame::new(self.tape, self.args, &self.uniforms))
    }
    fn ahead(&self, block: Block) -> SmallVec<[Ahead; 6]> {
        let first = (block.product * self.m + block.row) * self.n + block.column;
        let loads = self.tape.instrs.iter().filter_map(|i| match &i.code {
            Code::Load { arg, path, .. } if i.dtype == DType::F32 => Some((*arg, path.contiguous()?)),
            _ => None,
        });
        // What is stored in order, be it by the evaluation itself or afterwards.
        let stores = self.written.iter().copied();
        let ahead = |(arg, offset): (u32, i64)| {
            let at = Matrix { offset: offset + first as i64, ..Matrix::row_major(self.n) };
            Ahead::new(self.args.out::<f32>(arg).as_ptr(), at, block.rows, block.columns)
        };
        loads.chain(stores).map(ahead).collect()
    }
    unsafe fn take(
        &self,
        (part, frame): &mut Self::Task,
        block: Block,
        write: impl FnOnce(Out<f32>, Matrix),
    ) {
        let size = block.rows * block.columns;
        part.grow(4 * size);
        let part = part.slice::<f32>(size);
        write(Out::of(part), Matrix::row_major(block.columns));
        let start = (block.product * self.m + block.row) * self.n + block.column;
        finish(frame, self.stores, part, block.columns, (start, self.n));
    }
}
