//! Index arithmetic, compiled: from a range of linear indices to runs of addresses.

use smallvec::{SmallVec, smallvec};
use wgrad_ir::{IndexMap, View};

/// Consecutive indices whose addresses are evenly spaced: `n` of them from `pos` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// First index, counted from the start of the range.
    pub(crate) pos: usize,
    /// Number of indices.
    pub(crate) n: usize,
    /// Address of the first and the step to the next; `None` where a mask excludes them.
    pub(crate) at: Option<(i64, i64)>,
}

/// A view whose axes are merged as far as its strides allow.
#[derive(Clone, PartialEq, Debug)]
struct Walk {
    dims: SmallVec<[usize; 6]>,
    strides: SmallVec<[i64; 6]>,
    offset: i64,
    mask: Option<SmallVec<[(usize, usize); 6]>>,
}

impl Walk {
    fn new(view: &View) -> Walk {
        let mut dims: SmallVec<[usize; 6]> = smallvec![];
        let mut strides: SmallVec<[i64; 6]> = smallvec![];
        let mut mask: SmallVec<[(usize, usize); 6]> = smallvec![];
        for d in 0..view.shape.rank() {
            let (n, stride) = (view.shape[d], view.strides[d]);
            let range = view.mask.as_ref().map_or((0, n), |m| m[d]);
            if n == 1 && range == (0, 1) {
                continue;
            }
            if let (Some(dim), Some(outer), Some(seen)) =
                (dims.last_mut(), strides.last_mut(), mask.last_mut())
                && *outer == stride * n as i64
                && range == (0, n)
            {
                *dim *= n;
                *outer = stride;
                *seen = (seen.0 * n, seen.1 * n);
                continue;
            }
            dims.push(n);
            strides.push(stride);
            mask.push(range);
        }
        if dims.is_empty() {
            (dims, strides, mask) = (smallvec![1], smallvec![0], smallvec![(0, 1)]);
        }
        let masked = mask.iter().zip(&dims).any(|(&r, &d)| r != (0, d));
        Walk { dims, strides, offset: view.offset, mask: masked.then_some(mask) }
    }

    /// Calls `f` with the runs of `[start, start + len)`, in order.
    #[inline]
    fn runs(&self, start: usize, len: usize, mut f: impl FnMut(Run)) {
        let last = self.dims.len() - 1;
        let (inner, stride) = (self.dims[last], self.strides[last]);
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, last);
        let (mut i, mut rest) = (start, 0);
        if last > 0 {
            (i, rest) = (start % inner, start / inner);
        }
        let mut base = self.offset;
        for d in (0..last).rev() {
            index[d] = rest % self.dims[d];
            rest /= self.dims[d];
            base += index[d] as i64 * self.strides[d];
        }
        let mut pos = 0;
        while pos < len {
            let n = (inner - i).min(len - pos);
            let first = base + i as i64 * stride;
            match &self.mask {
                None => f(Run { pos, n, at: Some((first, stride)) }),
                Some(mask) => {
                    let inside = (0..last).all(|d| (mask[d].0..mask[d].1).contains(&index[d]));
                    let (low, high) = if inside { mask[last] } else { (0, 0) };
                    let low = low.clamp(i, i + n);
                    let high = high.clamp(low, i + n);
                    if low > i {
                        f(Run { pos, n: low - i, at: None });
                    }
                    if high > low {
                        let first = first + (low - i) as i64 * stride;
                        f(Run { pos: pos + low - i, n: high - low, at: Some((first, stride)) });
                    }
                    if i + n > high {
                        f(Run { pos: pos + high - i, n: i + n - high, at: None });
                    }
                }
            }
            pos += n;
            i = 0;
            for d in (0..last).rev() {
                index[d] += 1;
                base += self.strides[d];
                if index[d] < self.dims[d] {
                    break;
                }
                base -= self.strides[d] * self.dims[d] as i64;
                index[d] = 0;
            }
        }
    }
}

/// An [`IndexMap`], compiled.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Path {
    /// From the iteration space to memory.
    walks: SmallVec<[Walk; 1]>,
}

impl Path {
    pub(crate) fn new(map: &IndexMap) -> Path {
        Path { walks: map.views().iter().rev().map(Walk::new).collect() }
    }

    pub(crate) fn of_view(view: &View) -> Path {
        Path { walks: smallvec![Walk::new(view)] }
    }

    /// The path over the leading axes of the space, at index zero of the others.
    pub(crate) fn leading(map: &IndexMap, rank: usize) -> Path {
        let mut path = Path::new(map);
        let view = map.outer();
        path.walks[0] = Walk::new(&View {
            shape: view.shape.iter().take(rank).copied().collect(),
            strides: view.strides[..rank].into(),
            offset: view.offset,
            mask: view.mask.as_ref().map(|m| m[..rank].into()),
        });
        path
    }

    /// The path over the space with its axes in another order: first those from `split` on, then those before.
    pub(crate) fn rotated(map: &IndexMap, split: usize) -> Path {
        let mut path = Path::new(map);
        let view = map.outer();
        let order = (split..view.shape.rank()).chain(0..split);
        path.walks[0] = Walk::new(&View {
            shape: order.clone().map(|d| view.shape[d]).collect(),
            strides: order.clone().map(|d| view.strides[d]).collect(),
            offset: view.offset,
            mask: view.mask.as_ref().map(|m| order.map(|d| m[d]).collect()),
        });
        path
    }

    /// The one address that every index has, if there is only one.
    pub(crate) fn splat(&self) -> Option<i64> {
        let walk = &self.walks[0];
        (self.walks.len() == 1 && walk.mask.is_none() && walk.strides.iter().all(|&s| s == 0))
            .then_some(walk.offset)
    }

    /// Where index zero lies, if index `i` lies `i` elements after it.
    pub(crate) fn contiguous(&self) -> Option<i64> {
        let walk = &self.walks[0];
        (self.walks.len() == 1
            && walk.mask.is_none()
            && walk.dims.len() == 1
            && (walk.strides[0] == 1 || walk.dims[0] == 1))
            .then_some(walk.offset)
    }

    /// Extent of the innermost merged axis and its stride.
    pub(crate) fn inner(&self) -> (usize, i64) {
        let walk = &self.walks[0];
        let last = walk.dims.len() - 1;
        (walk.dims[last], walk.strides[last])
    }

    /// Whether neighbours along the innermost axis lie apart, and those along the one before it together.
    pub(crate) fn is_transposed(&self) -> bool {
        let (walk, (n, stride)) = (&self.walks[0], self.inner());
        !self.is_chain() && n > 1 && !matches!(stride, 0 | 1) && walk.strides.iter().rev().nth(1) == Some(&1)
    }

    /// After how many elements the same neighbours come again, over and over.
    pub(crate) fn repeats(&self) -> Option<usize> {
        let walk = &self.walks[0];
        (self.walks.len() == 1 && walk.mask.is_none() && walk.strides.as_slice() == [0, 1])
            .then(|| walk.dims[1])
    }

    /// Whether addresses go through more than one view.
    pub(crate) fn is_chain(&self) -> bool {
        self.walks.len() > 1
    }

    /// The address and step of `[start, start + len)`, if it is one run inside of the mask.
    #[inline]
    pub(crate) fn single_run(&self, start: usize, len: usize) -> Option<(i64, i64)> {
        let walk = &self.walks[0];
        let last = walk.dims.len() - 1;
        if self.walks.len() > 1 || walk.mask.is_some() {
            return None;
        }
        if last == 0 {
            return Some((walk.offset + start as i64 * walk.strides[0], walk.strides[0]));
        }
        let (i, mut rest) = (start % walk.dims[last], start / walk.dims[last]);
        if i + len > walk.dims[last] {
            return None;
        }
        let mut base = walk.offset + i as i64 * walk.strides[last];
        for d in (0..last).rev() {
            base += (rest % walk.dims[d]) as i64 * walk.strides[d];
            rest /= walk.dims[d];
        }
        Some((base, walk.strides[last]))
    }

    /// Calls `f` with the runs of the range `[start, start + len)` of linear indices, in order.
    #[inline]
    pub(crate) fn runs(&self, start: usize, len: usize, mut f: impl FnMut(Run)) {
        if self.walks.len() == 1 {
            self.walks[0].runs(start, len, f);
        } else {
            chain(&self.walks, start, len, 0, &mut f);
        }
    }
}

/// The runs of a chain of views: a run with step one through one view is a range of linear indices of the next.
fn chain(walks: &[Walk], start: usize, len: usize, shift: usize, f: &mut dyn FnMut(Run)) {
    let (walk, rest) = (&walks[0], &walks[1..]);
    walk.runs(start, len, |run| {
        let pos = run.pos + shift;
        match run.at {
            Some((first, 1)) if !rest.is_empty() => chain(rest, first as usize, run.n, pos, f),
            Some((first, 0)) if !rest.is_empty() => {
                let mut at = None;
                chain(rest, first as usize, 1, 0, &mut |one| at = one.at);
                f(Run { pos, n: run.n, at: at.map(|(address, _)| (address, 0)) });
            }
            Some((first, stride)) if !rest.is_empty() => {
                for j in 0..run.n {
                    chain(rest, (first + j as i64 * stride) as usize, 1, pos + j, f);
                }
            }
            at => f(Run { pos, n: run.n, at }),
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wgrad_ir::{Shape, reference::random_movement};

    use super::*;

    proptest! {
        #[test]
        fn runs_visit_the_addresses_of_the_index_map(
            dims in prop::collection::vec(1usize..5, 1..4),
            steps in prop::collection::vec((any::<u8>(), [0usize..7, 0usize..7, 0usize..7]), 0..6),
            cut in (0usize..400, 0usize..400),
        ) {
            let mut map = IndexMap::contiguous(Shape::from(dims));
            for (kind, r) in steps {
                if map.outer().shape.elements() <= 400 && map.outer().shape.rank() <= 5 {
                    map = map.apply(&random_movement(&map.outer().shape, kind, r));
                }
            }
            let shape = map.outer().shape.clone();
            let total = shape.elements();
            let start = cut.0 % total;
            let len = 1 + cut.1 % (total - start);
            let unravel = |mut flat: usize| {
                let mut index = vec![0; shape.rank()];
                for d in (0..shape.rank()).rev() {
                    index[d] = flat % shape[d];
                    flat /= shape[d];
                }
                index
            };
            let want: Vec<_> = (start..start + len).map(|i| map.address(&unravel(i))).collect();
            let path = Path::new(&map);
            let mut got = Vec::new();
            path.runs(start, len, |run| {
                assert_eq!(run.pos, got.len());
                got.extend((0..run.n).map(|j| run.at.map(|(first, step)| first + j as i64 * step)));
            });
            prop_assert_eq!(&got, &want);
            if let Some((first, step)) = path.single_run(start, len) {
                let run: Vec<_> = (0..len).map(|j| Some(first + j as i64 * step)).collect();
                prop_assert_eq!(&run, &want);
            }
        }
    }
}
