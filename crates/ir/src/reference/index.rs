//! Row-major positions and the indices they stand for.

use crate::Shape;

/// The index of the `flat`-th element of a shape, row-major.
pub fn unravel(mut flat: usize, shape: &Shape) -> Vec<usize> {
    let mut index = vec![0; shape.rank()];
    for axis in (0..shape.rank()).rev() {
        index[axis] = flat % shape[axis];
        flat /= shape[axis];
    }
    index
}

/// The row-major position of an index: the inverse of [`unravel`].
pub fn ravel(index: &[usize], shape: &Shape) -> usize {
    shape.iter().zip(index).fold(0, |flat, (&extent, &i)| flat * extent + i)
}

/// Every index of a shape, row-major. A scalar has one, the empty index.
pub fn indices(shape: &Shape) -> Vec<Vec<usize>> {
    (0..shape.elements()).map(|flat| unravel(flat, shape)).collect()
}

/// The row of a table of `rows` rows that an id selects; an id out of range is clamped.
pub fn row(id: f64, rows: usize) -> usize {
    // The conversion saturates: a negative id becomes 0.
    (id as usize).min(rows.saturating_sub(1))
}

/// The positions that put elements in order, equal ones in theirs; NaN counts as largest.
pub fn order(elements: &[f64], descending: bool) -> impl Iterator<Item = f64> + use<> {
    let mut positions: Vec<usize> = (0..elements.len()).collect();
    // Adding 0 makes both zeros one; a NaN of either sign comes last.
    let key = |i: usize| if elements[i].is_nan() { f64::NAN } else { elements[i] + 0.0 };
    positions.sort_by(|&a, &b| {
        let ascending = key(a).total_cmp(&key(b));
        if descending { ascending.reverse() } else { ascending }
    });
    positions.into_iter().map(|i| i as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_elements_keep_their_order() {
        let x = [2.0, -0.0, f64::NAN, 0.0, -1.0, 2.0];
        assert_eq!(order(&x, false).collect::<Vec<_>>(), [4.0, 1.0, 3.0, 0.0, 5.0, 2.0]);
        assert_eq!(order(&x, true).collect::<Vec<_>>(), [2.0, 0.0, 5.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn indices_count_like_an_odometer() {
        assert_eq!(indices(&[2, 2].into()), [[0, 0], [0, 1], [1, 0], [1, 1]]);
        assert_eq!(indices(&Shape::scalar()), [[0; 0]]);
        assert!(indices(&[3, 0].into()).is_empty());
        let shape = Shape::from([3, 4, 5]);
        assert_eq!(ravel(&[2, 1, 3], &shape), 48);
        assert_eq!(unravel(48, &shape), [2, 1, 3]);
    }

    #[test]
    fn ids_out_of_range_select_the_nearest_row() {
        assert_eq!([-1.0, 0.0, 9.0, 10.0, 4e9].map(|id| row(id, 10)), [0, 0, 9, 9, 9]);
    }
}
