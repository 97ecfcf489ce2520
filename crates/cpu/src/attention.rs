//! Attention kernels: blocks of queries against blocks of keys, so that no matrix of all scores exists.

use std::ops::Range;

use smallvec::SmallVec;
use wgrad_ir::{AttentionDims, AttentionKernel, Operand};

use crate::{
    ahead::Ahead,
    args::{Args, Out},
    product::Matrix,
    scratch::Scratch,
    softmax::{self, Scores},
    square::{SQUARE, transposed},
    threads,
    tile::Tile,
};

/// Queries per block.
pub(crate) const QUERIES: usize = 64;
/// Keys per block: with as many queries, two blocks of scores fit the second-level cache beside what they are made of.
pub(crate) const KEYS: usize = 256;
/// Queries whose scores are computed together: what no query of such a group sees costs nothing.
pub(crate) const GROUP: usize = 8;
/// Keys whose scores are computed together: a widest SIMD register.
const KEY_GROUP: usize = 16;

/// An Attention kernel, compiled.
#[derive(Debug)]
pub(crate) struct AttentionPlan(AttentionKernel);

impl AttentionPlan {
    pub(crate) fn new(kernel: &AttentionKernel) -> AttentionPlan {
        AttentionPlan(kernel.clone())
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let dims = &self.0.dims;
        dims.pairs() as f64 * (4.0 * dims.width as f64 / 80.0 + 0.5)
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        let dims = &self.0.dims;
        let blocks = dims.queries.div_ceil(QUERIES);
        let items = dims.batch * dims.heads * blocks;
        let tasks = threads::tasks_for(self.cost()).min(items);
        threads::for_each(tasks, &|task| {
            let mut keys = TransposedKeys { memory: Scratch::new(4 * KEYS * dims.width), holds: None };
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (head, block) = (item / blocks, item % blocks);
                let (b, h) = (head / dims.heads, head % dims.heads);
                let ahead = if block + 1 == blocks { self.ahead(args, head + 1) } else { Aheads::new() };
                self.block(args, (b, h, block * QUERIES), &mut keys, &ahead);
            }
        });
    }

    /// What the first block of a head will read and write, if there is such a head.
    fn ahead(&self, args: &Args<'_>, head: usize) -> Aheads {
        let AttentionKernel { dims, q, k, v, out, .. } = &self.0;
        if head >= dims.batch * dims.heads {
            return Aheads::new();
        }
        let (b, h) = (head / dims.heads, head % dims.heads);
        let g = h / (dims.heads / dims.kv_heads);
        let (queries, keys) = (QUERIES.min(dims.queries), KEYS.min(dims.keys));
        let all = [(q, h, queries), (k, g, keys), (v, g, keys), (out, h, queries)];
        all.iter().map(|&(x, h, rows)| ahead(args, x, (b, h), rows, dims.width)).collect()
    }

    /// Queries `[first, first + QUERIES)` of one head.
    fn block(
        &self,
        args: &Args<'_>,
        (b, h, first): (usize, usize, usize),
        transposed: &mut TransposedKeys,
        ahead: &[Ahead],
    ) {
        let AttentionKernel { dims, q, k, v, mask, out, lse } = &self.0;
        let rows = QUERIES.min(dims.queries - first);
        let width = dims.width;
        let g = h / (dims.heads / dims.kv_heads);
        let (from, to) = range(dims, first, rows);
        let mask = mask_of(args, *mask, dims, b);
        let (mut q_part, mut v_part) = (Scratch::new(4 * QUERIES * width), Scratch::new(4 * KEYS * width));
        let stride = stride(dims);
        let mut scratch = Scratch::new(4 * QUERIES * (stride + width));
        let (scores, sums) = scratch.slice::<f32>(QUERIES * (stride + width)).split_at_mut(QUERIES * stride);
        let (mut top, mut sum, mut shrink) = ([f32::NEG_INFINITY; QUERIES], [0.0; QUERIES], [0.0; QUERIES]);
        sums.fill(0.0);
        let q = Rows::new(args.read(q.arg), head(q, b, h).skip_rows(first), rows, width, &mut q_part);
        // Blocks of keys are the same for all queries.
        let begin = from / KEYS * KEYS;
        for start in (begin..to).step_by(KEYS) {
            let keys = KEYS.min(dims.keys - start);
            let seen = Seen::new(dims, first, rows, start, keys);
            let k_at = head(k, b, g).skip_rows(start);
            let kt = transposed.memory.slice(keys * width);
            if transposed.holds != Some(k_at) {
                transpose(args.read(k.arg), k_at, keys, width, dims.spec.scale.as_f64() as f32, kt);
                transposed.holds = Some(k_at);
            }
            let v = Rows::new(args.read(v.arg), head(v, b, g).skip_rows(start), keys, width, &mut v_part);
            for (i, keys_seen) in seen.groups() {
                if start == begin {
                    ahead.iter().for_each(|ahead| ahead.fetch(i.start / GROUP, rows.div_ceil(GROUP)));
                }
                q.times(i.clone(), width, (&kt[keys_seen.start..], keys), (scores, stride), (i, keys_seen));
            }
            let mask = mask.map(|m| &m[start..start + keys]);
            let block = Scores { x: scores, stride, seen: &seen, mask };
            softmax::online(block, &mut top, &mut sum, &mut shrink);
            if start > begin {
                for (row, &shrink) in sums.chunks_exact_mut(width.max(1)).zip(&shrink[..rows]) {
                    row.iter_mut().for_each(|x| *x *= shrink);
                }
            }
            for (i, keys_seen) in seen.groups() {
                Tile {
                    m: i.len(),
                    n: width,
                    k: keys_seen.len(),
                    a: &scores[i.start * stride + keys_seen.start..],
                    a_strides: (stride, 1),
                    b: v.from(keys_seen.start),
                    b_rows: v.stride,
                    c: &mut sums[i.start * width..],
                    c_rows: width,
                    add: true,
                }
                .multiply();
            }
        }
        let lse = args.out::<f32>(*lse);
        for i in 0..rows {
            let (log, part) = if sum[i] > 0.0 { (top[i] + sum[i].ln(), 1.0 / sum[i]) } else { (0.0, 0.0) };
            sums[i * width..(i + 1) * width].iter_mut().for_each(|x| *x *= part);
            // SAFETY: one task per query.
            unsafe { lse.set((b * dims.heads + h) * dims.queries + first + i, log) };
        }
        store(args.out(out.arg), head(out, b, h).skip_rows(first), &sums[..rows * width], width);
    }
}

/// Elements between the scores of neighbouring queries: so that those of one key do not compete for the same lines of the cache.
pub(crate) fn stride(dims: &AttentionDims) -> usize {
    dims.keys.min(KEYS).next_multiple_of(KEY_GROUP) + KEY_GROUP
}

/// A block of scaled keys, transposed, which several blocks of queries use.
struct TransposedKeys {
    memory: Scratch,
    /// Where they come from.
    holds: Option<Matrix>,
}

/// Rows whose elements are neighbours: where they are in memory, or else copied.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    x: &'a [f32],
    /// Elements from one row to the next.
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(
        memory: &'a [f32],
        at: Matrix,
        rows: usize,
        width: usize,
        scratch: &'a mut Scratch,
    ) -> Rows<'a> {
        if at.columns == 1 && at.rows >= 0 {
            return Rows { x: &memory[at.offset as usize..], stride: at.rows as usize };
        }
        let x = scratch.slice(rows * width);
        transpose(memory, at.transposed(), width, rows, 1.0, x);
        Rows { x, stride: width }
    }

    /// From one row on.
    pub(crate) fn from(&self, row: usize) -> &'a [f32] {
        // A product of no rows may begin behind the last one.
        &self.x[(row * self.stride).min(self.x.len())..]
    }

    /// `scores[i, j] = Σ_l self[i, l] b[l, j]` for rows `i` and columns `j` of a block of scores; `b` begins at the first column.
    pub(crate) fn times(
        &self,
        rows: Range<usize>,
        width: usize,
        (b, b_rows): (&[f32], usize),
        (scores, stride): (&mut [f32], usize),
        (i, j): (Range<usize>, Range<usize>),
    ) {
        Tile {
            m: i.len(),
            n: j.len(),
            k: width,
            a: self.from(rows.start),
            a_strides: (self.stride, 1),
            b,
            b_rows,
            c: &mut scores[i.start * stride + j.start..],
            c_rows: stride,
            add: false,
        }
        .multiply();
    }
}

/// `to[j, i] = scale from[i, j]`, row-major.
pub(crate) fn transpose(from: &[f32], at: Matrix, rows: usize, columns: usize, scale: f32, to: &mut [f32]) {
    if rows * columns == 0 {
        return;
    }
    assert!(at.fits(rows, columns, from.len()) && rows * columns <= to.len(), "a matrix leaves its buffer");
    if at.columns == 1 {
        let row = |i: usize| &from[at.skip_rows(i).offset as usize..][..columns];
        let whole = columns / SQUARE * SQUARE;
        for i in (0..rows / SQUARE * SQUARE).step_by(SQUARE) {
            let lines = [row(i), row(i + 1), row(i + 2), row(i + 3)];
            let squares = lines.map(|line| line.as_chunks::<SQUARE>().0);
            for q in 0..columns / SQUARE {
                for (j, x) in transposed(squares.map(|line| line[q])).iter().enumerate() {
                    to[(q * SQUARE + j) * rows + i..][..SQUARE].copy_from_slice(&x.map(|x| scale * x));
                }
            }
            for j in whole..columns {
                to[j * rows + i..][..SQUARE].copy_from_slice(&lines.map(|line| scale * line[j]));
            }
        }
        for i in rows / SQUARE * SQUARE..rows {
            for (j, x) in row(i).iter().enumerate() {
                to[j * rows + i] = scale * x;
            }
        }
        return;
    }
    // A cache line of each row of the result at a time.
    for first in (0..rows).step_by(16) {
        let count = 16.min(rows - first);
        let at = at.skip_rows(first);
        for j in 0..columns {
            let mut from_at = at.offset + j as i64 * at.columns;
            for to in &mut to[j * rows + first..][..count] {
                // SAFETY: the element `[i, j]` of a matrix that lies within `from`, as asserted.
                *to = scale * unsafe { *from.get_unchecked(from_at as usize) };
                from_at += at.rows;
            }
        }
    }
}

/// Memory to ask for.
pub(crate) type Aheads = SmallVec<[Ahead; 8]>;

/// The first `rows` rows of one head.
pub(crate) fn ahead(
    args: &Args<'_>,
    operand: &Operand,
    (b, h): (usize, usize),
    rows: usize,
    width: usize,
) -> Ahead {
    Ahead::new(args.out::<f32>(operand.arg).as_ptr(), head(operand, b, h), rows, width)
}

/// The matrix `[time, width]` of one head.
pub(crate) fn head(operand: &Operand, b: usize, h: usize) -> Matrix {
    let view = &operand.view;
    let offset = view.offset + b as i64 * view.strides[0] + h as i64 * view.strides[2];
    Matrix { offset, rows: view.strides[1], columns: view.strides[3] }
}

/// Which keys of a sequence are there.
pub(crate) fn mask_of<'a>(
    args: &'a Args<'_>,
    mask: Option<u32>,
    dims: &AttentionDims,
    b: usize,
) -> Option<&'a [u8]> {
    mask.map(|m| &args.read::<u8>(m)[b * dims.keys..(b + 1) * dims.keys])
}

/// The keys that some of `rows` queries from `first` on see, apart from the mask.
pub(crate) fn range(dims: &AttentionDims, first: usize, rows: usize) -> (usize, usize) {
    // Both bounds grow with the query.
    (dims.visible(first).0, dims.visible(first + rows - 1).1)
}

/// What the queries of a block see of a block of keys, apart from the mask.
pub(crate) struct Seen {
    pub(crate) rows: usize,
    /// The keys `[from, to)` of each query, counted from the block's first.
    keys: [(usize, usize); QUERIES],
    /// Keys of the block.
    end: usize,
}

impl Seen {
    /// Queries `[first, first + rows)` and keys `[start, start + keys)`.
    pub(crate) fn new(dims: &AttentionDims, first: usize, rows: usize, start: usize, keys: usize) -> Seen {
        let mut seen = Seen { rows, keys: [(0, 0); QUERIES], end: keys };
        for (i, seen) in seen.keys[..rows].iter_mut().enumerate() {
            let (from, to) = dims.visible(first + i);
            let from = from.clamp(start, start + keys) - start;
            *seen = (from, (to.clamp(start, start + keys) - start).max(from));
        }
        seen
    }

    /// The keys `[from, to)` that a query sees.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> (usize, usize) {
        self.keys[row]
    }

    /// The keys `[from, to)` that some query of the row's group sees, up to whole groups of keys.
    #[inline(always)]
    pub(crate) fn group(&self, row: usize) -> (usize, usize) {
        let first = row / GROUP * GROUP;
        let last = (first + GROUP).min(self.rows) - 1;
        let from = self.keys[first].0 / KEY_GROUP * KEY_GROUP;
        (from, self.keys[last].1.next_multiple_of(KEY_GROUP).min(self.end).max(from))
    }

    /// The groups of queries, with the keys that they see.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.rows).step_by(GROUP).map(|first| {
            let (from, to) = self.group(first);
            (first..(first + GROUP).min(self.rows), from..to)
        })
    }

    /// The groups of keys, with the queries whose groups see them.
    pub(crate) fn key_groups(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.end).step_by(KEY_GROUP).filter_map(|first| {
            let mut seeing = self.groups().filter(|(_, keys)| keys.contains(&first)).map(|g| g.0);
            let from = seeing.next()?;
            let last = seeing.last().unwrap_or(from.clone());
            Some((first..(first + KEY_GROUP).min(self.end), from.start..last.end))
        })
    }
}

/// Writes rows of `width` elements where the matrix lies.
pub(crate) fn store(out: Out<f32>, at: Matrix, rows: &[f32], width: usize) {
    if width == 0 {
        return;
    }
    for (i, row) in rows.chunks_exact(width).enumerate() {
        let first = at.offset + i as i64 * at.rows;
        if at.columns == 1 {
            // SAFETY: one task per row of a result, and no two elements have one address.
            unsafe { out.slice(first as usize, width) }.copy_from_slice(row);
        } else {
            for (d, &x) in row.iter().enumerate() {
                // SAFETY: as above.
                unsafe { out.set((first + d as i64 * at.columns) as usize, x) };
            }
        }
    }
}
