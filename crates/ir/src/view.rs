//! Index arithmetic: where in a buffer the elements of a kernel's iteration space lie.

use smallvec::SmallVec;

use crate::{Op, Shape};

/// A strided window onto row-major memory: index `i` lies at `offset + Σ strides[d] * i[d]`, if every `i[d]` is
/// within `mask[d]` (half-open), and nowhere (the fill value) otherwise.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// Extents of the index space.
    pub shape: Shape,
    /// Elements between neighbours along each axis; 0 repeats, negative reverses.
    pub strides: SmallVec<[i64; 6]>,
    /// Address of index zero (which need not be inside the mask).
    pub offset: i64,
    /// `[low, high)` per axis outside of which there is no element; `None` where all are inside.
    pub mask: Option<SmallVec<[(usize, usize); 6]>>,
}

impl View {
    /// The whole of a row-major buffer.
    pub fn contiguous(shape: Shape) -> Self {
        View { strides: shape.strides(), shape, offset: 0, mask: None }
    }

    /// Whether this is the whole buffer in order.
    pub fn is_contiguous(&self) -> bool {
        let expected = self.shape.strides();
        self.offset == 0
            && self.mask.is_none()
            && (0..self.shape.rank()).all(|d| self.shape[d] == 1 || self.strides[d] == expected[d])
    }

    /// The view after one more movement, or `None` where a reshape cannot be expressed by strides, or a pad
    /// cannot join the mask.
    pub fn apply(&self, op: &Op) -> Option<View> {
        match op {
            Op::Reshape(to) => self.reshape(to),
            Op::Permute(perm) => Some(View {
                shape: perm.iter().map(|&a| self.shape[a]).collect(),
                strides: perm.iter().map(|&a| self.strides[a]).collect(),
                offset: self.offset,
                mask: self.mask.as_ref().map(|m| perm.iter().map(|&a| m[a]).collect()),
            }),
            Op::Expand(to) => {
                let mut view = self.clone();
                for d in 0..to.rank() {
                    if self.shape[d] != to[d] {
                        view.strides[d] = 0;
                        if let Some(mask) = &mut view.mask {
                            // One element, inside or outside: so are all its copies.
                            mask[d] = if mask[d] == (0, 1) { (0, to[d]) } else { (0, 0) };
                        }
                    }
                }
                view.shape = to.clone();
                Some(view.without_full_mask())
            }
            Op::Slice { ranges } => {
                let mut view = self.clone();
                for (d, &(start, len, step)) in ranges.iter().enumerate() {
                    view.offset += start as i64 * self.strides[d];
                    view.strides[d] = self.strides[d] * step as i64;
                    if let Some(mask) = &mut view.mask {
                        let (lo, hi) = mask[d];
                        let ceil = |x: usize| x.saturating_sub(start).div_ceil(step).min(len);
                        mask[d] = (ceil(lo), ceil(hi));
                    }
                }
                view.shape = ranges.iter().map(|r| r.1).collect();
                Some(view.without_full_mask())
            }
            Op::Pad { widths, .. } => {
                let mut view = self.clone();
                let mut mask: SmallVec<[(usize, usize); 6]> = SmallVec::new();
                for (d, &(lo, hi)) in widths.iter().enumerate() {
                    let (from, to) = self.mask.as_ref().map_or((0, self.shape[d]), |m| m[d]);
                    mask.push((from + lo, to + lo));
                    view.offset -= lo as i64 * self.strides[d];
                    let _ = hi;
                }
                view.shape =
                    widths.iter().zip(self.shape.iter()).map(|(&(lo, hi), &d)| lo + d + hi).collect();
                view.mask = Some(mask);
                Some(view.without_full_mask())
            }
            Op::Flip(axes) => {
                let mut view = self.clone();
                for &d in axes {
                    let n = self.shape[d];
                    view.offset += self.strides[d] * (n as i64 - 1).max(0);
                    view.strides[d] = -self.strides[d];
                    if let Some(mask) = &mut view.mask {
                        mask[d] = (n - mask[d].1.min(n), n - mask[d].0.min(n));
                    }
                }
                Some(view)
            }
            // A mask along the axis would depend on the window and the place in it together.
            Op::Window { axis, size, step, dilation } => {
                let (axis, n) = (*axis, self.shape[*axis]);
                if self.mask.as_ref().is_some_and(|m| m[axis] != (0, n)) {
                    return None;
                }
                let mut view = self.clone();
                let windows = (n - (size - 1) * dilation - 1) / step + 1;
                view.shape = self
                    .shape
                    .iter()
                    .enumerate()
                    .map(|(d, &n)| if d == axis { windows } else { n })
                    .collect();
                view.shape.push(*size);
                view.strides.push(self.strides[axis] * *dilation as i64);
                view.strides[axis] *= *step as i64;
                if let Some(mask) = &mut view.mask {
                    mask[axis] = (0, windows);
                    mask.push((0, *size));
                }
                Some(view)
            }
            _ => None,
        }
    }

    /// The address of `index`, or `None` outside the mask.
    pub fn address(&self, index: &[usize]) -> Option<i64> {
        let inside =
            self.mask.as_ref().is_none_or(|m| m.iter().zip(index).all(|(&(lo, hi), &i)| lo <= i && i < hi));
        inside.then(|| self.offset + self.strides.iter().zip(index).map(|(&s, &i)| s * i as i64).sum::<i64>())
    }

    fn without_full_mask(mut self) -> Self {
        if self.mask.as_ref().is_some_and(|m| m.iter().zip(self.shape.iter()).all(|(&r, &d)| r == (0, d))) {
            self.mask = None;
        }
        self
    }

    /// Splits and merges axes where strides and masks allow it.
    fn reshape(&self, to: &Shape) -> Option<View> {
        if self.is_contiguous() {
            return Some(View::contiguous(to.clone()));
        }
        let fresh = |strides, mask| View { shape: to.clone(), strides, offset: self.offset, mask };
        if self.shape.elements() == 0 {
            return Some(View::contiguous(to.clone()));
        }
        let mut strides: SmallVec<[i64; 6]> = SmallVec::from_elem(0, to.rank());
        let mut mask: SmallVec<[(usize, usize); 6]> = to.iter().map(|&d| (0, d)).collect();
        let full = |d: usize| self.mask.as_ref().is_none_or(|m| m[d] == (0, self.shape[d]));
        let (mut i, mut j) = (0, 0);
        while i < self.shape.rank() || j < to.rank() {
            // The smallest run of old axes and of new axes with equally many elements.
            let (i0, j0) = (i, j);
            let (mut old, mut new) = (1usize, 1usize);
            if i < self.shape.rank() {
                old = self.shape[i];
                i += 1;
            }
            if j < to.rank() {
                new = to[j];
                j += 1;
            }
            while old != new {
                if old < new {
                    old *= *self.shape.get(i)?;
                    i += 1;
                } else {
                    new *= *to.get(j)?;
                    j += 1;
                }
            }
            let axes: SmallVec<[usize; 6]> = (i0..i).filter(|&d| self.shape[d] != 1).collect();
            let outside = (i0..i).any(|d| self.shape[d] == 1 && !full(d));
            let targets: SmallVec<[usize; 6]> = (j0..j).filter(|&d| to[d] != 1).collect();
            if outside {
                return None;
            }
            if axes.len() == 1 && targets.len() == 1 {
                strides[targets[0]] = self.strides[axes[0]];
                if let Some(m) = &self.mask {
                    mask[targets[0]] = m[axes[0]];
                }
                continue;
            }
            // Merge the old axes into one stride; only unmasked axes that continue each other merge.
            if axes.iter().any(|&d| !full(d)) {
                return None;
            }
            if axes.windows(2).any(|w| self.strides[w[0]] != self.strides[w[1]] * self.shape[w[1]] as i64) {
                return None;
            }
            let mut stride = axes.last().map_or(0, |&d| self.strides[d]);
            for &d in targets.iter().rev() {
                strides[d] = stride;
                stride *= to[d] as i64;
            }
        }
        let mask = self.mask.is_some().then_some(mask);
        Some(fresh(strides, mask).without_full_mask())
    }
}

/// Where a kernel finds an element: a chain of views, from the iteration space (last) to memory (first). Each view's
/// address is the row-major index into the shape of the one before it. One view is the common case; a reshape that
/// strides cannot express adds another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct IndexMap {
    views: SmallVec<[View; 1]>,
}

impl IndexMap {
    /// The whole of a row-major buffer.
    pub fn contiguous(shape: Shape) -> Self {
        View::contiguous(shape).into()
    }

    /// The map after one more movement; never fails for a movement that fits the shape.
    pub fn apply(&self, op: &Op) -> IndexMap {
        let mut views = self.views.clone();
        if let Some(view) = self.outer().apply(op) {
            if let Some(last) = views.last_mut() {
                *last = view;
            }
        } else if let Some(view) = View::contiguous(self.outer().shape.clone()).apply(op) {
            views.push(view);
        }
        IndexMap { views }
    }

    /// The views, nearest to memory first.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// The view over the iteration space.
    pub fn outer(&self) -> &View {
        &self.views[self.views.len() - 1]
    }

    /// The one view, if the chain has no more.
    pub fn single(&self) -> Option<&View> {
        (self.views.len() == 1).then(|| &self.views[0])
    }

    /// Whether this is the whole buffer in order.
    pub fn is_contiguous(&self) -> bool {
        self.single().is_some_and(View::is_contiguous)
    }

    /// Whether some index lies outside of a mask.
    pub fn is_masked(&self) -> bool {
        self.views.iter().any(|v| v.mask.is_some())
    }

    /// The address of `index`, or `None` where a mask excludes it. Slow; devices compile this, tests compare with it.
    pub fn address(&self, index: &[usize]) -> Option<i64> {
        let mut address = self.outer().address(index)?;
        for view in self.views.iter().rev().skip(1) {
            let mut rest = address as usize;
            let mut inner: SmallVec<[usize; 6]> = SmallVec::from_elem(0, view.shape.rank());
            for d in (0..view.shape.rank()).rev() {
                inner[d] = rest % view.shape[d];
                rest /= view.shape[d];
            }
            address = view.address(&inner)?;
        }
        Some(address)
    }
}

impl From<View> for IndexMap {
    fn from(view: View) -> Self {
        IndexMap { views: SmallVec::from_elem(view, 1) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{DType, reference::random_movement};

    /// Applies a movement to a plain list of elements, index by index: the definition that views must agree with.
    fn reference(data: &[Option<i64>], shape: &Shape, op: &Op) -> (Vec<Option<i64>>, Shape) {
        let (to, _) = op.infer(&[(shape, DType::F32)]).unwrap();
        let unravel = |mut flat: usize, s: &Shape| {
            let mut index = vec![0; s.rank()];
            for d in (0..s.rank()).rev() {
                index[d] = flat % s[d];
                flat /= s[d];
            }
            index
        };
        let at = |index: &[usize]| data[index.iter().zip(shape.iter()).fold(0, |n, (&i, &d)| n * d + i)];
        let out = (0..to.elements()).map(|flat| {
            let o = unravel(flat, &to);
            match op {
                Op::Reshape(_) => data[flat],
                Op::Permute(perm) => {
                    let mut i = vec![0; perm.len()];
                    perm.iter().zip(&o).for_each(|(&p, &x)| i[p] = x);
                    at(&i)
                }
                Op::Expand(_) => at(&o
                    .iter()
                    .zip(shape.iter())
                    .map(|(&x, &d)| if d == 1 { 0 } else { x })
                    .collect::<Vec<_>>()),
                Op::Slice { ranges } => {
                    at(&o.iter().zip(ranges).map(|(&x, r)| r.0 + x * r.2).collect::<Vec<_>>())
                }
                Op::Flip(axes) => at(&o
                    .iter()
                    .enumerate()
                    .map(|(d, &x)| if axes.contains(&d) { shape[d] - 1 - x } else { x })
                    .collect::<Vec<_>>()),
                Op::Window { axis, step, dilation, .. } => {
                    let mut i = o[..o.len() - 1].to_vec();
                    i[*axis] = i[*axis] * step + o[o.len() - 1] * dilation;
                    at(&i)
                }
                Op::Pad { widths, .. } => {
                    let i: Option<Vec<usize>> = o
                        .iter()
                        .zip(widths)
                        .zip(shape.iter())
                        .map(|((&x, &(lo, _)), &d)| x.checked_sub(lo).filter(|&i| i < d))
                        .collect();
                    i.and_then(|i| at(&i))
                }
                _ => unreachable!("not a movement"),
            }
        });
        (out.collect(), to)
    }

    proptest! {
        #[test]
        fn index_maps_find_what_movements_move(
            dims in prop::collection::vec(1usize..4, 1..4),
            steps in prop::collection::vec((any::<u8>(), [0usize..7, 0usize..7, 0usize..7]), 1..6),
        ) {
            let mut shape = Shape::from(dims);
            let mut data: Vec<Option<i64>> = (0..shape.elements() as i64).map(Some).collect();
            let mut map = IndexMap::contiguous(shape.clone());
            for (kind, r) in steps {
                if shape.rank() > 5 || shape.elements() > 400 {
                    break;
                }
                let op = random_movement(&shape, kind, r);
                (data, shape) = reference(&data, &shape, &op);
                map = map.apply(&op);
                prop_assert_eq!(&map.outer().shape, &shape);
                for (flat, want) in data.iter().enumerate() {
                    let mut rest = flat;
                    let mut index = vec![0; shape.rank()];
                    for d in (0..shape.rank()).rev() {
                        index[d] = rest % shape[d];
                        rest /= shape[d];
                    }
                    prop_assert_eq!(map.address(&index), *want, "{} after {:?}", map, op);
                }
            }
        }
    }
}
