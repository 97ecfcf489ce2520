//! Conv kernels: products with tiles of the matrix of all windows, through the `gemm` crate.

use gemm::Parallelism;
use wgrad_ir::{ConvKernel, DType, ReduceOp, View};

use crate::{
    args::{Args, Out},
    fold::Fold,
    frame::{self, Frame},
    ops::Element,
    product::{Combine, Matrix, product},
    scratch::Scratch,
    store::{self, Stores},
    tape::{Tape, Uses},
    threads,
    unfold::Windows,
    walk::Path,
};

/// Elements of one tile of windows, at most: it fits the second-level cache beside what it is multiplied with.
const TILE: usize = 96 * 1024;
/// Columns of a tile, at most.
const COLUMNS: usize = 384;
/// Tiles begin at multiples of this many columns.
const ALIGN: usize = 48;

/// A Conv kernel, compiled: for each matrix `[rows, columns] = filters [rows, terms] x windows [terms, columns]`.
#[derive(Debug)]
pub(crate) struct ConvPlan {
    rows: usize,
    columns: usize,
    terms: usize,
    dtype: DType,
    x_arg: u32,
    w_arg: u32,
    windows: Windows,
    /// For each matrix where windows and filters begin.
    matrices: Vec<(i64, i64)>,
    filters: Filters,
    after: After,
}

/// How filters lie in memory.
#[derive(Debug)]
enum Filters {
    /// `[row, term]` at one stride each.
    Strided { row: i64, term: i64 },
    /// As above within runs of so many terms, which lie apart.
    Runs { row: i64, run: i64, terms: usize, term: i64 },
    /// Anyhow: they are copied first.
    Scattered(View),
}

#[derive(Debug)]
enum After {
    /// The convolution is the result, row-major.
    Result(u32),
    /// The results are computed from it.
    Epilogue { tape: Tape, stores: Stores },
}

impl ConvPlan {
    pub(crate) fn new(kernel: &ConvKernel) -> ConvPlan {
        let (x, w) = (&kernel.x.view, &kernel.w.view);
        let result = kernel.result();
        let [n, g, c] = [x.shape[0], x.shape[1], x.shape[2]];
        let rows = w.shape[1];
        let spatial: Vec<_> =
            (3..x.shape.rank()).map(|d| (x.shape[d], x.strides[d], w.shape[d], result[d])).collect();
        let images = if kernel.spec.by_group { n } else { 1 };
        let windows = Windows::new((images, x.strides[0]), (c, x.strides[2]), &kernel.spec.axes, &spatial);
        let mut matrices = Vec::new();
        for n in 0..if kernel.spec.by_group { 1 } else { n } {
            let start = |g: usize| {
                let of_x = x.offset + n as i64 * x.strides[0] + g as i64 * x.strides[1];
                (of_x, w.offset + g as i64 * w.strides[0])
            };
            matrices.extend((0..g).map(start));
        }
        let (terms, columns) = (windows.terms.len(), windows.places.len());
        if rows * columns == 0 {
            matrices.clear();
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
        let (x_arg, w_arg) = (kernel.x.arg, kernel.w.arg);
        let filters = Filters::of(w);
        ConvPlan {
            rows,
            columns,
            terms,
            dtype: kernel.dtype,
            x_arg,
            w_arg,
            windows,
            matrices,
            filters,
            after,
        }
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let rate = if self.dtype == DType::F64 { 40.0 } else { 80.0 };
        let each = match &self.after {
            After::Result(_) => 0.0,
            After::Epilogue { tape, stores } => tape.cost + stores.cost(),
        };
        let (size, terms) = ((self.rows * self.columns) as f64, self.terms as f64);
        let packing = 0.3 * terms * self.columns as f64;
        self.matrices.len() as f64 * (2.0 * size * terms / rate + packing + size * each + 200.0)
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        match self.dtype {
            DType::F32 => self.typed::<f32>(args, 1.0),
            DType::F64 => self.typed::<f64>(args, 1.0),
            // `Op::Conv` takes floats only.
            _ => {}
        }
    }

    fn typed<T: Fold>(&self, args: &Args<'_>, one: T) {
        let w = args.read::<T>(self.w_arg);
        match &self.filters {
            Filters::Scattered(view) => {
                // [g, o, terms], row-major.
                let copied = gathered(view, w);
                self.tiles(args, &copied, one);
            }
            _ => self.tiles(args, w, one),
        }
    }

    /// The filters of a matrix from a term on, and how many terms lie at one stride from there.
    fn filters(&self, matrix: usize, term: usize) -> (Matrix, usize) {
        let offset = self.matrices[matrix].1;
        match self.filters {
            Filters::Strided { row, term: step } => {
                let at = offset + term as i64 * step;
                (Matrix { offset: at, rows: row, columns: step }, self.terms - term)
            }
            Filters::Runs { row, run, terms, term: step } => {
                let at = offset + (term / terms) as i64 * run + (term % terms) as i64 * step;
                (Matrix { offset: at, rows: row, columns: step }, terms - term % terms)
            }
            Filters::Scattered(ref view) => {
                let group = matrix % view.shape[0];
                let at = group * self.rows * self.terms + term;
                (Matrix { offset: at as i64, rows: self.terms as i64, columns: 1 }, self.terms - term)
            }
        }
    }

    fn tiles<T: Fold>(&self, args: &Args<'_>, w: &[T], one: T) {
        if self.matrices.is_empty() {
            return;
        }
        let x = args.read::<T>(self.x_arg);
        let (rows, columns) = (self.rows, self.columns);
        let tasks = threads::tasks_for(self.cost());
        // Wide tiles, but one for every thread.
        let threads = tasks.min(rayon::current_num_threads());
        let share = (columns * self.matrices.len()).div_ceil(threads).next_multiple_of(ALIGN);
        let wide =
            columns.div_ceil(columns.div_ceil(COLUMNS.min(share))).next_multiple_of(ALIGN).min(columns);
        let terms = self.terms.min(TILE / wide).max(1);
        let across = columns.div_ceil(wide);
        let items = self.matrices.len() * across;
        let tasks = tasks.min(items);
        let along_places = self.windows.along_places();
        let tape = match &self.after {
            After::Result(_) => None,
            After::Epilogue { tape, .. } => Some(tape),
        };
        let uniforms = tape.map(|tape| frame::uniforms(tape, args));
        threads::for_each(tasks, &|task| {
            let mut tile = Scratch::new(terms * wide * size_of::<T>());
            // Where tiles run along the terms, the product is computed transposed: so `gemm` reads them as they are.
            let apart = tape.is_some() || !along_places;
            let mut part = Scratch::new(if apart { rows * wide * size_of::<T>() } else { 0 });
            let mut line = Scratch::new(wide * size_of::<T>());
            let mut frame = tape.zip(uniforms.as_ref()).map(|(tape, u)| Frame::new(tape, args, u));
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (matrix, first) = (item / across, item % across * wide);
                let count = wide.min(columns - first);
                let start = (matrix * rows) * columns + first;
                let (out, to) = match &self.after {
                    After::Result(arg) if along_places => {
                        let to = Matrix { offset: start as i64, ..Matrix::row_major(columns) };
                        (args.out::<T>(*arg), to)
                    }
                    _ => {
                        let to = Matrix::row_major(if along_places { count } else { rows });
                        let to = if along_places { to } else { to.transposed() };
                        (Out::of(part.slice::<T>(rows * count)), to)
                    }
                };
                if self.terms == 0 {
                    for row in 0..rows {
                        for column in 0..count {
                            let at = to.offset + row as i64 * to.rows + column as i64 * to.columns;
                            // SAFETY: one task per part of a matrix.
                            unsafe { out.set(at as usize, T::identity(ReduceOp::Sum)) };
                        }
                    }
                }
                let mut term = 0;
                while term < self.terms {
                    let (filters, there) = self.filters(matrix, term);
                    let some = there.div_ceil(there.div_ceil(terms));
                    let lines = some * count;
                    let tile = tile.slice::<T>(lines);
                    let (span, places) = (term..term + some, first..first + count);
                    let offset = self.matrices[matrix].0;
                    let seen = if along_places {
                        self.windows.fill(x, offset, true, span, places, tile);
                        Matrix::row_major(count)
                    } else {
                        self.windows.fill(x, offset, false, places, span, tile);
                        Matrix::row_major(some).transposed()
                    };
                    let combine = Combine { keep: (term > 0).then_some(one), scale: one };
                    let extents = (rows, count, some);
                    // SAFETY: one task per part of a matrix, or the part is this task's own.
                    unsafe {
                        product((out, to), (w, filters), (tile, seen), extents, combine, Parallelism::None);
                    }
                    term += some;
                }
                if !apart {
                    continue;
                }
                let part = part.slice::<T>(rows * count);
                for r in 0..rows {
                    let line = if along_places {
                        &part[r * count..(r + 1) * count]
                    } else {
                        let line = line.slice::<T>(count);
                        line.iter_mut().zip(part[r..].iter().step_by(rows)).for_each(|(to, &x)| *to = x);
                        line
                    };
                    let mut start = start + r * columns;
                    match (&self.after, frame.as_mut()) {
                        (After::Epilogue { tape, stores }, Some(frame)) => {
                            for block in line.chunks(tape.block) {
                                frame.eval_product(start, block);
                                stores.put(args, frame, start, block.len());
                                start += block.len();
                            }
                        }
                        (After::Result(arg), _) => {
                            // SAFETY: one task per part of a matrix.
                            unsafe { args.out::<T>(*arg).slice(start, count) }.copy_from_slice(line);
                        }
                        _ => {}
                    }
                }
            }
        });
    }
}

impl Filters {
    fn of(w: &View) -> Filters {
        let rank = w.shape.rank();
        // The stride of axes that continue each other.
        let joined = |axes: std::ops::Range<usize>| -> Option<i64> {
            let mut found: Option<(i64, i64)> = None;
            for d in axes.rev().filter(|&d| w.shape[d] != 1) {
                found = match found {
                    None => Some((w.strides[d], w.strides[d] * w.shape[d] as i64)),
                    Some((step, next)) if next == w.strides[d] => Some((step, next * w.shape[d] as i64)),
                    Some(_) => return None,
                };
            }
            Some(found.map_or(0, |f| f.0))
        };
        let row = w.strides[1];
        if let Some(term) = joined(2..rank) {
            return Filters::Strided { row, term };
        }
        let terms: usize = w.shape[3..].iter().product();
        match joined(3..rank) {
            Some(term) if terms >= LONG_RUN => Filters::Runs { row, run: w.strides[2], terms, term },
            _ => Filters::Scattered(w.clone()),
        }
    }
}

/// Runs of terms that are multiplied one by one are at least this long.
const LONG_RUN: usize = 256;

/// The elements of a view, row-major.
fn gathered<T: Element>(view: &View, from: &[T]) -> Vec<T> {
    let count = view.shape.elements();
    let mut to = Vec::with_capacity(count);
    Path::of_view(view).runs(0, count, |run| {
        // Operands have no mask.
        let Some((first, step)) = run.at else { return };
        to.extend((0..run.n as i64).map(|j| from[(first + j * step) as usize]));
    });
    to
}
