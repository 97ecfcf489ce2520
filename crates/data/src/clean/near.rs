//! Texts that are nearly the same, by MinHash.
//!
//! A. Broder, "On the resemblance and containment of documents", 1997. The similarity of two texts is the share of their word 5-grams that
//! both have. Of every text 128 minimal hashes are kept, in bands: texts with an equal band are compared by all 128.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Words in a shingle.
const SHINGLE: usize = 5;
/// Minimal hashes of a text.
const HASHES: usize = 128;

#[derive(Debug)]
pub(super) struct NearDuplicates {
    similarity: f64,
    /// Hashes in a band.
    rows: usize,
    signatures: Vec<[u32; HASHES]>,
    /// Texts by the number and the hashes of a band.
    bands: HashMap<(usize, u64), Vec<u32>>,
}

impl NearDuplicates {
    pub(super) fn new(similarity: f64) -> Self {
        // With `b` bands of `r` hashes half of the pairs of similarity `(1 / b)^(1 / r)` share a band. The longest bands that find
        // nearly all pairs from the wanted similarity on: the one of that place is a good deal lower.
        let finds = |rows: &usize| {
            let bands = (HASHES / rows) as f64;
            (1.0 - similarity.powi(*rows as i32)).powf(bands) < 0.01
        };
        let rows = [16, 8, 4, 2].into_iter().find(finds).unwrap_or(1);
        Self { similarity, rows, signatures: Vec::new(), bands: HashMap::new() }
    }

    /// Whether no earlier text is nearly the same; if so the text becomes an earlier one.
    pub(super) fn insert(&mut self, words: &[String]) -> bool {
        let signature = signature(words);
        let keys: Vec<(usize, u64)> = signature.chunks(self.rows).map(hash).enumerate().collect();
        for key in &keys {
            for &earlier in self.bands.get(key).into_iter().flatten() {
                let earlier = &self.signatures[earlier as usize];
                let equal = earlier.iter().zip(&signature).filter(|(a, b)| a == b).count();
                if equal as f64 >= self.similarity * HASHES as f64 {
                    return false;
                }
            }
        }
        let number = self.signatures.len() as u32;
        self.signatures.push(signature);
        for key in keys {
            self.bands.entry(key).or_default().push(number);
        }
        true
    }
}

/// For each of 128 hash functions the least value over the text's shingles; a text of fewer words is one shingle.
fn signature(words: &[String]) -> [u32; HASHES] {
    let mut least = [u32::MAX; HASHES];
    for shingle in words.windows(SHINGLE.min(words.len()).max(1)) {
        let base = hash(shingle);
        for (i, least) in least.iter_mut().enumerate() {
            *least = (*least).min(mixed(base, i as u64));
        }
    }
    least
}

/// Two runs of one build agree: `DefaultHasher::new` has fixed keys.
fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The `i`-th hash function of a value: SplitMix64's finaliser.
fn mixed(value: u64, i: u64) -> u32 {
    let mut x = value ^ (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(numbers: impl Iterator<Item = u32>) -> Vec<String> {
        numbers.map(|number| number.to_string()).collect()
    }

    #[test]
    fn equal_hashes_are_as_frequent_as_equal_shingles() {
        for shift in [0, 40, 100, 400, 1000] {
            // Of 1000 shingles each, `1000 - shift` are shared.
            let (a, b) = (signature(&words(0..1004)), signature(&words(shift..1004 + shift)));
            let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / HASHES as f64;
            let (shared, all) = (1000.0 - f64::from(shift), 1000.0 + f64::from(shift));
            assert!((equal - shared / all).abs() < 0.1, "shift {shift}: {equal}");
        }
    }

    #[test]
    fn pairs_above_the_similarity_are_found() {
        for similarity in [0.3, 0.5, 0.8, 0.95] {
            let mut found = 0;
            for i in 0..50 {
                let mut near = NearDuplicates::new(similarity);
                let base = i * 10_000;
                // A pair whose similarity lies well above the asked one.
                let shift = ((1.0 - similarity) * 200.0) as u32;
                assert!(near.insert(&words(base..base + 1004)));
                found += u32::from(!near.insert(&words(base + shift..base + 1004 + shift)));
                assert!(near.insert(&words(base + 5000..base + 6000)), "another text");
            }
            assert!(found >= 48, "similarity {similarity}: {found} of 50");
        }
    }
}
