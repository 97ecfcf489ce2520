//! Windows of a token stream: random ones for training, fixed ones for validation.

use crate::philox::{below, philox4x32};
use crate::{DataError, Result, TokenStream};

/// Last word of the counter, the letters `WIND`: keeps these draws apart from others with the same seed.
const DOMAIN: u32 = 0x5749_4E44;

/// Token windows and the tokens that follow each of their positions.
///
/// Both have `batch` rows of `context` ids, row after row; `targets[i]` is the token after `inputs[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The ids that a model sees.
    pub inputs: Vec<i32>,
    /// The ids that it should predict: the inputs' windows shifted by one token.
    pub targets: Vec<i32>,
    /// Number of windows.
    pub batch: usize,
    /// Tokens per window.
    pub context: usize,
}

impl Batch {
    /// The windows of `context` tokens that begin at `starts`.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`] if a window, with its last target, reaches past the end of the stream.
    pub fn from_starts(stream: &TokenStream, starts: &[usize], context: usize) -> Result<Self> {
        let mut inputs = Vec::with_capacity(starts.len() * context);
        let mut targets = Vec::with_capacity(starts.len() * context);
        for &start in starts {
            let end = start.saturating_add(context);
            stream.append_to(&mut inputs, start..end)?;
            stream.append_to(&mut targets, start.saturating_add(1)..end.saturating_add(1))?;
        }
        Ok(Self { inputs, targets, batch: starts.len(), context })
    }

    /// Number of predicted tokens, `batch * context`.
    pub fn tokens(&self) -> usize {
        self.inputs.len()
    }
}

/// Draws the windows of each training step, uniformly and with replacement.
///
/// The windows of a step are a pure function of the seed and the step (Philox4x32-10, counter: step, row): the
/// sampler has no state, and a run resumed at step `k` sees what an uninterrupted run sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSampler {
    stream_len: usize,
    context: usize,
    batch: usize,
    seed: u64,
}

impl WindowSampler {
    /// A sampler of `batch` windows of `context` tokens from a stream of `stream_len` tokens.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if `batch` or `context` is 0, [`DataError::TooShort`] if no window fits.
    pub fn new(stream_len: usize, context: usize, batch: usize, seed: u64) -> Result<Self> {
        if batch == 0 || u32::try_from(batch).is_err() {
            return Err(DataError::Invalid {
                name: "batch",
                expected: "in 1..2^32".into(),
                found: batch.to_string(),
            });
        }
        windows_in(stream_len, context)?;
        Ok(Self { stream_len, context, batch, seed })
    }

    /// Tokens per window.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Windows per step.
    pub fn batch_size(&self) -> usize {
        self.batch
    }

    /// Where the windows of `step` begin: `batch` positions in `0..stream_len - context`.
    pub fn starts(&self, step: u64) -> Vec<usize> {
        let windows = (self.stream_len - self.context) as u64;
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        (0..self.batch as u32)
            .map(|row| {
                let [low, high, ..] = philox4x32([step as u32, (step >> 32) as u32, row, DOMAIN], key);
                // Below `windows`, which came from a `usize`.
                below(u64::from(high) << 32 | u64::from(low), windows) as usize
            })
            .collect()
    }

    /// The batch of `step`.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if `stream` has another length than this sampler was made for.
    pub fn batch(&self, stream: &TokenStream, step: u64) -> Result<Batch> {
        if stream.len() != self.stream_len {
            return Err(DataError::Invalid {
                name: "stream",
                expected: format!("the one of {} tokens that the sampler was made for", self.stream_len),
                found: format!("one of {} tokens", stream.len()),
            });
        }
        Batch::from_starts(stream, &self.starts(step), self.context)
    }
}

/// `count` window starts spread evenly over a stream, the first at its beginning and the last at its end:
/// start `j` is `floor(j * (stream_len - context - 1) / (count - 1))`.
///
/// The same at every evaluation, so that validation losses of a run, and of other programs that use the rule, can
/// be compared. One window begins at 0.
///
/// # Errors
/// [`DataError::Invalid`] if `count` is not in 1 to 2^20 or `context` is 0, [`DataError::TooShort`] if no window fits.
pub fn validation_windows(stream_len: usize, context: usize, count: usize) -> Result<Vec<usize>> {
    if !(1..=1 << 20).contains(&count) {
        let found = count.to_string();
        return Err(DataError::Invalid {
            name: "validation windows",
            expected: "1 to 1048576".into(),
            found,
        });
    }
    let last = windows_in(stream_len, context)? - 1;
    let intervals = (count - 1).max(1) as u128;
    Ok((0..count).map(|j| (j as u128 * last as u128 / intervals) as usize).collect())
}

/// The batches that cover the windows at `starts`, `batch` windows each; the last one may have fewer.
///
/// # Errors
/// [`DataError::Invalid`] if `batch` is 0; each item is [`DataError::OutOfRange`] if a window does not fit.
pub fn validation_batches<'a>(
    stream: &'a TokenStream,
    starts: &'a [usize],
    context: usize,
    batch: usize,
) -> Result<impl Iterator<Item = Result<Batch>> + 'a> {
    if batch == 0 {
        return Err(DataError::Invalid { name: "batch", expected: "1 or more".into(), found: "0".into() });
    }
    Ok(starts.chunks(batch).map(move |starts| Batch::from_starts(stream, starts, context)))
}

/// Number of windows with all their targets, which is at least 1.
fn windows_in(stream_len: usize, context: usize) -> Result<usize> {
    if context == 0 {
        return Err(DataError::Invalid { name: "context", expected: "1 or more".into(), found: "0".into() });
    }
    match stream_len.checked_sub(context) {
        None | Some(0) => {
            Err(DataError::TooShort { tokens: stream_len, context, needed: context.saturating_add(1) })
        }
        Some(windows) => Ok(windows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_inputs_one_token_later() {
        let ids: Vec<u32> = (0..20).collect();
        let stream = TokenStream::from_ids(&ids, 256).expect("valid ids");
        let batch = Batch::from_starts(&stream, &[0, 16], 3).expect("both fit");
        assert_eq!(
            (&batch.inputs[..], &batch.targets[..]),
            (&[0, 1, 2, 16, 17, 18][..], &[1, 2, 3, 17, 18, 19][..])
        );
        assert_eq!((batch.batch, batch.context, batch.tokens()), (2, 3, 6));
        assert!(matches!(Batch::from_starts(&stream, &[17], 3), Err(DataError::OutOfRange { .. })));
        assert!(matches!(Batch::from_starts(&stream, &[usize::MAX], 3), Err(DataError::OutOfRange { .. })));
    }

    #[test]
    fn a_text_shorter_than_a_window_and_empty_settings_are_errors() {
        let error = WindowSampler::new(128, 128, 8, 0).expect_err("too short").to_string();
        assert!(error.contains("128 tokens") && error.contains("needs 129"), "{error}");
        assert_eq!(WindowSampler::new(129, 128, 2, 0).expect("one window").starts(7), [0, 0]);
        assert!(matches!(WindowSampler::new(10, 0, 1, 0), Err(DataError::Invalid { name: "context", .. })));
        assert!(matches!(WindowSampler::new(10, 1, 0, 0), Err(DataError::Invalid { name: "batch", .. })));
        assert!(matches!(validation_windows(10, 10, 2), Err(DataError::TooShort { .. })));
        assert!(matches!(validation_windows(10, 2, 0), Err(DataError::Invalid { .. })));
        assert!(matches!(validation_windows(10, 2, usize::MAX), Err(DataError::Invalid { .. })));
    }

    #[test]
    fn a_sampler_refuses_another_stream() {
        let stream = TokenStream::from_ids(&[0; 50], 256).expect("valid ids");
        let sampler = WindowSampler::new(51, 4, 2, 0).expect("fits");
        assert!(matches!(sampler.batch(&stream, 0), Err(DataError::Invalid { name: "stream", .. })));
    }

    /// `floor(j * (len - T - 1) / (n - 1))` in floating point, as a Python program would write it.
    #[test]
    fn validation_windows_agree_with_the_formula_in_floating_point() {
        for (len, context, count) in
            [(114_260, 128, 200), (1_458_939, 256, 77), (300, 128, 200), (130, 128, 2)]
        {
            let last = (len - context - 1) as f64;
            let expected: Vec<usize> =
                (0..count).map(|j| (j as f64 * last / (count - 1) as f64) as usize).collect();
            assert_eq!(validation_windows(len, context, count).expect("fits"), expected);
        }
        assert_eq!(validation_windows(1000, 10, 1).expect("fits"), [0]);
    }

    #[test]
    fn validation_batches_cover_all_windows_in_order() {
        let ids: Vec<u32> = (0..40).collect();
        let stream = TokenStream::from_ids(&ids, 256).expect("valid ids");
        let starts = validation_windows(stream.len(), 4, 5).expect("fits");
        let batches: Vec<Batch> = validation_batches(&stream, &starts, 4, 2)
            .expect("a batch")
            .collect::<Result<_>>()
            .expect("all fit");
        assert_eq!(batches.iter().map(|batch| batch.batch).collect::<Vec<_>>(), [2, 2, 1]);
        let firsts: Vec<i32> = batches.iter().flat_map(|b| b.inputs.chunks(4).map(|row| row[0])).collect();
        assert_eq!(firsts, [0, 8, 17, 26, 35]);
        assert!(validation_batches(&stream, &starts, 4, 0).is_err());
    }

    /// Chi-square over 16 bins, 15 degrees of freedom: 37.7 is exceeded by one generator in a thousand.
    #[test]
    fn starts_are_spread_evenly_over_the_stream() {
        let sampler = WindowSampler::new(1_458_939, 128, 8, 1).expect("fits");
        let mut bins = [0_u32; 16];
        for step in 0..2000 {
            for start in sampler.starts(step) {
                bins[start * 16 / (1_458_939 - 128)] += 1;
            }
        }
        let chi_square: f64 = bins.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_square < 37.7, "{chi_square} {bins:?}");
    }
}
