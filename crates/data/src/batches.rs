//! Examples of different lengths as rectangles: batches of similar lengths, and texts packed one after the other.

use crate::philox::philox4x32;
use crate::{DataError, Encoding, Result};

/// Last word of the counter, the letters `ROWS`: keeps these draws apart from others with the same seed.
const DOMAIN: u32 = 0x524F_5753;

/// Batches whose lengths are alike are found among this many.
const POOL: usize = 50;

/// Which examples make up a batch, and the length to which they are padded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchPlan {
    /// Numbers of the examples.
    pub rows: Vec<usize>,
    /// Length of the longest, rounded up.
    pub width: usize,
}

/// Draws the batches of each epoch: shuffled, but of similar lengths, so that little is padded; lengths are rounded up, so that few programs are
/// compiled.
///
/// An epoch's batches are a pure function of the seed and the epoch. All have the same number of rows: the last one of an epoch is filled with
/// examples of its beginning.
#[derive(Clone, Debug)]
pub struct LengthBuckets {
    lengths: Vec<u32>,
    batch: usize,
    multiple: usize,
    seed: u64,
}

impl LengthBuckets {
    /// Batches of `batch` examples with the given lengths, padded to a multiple of `multiple`.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if there is no example, or `batch` or `multiple` is 0.
    pub fn new(lengths: Vec<u32>, batch: usize, multiple: usize, seed: u64) -> Result<Self> {
        for (name, value) in [("examples", lengths.len()), ("batch", batch), ("pad_to_multiple_of", multiple)]
        {
            if value == 0 {
                return Err(DataError::Invalid { name, expected: "1 or more".into(), found: "0".into() });
            }
        }
        Ok(Self { lengths, batch, multiple, seed })
    }

    /// Number of batches in an epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        self.lengths.len().div_ceil(self.batch) as u64
    }

    /// The epoch of a step, counted from 0, and the batch within it.
    pub fn place(&self, step: u64) -> (u64, usize) {
        let per_epoch = self.batches_per_epoch();
        (step / per_epoch, (step % per_epoch) as usize)
    }

    /// The batches of an epoch in the order in which they are trained on.
    pub fn epoch(&self, epoch: u64) -> Vec<BatchPlan> {
        let mut order = self.shuffled(self.lengths.len(), epoch, 0);
        let first: Vec<usize> = order.iter().copied().cycle().take(self.batch).collect();
        let missing = self.batches_per_epoch() as usize * self.batch - order.len();
        order.extend(&first[..missing]);
        let mut plans = Vec::new();
        for pool in order.chunks_mut(self.batch * POOL) {
            // A stable sort: equal lengths stay shuffled.
            pool.sort_by_key(|&row| self.lengths[row]);
            plans.extend(pool.chunks(self.batch).map(|rows| self.plan(rows.to_vec())));
        }
        let order = self.shuffled(plans.len(), epoch, 1);
        order.into_iter().map(|i| plans[i].clone()).collect()
    }

    /// Every example once, by length, for evaluation; the last batch may have fewer rows.
    pub fn in_order(&self) -> Vec<BatchPlan> {
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        order.sort_by_key(|&row| self.lengths[row]);
        order.chunks(self.batch).map(|rows| self.plan(rows.to_vec())).collect()
    }

    fn plan(&self, rows: Vec<usize>) -> BatchPlan {
        let longest = rows.iter().map(|&row| self.lengths[row] as usize).max().unwrap_or(0);
        BatchPlan { rows, width: longest.max(1).next_multiple_of(self.multiple) }
    }

    /// The numbers below `count` in an order that seed and epoch decide.
    fn shuffled(&self, count: usize, epoch: u64, purpose: u32) -> Vec<usize> {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let [a, b, ..] = philox4x32([epoch as u32, (epoch >> 32) as u32, purpose, DOMAIN], key);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_cached_key(|&i| {
            let [high, low, ..] = philox4x32([i as u32, (i as u64 >> 32) as u32, purpose, DOMAIN], [a, b]);
            (high, low, i)
        });
        order
    }
}

/// A batch of encoded texts: `rows * width` numbers each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextBatch {
    /// Token ids; the padding token after the end of a text.
    pub input_ids: Vec<i32>,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Vec<i32>,
    /// Segments.
    pub token_type_ids: Vec<i32>,
    /// Number of texts.
    pub rows: usize,
    /// Tokens per text, with padding.
    pub width: usize,
}

impl TextBatch {
    /// Pads encoded texts at their end to `width`, or to the longest where `width` is less.
    pub fn new(encodings: &[&Encoding], width: usize, pad: u32) -> Self {
        let longest = encodings.iter().map(|encoding| encoding.len()).max().unwrap_or(0);
        let width = width.max(longest);
        let padded = |list: &dyn Fn(&Encoding) -> Vec<i32>, fill: i32| {
            let mut all = Vec::with_capacity(encodings.len() * width);
            for encoding in encodings {
                all.extend(list(encoding));
                all.resize(all.len() + width - encoding.len(), fill);
            }
            all
        };
        let as_i32 = |list: &[u32]| list.iter().map(|&x| x as i32).collect();
        Self {
            input_ids: padded(&|encoding| as_i32(&encoding.ids), pad as i32),
            attention_mask: padded(&|encoding| vec![1; encoding.len()], 0),
            token_type_ids: padded(&|encoding| as_i32(&encoding.type_ids), 0),
            rows: encodings.len(),
            width,
        }
    }
}

/// Texts one after the other, cut into windows of equal length: nothing is padded. What is left at the end is dropped.
#[derive(Debug)]
pub struct Packed<I> {
    texts: I,
    separator: Option<u32>,
    length: usize,
    pending: Vec<u32>,
}

/// Packs token ids of texts into windows of `length`, with `separator` after each text.
///
/// # Errors
/// [`DataError::Invalid`] if `length` is 0.
pub fn pack<I: Iterator<Item = Result<Vec<u32>>>>(
    texts: I,
    separator: Option<u32>,
    length: usize,
) -> Result<Packed<I>> {
    if length == 0 {
        return Err(DataError::Invalid { name: "length", expected: "1 or more".into(), found: "0".into() });
    }
    Ok(Packed { texts, separator, length, pending: Vec::new() })
}

impl<I: Iterator<Item = Result<Vec<u32>>>> Iterator for Packed<I> {
    type Item = Result<Vec<u32>>;

    fn next(&mut self) -> Option<Result<Vec<u32>>> {
        while self.pending.len() < self.length {
            match self.texts.next()? {
                Ok(ids) => self.pending.extend(ids.into_iter().chain(self.separator)),
                Err(error) => return Some(Err(error)),
            }
        }
        let rest = self.pending.split_off(self.length);
        Some(Ok(std::mem::replace(&mut self.pending, rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths() -> Vec<u32> {
        (0..1003).map(|i| i * i % 97 + 1).collect()
    }

    #[test]
    fn an_epoch_has_every_example_in_full_batches_of_similar_lengths() {
        let lengths = lengths();
        let buckets = LengthBuckets::new(lengths.clone(), 8, 16, 5).expect("batches");
        let plans = buckets.epoch(3);
        assert_eq!((plans.len() as u64, buckets.place(126)), (buckets.batches_per_epoch(), (1, 0)));
        let mut rows: Vec<usize> = plans.iter().flat_map(|plan| plan.rows.clone()).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows, (0..1003).collect::<Vec<_>>());
        let (mut padded, mut used) = (0, 0);
        for plan in &plans {
            assert!(plan.rows.len() == 8 && plan.width % 16 == 0);
            assert!(plan.rows.iter().all(|&row| lengths[row] as usize <= plan.width));
            padded += plan.width * 8;
            used += plan.rows.iter().map(|&row| lengths[row] as usize).sum::<usize>();
        }
        assert!(padded < used * 5 / 4, "{padded} tokens for {used}");
        assert_eq!(plans, buckets.epoch(3));
        assert!(plans != buckets.epoch(4) && plans.windows(2).any(|p| p[0].width > p[1].width));
    }

    #[test]
    fn evaluation_sees_every_example_once() {
        let plans = LengthBuckets::new(lengths(), 8, 1, 0).expect("batches").in_order();
        assert_eq!(plans.iter().map(|plan| plan.rows.len()).sum::<usize>(), 1003);
        assert!(plans.windows(2).all(|pair| pair[0].width <= pair[1].width));
    }

    #[test]
    fn fewer_examples_than_rows_are_repeated_and_none_is_an_error() {
        let plans = LengthBuckets::new(vec![3, 5], 5, 4, 0).expect("batches").epoch(0);
        assert_eq!((plans.len(), plans[0].rows.len(), plans[0].width), (1, 5, 8));
        assert!(LengthBuckets::new(vec![], 5, 4, 0).is_err());
        assert!(LengthBuckets::new(vec![1], 0, 4, 0).is_err());
        assert!(LengthBuckets::new(vec![1], 1, 0, 0).is_err());
    }

    #[test]
    fn texts_are_padded_at_their_end() {
        let encoding =
            |ids: &[u32]| Encoding { ids: ids.into(), type_ids: vec![1; ids.len()], ..Encoding::default() };
        let batch = TextBatch::new(&[&encoding(&[5, 6, 7]), &encoding(&[8])], 4, 9);
        assert_eq!(batch.input_ids, [5, 6, 7, 9, 8, 9, 9, 9]);
        assert_eq!(batch.attention_mask, [1, 1, 1, 0, 1, 0, 0, 0]);
        assert_eq!(batch.token_type_ids, [1, 1, 1, 0, 1, 0, 0, 0]);
        assert_eq!((batch.rows, batch.width, TextBatch::new(&[&encoding(&[1, 2])], 0, 0).width), (2, 4, 2));
    }

    #[test]
    fn packed_texts_leave_no_gaps() {
        let texts = [vec![1, 2, 3], vec![], vec![4, 5, 6, 7, 8]];
        let windows = |separator| {
            let texts = texts.clone().into_iter().map(Ok);
            pack(texts, separator, 3).expect("windows").collect::<Result<Vec<_>>>().expect("windows")
        };
        assert_eq!(windows(None), [[1, 2, 3], [4, 5, 6]]);
        assert_eq!(windows(Some(0)), [[1, 2, 3], [0, 0, 4], [5, 6, 7]]);
        let failing = [Ok(vec![1]), Err(DataError::SourceChanged)].into_iter();
        assert!(pack(failing, None, 2).expect("windows").next().is_some_and(|window| window.is_err()));
        assert!(pack(std::iter::empty(), None, 0).is_err());
    }
}
