//! IDX files, in which MNIST and its relatives are kept: an array of bytes behind a header that gives its extents.
//!
//! ```text
//! 00 00 08 03             two zeros, the type (08: unsigned bytes), the number of axes
//! 0000ea60 0000001c ...   the extents, big-endian
//! ...                     the elements, row-major
//! ```
//!
//! Files may be gzipped, which their first bytes tell. (Y. LeCun, C. Cortes, C. Burges, "The MNIST database".)

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::{DataError, Result};

/// More elements than this are not read: a damaged header, or a gzip file that was made to fill the memory.
const MOST: u64 = 1 << 31;

/// An array of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// Extents, the outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub bytes: Vec<u8>,
}

impl Idx {
    /// Reads a file, gzipped or not.
    ///
    /// # Errors
    /// [`DataError::Io`] where it cannot be opened; [`DataError::Idx`] where it is no such file, holds elements that are not bytes, or is
    /// shorter or longer than its header says.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(DataError::io("read", path))?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let gzipped = reader.fill_buf().map_err(DataError::io("read", path))?.starts_with(&[0x1f, 0x8b]);
        let read = if gzipped { parse(MultiGzDecoder::new(reader)) } else { parse(reader) };
        read.map_err(|Unfit { expected, found }| DataError::Idx { path: path.to_owned(), expected, found })
    }
}

/// What a file should say, and what it says.
struct Unfit {
    expected: String,
    found: String,
}

fn unfit<T>(expected: impl Into<String>, found: impl ToString) -> Result<T, Unfit> {
    Err(Unfit { expected: expected.into(), found: found.to_string() })
}

fn parse(mut reader: impl Read) -> Result<Idx, Unfit> {
    let [zero, also_zero, kind, axes] = header(&mut reader, "two zeros, a type and a number of axes")?;
    if (zero, also_zero) != (0, 0) {
        return unfit(
            "two zeros at the beginning, as of all IDX files",
            format!("{zero:#04x} {also_zero:#04x}"),
        );
    }
    if kind != 0x08 {
        return unfit("elements of type 0x08, unsigned bytes", format!("type {kind:#04x}"));
    }
    if !(1..=8).contains(&axes) {
        return unfit("1 to 8 axes", axes);
    }
    let mut shape = Vec::with_capacity(axes.into());
    for _ in 0..axes {
        let extent = u32::from_be_bytes(header(&mut reader, "an extent for each axis")?);
        shape.push(extent as usize);
    }
    let elements = shape.iter().try_fold(1_u64, |product, &extent| product.checked_mul(extent as u64));
    let Some(elements) = elements.filter(|&elements| elements <= MOST) else {
        return unfit(format!("at most {MOST} elements"), format!("extents {shape:?}"));
    };
    // Memory grows with what is there, not with what the header claims.
    let mut bytes = Vec::new();
    if let Err(error) = reader.take(elements + 1).read_to_end(&mut bytes) {
        return unfit(format!("{elements} elements, by extents {shape:?}"), error);
    }
    if bytes.len() as u64 != elements {
        let found = match bytes.len() as u64 {
            more if more > elements => "more".to_owned(),
            less => format!("{less}: the file ends there"),
        };
        return unfit(format!("{elements} elements, by extents {shape:?}"), found);
    }
    Ok(Idx { shape, bytes })
}

/// The next four bytes.
fn header(reader: &mut impl Read, what: &str) -> Result<[u8; 4], Unfit> {
    let mut bytes = [0; 4];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => unfit(what, error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// What reading a file of these bytes gives.
    fn read(bytes: &[u8]) -> Result<Idx> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("written");
        Idx::read(file.path())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("written");
        encoder.finish().expect("finished")
    }

    const SMALL: [u8; 18] = [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 7, 9];

    #[test]
    fn a_file_is_read_gzipped_or_not() {
        let expected = Idx { shape: vec![1, 1, 2], bytes: vec![7, 9] };
        assert_eq!(read(&SMALL).expect("plain"), expected);
        assert_eq!(read(&gzip(&SMALL)).expect("gzipped"), expected);
    }

    #[test]
    fn every_file_that_is_cut_short_or_too_long_is_an_error() {
        let packed = gzip(&SMALL);
        for length in 0..SMALL.len() {
            assert!(matches!(read(&SMALL[..length]), Err(DataError::Idx { .. })), "{length} bytes");
        }
        for length in 0..packed.len() {
            assert!(matches!(read(&packed[..length]), Err(DataError::Idx { .. })), "{length} bytes, gzipped");
        }
        let error = read(&[&SMALL[..], &[1]].concat()).expect_err("too long").to_string();
        assert!(
            error.contains("2 elements, by extents [1, 1, 2]") && error.contains("found more"),
            "{error}"
        );
        let error = read(&SMALL[..17]).expect_err("too short").to_string();
        assert!(error.contains("found 1: the file ends there"), "{error}");
    }

    #[test]
    fn what_is_no_such_file_says_what_was_expected() {
        for (bytes, message) in [
            (&b"GIF89a and so on"[..], "two zeros at the beginning"),
            (&[0, 0, 0x0d, 1, 0, 0, 0, 1, 0, 0, 0, 0], "type 0x0d"),
            (&[0, 0, 8, 0], "1 to 8 axes, found 0"),
            (&[0, 0, 8, 200], "1 to 8 axes, found 200"),
            // 2^32 - 1 images of 2^32 - 1 bytes, and three axes whose product is beyond 64 bits.
            (&[0, 0, 8, 2, 255, 255, 255, 255, 255, 255, 255, 255], "at most 2147483648 elements"),
            (&[&[0, 0, 8, 3][..], &[255; 12]].concat(), "at most 2147483648 elements"),
            // A header that claims much, and nothing behind it.
            (&[0, 0, 8, 1, 127, 255, 255, 255], "found 0: the file ends there"),
        ] {
            let error = read(bytes).expect_err(message).to_string();
            assert!(error.contains(message), "{message}: {error}");
        }
        let error = read(&[&gzip(&SMALL)[..20], &[0x55; 30]].concat()).expect_err("damaged");
        assert!(matches!(error, DataError::Idx { .. }), "{error}");
        let error = Idx::read(Path::new("/nowhere/x")).expect_err("no file").to_string();
        assert!(error.contains("cannot read `/nowhere/x`"), "{error}");
    }
}
