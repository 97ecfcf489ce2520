//! Small changes to training images that leave their class as it is.

use crate::philox::{below, philox4x32};

/// Last word of the counter, the letters `AUGM`: keeps these draws apart from others with the same seed.
const DOMAIN: u32 = 0x4155_474D;

/// How images are changed at random each time that they are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// The image is padded by so many black pixels on each side, and a part of its own size is cut out somewhere.
    pub random_crop: usize,
    /// Every second image is turned left to right.
    pub horizontal_flip: bool,
}

impl Augmentation {
    /// Appends the image `[channels, height, width]` to `out`, changed by the numbers of a seed and a position in the sequence of all draws.
    pub fn apply(&self, image: &[u8], shape: [usize; 3], seed: u64, position: u64, out: &mut Vec<u8>) {
        if *self == Augmentation::default() {
            return out.extend_from_slice(image);
        }
        let [_, height, width] = shape;
        let key = [seed as u32, (seed >> 32) as u32];
        let [down, right, flip, _] = philox4x32([position as u32, (position >> 32) as u32, 0, DOMAIN], key);
        // How far the part that is cut out lies from the image's own place, `-crop..=crop`.
        let crop = self.random_crop.min(height.max(width)) as i64;
        let shift = |word: u32| below(u64::from(word) << 32, 2 * crop as u64 + 1) as i64 - crop;
        let (down, right) = (shift(down), shift(right));
        let flip = self.horizontal_flip && flip & 1 == 1;
        for plane in image.chunks((height * width).max(1)) {
            for y in 0..height as i64 {
                let inside = usize::try_from(y + down).ok().filter(|&row| row < height);
                let row = inside.map_or(&[][..], |row| &plane[row * width..(row + 1) * width]);
                let at =
                    |x: i64| usize::try_from(x + right).ok().and_then(|x| row.get(x)).copied().unwrap_or(0);
                let columns = 0..width as i64;
                if flip { out.extend(columns.rev().map(at)) } else { out.extend(columns.map(at)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 3] = [2, 3, 4];

    fn image() -> Vec<u8> {
        (1..=24).collect()
    }

    fn applied(augmentation: Augmentation, position: u64) -> Vec<u8> {
        let mut out = Vec::new();
        augmentation.apply(&image(), SHAPE, 5, position, &mut out);
        out
    }

    #[test]
    fn nothing_changes_where_nothing_is_asked_for() {
        assert_eq!(applied(Augmentation::default(), 3), image());
    }

    #[test]
    fn a_flip_turns_rows_around_half_of_the_time() {
        let flip = Augmentation { horizontal_flip: true, ..Augmentation::default() };
        let turned: Vec<u8> = image().chunks(4).flat_map(|row| row.iter().rev().copied()).collect();
        let flipped = (0..1000).filter(|&position| applied(flip, position) == turned).count();
        let kept = (0..1000).filter(|&position| applied(flip, position) == image()).count();
        assert!(flipped + kept == 1000 && (430..570).contains(&flipped), "{flipped}");
    }

    #[test]
    fn a_crop_moves_the_image_by_no_more_than_its_padding_and_fills_with_black() {
        let crop = Augmentation { random_crop: 1, ..Augmentation::default() };
        let mut seen = std::collections::BTreeSet::new();
        for position in 0..300 {
            let out = applied(crop, position);
            assert_eq!(out, applied(crop, position));
            // The pixel in the middle of the first channel, 6 or a neighbour of it.
            seen.insert(out[5]);
            assert_eq!(out.len(), 24);
            let moved_down = out[..4] == [0; 4];
            assert!(!moved_down || out[4..8].iter().all(|&p| p == 0 || p <= 4), "{out:?}");
        }
        assert_eq!(seen, [1, 2, 3, 5, 6, 7, 9, 10, 11].into());
    }
}
