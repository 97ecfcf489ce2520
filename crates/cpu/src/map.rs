//! Map kernels: elementwise work over one iteration space.

use wgrad_ir::{Expr, IndexMap, MapKernel};

use crate::{
    args::Args,
    frame::{self, Frame},
    store::{self, Stores},
    tape::{Tape, Uses},
    threads,
    walk::Path,
};

/// A Map kernel, compiled.
#[derive(Debug)]
pub(crate) struct MapPlan {
    elements: usize,
    tape: Tape,
    stores: Stores,
}

impl MapPlan {
    pub(crate) fn new(kernel: &MapKernel) -> MapPlan {
        let loads = |arg: u32| {
            kernel.exprs.iter().any(|node| matches!(node.expr, Expr::Load { arg: from, .. } if from == arg))
        };
        // All values of a block are computed before those that update what they were computed from are stored.
        let in_place: Vec<u32> = kernel.stores.iter().map(|s| s.arg).filter(|&a| loads(a)).collect();
        let direct = store::direct(&kernel.stores, &in_place);
        let wanted: Vec<usize> = kernel.stores.iter().map(|s| s.value.index()).collect();
        let uses = Uses { direct, wanted: &wanted, in_place: &in_place };
        let mut tape = Tape::new(&kernel.exprs, Path::new, &uses);
        let stores = Stores::new(&kernel.stores, &tape, None);
        tape.cost += stores.cost();
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
                self.stores.put(args, &frame, start, len);
            }
        });
    }
}

/// Whether evaluating in the order of `map`'s last axis reads neighbours.
pub(crate) fn reads_neighbours(map: &IndexMap, axes: std::ops::Range<usize>) -> bool {
    let view = map.outer();
    match axes.rev().find(|&d| view.shape[d] > 1) {
        Some(d) => matches!(view.strides[d], 0 | 1),
        None => true,
    }
}
