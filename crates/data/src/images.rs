//! Images with class numbers.

use std::path::{Path, PathBuf};

use crate::{DataError, Idx, Result};

/// Images of one size, and the class of each.
#[derive(Clone, PartialEq, Eq)]
pub struct LabelledImages {
    /// `[n, channels, height, width]`, row-major.
    pub pixels: Vec<u8>,
    /// `[n]`
    pub labels: Vec<u8>,
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
}

impl LabelledImages {
    /// The images of the split `train` or `t10k` (as MNIST calls its test images) in a folder: `train-images-idx3-ubyte` and
    /// `train-labels-idx1-ubyte`, gzipped (with `.gz` behind the name) or not.
    ///
    /// # Errors
    /// [`DataError::NoImages`] where a file is not there; otherwise as [`LabelledImages::read`].
    pub fn of_split(folder: &Path, split: &str) -> Result<Self> {
        let file = |what: &str| {
            let name = format!("{split}-{what}-ubyte");
            let found =
                [folder.join(&name), folder.join(format!("{name}.gz"))].into_iter().find(|p| p.is_file());
            found.ok_or_else(|| DataError::NoImages { folder: folder.to_owned(), name })
        };
        let (images, labels): (PathBuf, PathBuf) = (file("images-idx3")?, file("labels-idx1")?);
        Self::read(&images, &labels)
    }

    /// The images of one IDX file, `[n, height, width]` or `[n, channels, height, width]`, and the classes of another, `[n]`.
    ///
    /// # Errors
    /// As [`Idx::read`]; [`DataError::Idx`] too where the arrays are not of that form, hold nothing, or do not belong together.
    pub fn read(images: &Path, labels: &Path) -> Result<Self> {
        let unfit = |path: &Path, expected: &str, found: String| {
            Err(DataError::Idx { path: path.to_owned(), expected: expected.to_owned(), found })
        };
        let (pixels, classes) = (Idx::read(images)?, Idx::read(labels)?);
        let (n, shape) = match pixels.shape[..] {
            [n, height, width] => (n, [1, height, width]),
            [n, channels, height, width] => (n, [channels, height, width]),
            _ => {
                let expected = "images, count x height x width or count x channels x height x width";
                return unfit(images, expected, format!("extents {:?}", pixels.shape));
            }
        };
        if pixels.bytes.is_empty() {
            return unfit(images, "at least one pixel", format!("extents {:?}", pixels.shape));
        }
        if classes.shape != [n] {
            let expected = format!("{n} labels, one for each image of `{}`", images.display());
            return unfit(labels, &expected, format!("extents {:?}", classes.shape));
        }
        Ok(LabelledImages { pixels: pixels.bytes, labels: classes.bytes, shape })
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// How many classes there are, as far as the labels tell.
    pub fn classes(&self) -> usize {
        self.labels.iter().max().map_or(0, |&label| usize::from(label) + 1)
    }

    /// The pixels of an image, `[channels, height, width]`; nothing where there is no such image.
    pub fn image(&self, index: usize) -> &[u8] {
        let size: usize = self.shape.iter().product();
        self.pixels.get(index * size..(index + 1) * size).unwrap_or_default()
    }

    /// Mean and standard deviation of each channel, of pixels in 0..=1.
    pub fn statistics(&self) -> Vec<(f64, f64)> {
        let [channels, height, width] = self.shape;
        let plane = height * width;
        let mut sums = vec![(0_u64, 0_u64); channels];
        for (index, pixels) in self.pixels.chunks(plane).enumerate() {
            let (sum, squares) = &mut sums[index % channels];
            for &pixel in pixels {
                *sum += u64::from(pixel);
                *squares += u64::from(pixel).pow(2);
            }
        }
        let count = (self.len() * plane) as f64;
        let of = |(sum, squares): (u64, u64)| {
            let mean = sum as f64 / count / 255.0;
            let variance = squares as f64 / count / 255.0 / 255.0 - mean * mean;
            (mean, variance.max(0.0).sqrt())
        };
        sums.into_iter().map(of).collect()
    }

    /// CRC-32 of pixels and labels.
    pub fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.pixels);
        hasher.update(&self.labels);
        hasher.finalize()
    }
}

impl std::fmt::Debug for LabelledImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LabelledImages").field("len", &self.len()).field("shape", &self.shape).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn idx(shape: &[u32], bytes: &[u8]) -> Vec<u8> {
        let extents = shape.iter().flat_map(|extent| extent.to_be_bytes());
        [0, 0, 8, shape.len() as u8].into_iter().chain(extents).chain(bytes.iter().copied()).collect()
    }

    fn folder(images: &[u8], labels: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("train-images-idx3-ubyte"), images).expect("written");
        fs::write(folder.path().join("train-labels-idx1-ubyte"), labels).expect("written");
        folder
    }

    #[test]
    fn images_and_labels_come_together() {
        let folder = folder(&idx(&[2, 1, 2], &[0, 255, 255, 255]), &idx(&[2], &[3, 0]));
        let images = LabelledImages::of_split(folder.path(), "train").expect("two images");
        assert_eq!((images.len(), images.classes(), images.shape), (2, 4, [1, 1, 2]));
        assert_eq!((images.image(1), images.image(2)), (&[255, 255][..], &[][..]));
        let statistics = images.statistics();
        assert!(
            (statistics[0].0 - 0.75).abs() < 1e-12 && (statistics[0].1 - 0.1875_f64.sqrt()).abs() < 1e-12
        );
        let error = LabelledImages::of_split(folder.path(), "t10k").expect_err("no such split").to_string();
        assert!(
            error.contains("t10k-images-idx3-ubyte") && error.contains("dataset-fashion-mnist"),
            "{error}"
        );
    }

    #[test]
    fn channels_have_statistics_of_their_own() {
        let folder = folder(&idx(&[1, 2, 1, 2], &[0, 0, 255, 0]), &idx(&[1], &[0]));
        let images = LabelledImages::of_split(folder.path(), "train").expect("an image");
        assert_eq!(images.statistics(), [(0.0, 0.0), (0.5, 0.5)]);
    }

    #[test]
    fn arrays_that_do_not_belong_together_are_refused() {
        let two = idx(&[2, 1, 2], &[0, 1, 2, 3]);
        for (images, labels, message) in [
            (two.clone(), idx(&[3], &[0, 0, 0]), "2 labels, one for each image"),
            (two.clone(), two.clone(), "2 labels, one for each image"),
            (idx(&[4], &[0, 1, 2, 3]), idx(&[4], &[0; 4]), "count x height x width"),
            (idx(&[0, 28, 28], &[]), idx(&[0], &[]), "at least one pixel"),
            (idx(&[2, 0, 28], &[]), idx(&[2], &[0, 0]), "at least one pixel"),
        ] {
            let folder = folder(&images, &labels);
            let error = LabelledImages::of_split(folder.path(), "train").expect_err(message).to_string();
            assert!(error.contains(message), "{message}: {error}");
        }
    }
}
