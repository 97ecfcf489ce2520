//! Loads through any path, transposed matrices included.

use crate::{args::Args, ops::Element, walk::Path};

/// The elements `[start, start + out.len())` of a path; `fill` where a mask excludes them.
pub(crate) fn load<T: Element>(args: &Args<'_>, arg: u32, path: &Path, fill: T, start: usize, out: &mut [T]) {
    // Strided runs wait for their neighbours: rows of a transposed matrix are read together, a cache line at a time.
    let mut tile: Option<Tile> = None;
    path.runs(start, out.len(), |run| {
        if let (Some(waiting), Some((first, step))) = (&mut tile, run.at)
            && (run.n, step, first) == (waiting.n, waiting.step, waiting.first + waiting.rows as i64)
        {
            waiting.rows += 1;
            return;
        }
        if let Some(full) = tile.take() {
            full.copy(args, arg, out);
        }
        let to = &mut out[run.pos..run.pos + run.n];
        match run.at {
            None => to.fill(fill),
            Some((first, 0)) => to.fill(args.read_part(arg, first as usize, 1)[0]),
            Some((first, 1)) => match (to, args.read_part(arg, first as usize, run.n)) {
                // Rows of windows: a call would take longer than the copy.
                ([to, next], &[x, y]) => (*to, *next) = (x, y),
                (to, from) => to.copy_from_slice(from),
            },
            Some((first, step)) => tile = Some(Tile { pos: run.pos, n: run.n, rows: 1, first, step }),
        }
    });
    if let Some(full) = tile {
        full.copy(args, arg, out);
    }
}

/// Strided runs of `n` elements, one after the other, each of which starts one element after the last.
struct Tile {
    pos: usize,
    n: usize,
    rows: usize,
    first: i64,
    step: i64,
}

impl Tile {
    fn copy<T: Element>(&self, args: &Args<'_>, arg: u32, out: &mut [T]) {
        let Tile { pos, n, rows, first, step } = *self;
        // So many rows of the result are open at once.
        const OPEN: usize = 16;
        for top in (0..rows).step_by(OPEN) {
            let count = OPEN.min(rows - top);
            let out = &mut out[pos + top * n..pos + (top + count) * n];
            let base = first + top as i64;
            if count == OPEN {
                let mut rows: [&mut [T]; OPEN] = std::array::from_fn(|_| Default::default());
                for (row, part) in rows.iter_mut().zip(out.chunks_exact_mut(n)) {
                    *row = part;
                }
                for j in 0..n {
                    let at = (base + j as i64 * step) as usize;
                    for (row, &x) in rows.iter_mut().zip(args.read_part(arg, at, OPEN)) {
                        row[j] = x;
                    }
                }
            } else {
                for (r, row) in out.chunks_exact_mut(n).enumerate() {
                    for (j, out) in row.iter_mut().enumerate() {
                        *out = args.read_part(arg, (base + r as i64 + j as i64 * step) as usize, 1)[0];
                    }
                }
            }
        }
    }
}
