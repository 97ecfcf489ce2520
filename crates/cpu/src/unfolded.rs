//! Convolutions as products with tiles of the matrix of all windows, through the `gemm` crate: every dtype, every shape.

use gemm::Parallelism;
use wgrad_ir::{ConvKernel, ReduceOp, View};

use crate::{
    after::{After, Finish},
    args::{Args, Out},
    fold::Fold,
    ops::Element,
    product::{Combine, Matrix, product},
    scratch::Scratch,
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

/// For each matrix `[rows, columns] = filters [rows, terms] x windows [terms, columns]`.
#[derive(Debug)]
pub(crate) struct Unfolded {
    rows: usize,
    columns: usize,
    terms: usize,
    windows: Windows,
    /// For each matrix where windows and filters begin.
    matrices: Vec<(i64, i64)>,
    filters: Filters,
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

impl Unfolded {
    /// `spatial`: extent, elements between neighbours, taps and outputs of each axis.
    pub(crate) fn new(kernel: &ConvKernel, spatial: &[(usize, i64, usize, usize)]) -> Unfolded {
        let (x, w) = (&kernel.x.view, &kernel.w.view);
        let [n, g, c] = [x.shape[0], x.shape[1], x.shape[2]];
        let images = if kernel.spec.by_group { n } else { 1 };
        let windows = Windows::new((images, x.strides[0]), (c, x.strides[2]), &kernel.spec.axes, spatial);
        let mut matrices = Vec::new();
        for n in 0..if kernel.spec.by_group { 1 } else { n } {
            let start = |g: usize| {
                let of_x = x.offset + n as i64 * x.strides[0] + g as i64 * x.strides[1];
                (of_x, w.offset + g as i64 * w.strides[0])
            };
            matrices.extend((0..g).map(start));
        }
        let (terms, columns) = (windows.terms.len(), windows.places.len());
        Unfolded { rows: w.shape[1], columns, terms, windows, matrices, filters: Filters::of(w) }
    }

    pub(crate) fn run<T: Fold>(
        &self,
        args: &Args<'_>,
        (x, w): (u32, u32),
        after: &After,
        tasks: usize,
        one: T,
    ) {
        let (x, w) = (args.read::<T>(x), args.read::<T>(w));
        match &self.filters {
            Filters::Scattered(view) => {
                // [g, o, terms], row-major.
                let copied = gathered(view, w);
                self.tiles(args, (x, &copied), after, tasks, one);
            }
            _ => self.tiles(args, (x, w), after, tasks, one),
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

    fn tiles<T: Fold>(&self, args: &Args<'_>, (x, w): (&[T], &[T]), after: &After, tasks: usize, one: T) {
        let (rows, columns) = (self.rows, self.columns);
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
        let direct = match after {
            After::Result(arg) if along_places => Some(args.out::<T>(*arg)),
            _ => None,
        };
        let uniforms = after.uniforms(args);
        threads::for_each(tasks, &|task| {
            let mut tile = Scratch::new(terms * wide * size_of::<T>());
            let mut part = Scratch::new(if direct.is_none() { rows * wide * size_of::<T>() } else { 0 });
            let mut line = Scratch::new(wide * size_of::<T>());
            let mut finish = Finish::new(after, args, &uniforms);
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (matrix, first) = (item / across, item % across * wide);
                let count = wide.min(columns - first);
                let start = matrix * rows * columns + first;
                // Where tiles run along the terms, the product is computed transposed: so `gemm` reads them as they are.
                let (out, to) = match direct {
                    Some(out) => (out, Matrix { offset: start as i64, ..Matrix::row_major(columns) }),
                    None if along_places => {
                        (Out::of(part.slice::<T>(rows * count)), Matrix::row_major(count))
                    }
                    None => (Out::of(part.slice::<T>(rows * count)), Matrix::row_major(rows).transposed()),
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
                    let tile = tile.slice::<T>(some * count);
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
                if direct.is_some() {
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
                    finish.put(start + r * columns, line);
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
