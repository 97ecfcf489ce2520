//! Four by four elements, transposed in registers.

/// Rows and columns of a square.
pub(crate) const SQUARE: usize = 4;

/// Transposes: `[i][j]` becomes `[j][i]`.
#[inline(always)]
pub(crate) fn transposed(x: [[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
    // The compiler does not find these shuffles by itself. Every x86-64 processor has them.
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128, _mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
        let [a, b, c, d] = x.map(bytemuck::cast::<[f32; SQUARE], __m128>);
        // SAFETY: SSE is part of x86-64.
        unsafe {
            let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
            let (ef, gh) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
            [_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab), _mm_movelh_ps(ef, gh), _mm_movehl_ps(gh, ef)]
                .map(bytemuck::cast)
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|j| std::array::from_fn(|i| x[i][j]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_square_has_its_columns_as_rows() {
        let x = std::array::from_fn(|i| std::array::from_fn(|j| (i * SQUARE + j) as f32));
        let want = std::array::from_fn(|j| std::array::from_fn(|i| (i * SQUARE + j) as f32));
        assert_eq!(transposed(x), want);
    }
}
