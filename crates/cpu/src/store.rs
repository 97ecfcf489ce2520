//! From the values of a block to the buffers of results.

use std::collections::HashMap;

use wgrad_ir::{Shape, Store};

use crate::{
    args::Args,
    frame::Frame,
    lanes::Src,
    ops::{Element, by_dtype},
    tape::{Place, Span, Tape},
    walk::Path,
};

/// The values that an evaluation may write straight to their results, as `Uses::direct` wants them: those stored in the order of
/// evaluation, to buffers that it does not read.
pub(crate) fn direct(stores: &[Store], in_place: &[u32]) -> HashMap<usize, (u32, usize)> {
    let mut direct = HashMap::new();
    for store in stores.iter().filter(|s| !in_place.contains(&s.arg)) {
        if let Some(offset) = Path::of_view(&store.view).contiguous() {
            direct.entry(store.value.index()).or_insert((store.arg, offset as usize));
        }
    }
    direct
}

/// The stores of a kernel, compiled.
#[derive(Debug)]
pub(crate) struct Stores(Vec<StorePlan>);

#[derive(Debug)]
struct StorePlan {
    arg: u32,
    /// Instruction.
    value: usize,
    path: Path,
    /// One value for each row.
    by_row: bool,
    /// Length of a row.
    row: usize,
    /// The pass over a long row in which the value is there.
    pass: usize,
}

impl Stores {
    /// `outer` are the extents of a kernel with rows, where a store may span them alone.
    pub(crate) fn new(stores: &[Store], tape: &Tape, outer: Option<&Shape>) -> Stores {
        let plan = |store: &Store| {
            let value = store.value.index();
            let by_row = outer.is_some_and(|outer| store.view.shape == *outer)
                && tape.instrs[tape.of_expr[value]].span != Span::Elements;
            let value = if by_row { tape.of_expr[value] } else { tape.elements_of(value) };
            StorePlan {
                arg: store.arg,
                value,
                path: Path::of_view(&store.view),
                by_row,
                row: tape.row,
                pass: tape.instrs[value].pass,
            }
        };
        Stores(
            stores
                .iter()
                .map(plan)
                .filter(|store| {
                    // What the evaluation itself writes needs no second store.
                    let instr = &tape.instrs[store.value];
                    instr.is_uniform()
                        || !matches!(instr.place, Place::Result(arg, offset)
                            if arg == store.arg && store.path.contiguous() == Some(offset as i64))
                })
                .collect(),
        )
    }

    /// Nanoseconds per element, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let one = |s: &StorePlan| match s.path.contiguous() {
            _ if s.by_row => 0.5 / s.row as f64,
            Some(_) => 0.1,
            None if s.path.inner().1 == 1 => 0.1 + 8.0 / s.path.inner().0 as f64,
            None => 0.5,
        };
        0.1 + self.0.iter().map(one).sum::<f64>()
    }

    /// Stores the elements `[start, start + len)` of a part of a long row, as far as a pass has evaluated them.
    pub(crate) fn put_part(&self, args: &Args<'_>, frame: &Frame<'_>, pass: usize, start: usize, len: usize) {
        for store in self.0.iter().filter(|s| !s.by_row && s.pass == pass) {
            by_dtype!(frame.dtype(store.value), T => put::<T>(args, store, start, len, frame.value(store.value)));
        }
    }

    /// Stores the values that a long row has once, when all its passes are done.
    pub(crate) fn put_row(&self, args: &Args<'_>, frame: &Frame<'_>, row: usize) {
        for store in self.0.iter().filter(|s| s.by_row) {
            by_dtype!(frame.dtype(store.value), T => put::<T>(args, store, row, 1, frame.value(store.value)));
        }
    }

    /// Stores the elements `[start, start + len)`, which the frame has just evaluated.
    pub(crate) fn put(&self, args: &Args<'_>, frame: &Frame<'_>, start: usize, len: usize) {
        for store in &self.0 {
            let (start, len) = if store.by_row { (start / store.row, len / store.row) } else { (start, len) };
            by_dtype!(frame.dtype(store.value), T => put::<T>(args, store, start, len, frame.value(store.value)));
        }
    }
}

/// Stores one block.
fn put<T: Element>(args: &Args<'_>, store: &StorePlan, start: usize, len: usize, value: Src<'_, T>) {
    let out = args.out::<T>(store.arg);
    store.path.runs(start, len, |run| {
        // A store is never masked.
        let Some((first, step)) = run.at else { return };
        if step == 1 {
            // SAFETY: tasks store disjoint ranges of indices, and no two indices of a store have one address.
            let to = unsafe { out.slice(first as usize, run.n) };
            match value {
                Src::Splat(x) => to.fill(x),
                Src::Slice(x) => to.copy_from_slice(&x[run.pos..run.pos + run.n]),
            }
        } else {
            for j in 0..run.n {
                let x = match value {
                    Src::Splat(x) => x,
                    Src::Slice(x) => x[run.pos + j],
                };
                // SAFETY: as above.
                unsafe { out.set((first + j as i64 * step) as usize, x) };
            }
        }
    });
}
