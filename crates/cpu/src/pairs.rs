//! Two operations of arithmetic in one loop: what the first one computes never leaves the registers.

use std::collections::HashMap;

use pulp::{Arch, Simd, WithSimd};
use wgrad_ir::{BinaryOp, DType, Expr, ExprNode, UnaryOp};

use crate::lanes::Src;

/// `second(first(a, b), c)`, or `second(c, first(a, b))` if `swapped`. Each is rounded as it would be alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pair {
    pub(crate) first: BinaryOp,
    pub(crate) second: BinaryOp,
    pub(crate) swapped: bool,
}

/// An operation that pairs may have, with its operands; -x is x times -1, which `None` stands for.
pub(crate) fn arithmetic(node: &ExprNode) -> Option<(BinaryOp, usize, Option<usize>)> {
    match node.expr {
        Expr::Binary(op @ (BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul), a, b)
            if node.dtype == DType::F32 =>
        {
            Some((op, a.index(), Some(b.index())))
        }
        Expr::Unary(UnaryOp::Neg, a) if node.dtype == DType::F32 => Some((BinaryOp::Mul, a.index(), None)),
        _ => None,
    }
}

/// Which expressions are the first operation of which second one: those that nothing else uses. `wanted` are used by the kernel;
/// `alike` says whether two expressions vary over the same elements.
pub(crate) fn find(
    exprs: &[ExprNode],
    wanted: &[usize],
    alike: impl Fn(usize, usize) -> bool,
) -> HashMap<usize, usize> {
    let mut uses = vec![0; exprs.len()];
    wanted.iter().for_each(|&w| uses[w] += 2);
    for node in exprs {
        node.expr.operands().for_each(|o| uses[o.index()] += 1);
    }
    let mut pairs = HashMap::new();
    let mut seconds = vec![false; exprs.len()];
    for (e, node) in exprs.iter().enumerate() {
        let Some((_, a, b)) = arithmetic(node) else { continue };
        let first = [Some(a), b]
            .into_iter()
            .flatten()
            .find(|&o| uses[o] == 1 && !seconds[o] && alike(o, e) && arithmetic(&exprs[o]).is_some());
        if let Some(first) = first {
            pairs.insert(first, e);
            seconds[e] = true;
        }
    }
    pairs
}

/// An operand that has a value for every element.
trait Operand: Copy {
    fn at(self, i: usize) -> f32;
    /// The elements `[0, n)`.
    fn cut(self, n: usize) -> Self;
}

impl Operand for f32 {
    #[inline(always)]
    fn at(self, _: usize) -> f32 {
        self
    }
    #[inline(always)]
    fn cut(self, _: usize) -> f32 {
        self
    }
}

impl Operand for &[f32] {
    #[inline(always)]
    fn at(self, i: usize) -> f32 {
        self[i]
    }
    #[inline(always)]
    fn cut(self, n: usize) -> Self {
        &self[..n]
    }
}

struct Loop<'a, A, B, C, F> {
    a: A,
    b: B,
    c: C,
    out: &'a mut [f32],
    f: F,
}

impl<A: Operand, B: Operand, C: Operand, F: Fn(f32, f32, f32) -> f32> WithSimd for Loop<'_, A, B, C, F> {
    type Output = ();
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "operands may be numbers, which have no iterators")]
    fn with_simd<S: Simd>(self, _: S) {
        let Loop { a, b, c, out, f } = self;
        // So that the loop needs no checks.
        let (a, b, c) = (a.cut(out.len()), b.cut(out.len()), c.cut(out.len()));
        for i in 0..out.len() {
            out[i] = f(a.at(i), b.at(i), c.at(i));
        }
    }
}

/// `out[i] = f(a[i], b[i], c[i])`
fn zip3(
    a: Src<'_, f32>,
    b: Src<'_, f32>,
    c: Src<'_, f32>,
    out: &mut [f32],
    f: impl Fn(f32, f32, f32) -> f32,
) {
    let arch = Arch::new();
    match (a, b, c) {
        (Src::Slice(a), Src::Slice(b), Src::Slice(c)) => arch.dispatch(Loop { a, b, c, out, f }),
        (Src::Slice(a), Src::Slice(b), Src::Splat(c)) => arch.dispatch(Loop { a, b, c, out, f }),
        (Src::Slice(a), Src::Splat(b), Src::Slice(c)) => arch.dispatch(Loop { a, b, c, out, f }),
        (Src::Slice(a), Src::Splat(b), Src::Splat(c)) => arch.dispatch(Loop { a, b, c, out, f }),
        (Src::Splat(a), Src::Slice(b), Src::Slice(c)) => arch.dispatch(Loop { a, b, c, out, f }),
        (Src::Splat(a), Src::Slice(b), Src::Splat(c)) => arch.dispatch(Loop { a, b, c, out, f }),
        (Src::Splat(a), Src::Splat(b), Src::Slice(c)) => arch.dispatch(Loop { a, b, c, out, f }),
        (Src::Splat(a), Src::Splat(b), Src::Splat(c)) => out.fill(f(a, b, c)),
    }
}

/// Computes a pair.
pub(crate) fn pair(pair: Pair, a: Src<'_, f32>, b: Src<'_, f32>, c: Src<'_, f32>, out: &mut [f32]) {
    use BinaryOp::{Add, Mul, Sub};
    macro_rules! with {
        ($first:tt) => {
            match (pair.second, pair.swapped) {
                (Add, _) => zip3(a, b, c, out, #[inline(always)] |a, b, c| (a $first b) + c),
                (Mul, _) => zip3(a, b, c, out, #[inline(always)] |a, b, c| (a $first b) * c),
                (_, false) => zip3(a, b, c, out, #[inline(always)] |a, b, c| (a $first b) - c),
                (_, true) => zip3(a, b, c, out, #[inline(always)] |a, b, c| c - (a $first b)),
            }
        };
    }
    match pair.first {
        Add => with!(+),
        Sub => with!(-),
        // `arithmetic` lets nothing else through.
        _ => with!(*),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Element;

    #[test]
    fn a_pair_computes_what_its_operations_do_one_after_the_other() {
        let slices: [Vec<f32>; 3] =
            [3, 5, 7].map(|p| (0..77).map(|i| (i * p % 19) as f32 * 0.1 - 0.7).collect());
        let ops = [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul];
        for (first, second, swapped) in
            ops.iter().flat_map(|&f| ops.map(|s| [(f, s, false), (f, s, true)])).flatten()
        {
            for kinds in 0..8 {
                let operand = |i: usize| {
                    if kinds >> i & 1 == 0 { Src::Slice(&slices[i][..]) } else { Src::Splat(slices[i][i]) }
                };
                let (mut inner, mut want, mut got) = ([0.0; 77], [0.0; 77], [0.0; 77]);
                f32::binary(first, operand(0), operand(1), &mut inner);
                let inner = Src::Slice(&inner[..]);
                let (left, right) = if swapped { (operand(2), inner) } else { (inner, operand(2)) };
                f32::binary(second, left, right, &mut want);
                pair(Pair { first, second, swapped }, operand(0), operand(1), operand(2), &mut got);
                assert_eq!(got, want, "{first:?} {second:?} {swapped} {kinds}");
            }
        }
    }
}
