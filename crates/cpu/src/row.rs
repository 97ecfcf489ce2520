//! Row kernels: reductions along rows with elementwise work before, between and after them.

use wgrad_ir::{RowKernel, row_constant};

use crate::{
    args::Args,
    frame::{self, Frame},
    store::{self, Stores},
    tape::{Tape, Uses},
    threads,
};

/// A Row kernel, compiled.
#[derive(Debug)]
pub(crate) struct RowPlan {
    elements: usize,
    tape: Tape,
    stores: Stores,
}

impl RowPlan {
    pub(crate) fn new(kernel: &RowKernel) -> RowPlan {
        let (outer, row) = (kernel.outer.rank(), kernel.inner.elements());
        let constant = row_constant(&kernel.exprs, outer);
        let by_row = |s: &wgrad_ir::Store| s.view.shape == kernel.outer && constant[s.value.index()];
        let full: Vec<wgrad_ir::Store> = kernel.stores.iter().filter(|s| !by_row(s)).cloned().collect();
        let wanted: Vec<usize> = kernel.stores.iter().map(|s| s.value.index()).collect();
        let spread: Vec<usize> = full.iter().map(|s| s.value.index()).collect();
        let uses = Uses { direct: store::direct(&full, &[]), wanted: &wanted, in_place: &[] };
        let mut tape = Tape::rows(&kernel.exprs, (outer, row), &constant, &spread, &uses);
        let stores = Stores::new(&kernel.stores, &tape, Some(&kernel.outer));
        tape.cost += stores.cost();
        RowPlan { elements: kernel.outer.elements() * row, tape, stores }
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
        if !self.tape.passes.is_empty() {
            return self.long(args, &uniforms);
        }
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

    /// Rows longer than a block.
    fn long(&self, args: &Args<'_>, uniforms: &[u64]) {
        let rows = self.elements / self.tape.row;
        let tasks = threads::tasks_for(self.cost()).min(rows);
        threads::for_each(tasks, &|task| {
            let mut frame = Frame::new(&self.tape, args, uniforms);
            for row in rows * task / tasks..rows * (task + 1) / tasks {
                frame.eval_row(row, |frame, pass, start, len| {
                    self.stores.put_part(args, frame, pass, start, len);
                });
                self.stores.put_row(args, &frame, row);
            }
        });
    }
}
