//! Texts of SWORD modules (`zText`, blocks of zlib, 16-bit verse sizes), and plain text of their OSIS markup.
//!
//! ```text
//! NAME.bzv  for each verse: block (u32), first byte in the block (u32), bytes (u16)
//! NAME.bzs  for each block: first byte in NAME.bzz (u32), bytes there (u32), bytes when inflated (u32)
//! NAME.bzz  the blocks
//! ```
//!
//! Integers are little-endian. Verse `i` of two modules of one versification is the same verse. Format: `zverse.cpp` of the SWORD library.

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::ZlibDecoder;

use crate::Result;

/// Blocks hold a book; the longest has some hundred kilobytes.
const LARGEST_BLOCK: usize = 64 << 20;

/// The three files of one testament.
pub(super) struct Module {
    verses: Vec<u8>,
    blocks: Vec<Vec<u8>>,
}

impl Module {
    /// Reads `NAME.bzv`, `.bzs` and `.bzz` of a folder.
    ///
    /// # Errors
    /// A file is missing, or does not fit the others.
    pub(super) fn open(folder: &Path, name: &str) -> Result<Self> {
        let read = |extension: &str| {
            let path = folder.join(format!("{name}.{extension}"));
            fs::read(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
        };
        Self::new(read("bzv")?, &read("bzs")?, &read("bzz")?)
    }

    /// The module of the files' contents.
    ///
    /// # Errors
    /// The files do not fit each other, or a block is damaged.
    pub(super) fn new(verses: Vec<u8>, index: &[u8], data: &[u8]) -> Result<Self> {
        if !verses.len().is_multiple_of(10) || !index.len().is_multiple_of(12) {
            return Err("a module's indices are cut off: expected 10 bytes a verse and 12 a block".into());
        }
        let mut blocks = Vec::new();
        for (i, entry) in index.chunks_exact(12).enumerate() {
            let (start, packed, size) = (word(entry, 0), word(entry, 4), word(entry, 8));
            let range = start.checked_add(packed).and_then(|end| data.get(start..end));
            let range =
                range.ok_or_else(|| format!("block {i} lies outside the {} bytes of data", data.len()))?;
            if size > LARGEST_BLOCK {
                return Err(
                    format!("block {i} claims {size} bytes, above the limit of {LARGEST_BLOCK}").into()
                );
            }
            let mut block = Vec::new();
            if packed > 0 {
                let inflated = ZlibDecoder::new(range).take(size as u64 + 1).read_to_end(&mut block);
                inflated.map_err(|error| format!("block {i} is damaged: {error}"))?;
            }
            if block.len() != size {
                return Err(format!("block {i} has {} bytes, expected {size}", block.len()).into());
            }
            blocks.push(block);
        }
        Ok(Self { verses, blocks })
    }

    /// Number of verses, headings of testaments, books and chapters included.
    pub(super) fn len(&self) -> usize {
        self.verses.len() / 10
    }

    /// The marked-up text of verse `i`.
    ///
    /// # Errors
    /// There is no such verse, or it lies outside its block or is no UTF-8.
    pub(super) fn verse(&self, i: usize) -> Result<&str> {
        let entry = self.verses.chunks_exact(10).nth(i).ok_or_else(|| format!("there is no verse {i}"))?;
        let (block, start) = (word(entry, 0), word(entry, 4));
        let size = usize::from(u16::from_le_bytes([entry[8], entry[9]]));
        if size == 0 {
            return Ok("");
        }
        let block = self
            .blocks
            .get(block)
            .ok_or_else(|| format!("verse {i} is in block {block}, which is missing"))?;
        let text = start.checked_add(size).and_then(|end| block.get(start..end));
        let text =
            text.ok_or_else(|| format!("verse {i} lies outside its block of {} bytes", block.len()))?;
        Ok(std::str::from_utf8(text).map_err(|error| format!("verse {i} is no UTF-8: {error}"))?)
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word) as usize
}

/// The words of an OSIS text: without tags, without notes and titles, entities as characters, single spaces.
pub(super) fn plain_text(osis: &str) -> String {
    let mut text = String::with_capacity(osis.len());
    let mut hidden = 0_usize;
    let mut rest = osis;
    while let Some(start) = rest.find('<') {
        if hidden == 0 {
            text.push_str(&rest[..start]);
        }
        let Some(length) = rest[start..].find('>') else {
            // A tag that never ends: nothing after it is text.
            rest = "";
            break;
        };
        let tag = &rest[start + 1..start + length];
        let name = tag
            .trim_start_matches('/')
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default();
        match name {
            "note" | "title" if tag.starts_with('/') => hidden = hidden.saturating_sub(1),
            "note" | "title" if !tag.ends_with('/') => hidden += 1,
            // Lines of verse and paragraphs separate words; `<w>` and its like do not.
            "l" | "lb" | "lg" | "div" | "p" | "milestone" | "chapter" => text.push(' '),
            _ => {}
        }
        rest = &rest[start + length + 1..];
    }
    if hidden == 0 {
        text.push_str(rest);
    }
    for (entity, character) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
    {
        text = text.replace(entity, character);
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    use super::*;

    fn module(blocks: &[&str], verses: &[(u32, u32, u16)]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let (mut index, mut data) = (Vec::new(), Vec::new());
        for block in blocks {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(block.as_bytes()).expect("compressed");
            let packed = encoder.finish().expect("compressed");
            for number in [data.len(), packed.len(), block.len()] {
                index.extend((number as u32).to_le_bytes());
            }
            data.extend(packed);
        }
        let mut places = Vec::new();
        for &(block, start, size) in verses {
            places
                .extend(block.to_le_bytes().into_iter().chain(start.to_le_bytes()).chain(size.to_le_bytes()));
        }
        (places, index, data)
    }

    #[test]
    fn verses_are_cut_out_of_their_blocks() {
        let (verses, index, data) =
            module(&["In the beginning", "Y dijo Dios"], &[(0, 0, 0), (1, 2, 4), (0, 7, 9), (5, 0, 0)]);
        let module = Module::new(verses, &index, &data).expect("a module");
        let texts: Vec<&str> = (0..module.len()).map(|i| module.verse(i).expect("a verse")).collect();
        assert_eq!(texts, ["", "dijo", "beginning", ""]);
        assert!(module.verse(4).is_err());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (verses, index, data) = module(&["abc"], &[(0, 1, 3), (1, 0, 1), (u32::MAX, u32::MAX, 9)]);
        let whole = Module::new(verses.clone(), &index, &data).expect("a module");
        assert!((0..3).all(|i| whole.verse(i).is_err()));
        assert!(Module::new(verses[1..].to_vec(), &index, &data).is_err());
        assert!(Module::new(verses.clone(), &index[1..], &data).is_err());
        assert!(Module::new(verses.clone(), &index, &data[1..]).is_err());
        for at in 0..12 {
            let mut index = index.clone();
            index[at] ^= 0x81;
            assert!(Module::new(verses.clone(), &index, &data).is_err(), "byte {at} of the index");
        }
    }

    #[test]
    fn markup_notes_and_titles_vanish() {
        let osis = "<title type=\"psalm\">A Psalm</title><div sID=\"a\"/>And <w lemma=\"x\">God</w> <transChange>said</transChange>,\
            <note n=\"1\"><reference>1.4 </reference>Heb. x</note> \"Let &amp; be\"<lb/>light <chapter eID=\"b\"/>";
        assert_eq!(plain_text(osis), "And God said, \"Let & be\" light");
        assert_eq!(plain_text("a <w"), "a");
        assert_eq!(plain_text("</note>a<note/>b"), "ab");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(verses: Vec<u8>, index: Vec<u8>, data: Vec<u8>, osis: String) {
            let verses = verses[..verses.len() / 10 * 10].to_vec();
            let index = &index[..index.len() / 12 * 12];
            if let Ok(module) = Module::new(verses, index, &data) {
                for i in 0..module.len() {
                    let _ = module.verse(i);
                }
            }
            plain_text(&osis);
        }

        #[test]
        fn no_damage_makes_it_panic(at in 0_usize..200, bit in 0_u8..8) {
            let (verses, index, data) = module(&["In the beginning", "Y dijo Dios"], &[(0, 0, 4), (1, 2, 4)]);
            let mut all = [verses.clone(), index.clone(), data].concat();
            let at = at % all.len();
            all[at] ^= 1 << bit;
            let (first, rest) = all.split_at(verses.len());
            let (second, third) = rest.split_at(index.len());
            if let Ok(module) = Module::new(first.to_vec(), second, third) {
                for i in 0..module.len() {
                    let _ = module.verse(i);
                }
            }
        }
    }
}
