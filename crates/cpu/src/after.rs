//! What becomes of a product or a convolution.

use wgrad_ir::{DType, ExprNode, Store};

use crate::{
    args::Args,
    frame::{self, Frame},
    ops::Element,
    store::{self, Stores},
    tape::{Tape, Uses},
    walk::Path,
};

/// What becomes of the elements of a product.
#[derive(Debug)]
pub(crate) enum After {
    /// They are the result, row-major.
    Result(u32),
    /// The results are computed from them.
    Epilogue(Box<Epilogue>),
}

/// Elementwise work that follows, compiled.
#[derive(Debug)]
pub(crate) struct Epilogue {
    pub(crate) tape: Tape,
    pub(crate) stores: Stores,
    /// Results of f32 that are stored in order: argument and first element.
    pub(crate) written: Vec<(u32, i64)>,
}

impl After {
    /// `plain`: the product is the one result.
    pub(crate) fn new(plain: bool, exprs: &[ExprNode], stores: &[Store]) -> After {
        if plain {
            return After::Result(stores[0].arg);
        }
        let wanted: Vec<usize> = stores.iter().map(|s| s.value.index()).collect();
        let uses = Uses { direct: store::direct(stores, &[]), wanted: &wanted, in_place: &[] };
        let tape = Tape::new(exprs, Path::new, &uses);
        let in_order = |s: &Store| match Path::of_view(&s.view).contiguous() {
            Some(first) if exprs[s.value.index()].dtype == DType::F32 => Some((s.arg, first)),
            _ => None,
        };
        let written = stores.iter().filter_map(in_order).collect();
        let stores = Stores::new(stores, &tape, None);
        After::Epilogue(Box::new(Epilogue { tape, stores, written }))
    }

    /// Nanoseconds per element on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        match self {
            After::Result(_) => 0.0,
            After::Epilogue(e) => e.tape.cost + e.stores.cost(),
        }
    }

    /// What [`Finish::new`] wants to know, the same for all tasks.
    pub(crate) fn uniforms(&self, args: &Args<'_>) -> Vec<u64> {
        match self {
            After::Result(_) => Vec::new(),
            After::Epilogue(e) => frame::uniforms(&e.tape, args),
        }
    }
}

/// One task's hand in it.
pub(crate) struct Finish<'a> {
    args: &'a Args<'a>,
    after: &'a After,
    frame: Option<Frame<'a>>,
}

impl<'a> Finish<'a> {
    pub(crate) fn new(after: &'a After, args: &'a Args<'a>, uniforms: &[u64]) -> Finish<'a> {
        let frame = match after {
            After::Result(_) => None,
            After::Epilogue(e) => Some(Frame::new(&e.tape, args, uniforms)),
        };
        Finish { args, after, frame }
    }

    /// Takes the elements of a product from number `start` on. No other task has the same ones.
    pub(crate) fn put<T: Element>(&mut self, mut start: usize, line: &[T]) {
        match (self.after, &mut self.frame) {
            (After::Result(arg), _) => {
                // SAFETY: one task per element of the product.
                unsafe { self.args.out::<T>(*arg).slice(start, line.len()) }.copy_from_slice(line);
            }
            (After::Epilogue(e), Some(frame)) => {
                for block in line.chunks(frame.tape.block) {
                    frame.eval_product(start, block);
                    e.stores.put(self.args, frame, start, block.len());
                    start += block.len();
                }
            }
            // An epilogue has a frame.
            (After::Epilogue(_), None) => {}
        }
    }

    /// Takes rows of `columns` elements of a product that has `n` columns; the first element is number `start`.
    pub(crate) fn put_rows<T: Element>(
        &mut self,
        part: &[T],
        columns: usize,
        (mut start, n): (usize, usize),
    ) {
        // Rows continue each other where they are whole.
        let stretch = if columns == n { part.len() } else { columns };
        for line in part.chunks_exact(stretch) {
            self.put(start, line);
            start += n;
        }
    }
}
