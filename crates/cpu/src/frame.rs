//! Evaluates a tape, block by block.

use std::sync::atomic::Ordering;

use smallvec::SmallVec;
use wgrad_ir::{DType, RandomKind, philox};

use crate::{
    args::Args,
    casts::{CastOut, cast},
    fold::{self, Fold},
    lanes::{self, Src},
    load::load,
    ops::{self, Element, by_dtype},
    pairs, random,
    scratch::Scratch,
    tape::{Code, Instr, Place, Span, Tape},
};

/// The value of an instruction over the current block.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    /// Bits of the one value that all elements have.
    Splat(u64),
    /// The first of the block's elements.
    Elements(*const u8),
}

/// A tape under evaluation on one thread.
pub(crate) struct Frame<'a> {
    pub(crate) tape: &'a Tape,
    pub(crate) args: &'a Args<'a>,
    pub(crate) values: SmallVec<[Value; 32]>,
    pub(crate) scratch: Scratch,
    /// Elements of the current block.
    pub(crate) len: usize,
    /// Where the current block begins in its row, if rows are longer.
    pub(crate) first: usize,
    /// Whether the loads that repeat have their values, for a whole block.
    repeated: bool,
    /// The product's elements, where the kernel has any.
    product: *const u8,
}

/// Values of the instructions that do not vary, computed once per run; zero for the others.
pub(crate) fn uniforms(tape: &Tape, args: &Args<'_>) -> Vec<u64> {
    let mut values: Vec<u64> = Vec::with_capacity(tape.instrs.len());
    for instr in &tape.instrs {
        let mut bits = 0u64;
        if instr.is_uniform() {
            let operand = |i: usize| Value::Splat(values[i]);
            bits = single(instr, args, 0, &operand);
        }
        values.push(bits);
    }
    values
}

/// Evaluates one instruction at one index; its operands have one value each.
fn single(instr: &Instr, args: &Args<'_>, at: usize, operand: &dyn Fn(usize) -> Value) -> u64 {
    match &instr.code {
        Code::Const(bits) => *bits,
        Code::Scalar(index) => args.scalars.get(*index as usize).map_or(0, |l| l.bits()),
        _ => by_dtype!(instr.dtype, T => {
            let mut out = [T::from_bits64(0)];
            if instr.code.is_leaf() {
                leaf::<T>(instr, args, at, &mut out, operand);
            } else {
                elementwise::<T>(instr, &mut out, operand);
            }
            out[0].to_bits64()
        }),
    }
}

impl<'a> Frame<'a> {
    /// A frame whose uniform values are known.
    pub(crate) fn new(tape: &'a Tape, args: &'a Args<'a>, uniforms: &[u64]) -> Self {
        Frame {
            tape,
            args,
            values: uniforms.iter().map(|&u| Value::Splat(u)).collect(),
            scratch: Scratch::new(tape.scratch),
            len: 0,
            first: 0,
            repeated: false,
            product: std::ptr::null(),
        }
    }

    /// Evaluates the elements `[start, start + len)`; `len` is at most the tape's block, and both are whole rows where the tape
    /// has rows.
    pub(crate) fn eval(&mut self, start: usize, len: usize) {
        debug_assert!(len <= self.tape.block && len.is_multiple_of(self.tape.row));
        self.len = len;
        let aligned = self.tape.repeat.is_some_and(|n| start.is_multiple_of(n));
        for (i, instr) in self.tape.instrs.iter().enumerate() {
            self.values[i] = match instr.span {
                Span::Uniform => continue,
                Span::Elements if instr.repeats && aligned => match instr.place {
                    Place::Register(_) if self.repeated => continue,
                    Place::Register(_) => self.step(instr, 0, self.tape.block),
                    Place::Result(..) => self.step(instr, start, len),
                },
                Span::Rows => self.step(instr, start / self.tape.row, len / self.tape.row),
                Span::Elements => self.step(instr, start, len),
            };
        }
        self.repeated = aligned;
    }

    /// Evaluates the elements `[start, start + product.len())` of a product's epilogue.
    pub(crate) fn eval_product<T: Element>(&mut self, start: usize, product: &[T]) {
        self.product = product.as_ptr().cast();
        self.eval(start, product.len());
    }

    /// The value of an instruction over the current block. Valid until the next `eval`.
    #[inline]
    pub(crate) fn value<T: Element>(&self, instr: usize) -> Src<'_, T> {
        let rows = self.tape.instrs[instr].span == Span::Rows;
        operand(self.values[instr], if rows { self.len / self.tape.row } else { self.len })
    }

    /// The dtype of an instruction.
    pub(crate) fn dtype(&self, instr: usize) -> DType {
        self.tape.instrs[instr].dtype
    }

    pub(crate) fn step(&mut self, instr: &Instr, start: usize, len: usize) -> Value {
        let values = &self.values;
        let get = |i: usize| values[i];
        // Nothing to compute: the buffer's own elements, or one of them for all.
        if let Code::Load { arg, path, copy: false, .. } = &instr.code
            && matches!(instr.place, Place::Register(_))
            && let Some((first, step @ (0 | 1))) = path.single_run(start, len)
        {
            // One row: its values are operands of whole loops.
            return by_dtype!(instr.dtype, T => match if len == 1 { 0 } else { step } {
                0 => Value::Splat(self.args.read_part::<T>(*arg, first as usize, 1)[0].to_bits64()),
                _ => Value::Elements(self.args.read_part::<T>(*arg, first as usize, len).as_ptr().cast()),
            });
        }
        let splat = |i: usize| matches!(values[i], Value::Splat(_));
        let constant = match &instr.code {
            Code::Unary(_, a) | Code::Cast(a) | Code::Spread(a) => splat(*a),
            Code::Binary(_, a, b) | Code::Compare(_, a, b) => splat(*a) && splat(*b),
            Code::Select(a, b, c) | Code::Pair(_, [a, b, c]) => splat(*a) && splat(*b) && splat(*c),
            Code::Load { .. } | Code::Index { .. } | Code::Random { .. } | Code::Gather { .. } => len == 1,
            _ => false,
        };
        // What is kept for the whole row has all its elements.
        let constant = constant && !instr.keeps;
        match (&instr.code, instr.place) {
            (Code::Product, _) => return Value::Elements(self.product),
            (Code::Spread(a), Place::Register(_)) if constant => return values[*a],
            (_, Place::Register(_)) if constant => {
                return Value::Splat(single(instr, self.args, start, &get));
            }
            _ => {}
        }
        by_dtype!(instr.dtype, T => {
            let out: &mut [T] = match instr.place {
                // SAFETY: tasks evaluate disjoint ranges, and a result in this order has one writer per element.
                Place::Result(arg, offset) => unsafe { self.args.out::<T>(arg).slice(offset + start, len) },
                Place::Register(at) => {
                    let at = if instr.keeps { at + self.first * size_of::<T>() } else { at };
                    assert!(at + len * size_of::<T>() <= self.scratch.bytes());
                    // SAFETY: within the scratch memory, aligned to 64 bytes, initialised; the tape gives an
                    // instruction a register that holds no value still needed, so no operand overlaps it.
                    unsafe { std::slice::from_raw_parts_mut(self.scratch.ptr().add(at).cast::<T>(), len) }
                }
            };
            let row = self.tape.row;
            match &instr.code {
                code if code.is_leaf() => leaf(instr, self.args, start, out, &get),
                Code::Row(op, a) => match get(*a) {
                    Value::Splat(bits) => out.fill(fold::repeated(*op, T::from_bits64(bits), row)),
                    value if self.tape.instrs[*a].span == Span::Rows => {
                        if let Src::Slice(x) = operand::<T>(value, len) {
                            let each = out.iter_mut().zip(x);
                            each.for_each(|(out, &x)| *out = fold::repeated(*op, x, row));
                        }
                    }
                    value => if let Src::Slice(x) = operand::<T>(value, len * row) {
                        T::fold_rows(*op, x, row, out);
                    }
                },
                Code::Spread(a) => match operand::<T>(get(*a), len / row) {
                    Src::Splat(x) => out.fill(x),
                    Src::Slice(x) => lanes::spread(x, row, out),
                },
                _ => elementwise(instr, out, &get),
            }
            match out {
                // One row: its values are operands of whole loops.
                [one] if matches!(instr.place, Place::Register(_)) => Value::Splat(one.to_bits64()),
                out => Value::Elements(out.as_ptr().cast()),
            }
        })
    }
}

/// A value as an operand of `len` elements.
#[inline]
fn operand<'b, T: Element>(value: Value, len: usize) -> Src<'b, T> {
    match value {
        Value::Splat(bits) => Src::Splat(T::from_bits64(bits)),
        // SAFETY: values are only read within the block they were computed for: they point to `len` initialised elements of
        // their instruction's dtype, in a buffer or register that nothing writes before the last use.
        Value::Elements(ptr) => Src::Slice(unsafe { std::slice::from_raw_parts(ptr.cast(), len) }),
    }
}

/// Elementwise instructions.
fn elementwise<T: Element>(instr: &Instr, out: &mut [T], get: &dyn Fn(usize) -> Value) {
    let len = out.len();
    match instr.code {
        Code::Unary(op, a) => match operand::<T>(get(a), len) {
            Src::Slice(x) => T::unary(op, x, out),
            Src::Splat(x) => {
                let mut one = [x];
                T::unary(op, &[x], &mut one);
                out.fill(one[0]);
            }
        },
        Code::Binary(op, a, b) => T::binary(op, operand(get(a), len), operand(get(b), len), out),
        // Only f32 has pairs.
        Code::Pair(op, abc) => {
            let [a, b, c] = abc.map(|i| operand::<f32>(get(i), len));
            pairs::pair(op, a, b, c, bytemuck::cast_slice_mut(out));
        }
        Code::Compare(op, a, b) => by_dtype!(instr.from, F => {
            ops::compare::<F>(op, operand(get(a), len), operand(get(b), len), bytemuck::cast_slice_mut(out));
        }),
        Code::Select(c, a, b) => {
            lanes::select(operand::<u8>(get(c), len), operand(get(a), len), operand(get(b), len), out);
        }
        Code::Cast(a) => by_dtype!(instr.from, F => match operand::<F>(get(a), len) {
            Src::Slice(x) => {
                cast(instr.from, bytemuck::cast_slice(x), instr.dtype, &mut CastOut(bytemuck::cast_slice_mut(out)));
            }
            Src::Splat(x) => {
                let mut one = [T::from_bits64(0)];
                cast(instr.from, bytemuck::bytes_of(&x), instr.dtype, &mut CastOut(bytemuck::cast_slice_mut(&mut one)));
                out.fill(one[0]);
            }
        }),
        _ => {}
    }
}

/// Instructions that form addresses, over the elements from `start` on.
fn leaf<T: Element>(
    instr: &Instr,
    args: &Args<'_>,
    start: usize,
    out: &mut [T],
    get: &dyn Fn(usize) -> Value,
) {
    match &instr.code {
        Code::Load { arg, path, fill, .. } => load(args, *arg, path, T::from_bits64(*fill), start, out),
        Code::Index { path } => {
            let out: &mut [i32] = bytemuck::cast_slice_mut(out);
            path.runs(start, out.len(), |run| {
                let out = &mut out[run.pos..run.pos + run.n];
                let (first, step) = run.at.unwrap_or((0, 0));
                for (j, out) in out.iter_mut().enumerate() {
                    *out = (first as i32).wrapping_add((step as i32).wrapping_mul(j as i32));
                }
            });
        }
        Code::Random { stream, kind, path, key } => {
            let word = |i: usize| match get(key[i]) {
                Value::Splat(bits) => bits as u32,
                // A key is made of scalars; `verify` has no rule for it, so an element stands for all.
                Value::Elements(_) => match operand::<u32>(get(key[i]), 1) {
                    Src::Slice(x) => x[0],
                    Src::Splat(x) => x,
                },
            };
            let (key, step) = ([word(0), word(1)], word(2));
            path.runs(start, out.len(), |run| {
                let out = &mut out[run.pos..run.pos + run.n];
                match (run.at, kind) {
                    (None, _) => out.fill(T::from_bits64(0)),
                    (Some((first, 1)), RandomKind::Bits) => {
                        random::words(first as u32, *stream, step, key, bytemuck::cast_slice_mut(out), |w| w);
                    }
                    (Some((first, 1)), RandomKind::Uniform) => {
                        random::words(
                            first as u32,
                            *stream,
                            step,
                            key,
                            bytemuck::cast_slice_mut(out),
                            philox::uniform,
                        );
                    }
                    (Some((first, stride)), kind) => {
                        for (j, out) in out.iter_mut().enumerate() {
                            let w = philox::word((first + j as i64 * stride) as u32, *stream, step, key);
                            *out = T::from_bits64(match kind {
                                RandomKind::Bits => w.into(),
                                RandomKind::Uniform => philox::uniform(w).to_bits().into(),
                            });
                        }
                    }
                }
            });
        }
        Code::Gather { table, ids, ids_dtype, rows, row_len, path } => {
            let table = args.read::<T>(*table);
            // Both id types have the same width; a negative id is an enormous unsigned one.
            let ids = args.read::<u32>(*ids);
            let row_of = |position: usize| {
                let id = ids.get(position).copied().unwrap_or(u32::MAX);
                let (row, ok) = clamp_id(id, *ids_dtype, *rows);
                if !ok {
                    args.status.store(true, Ordering::Relaxed);
                }
                row
            };
            path.runs(start, out.len(), |run| {
                let out = &mut out[run.pos..run.pos + run.n];
                match run.at {
                    None => out.fill(T::from_bits64(0)),
                    Some((first, 1)) => {
                        let (mut at, mut done) = (first as usize, 0);
                        while done < out.len() {
                            let (position, column) = (at / row_len, at % row_len);
                            let n = (row_len - column).min(out.len() - done);
                            let from = row_of(position) * row_len + column;
                            out[done..done + n].copy_from_slice(&table[from..from + n]);
                            done += n;
                            at += n;
                        }
                    }
                    Some((first, stride)) => {
                        for (j, out) in out.iter_mut().enumerate() {
                            let at = (first + j as i64 * stride) as usize;
                            *out = table[row_of(at / row_len) * row_len + at % row_len];
                        }
                    }
                }
            });
        }
        _ => {}
    }
}

/// The row that an id means, and whether it was within the table.
#[inline]
pub(crate) fn clamp_id(id: u32, dtype: DType, rows: usize) -> (usize, bool) {
    if (id as usize) < rows && (dtype == DType::U32 || id as i32 >= 0) {
        (id as usize, true)
    } else if dtype == DType::I32 && (id as i32) < 0 {
        (0, false)
    } else {
        (rows - 1, false)
    }
}
