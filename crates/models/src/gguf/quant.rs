//! The kinds of tensors in GGUF files, and their values: blocks of small integers with common scales (ggml's `ggml-quants.c`).

use half::{bf16, f16};

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GgmlType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    BF16,
    /// 32 numbers of 4 bits: `d (q - 8)`.
    Q4_0,
    /// 32 numbers of 4 bits: `d q + m`.
    Q4_1,
    /// 32 numbers of 8 bits: `d q`.
    Q8_0,
    /// 8 groups of 32 numbers of 4 bits: `d s q - m t` with `s` and `t` of 6 bits.
    Q4K,
    /// 16 groups of 16 numbers of 6 bits: `d s (q - 32)` with `s` of 8 bits.
    Q6K,
}

/// Number in files, name, elements of a block, bytes of a block.
const KINDS: [(GgmlType, u32, &str, usize, usize); 8] = [
    (GgmlType::F32, 0, "F32", 1, 4),
    (GgmlType::F16, 1, "F16", 1, 2),
    (GgmlType::BF16, 30, "BF16", 1, 2),
    (GgmlType::Q4_0, 2, "Q4_0", 32, 18),
    (GgmlType::Q4_1, 3, "Q4_1", 32, 20),
    (GgmlType::Q8_0, 8, "Q8_0", 32, 34),
    (GgmlType::Q4K, 12, "Q4_K", 256, 144),
    (GgmlType::Q6K, 14, "Q6_K", 256, 210),
];

impl GgmlType {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        KINDS.iter().find(|kind| kind.1 == number).map(|kind| kind.0)
    }

    pub(super) fn names() -> String {
        KINDS.map(|kind| kind.2).join(", ")
    }

    /// Elements and bytes of a block.
    fn block(self) -> (usize, usize) {
        KINDS.iter().find(|kind| kind.0 == self).map_or((1, 4), |kind| (kind.3, kind.4))
    }

    /// The bytes of a tensor of this shape, whose rows are whole blocks.
    pub(super) fn bytes(self, shape: &[usize]) -> Result<usize, String> {
        let (elements, bytes) = self.block();
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(elements) {
            return Err(format!("rows of {row} are no whole blocks of {elements}"));
        }
        let all = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
        all.and_then(|all| (all / elements).checked_mul(bytes)).ok_or_else(|| "it is too large".to_owned())
    }

    /// The values of whole blocks; bytes beyond them are left out.
    pub fn dequantise(self, bytes: &[u8]) -> Vec<f32> {
        let (elements, size) = self.block();
        let mut values = Vec::with_capacity(bytes.len() / size * elements);
        for block in bytes.chunks_exact(size) {
            match self {
                GgmlType::F32 => values.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                GgmlType::F16 => values.push(half(block, 0)),
                GgmlType::BF16 => values.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                GgmlType::Q4_0 => {
                    let d = half(block, 0);
                    values.extend(nibbles(&block[2..]).map(|q| (f32::from(q) - 8.0) * d));
                }
                GgmlType::Q4_1 => {
                    let (d, m) = (half(block, 0), half(block, 2));
                    values.extend(nibbles(&block[4..]).map(|q| f32::from(q) * d + m));
                }
                GgmlType::Q8_0 => {
                    let d = half(block, 0);
                    values.extend(block[2..].iter().map(|&q| f32::from(q as i8) * d));
                }
                GgmlType::Q4K => q4_k(block, &mut values),
                GgmlType::Q6K => q6_k(block, &mut values),
            }
        }
        values
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The lower halves of all bytes, then the upper ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|b| b & 15).chain(bytes.iter().map(|b| b >> 4))
}

fn q4_k(block: &[u8], values: &mut Vec<f32>) {
    let (d, m) = (half(block, 0), half(block, 2));
    let (scales, numbers) = (&block[4..16], &block[16..144]);
    for group in 0..8 {
        // 6 bits each: four bytes of scales, four of minima, four with the lower bits of the rest, whose upper bits are in the first eight.
        let (s, t) = if group < 4 {
            (scales[group] & 63, scales[group + 4] & 63)
        } else {
            let low = scales[group + 4];
            ((low & 15) | (scales[group - 4] >> 6) << 4, (low >> 4) | (scales[group] >> 6) << 4)
        };
        let (scale, minimum) = (d * f32::from(s), m * f32::from(t));
        let bytes = &numbers[group / 2 * 32..group / 2 * 32 + 32];
        let shift = 4 * (group % 2);
        values.extend(bytes.iter().map(|b| scale * f32::from((b >> shift) & 15) - minimum));
    }
}

fn q6_k(block: &[u8], values: &mut Vec<f32>) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for part in 0..2 {
        for quarter in 0..4 {
            for i in 0..32 {
                let bits = low[part * 64 + (quarter % 2) * 32 + i] >> (4 * (quarter / 2)) & 15;
                let upper = high[part * 32 + i] >> (2 * quarter) & 3;
                let scale = scales[part * 8 + quarter * 2 + i / 16] as i8;
                values.push(d * f32::from(scale) * (f32::from(bits | upper << 4) - 32.0));
            }
        }
    }
}
