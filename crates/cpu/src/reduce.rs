//! Reduce kernels: elementwise work, combined over some axes.
//!
//! The order of combination depends on the shapes alone, never on the number of threads, so results repeat bit for bit.
//! There are two orders of evaluation. *By rows*: the inner axes run fastest, and each stretch of them is folded to one value.
//! *By columns*: the outer axes run fastest, and rows of results are accumulated; for sums over leading axes (bias gradients), where
//! the elements of one sum lie far apart in memory.

use std::collections::HashMap;

use wgrad_ir::{Expr, IndexMap, ReduceKernel, ReduceOp};

use crate::{
    args::{Args, Out},
    fold::Fold,
    frame::{self, Frame},
    lanes::Src,
    map::reads_neighbours,
    ops::by_dtype,
    tape::{BLOCK, Tape},
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
    op: ReduceOp,
    out: u32,
    value: usize,
    dtype: wgrad_ir::DType,
    by_columns: bool,
    tape: Tape,
}

impl ReducePlan {
    pub(crate) fn new(kernel: &ReduceKernel) -> ReducePlan {
        let (outer, inner) = (kernel.outer.elements(), kernel.inner.elements());
        let split = kernel.outer.rank();
        let by_columns = outer > 1 && inner > 0 && columns_pay(kernel, split, inner);
        let path = |map: &IndexMap| if by_columns { Path::rotated(map, split) } else { Path::new(map) };
        let value = kernel.value.index();
        let tape = Tape::new(&kernel.exprs, path, &HashMap::new(), &[value]);
        ReducePlan {
            outer,
            inner,
            op: kernel.op,
            out: kernel.out,
            value,
            dtype: kernel.exprs[value].dtype,
            by_columns,
            tape,
        }
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let rows = if self.by_columns { 0.0 } else { 10.0 * self.outer as f64 };
        self.outer as f64 * self.inner as f64 * (self.tape.cost + 0.05) + rows
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        if self.outer == 0 {
            return;
        }
        by_dtype!(self.dtype, T => {
            let out = args.out::<T>(self.out);
            if self.inner == 0 {
                // SAFETY: no task runs yet.
                unsafe { out.slice(0, self.outer) }.fill(T::identity(self.op));
                return;
            }
            let uniforms = frame::uniforms(&self.tape, args);
            if self.by_columns {
                self.columns::<T>(args, &uniforms, out);
            } else {
                self.rows::<T>(args, &uniforms, out);
            }
        });
    }

    fn rows<T: Fold>(&self, args: &Args<'_>, uniforms: &[u64], out: Out<T>) {
        let (rows, len) = (self.outer, self.inner);
        if len > PIECE {
            // Long rows: pieces in any order, then the pieces of a row in theirs.
            let pieces = len.div_ceil(PIECE);
            let mut partial = vec![T::identity(self.op); rows * pieces];
            let items = Out::of(&mut partial);
            self.share(rows * pieces, args, uniforms, &|frame, from, to| {
                for item in from..to {
                    let start = item % pieces * PIECE;
                    let sum = self.stretch::<T>(frame, item / pieces * len + start, PIECE.min(len - start));
                    // SAFETY: one task per item.
                    unsafe { items.set(item, sum) };
                }
            });
            for row in 0..rows {
                let sum = T::fold(self.op, &partial[row * pieces..(row + 1) * pieces]);
                // SAFETY: all tasks have ended.
                unsafe { out.set(row, sum) };
            }
            return;
        }
        let block = self.tape.block;
        if len > block {
            self.share(rows, args, uniforms, &|frame, from, to| {
                for row in from..to {
                    let sum = self.stretch::<T>(frame, row * len, len);
                    // SAFETY: one task per row.
                    unsafe { out.set(row, sum) };
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
                // SAFETY: one task per group of rows.
                let sums = unsafe { out.slice(first, count) };
                match frame.value::<T>(self.value) {
                    Src::Slice(x) => {
                        for (sum, row) in sums.iter_mut().zip(x.chunks_exact(len)) {
                            *sum = T::fold(self.op, row);
                        }
                    }
                    Src::Splat(x) => sums.fill(repeated(self.op, x, len)),
                }
            }
        });
    }

    /// Folds `[start, start + len)` block by block.
    fn stretch<T: Fold>(&self, frame: &mut Frame<'_>, start: usize, len: usize) -> T {
        let mut sum = T::identity(self.op);
        let mut done = 0;
        while done < len {
            let n = self.tape.block.min(len - done);
            frame.eval(start + done, n);
            let part = match frame.value::<T>(self.value) {
                Src::Slice(x) => T::fold(self.op, x),
                Src::Splat(x) => repeated(self.op, x, n),
            };
            sum = T::combine(self.op, sum, part);
            done += n;
        }
        sum
    }

    fn columns<T: Fold>(&self, args: &Args<'_>, uniforms: &[u64], out: Out<T>) {
        let (width, rows) = (self.outer, self.inner);
        // Sums of this many rows are added up: bounds both the tasks and the rounding error.
        let chunk = (PIECE / width).max(32).max(rows.div_ceil(64));
        let chunks = rows.div_ceil(chunk);
        let tile = self.tape.block.min(width);
        let tiles = width.div_ceil(tile);
        if chunks == 1 || tiles >= 16 {
            self.share(tiles, args, uniforms, &|frame, from, to| {
                let mut part = vec![T::identity(self.op); tile];
                for t in from..to {
                    let first = t * tile;
                    let n = tile.min(width - first);
                    // SAFETY: one task per tile.
                    let sums = unsafe { out.slice(first, n) };
                    self.down(frame, (0, chunk.min(rows)), first, sums);
                    for c in 1..chunks {
                        self.down(frame, (c * chunk, rows.min((c + 1) * chunk)), first, &mut part[..n]);
                        T::accumulate(self.op, sums, &part[..n]);
                    }
                }
            });
            return;
        }
        let mut partial = vec![T::identity(self.op); chunks * width];
        let parts = Out::of(&mut partial);
        self.share(chunks * tiles, args, uniforms, &|frame, from, to| {
            for item in from..to {
                let (c, first) = (item / tiles, item % tiles * tile);
                let n = tile.min(width - first);
                // SAFETY: one task per chunk and tile.
                let sums = unsafe { parts.slice(c * width + first, n) };
                self.down(frame, (c * chunk, rows.min((c + 1) * chunk)), first, sums);
            }
        });
        // SAFETY: all tasks have ended.
        let sums = unsafe { out.slice(0, width) };
        sums.copy_from_slice(&partial[..width]);
        for part in partial.chunks_exact(width).skip(1) {
            T::accumulate(self.op, sums, part);
        }
    }

    /// Combines rows `from..to` of the columns from `first` on into `sums`.
    fn down<T: Fold>(&self, frame: &mut Frame<'_>, (from, to): (usize, usize), first: usize, sums: &mut [T]) {
        let width = self.outer;
        sums.fill(T::identity(self.op));
        // Narrow results: several rows per block.
        let many = if sums.len() == width { (self.tape.block / width).max(1) } else { 1 };
        let mut row = from;
        while row < to {
            let count = many.min(to - row);
            let n = count * sums.len();
            frame.eval(row * width + first, n);
            match frame.value::<T>(self.value) {
                Src::Slice(x) => {
                    for x in x.chunks_exact(sums.len()) {
                        T::accumulate(self.op, sums, x);
                    }
                }
                Src::Splat(x) => {
                    let x = repeated(self.op, x, count);
                    for sum in sums.iter_mut() {
                        *sum = T::combine(self.op, *sum, x);
                    }
                }
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

/// The combination of `n` equal elements, in the order that a slice of them would have.
fn repeated<T: Fold>(op: ReduceOp, x: T, n: usize) -> T {
    T::fold(op, &vec![x; n])
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
