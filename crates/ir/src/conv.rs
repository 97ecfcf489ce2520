//! What a convolution is told besides its operands.

use smallvec::SmallVec;

use crate::Shape;

/// A convolution along one spatial axis: output `p` sees through tap `j` the element `i` with
/// `i * spread = p * stride + j * dilation - before`, if there is one; else zero.
///
/// The axis of the operand, with `spread - 1` zeros between its elements, is surrounded by `before` and `after` zeros (cropped
/// where they are negative); a filter with `dilation - 1` holes between its taps moves over it by `stride`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConvAxis {
    /// Elements between neighbouring outputs, at least 1.
    pub stride: usize,
    /// Elements between neighbouring taps, at least 1.
    pub dilation: usize,
    /// Distance at which the operand's elements stand, at least 1: more than 1 in transposed convolutions.
    pub spread: usize,
    /// Zeros before the operand.
    pub before: i64,
    /// Zeros after it.
    pub after: i64,
}

impl Default for ConvAxis {
    fn default() -> Self {
        ConvAxis { stride: 1, dilation: 1, spread: 1, before: 0, after: 0 }
    }
}

impl ConvAxis {
    /// The operand's extent with the zeros between its elements, saturating.
    pub fn spread_len(&self, len: usize) -> i64 {
        if len == 0 { 0 } else { signed(len - 1).saturating_mul(signed(self.spread)).saturating_add(1) }
    }

    /// Outputs over `len` elements with a filter of `taps`; `None` where the filter does not fit.
    pub fn outputs(&self, len: usize, taps: usize) -> Option<usize> {
        let all = self.spread_len(len).checked_add(self.before)?.checked_add(self.after)?;
        let reach = signed(taps.saturating_sub(1)).checked_mul(signed(self.dilation))?;
        let room = all.checked_sub(reach)?.checked_sub(1)?;
        (room >= 0 && taps > 0).then(|| room as usize / self.stride + 1)
    }

    /// The element that output `p` sees through tap `j` of an operand of `len` elements.
    pub fn element(&self, p: usize, j: usize, len: usize) -> Option<usize> {
        let at = (p * self.stride + j * self.dilation) as i64 - self.before;
        let spread = self.spread as i64;
        (at >= 0 && at % spread == 0 && at / spread < len as i64).then(|| (at / spread) as usize)
    }
}

/// A count as a distance, the largest one where it is larger.
fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The convolution [`Op::Conv`](crate::Op::Conv) along all spatial axes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConvSpec {
    /// One for each spatial axis.
    pub axes: SmallVec<[ConvAxis; 3]>,
    /// Whether the result is `[groups, out, batch, ..]` instead of `[batch, groups, out, ..]`: so gradients of weights come as the
    /// weights lie.
    pub by_group: bool,
}

impl ConvSpec {
    /// The shape of the result for `x [n, g, c, sp..]` and `w [g, o, c, taps..]`.
    pub fn result(&self, x: &[usize], w: &[usize]) -> Option<Shape> {
        let rank = self.axes.len() + 3;
        if x.len() != rank || w.len() != rank || x[1] != w[0] || x[2] != w[2] {
            return None;
        }
        let head = if self.by_group { [w[0], w[1], x[0]] } else { [x[0], w[0], w[1]] };
        let spatial = self.axes.iter().zip(x[3..].iter().zip(&w[3..])).map(|(a, (&l, &k))| a.outputs(l, k));
        head.into_iter().map(Some).chain(spatial).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_counted_as_pytorch_counts_them() {
        let axis = ConvAxis { stride: 2, before: 1, after: 1, ..ConvAxis::default() };
        assert_eq!(axis.outputs(7, 3), Some(4));
        assert_eq!(axis.element(0, 0, 7), None);
        assert_eq!(axis.element(3, 1, 7), Some(6));
        assert_eq!(axis.outputs(0, 3), None);
        // A transposed convolution of stride 2 with kernel 3: (5 - 1) 2 + 3.
        let transposed = ConvAxis { spread: 2, before: 2, after: 2, ..ConvAxis::default() };
        assert_eq!(transposed.outputs(5, 3), Some(11));
        assert_eq!(transposed.element(1, 0, 5), None);
        assert_eq!(transposed.element(2, 2, 5), Some(1));
    }
}
