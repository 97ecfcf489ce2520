//! Map kernels: elementwise work over one iteration space.

use std::collections::HashMap;

use wgrad_ir::{IndexMap, MapKernel};

use crate::{
    args::Args,
    frame::{self, Frame},
    lanes::Src,
    ops::{Element, by_dtype},
    tape::{Place, Tape},
    threads,
    walk::Path,
};

/// A Map kernel, compiled.
#[derive(Debug)]
pub(crate) struct MapPlan {
    elements: usize,
    tape: Tape,
    stores: Vec<StorePlan>,
}

#[derive(Debug)]
struct StorePlan {
    arg: u32,
    value: usize,
    path: Path,
}

impl MapPlan {
    pub(crate) fn new(kernel: &MapKernel) -> MapPlan {
        let stores: Vec<StorePlan> = kernel
            .stores
            .iter()
            .map(|s| StorePlan { arg: s.arg, value: s.value.index(), path: Path::of_view(&s.view) })
            .collect();
        let mut direct = HashMap::new();
        for store in &stores {
            if let Some(offset) = store.path.contiguous() {
                direct.entry(store.value).or_insert((store.arg, offset as usize));
            }
        }
        let wanted: Vec<usize> = stores.iter().map(|s| s.value).collect();
        let mut tape = Tape::new(&kernel.exprs, Path::new, &direct, &wanted);
        tape.cost +=
            stores.iter().map(|s| if s.path.contiguous().is_some() { 0.1 } else { 0.5 }).sum::<f64>();
        MapPlan { elements: kernel.space.elements(), tape, stores }
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        self.elements as f64 * self.tape.cost
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        if self.elements == 0 {
            return;
        }
        let uniforms = frame::uniforms(&self.tape, args);
        let block = self.tape.block;
        let blocks = self.elements.div_ceil(block);
        let tasks = threads::tasks_for(self.cost()).min(blocks);
        threads::for_each(tasks, &|task| {
            let (from, to) = (blocks * task / tasks, blocks * (task + 1) / tasks);
            let mut frame = Frame::new(&self.tape, args, &uniforms);
            for b in from..to {
                let start = b * block;
                let len = block.min(self.elements - start);
                frame.eval(start, len);
                for store in &self.stores {
                    let instr = &self.tape.instrs[store.value];
                    let direct = matches!(instr.place, Place::Result(arg, offset)
                        if arg == store.arg && store.path.contiguous() == Some(offset as i64));
                    if instr.uniform || !direct {
                        by_dtype!(instr.dtype, T => put::<T>(args, store, start, len, frame.value(store.value)));
                    }
                }
            }
        });
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

/// Whether evaluating in the order of `map`'s last axis reads neighbours.
pub(crate) fn reads_neighbours(map: &IndexMap, axes: std::ops::Range<usize>) -> bool {
    let view = map.outer();
    match axes.rev().find(|&d| view.shape[d] > 1) {
        Some(d) => matches!(view.strides[d], 0 | 1),
        None => true,
    }
}
