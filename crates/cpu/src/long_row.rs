//! Rows too long for the cache: several passes over the row, block by block.
//!
//! What lies between two reductions along the row is one pass. Values that a later pass needs are kept for the whole row, but for
//! those that are read again as cheaply.

use wgrad_ir::DType;

use crate::{
    args::Args,
    fold::{Fold, repeated},
    frame::{Frame, Value},
    lanes::Src,
    ops::{Element, by_dtype},
    tape::{Code, Instr, Place, Span},
};

/// Rows longer than this take several passes: shorter ones stay in the second-level cache with all their values.
pub(crate) const LONG: usize = 4096;

/// What is evaluated in one pass over a row; instructions, in order.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// Once, before the pass.
    rows: Vec<usize>,
    /// Block by block.
    elements: Vec<usize>,
    /// Values of earlier passes.
    kept: Vec<usize>,
    /// Reductions of what the pass evaluates.
    folds: Vec<usize>,
}

/// Assigns instructions to passes; `wanted` are stored.
pub(crate) fn passes(instrs: &mut [Instr], wanted: &[usize]) -> Vec<Pass> {
    let is_elements = |instrs: &[Instr], i: usize| instrs[i].span == Span::Elements;
    let folds = |instrs: &[Instr], i: usize| match instrs[i].code {
        Code::Row(_, a) if is_elements(instrs, a) => Some(a),
        _ => None,
    };
    for i in 0..instrs.len() {
        let after = usize::from(folds(instrs, i).is_some());
        let last = instrs[i].code.operands().iter().map(|&o| instrs[o].pass).max();
        instrs[i].pass = last.map_or(0, |pass| pass + after);
    }
    let count = instrs.iter().map(|i| i.pass).max().unwrap_or(0) + 1;
    let mut passes: Vec<Pass> = (0..count).map(|_| Pass::default()).collect();
    // Which pass needs which elements.
    let mut uses: Vec<(usize, usize)> = wanted.iter().map(|&w| (w, instrs[w].pass)).collect();
    for i in 0..instrs.len() {
        match (folds(instrs, i), instrs[i].span) {
            (Some(a), _) => {
                passes[instrs[a].pass].folds.push(i);
                passes[instrs[i].pass].rows.push(i);
                uses.push((a, instrs[a].pass));
            }
            (None, Span::Rows) => passes[instrs[i].pass].rows.push(i),
            (None, Span::Elements) => {
                uses.push((i, instrs[i].pass));
                uses.extend(instrs[i].code.operands().iter().map(|&o| (o, instrs[i].pass)));
            }
            (None, Span::Uniform) => {}
        }
    }
    for (i, pass) in uses {
        if !is_elements(instrs, i) {
            continue;
        }
        let again = matches!(instrs[i].code, Code::Load { .. } | Code::Index { .. } | Code::Spread(_));
        if again || pass == instrs[i].pass {
            passes[pass].elements.push(i);
        } else {
            instrs[i].keeps = true;
            passes[pass].kept.push(i);
        }
    }
    for pass in &mut passes {
        for list in [&mut pass.elements, &mut pass.kept] {
            list.sort_unstable();
            list.dedup();
        }
    }
    passes
}

impl Frame<'_> {
    /// Evaluates one row; `done` is told of each block when its values are there: pass, first element, number of elements.
    pub(crate) fn eval_row(&mut self, index: usize, mut done: impl FnMut(&Self, usize, usize, usize)) {
        let tape = self.tape;
        let row = tape.row;
        for (p, pass) in tape.passes.iter().enumerate() {
            for &i in &pass.rows {
                // Reductions of elements have their value from the pass before.
                if !matches!(tape.instrs[i].code, Code::Row(_, a) if tape.instrs[a].span == Span::Elements) {
                    self.values[i] = self.step(&tape.instrs[i], index, 1);
                }
            }
            for &i in &pass.folds {
                self.fold(i, None);
            }
            if p > 0 && pass.elements.is_empty() {
                continue;
            }
            for first in (0..row).step_by(tape.block) {
                (self.first, self.len) = (first, tape.block.min(row - first));
                let start = index * row + first;
                for &i in &pass.kept {
                    self.values[i] = self.kept(&tape.instrs[i], start);
                }
                for &i in &pass.elements {
                    self.values[i] = self.step(&tape.instrs[i], start, self.len);
                }
                for &i in &pass.folds {
                    self.fold(i, Some(self.len));
                }
                done(self, p, start, self.len);
            }
        }
    }

    /// Adds the current block of `n` elements to a reduction, or begins it.
    fn fold(&mut self, i: usize, n: Option<usize>) {
        let instr = &self.tape.instrs[i];
        let Code::Row(op, a) = instr.code else { return };
        by_dtype!(instr.dtype, T => {
            let sum = match (n, self.values[i]) {
                (Some(n), Value::Splat(bits)) => {
                    let part = match self.value::<T>(a) {
                        Src::Slice(x) => T::fold(op, x),
                        Src::Splat(x) => repeated(op, x, n),
                    };
                    T::combine(op, T::from_bits64(bits), part)
                }
                _ => T::identity(op),
            };
            self.values[i] = Value::Splat(sum.to_bits64());
        });
    }

    /// The current block of a value that an earlier pass has left, from element `start` on.
    fn kept(&mut self, instr: &Instr, start: usize) -> Value {
        let ptr = match instr.place {
            Place::Register(at) => {
                self.scratch.ptr().wrapping_add(at + self.first * instr.dtype.host_bytes())
            }
            Place::Result(arg, offset) => {
                result(self.args, instr.dtype, arg).wrapping_add((offset + start) * instr.dtype.host_bytes())
            }
        };
        Value::Elements(ptr)
    }
}

/// The first byte of a result.
fn result(args: &Args<'_>, dtype: DType, arg: u32) -> *const u8 {
    by_dtype!(dtype, T => args.out::<T>(arg).as_ptr().cast_const().cast())
}
