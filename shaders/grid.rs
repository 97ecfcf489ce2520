//! Grids: how many workgroups, folded into three dimensions.

use crate::KernelError;

/// A grid of at least `needed` workgroups, and the WGSL expression of a workgroup's number in it (`u32`, from the builtin `group`).
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub(crate) workgroups: [u32; 3],
    pub(crate) number: String,
}

impl Grid {
    /// Folds `needed` workgroups into dimensions of at most `limit`.
    pub(crate) fn fold(needed: usize, limit: u32) -> Result<Grid, KernelError> {
        let (needed, limit) = (needed as u64, u64::from(limit.max(1)));
        let too_large = || KernelError::GridTooLarge { needed, limit: limit as u32 };
        if needed <= limit {
            return Ok(Grid { workgroups: [needed as u32, 1, 1], number: "group.x".into() });
        }
        let x = limit;
        let y = needed.div_ceil(x).min(limit);
        let z = needed.div_ceil(x * y);
        // Numbers of the surplus workgroups, too, must not wrap around.
        if z > limit || x * y * z > u64::from(u32::MAX) {
            return Err(too_large());
        }
        let mut number = format!("(group.x + group.y * {x}u");
        if z > 1 {
            number += &format!(" + group.z * {}u", x * y);
        }
        number.push(')');
        Ok(Grid { workgroups: [x as u32, y as u32, z as u32], number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_fold_past_the_limit_of_a_dimension() {
        assert_eq!(Grid::fold(65_535, 65_535).unwrap().workgroups, [65_535, 1, 1]);
        assert_eq!(Grid::fold(65_536, 65_535).unwrap().workgroups, [65_535, 2, 1]);
        let deep = Grid::fold(1_000, 10).unwrap();
        assert_eq!(deep.workgroups, [10, 10, 10]);
        assert_eq!(deep.number, "(group.x + group.y * 10u + group.z * 100u)");
        assert!(Grid::fold(1_001, 10).is_err());
    }
}
