//! Large products of f32 matrices.
//!
//! The right operand is packed into panels of a few columns, once for all threads. Then every task computes blocks of rows, tile
//! by tile: a tile's sums stay in registers, its rows of the left operand in the first-level cache, and a panel of the right one
//! in the first or second. A block is handed to its sink while the cache has it.

use smallvec::SmallVec;

use crate::{
    ahead::Ahead,
    args::Out,
    panels::{COLUMNS, ROWS, pack, sums},
    product::Matrix,
    scratch::Scratch,
    threads,
    tile::RawTile,
};

/// Rows of a block, at most: four tiles.
const BLOCK_ROWS: usize = 4 * ROWS;
/// Columns of a block, at most: a block and its rows of the left operand fit the second-level cache.
const BLOCK_COLUMNS: usize = 1024;
/// Terms of a sum that are added up in registers, at most.
const DEPTH: usize = 512;
/// Elements that are packed at once, at most.
const PACKED: usize = 1 << 20;

/// Products of `a` and `b`.
pub(crate) struct Large<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    /// The operands of each product.
    pub(crate) products: &'a [(Matrix, Matrix)],
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// What gets the column sums of each right operand.
    pub(crate) column_sums: Option<Out<f32>>,
}

/// A block of a product.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// The product's number.
    pub(crate) product: usize,
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) column: usize,
    pub(crate) columns: usize,
}

/// What takes the blocks of products.
pub(crate) trait Sink: Sync {
    /// What a task has for itself.
    type Task;
    /// Called by each task.
    fn task(&self) -> Self::Task;
    /// What memory a block will take besides its operands.
    fn ahead(&self, block: Block) -> SmallVec<[Ahead; 6]>;
    /// Calls `write`, once, with the place where the block is to be written row by row, and does with it what is to be done.
    ///
    /// # Safety
    /// No other block of this product is the same.
    unsafe fn take(&self, task: &mut Self::Task, block: Block, write: impl FnOnce(Out<f32>, Matrix));
}

/// Whether packing pays.
pub(crate) fn pays(m: usize, n: usize, k: usize) -> bool {
    // A single panel of a deeper product would leave the caches.
    m >= ROWS && n >= COLUMNS / 2 && (8..=8192).contains(&k)
}

impl Large<'_> {
    /// Computes all products, in `tasks` tasks or so.
    pub(crate) fn run<S: Sink>(&self, tasks: usize, sink: &S) {
        let threads = rayon::current_num_threads().min(tasks);
        let most = (PACKED / self.k / COLUMNS).max(1) * COLUMNS;
        let step = self.n.div_ceil(self.n.div_ceil(most)).next_multiple_of(COLUMNS);
        let count = self.products.len();
        let packed = |columns: usize| Scratch::new(4 * self.k * columns.next_multiple_of(COLUMNS));
        if count >= threads {
            let tasks = tasks.min(count);
            threads::for_each(tasks, &|task| {
                let (mut own, mut left, mut packed) = (sink.task(), Scratch::new(0), packed(step));
                for i in count * task / tasks..count * (task + 1) / tasks {
                    for first in (0..self.n).step_by(step) {
                        let columns = step.min(self.n - first);
                        let panels = packed.slice(self.k * columns.next_multiple_of(COLUMNS));
                        for (p, panel) in panels.chunks_exact_mut(self.k * COLUMNS).enumerate() {
                            self.pack(i, first + p * COLUMNS, panel);
                        }
                        let grid = Grid::new(self.m, columns, 1);
                        for item in 0..grid.items() {
                            self.block(
                                grid.block(i, first, item),
                                (panels, first),
                                sink,
                                &mut own,
                                &mut left,
                            );
                        }
                    }
                }
            });
            return;
        }
        for i in 0..count {
            for first in (0..self.n).step_by(step) {
                let columns = step.min(self.n - first);
                let mut packed = packed(columns);
                let panels = packed.slice::<f32>(self.k * columns.next_multiple_of(COLUMNS));
                let (number, size) = (columns.div_ceil(COLUMNS), self.k * COLUMNS);
                let to = Out::of(panels);
                let packers = threads::tasks_for(panels.len() as f64 * 0.2).min(number);
                threads::for_each(packers, &|task| {
                    for p in number * task / packers..number * (task + 1) / packers {
                        // SAFETY: one task per panel.
                        self.pack(i, first + p * COLUMNS, unsafe { to.slice(p * size, size) });
                    }
                });
                let panels = &*panels;
                let grid = Grid::new(self.m, columns, threads);
                let items = grid.items();
                let tasks = (8 * threads).min(items);
                threads::for_each(tasks, &|task| {
                    let (mut own, mut left) = (sink.task(), Scratch::new(0));
                    for item in items * task / tasks..items * (task + 1) / tasks {
                        self.block(grid.block(i, first, item), (panels, first), sink, &mut own, &mut left);
                    }
                });
            }
        }
    }

    /// Packs the columns from `column` on.
    fn pack(&self, product: usize, column: usize, panel: &mut [f32]) {
        let at = self.products[product].1.skip_columns(column);
        let columns = COLUMNS.min(self.n - column);
        pack::<COLUMNS>(self.b, at, (self.k, columns), panel);
        if let Some(out) = self.column_sums {
            // SAFETY: each panel is packed once.
            unsafe { out.slice(product * self.n + column, columns) }.copy_from_slice(&sums(panel)[..columns]);
        }
    }

    /// One block; `panels` are those of the columns from `first` on.
    fn block<S: Sink>(
        &self,
        block: Block,
        (panels, first): (&[f32], usize),
        sink: &S,
        own: &mut S::Task,
        left: &mut Scratch,
    ) {
        let Block { rows, columns, .. } = block;
        let x = self.products[block.product].0.skip_rows(block.row);
        assert!(x.fits(rows, self.k, self.a.len()), "a matrix leaves its buffer");
        let panels = &panels[(block.column - first) * self.k..][..columns.next_multiple_of(COLUMNS) * self.k];
        // Rows that are neighbours are read where they are, unless they would compete for the same lines of the cache.
        let direct = x.columns == 1 && x.rows >= 0 && x.rows % 1024 != 0;
        let depth = self.k.div_ceil(self.k.div_ceil(DEPTH));
        // While tiles are computed, the memory that the block will take and the rows of the next one arrive.
        let mut ahead = sink.ahead(block);
        if direct {
            ahead.push(Ahead::new(
                self.a.as_ptr(),
                x.skip_rows(rows),
                rows.min(self.m - block.row - rows),
                self.k,
            ));
        }
        let write = |out: Out<f32>, at: Matrix| {
            assert!(
                at.columns == 1 && at.rows >= 0 && at.fits(rows, columns, out.len()),
                "a block leaves its buffer"
            );
            for from in (0..self.k).step_by(depth) {
                let k = depth.min(self.k - from);
                let x = x.skip_columns(from);
                // Rows of the transposed block: each of its cache lines is read once.
                let size = if direct { 0 } else { BLOCK_ROWS * k };
                left.grow(4 * size);
                let packed = left.slice::<f32>(size);
                if !direct {
                    pack::<BLOCK_ROWS>(self.a, x.transposed(), (k, rows), packed);
                }
                let parts = (panels.len() / (COLUMNS * self.k), self.k.div_ceil(depth));
                for (p, panel) in panels.chunks_exact(COLUMNS * self.k).enumerate() {
                    for ahead in &ahead {
                        ahead.fetch(from / depth * parts.0 + p, parts.0 * parts.1);
                    }
                    let n = COLUMNS.min(columns - p * COLUMNS);
                    let tile = |a: *const f32, a_strides: (usize, usize)| {
                        let c = at.offset as usize + p * COLUMNS;
                        // SAFETY: the rows and columns of a block, whose operands and result lie within their buffers, as
                        // asserted; the result is exclusive by what the sink was promised.
                        unsafe {
                            RawTile {
                                m: rows,
                                n,
                                k,
                                a,
                                a_strides,
                                b: panel.as_ptr().add(from * COLUMNS),
                                b_rows: COLUMNS,
                                c: out.as_ptr().add(c),
                                c_rows: at.rows as usize,
                                add: from > 0,
                            }
                            .multiply();
                        }
                    };
                    if direct {
                        tile(self.a[x.offset as usize..].as_ptr(), (x.rows as usize, 1));
                    } else {
                        tile(packed.as_ptr(), (1, BLOCK_ROWS));
                    }
                }
            }
        };
        // SAFETY: every block of the grid is computed once.
        unsafe { sink.take(own, block, write) };
    }
}

/// A product's blocks.
struct Grid {
    m: usize,
    n: usize,
    /// Rows and columns of a block.
    size: (usize, usize),
    down: usize,
    across: usize,
}

impl Grid {
    /// So many blocks that they occupy all threads equally. Whole rows are best: no part of the left operand is read twice, and
    /// epilogues run over long stretches.
    fn new(m: usize, n: usize, threads: usize) -> Grid {
        let panels = n.div_ceil(COLUMNS);
        let (least, most) = (m.div_ceil(BLOCK_ROWS), m.div_ceil(2 * ROWS));
        let even = |&(down, across): &(usize, usize)| {
            let items = down * across;
            threads == 1 || items >= 16 * threads || items >= 2 * threads && items.is_multiple_of(threads)
        };
        let all =
            (n.div_ceil(BLOCK_COLUMNS)..=panels).flat_map(|across| (least..=most).map(move |d| (d, across)));
        let (down, across) = { all }.find(even).unwrap_or((most, panels));
        let columns = panels.div_ceil(across) * COLUMNS;
        let rows = m.div_ceil(down).next_multiple_of(4);
        Grid { m, n, size: (rows, columns), down: m.div_ceil(rows), across: n.div_ceil(columns) }
    }

    fn items(&self) -> usize {
        self.down * self.across
    }

    fn block(&self, product: usize, first: usize, item: usize) -> Block {
        let (row, column) = (item / self.across * self.size.0, item % self.across * self.size.1);
        let (rows, columns) = (self.size.0.min(self.m - row), self.size.1.min(self.n - column));
        Block { product, row, rows, column: first + column, columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Whole(Out<f32>, usize, usize);
    impl Sink for Whole {
        type Task = ();
        fn task(&self) {}
        fn ahead(&self, _: Block) -> SmallVec<[Ahead; 6]> {
            SmallVec::new()
        }
        unsafe fn take(&self, (): &mut (), block: Block, write: impl FnOnce(Out<f32>, Matrix)) {
            let offset = (block.product * self.1 + block.row) * self.2 + block.column;
            write(self.0, Matrix { offset: offset as i64, ..Matrix::row_major(self.2) });
        }
    }

    #[test]
    fn large_products_and_their_column_sums_equal_their_definition() {
        let x: Vec<f32> = (0..700_000).map(|i| (i * 37 % 101) as f32 * 0.01 - 0.5).collect();
        // Deep ones, one whose rows lie 1,024 elements apart, one whose panels do not fit at once, and several with ragged edges.
        for (m, n, k) in [(13, 17, 600), (100, 70, 1024), (49, 40, 9), (15, 160, 4100), (130, 33, 8)] {
            for (transposed, count) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
                let (a, b) = (Matrix::row_major(k), Matrix::row_major(n));
                let (a, b) = if transposed {
                    (Matrix::row_major(m).transposed(), Matrix::row_major(k).transposed())
                } else {
                    (a, b)
                };
                let at = |at: Matrix, i: usize| Matrix { offset: (5 * i) as i64, ..at };
                let products: Vec<_> = (0..count).map(|i| (at(a, i), at(b, i))).collect();
                let (mut out, mut sums) = (vec![f32::NAN; count * m * n], vec![f32::NAN; count * n]);
                let column_sums = Some(Out::of(&mut sums));
                let large = Large { a: &x, b: &x, products: &products, m, n, k, column_sums };
                large.run(8, &Whole(Out::of(&mut out), m, n));
                let x_at = |at: Matrix, i: usize, j: usize| {
                    f64::from(x[(at.offset + i as i64 * at.rows + j as i64 * at.columns) as usize])
                };
                for (p, &(a, b)) in products.iter().enumerate() {
                    for j in 0..n {
                        let want: f64 = (0..k).map(|l| x_at(b, l, j)).sum();
                        assert!((f64::from(sums[p * n + j]) - want).abs() < 1e-3, "sum {j} of {m} {n} {k}");
                        for i in (0..m).step_by(7) {
                            let want: f64 = (0..k).map(|l| x_at(a, i, l) * x_at(b, l, j)).sum();
                            let got = f64::from(out[(p * m + i) * n + j]);
                            assert!((got - want).abs() < 1e-3, "{m} {n} {k} [{i}, {j}]: {got}, not {want}");
                        }
                    }
                }
                assert!(out.iter().all(|x| x.is_finite()));
            }
        }
    }
}
