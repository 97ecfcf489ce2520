//! The header of an array: a Python dictionary of three entries, between a magic string and the elements.

/// The first bytes of every array.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Elements start at multiples of this.
const ALIGNMENT: usize = 64;

/// What a header says.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Kind and size of an element, as NumPy writes them: `f4`.
    pub(super) kind: String,
    /// Whether the bytes of an element come in the order of a big-endian machine.
    pub(super) big_endian: bool,
    /// Whether the first axis is the one along which elements lie side by side.
    pub(super) column_major: bool,
    /// The extents.
    pub(super) shape: Vec<usize>,
}

impl Header {
    /// The header, and the bytes after it.
    pub(super) fn split(bytes: &[u8]) -> Result<(Header, &[u8]), String> {
        let short = || "it ends within the header".to_owned();
        let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin with `\\x93NUMPY`")?;
        let (&[major, _], rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let (len, rest) = match major {
            1 => {
                let (len, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
                (usize::from(u16::from_le_bytes(*len)), rest)
            }
            2 | 3 => {
                let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
                (u32::from_le_bytes(*len) as usize, rest)
            }
            _ => return Err(format!("its format is version {major}; known are 1 to 3")),
        };
        let (text, elements) = rest.split_at_checked(len).ok_or_else(short)?;
        let text = std::str::from_utf8(text).map_err(|_| "its header is not text")?;
        Ok((Header::parse(text)?, elements))
    }

    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, in any order.
    fn parse(text: &str) -> Result<Header, String> {
        let (mut descr, mut column_major, mut shape) = (None, None, None);
        let mut scan = Scanner { rest: text };
        scan.expect("{")?;
        while !scan.take("}") {
            let key = scan.string()?;
            scan.expect(":")?;
            match key {
                "descr" => descr = Some(scan.string()?),
                "fortran_order" => column_major = Some(scan.boolean()?),
                "shape" => shape = Some(scan.extents()?),
                _ => return Err(format!("its header has an unknown entry `{key}`")),
            }
            if !scan.take(",") {
                scan.expect("}")?;
                break;
            }
        }
        if !scan.rest.trim().is_empty() {
            return Err("its header goes on after the dictionary".into());
        }
        let (Some(descr), Some(column_major), Some(shape)) = (descr, column_major, shape) else {
            return Err("its header lacks `descr`, `fortran_order` or `shape`".into());
        };
        let (order, kind) = match descr.as_bytes().first() {
            Some(b'<' | b'>' | b'|' | b'=') => descr.split_at(1),
            _ => ("|", descr),
        };
        Ok(Header { kind: kind.to_owned(), big_endian: order == ">", column_major, shape })
    }

    /// A header in bytes, row-major and little-endian.
    pub(super) fn bytes(kind: &str, shape: &[usize]) -> Vec<u8> {
        let order = if kind.ends_with('1') { '|' } else { '<' };
        let mut extents: String = shape.iter().map(|d| format!("{d}, ")).collect();
        // `(3,)`, but `(2, 3)`.
        extents.truncate(extents.len().saturating_sub(if shape.len() == 1 { 1 } else { 2 }));
        let mut text =
            format!("{{'descr': '{order}{kind}', 'fortran_order': False, 'shape': ({extents}), }}");
        let long = text.len() > usize::from(u16::MAX) - ALIGNMENT;
        let before = MAGIC.len() + if long { 6 } else { 4 };
        let whole = (before + text.len() + 1).next_multiple_of(ALIGNMENT);
        text += &" ".repeat(whole - before - text.len() - 1);
        text.push('\n');
        let mut bytes = MAGIC.to_vec();
        if long {
            bytes.extend([2, 0]);
            bytes.extend((text.len() as u32).to_le_bytes());
        } else {
            bytes.extend([1, 0]);
            bytes.extend((text.len() as u16).to_le_bytes());
        }
        bytes.extend(text.into_bytes());
        bytes
    }
}

/// Reads the few Python literals that a header is made of.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        self.rest = rest.strip_prefix(token).unwrap_or(rest);
        self.rest.len() < rest.len()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(self.fault(&format!("`{token}`"))) }
    }

    fn fault(&self, expected: &str) -> String {
        let found: String = self.rest.chars().take(20).collect();
        format!("its header has `{}` where {expected} should be", found.escape_default())
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = if self.take("'") { '\'' } else { '"' };
        if quote == '"' && !self.take("\"") {
            return Err(self.fault("a string (records are not supported)"));
        }
        let (text, rest) = self.rest.split_once(quote).ok_or_else(|| self.fault("a string"))?;
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        if self.take("True") {
            return Ok(true);
        }
        if self.take("False") { Ok(false) } else { Err(self.fault("True or False")) }
    }

    /// `()`, `(3,)`, `(2, 3)`.
    fn extents(&mut self) -> Result<Vec<usize>, String> {
        self.expect("(")?;
        let mut extents = Vec::new();
        while !self.take(")") {
            let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = self.rest.split_at(digits);
            extents.push(number.parse().map_err(|_| self.fault("an extent"))?);
            // Python 2 wrote long integers so.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_numpy_writes() {
        // numpy.save of zeros((2, 3), dtype="<f4"), version 2.4.
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        let numpy = [b"\x93NUMPY\x01\x00v\x00", text.as_bytes(), &[b' '; 58], b"\n"].concat();
        assert_eq!(Header::bytes("f4", &[2, 3]), numpy);
        let of = |shape: &[usize]| String::from_utf8_lossy(&Header::bytes("b1", shape)).into_owned();
        assert!(of(&[]).contains("'|b1', 'fortran_order': False, 'shape': (), }"));
        assert!(of(&[7]).contains("'shape': (7,), }"));
    }

    #[test]
    fn a_header_is_read_in_any_order_and_spacing() {
        let text = "{ \"shape\":(3L,0), 'fortran_order' : True,'descr':'>i8'}  \n";
        let expected = Header { kind: "i8".into(), big_endian: true, column_major: true, shape: vec![3, 0] };
        assert_eq!(Header::parse(text), Ok(expected));
        for shape in [vec![], vec![5], vec![1, 2, 3]] {
            let bytes = Header::bytes("f8", &shape);
            let (header, rest) = Header::split(&bytes).unwrap();
            assert_eq!((header.shape, rest.len(), bytes.len() % ALIGNMENT), (shape, 0, 0));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let whole = |text: &str| Header::parse(text).unwrap_err();
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (), }",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (), 'more': 1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (), } x",
        ] {
            assert!(whole(text).starts_with("its header"), "{text}: {}", whole(text));
        }
        let good = Header::bytes("f4", &[2]);
        for len in 0..good.len() {
            assert!(Header::split(&good[..len]).is_err(), "{len}");
        }
        let mut longer = good.clone();
        longer[8..10].copy_from_slice(&[255, 255]);
        assert!(Header::split(&longer).unwrap_err().contains("ends within the header"));
        let mut newer = good;
        newer[6] = 4;
        assert!(Header::split(&newer).unwrap_err().contains("version 4"));
    }
}
