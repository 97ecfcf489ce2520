//! Reduce kernels: elementwise work, combined over some axes.
//!
//! The order of combination depends on the shapes alone, never on the number of threads, so results repeat bit for bit.
//! There are two orders of evaluation. *By rows*: the inner axes run fastest, and each stretch of them is folded to one value.
//! *By columns*: the outer axes run fastest, and rows of results are accumulated; for sums over leading axes (bias gradients), where
//! the elements of one sum lie far apart in memory.

use smallvec::SmallVec;
use wgrad_ir::{DType, Expr, IndexMap, ReduceKernel, ReduceOp, Reduction};

use crate::{
    args::{Args, Out},
    fold::{Fold, repeated},
    frame::{self, Frame},
    lanes::Src,
    map::reads_neighbours,
    ops::{Element, by_dtype},
    tape::{BLOCK, Tape, Uses},
    threads,
    walk::Path,
};

/// Elements that one task folds at least, and the length of the pieces that long rows are cut into.
const PIECE: usize = 16 * BLOCK;

/// A Reduce kernel, compiled.
#[derive(Debug)]
pub(crate) struct ReducePlan {
    /// Number of results.
    outer: usize,
    /// Elements per result.
    inner: usize,
    outs: Vec<OutPlan>,
    by_columns: bool,
    tape: Tape,
}

#[derive(Debug)]
struct OutPlan {
    op: ReduceOp,
    arg: u32,
    /// Instruction.
    value: usize,
    dtype: DType,
}

impl ReducePlan {
    pub(crate) fn new(kernel: &ReduceKernel) -> ReducePlan {
        let (outer, inner) = (kernel.outer.elements(), kernel.inner.elements());
        let split = kernel.outer.rank();
        let by_columns = outer > 1 && inner > 0 && columns_pay(kernel, split, inner);
        let path = |map: &IndexMap| if by_columns { Path::rotated(map, split) } else { Path::new(map) };
        let wanted: Vec<usize> = kernel.outs.iter().map(|o| o.value.index()).collect();
        let tape = Tape::new(&kernel.exprs, path, &Uses { wanted: &wanted, ..Uses::default() });
        let out = |o: &Reduction| {
            let value = tape.of_expr[o.value.index()];
            OutPlan { op: o.op, arg: o.arg, value, dtype: tape.instrs[value].dtype }
        };
        let outs = kernel.outs.iter().map(out).collect();
        ReducePlan { outer, inner, outs, by_columns, tape }
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let outs = self.outs.len() as f64;
        let rows = if self.by_columns { 0.0 } else { 10.0 * outs * self.outer as f64 };
        self.outer as f64 * self.inner as f64 * (self.tape.cost + 0.05 * outs) + rows
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        if self.outer == 0 {
            return;
        }
        if self.inner == 0 {
            for out in &self.outs {
                by_dtype!(out.dtype, T => {
                    // SAFETY: no task runs.
                    unsafe { args.out::<T>(out.arg).slice(0, self.outer) }.fill(T::identity(out.op));
                });
            }
            return;
        }
        let uniforms = frame::uniforms(&self.tape, args);
        if self.by_columns {
            self.columns(args, &uniforms);
        } else {
            self.rows(args, &uniforms);
        }
    }

    fn rows(&self, args: &Args<'_>, uniforms: &[u64]) {
        let (rows, len, outs) = (self.outer, self.inner, self.outs.len());
        if len > PIECE {
            // Long rows: pieces in any order, then the pieces of a row in theirs.
            let pieces = len.div_ceil(PIECE);
            let mut partial = vec![0u64; rows * pieces * outs];
            let items = Out::of(&mut partial);
            self.share(rows * pieces, args, uniforms, &|frame, from, to| {
                for item in from..to {
                    let start = item % pieces * PIECE;
                    // SAFETY: one task per item.
                    let sums = unsafe { items.slice(item * outs, outs) };
                    self.stretch(frame, item / pieces * len + start, PIECE.min(len - start), sums);
                }
            });
            for (o, out) in self.outs.iter().enumerate() {
                by_dtype!(out.dtype, T => {
                    for row in 0..rows {
                        let all = &partial[row * pieces * outs..(row + 1) * pieces * outs];
                        let parts: Vec<T> = all.iter().skip(o).step_by(outs).map(|&b| T::from_bits64(b)).collect();
                        // SAFETY: all tasks have ended.
                        unsafe { args.out(out.arg).set(row, T::fold(out.op, &parts)) };
                    }
                });
            }
            return;
        }
        let block = self.tape.block;
        if len > block {
            self.share(rows, args, uniforms, &|frame, from, to| {
                let mut sums: SmallVec<[u64; 4]> = SmallVec::from_elem(0, outs);
                for row in from..to {
                    self.stretch(frame, row * len, len, &mut sums);
                    for (out, &bits) in self.outs.iter().zip(&sums) {
                        // SAFETY: one task per row.
                        by_dtype!(out.dtype, T => unsafe { args.out(out.arg).set(row, T::from_bits64(bits)) });
                    }
                }
            });
            return;
        }
        // Short rows: several per block.
        let many = (block / len).max(1);
        let groups = rows.div_ceil(many);
        self.share(groups, args, uniforms, &|frame, from, to| {
            for group in from..to {
                let first = group * many;
                let count = many.min(rows - first);
                frame.eval(first * len, count * len);
                for out in &self.outs {
                    by_dtype!(out.dtype, T => {
                        // SAFETY: one task per group of rows.
                        let sums = unsafe { args.out::<T>(out.arg).slice(first, count) };
                        match frame.value::<T>(out.value) {
                            Src::Slice(x) => T::fold_rows(out.op, x, len, sums),
                            Src::Splat(x) => sums.fill(repeated(out.op, x, len)),
                        }
                    });
                }
            }
        });
    }

    /// Folds `[start, start + len)` block by block, to the bits of one sum for each result.
    fn stretch(&self, frame: &mut Frame<'_>, start: usize, len: usize, sums: &mut [u64]) {
        for (out, sum) in self.outs.iter().zip(sums.iter_mut()) {
            by_dtype!(out.dtype, T => *sum = T::identity(out.op).to_bits64());
        }
        let mut done = 0;
        while done < len {
            let n = self.tape.block.min(len - done);
            frame.eval(start + done, n);
            for (out, sum) in self.outs.iter().zip(sums.iter_mut()) {
                by_dtype!(out.dtype, T => {
                    let part = match frame.value::<T>(out.value) {
                        Src::Slice(x) => T::fold(out.op, x),
                        Src::Splat(x) => repeated(out.op, x, n),
                    };
                    *sum = T::combine(out.op, T::from_bits64(*sum), part).to_bits64();
                });
            }
            done += n;
        }
    }

    fn columns(&self, args: &Args<'_>, uniforms: &[u64]) {
        let (width, rows, outs) = (self.outer, self.inner, self.outs.len());
        // Sums of this many rows are added up: bounds both the tasks and the rounding error.
        let chunk = (PIECE / width).max(32).max(rows.div_ceil(64));
        let chunks = rows.div_ceil(chunk);
        let tile = self.tape.block.min(width);
        let tiles = width.div_ceil(tile);
        let range = |c: usize| (c * chunk, rows.min((c + 1) * chunk));
        if chunks == 1 || tiles >= 16 {
            self.share(tiles, args, uniforms, &|frame, from, to| {
                let mut part = vec![0u64; outs * tile];
                for t in from..to {
                    let first = t * tile;
                    let n = tile.min(width - first);
                    for c in 0..chunks {
                        self.down(frame, range(c), first, n, &mut part);
                        for (out, part) in self.outs.iter().zip(part.chunks_exact(tile)) {
                            by_dtype!(out.dtype, T => {
                                // SAFETY: one task per tile.
                                let sums = unsafe { args.out::<T>(out.arg).slice(first, n) };
                                let part = &bytemuck::cast_slice(part)[..n];
                                if c == 0 { sums.copy_from_slice(part) } else { T::accumulate(out.op, sums, part) }
                            });
                        }
                    }
                }
            });
            return;
        }
        let mut partial = vec![0u64; chunks * tiles * outs * tile];
        let parts = Out::of(&mut partial);
        self.share(chunks * tiles, args, uniforms, &|frame, from, to| {
            for item in from..to {
                let (c, first) = (item / tiles, item % tiles * tile);
                // SAFETY: one task per chunk and tile.
                let part = unsafe { parts.slice(item * outs * tile, outs * tile) };
                self.down(frame, range(c), first, tile.min(width - first), part);
            }
        });
        for (o, out) in self.outs.iter().enumerate() {
            by_dtype!(out.dtype, T => {
                // SAFETY: all tasks have ended.
                let sums = unsafe { args.out::<T>(out.arg).slice(0, width) };
                sums.fill(T::identity(out.op));
                for (item, part) in partial.chunks_exact(tile).skip(o).step_by(outs).enumerate() {
                    let first = item % tiles * tile;
                    let n = tile.min(width - first);
                    T::accumulate(out.op, &mut sums[first..first + n], &bytemuck::cast_slice(part)[..n]);
                }
            });
        }
    }

    /// Combines rows `from..to` of the `n` columns from `first` on into `sums`, which has equal parts for all results.
    fn down(
        &self,
        frame: &mut Frame<'_>,
        (from, to): (usize, usize),
        first: usize,
        n: usize,
        sums: &mut [u64],
    ) {
        let (width, part) = (self.outer, sums.len() / self.outs.len());
        for (out, sums) in self.outs.iter().zip(sums.chunks_exact_mut(part)) {
            by_dtype!(out.dtype, T => bytemuck::cast_slice_mut::<_, T>(sums)[..n].fill(T::identity(out.op)));
        }
        // Narrow results: several rows per block.
        let many = if n == width { (self.tape.block / width).max(1) } else { 1 };
        let mut row = from;
        while row < to {
            let count = many.min(to - row);
            frame.eval(row * width + first, count * n);
            for (out, sums) in self.outs.iter().zip(sums.chunks_exact_mut(part)) {
                by_dtype!(out.dtype, T => {
                    let sums = &mut bytemuck::cast_slice_mut::<_, T>(sums)[..n];
                    match frame.value::<T>(out.value) {
                        Src::Slice(x) => x.chunks_exact(n).for_each(|x| T::accumulate(out.op, sums, x)),
                        Src::Splat(x) => {
                            let x = repeated(out.op, x, count);
                            sums.iter_mut().for_each(|sum| *sum = T::combine(out.op, *sum, x));
                        }
                    }
                });
            }
            row += count;
        }
    }

    /// Splits `items` among tasks, each with a frame of its own.
    fn share(
        &self,
        items: usize,
        args: &Args<'_>,
        uniforms: &[u64],
        body: &(dyn Fn(&mut Frame<'_>, usize, usize) + Sync),
    ) {
        let tasks = threads::tasks_for(self.cost()).min(items);
        threads::for_each(tasks, &|task| {
            let mut frame = Frame::new(&self.tape, args, uniforms);
            body(&mut frame, items * task / tasks, items * (task + 1) / tasks);
        });
    }
}

/// Whether evaluating with the outer axes fastest reads memory in order where rows would not.
fn columns_pay(kernel: &ReduceKernel, split: usize, inner: usize) -> bool {
    let rank = split + kernel.inner.rank();
    let (mut by_rows, mut by_columns) = (0, 0);
    for node in &kernel.exprs {
        let map = match &node.expr {
            Expr::Load { map, .. }
            | Expr::Index { map }
            | Expr::Random { map, .. }
            | Expr::Gather { map, .. } => map,
            _ => continue,
        };
        by_rows += i32::from(!reads_neighbours(map, split..rank));
        by_columns += i32::from(!reads_neighbours(map, 0..split));
    }
    // Folding a row costs about as much as ten elements do.
    by_rows > by_columns || inner < 8
}
