//! The next token from its logits.

use std::collections::BTreeSet;

use wgrad_ir::philox;

use super::GenerateOptions;
use crate::ModelError;

/// Chooses the tokens of one text.
pub(super) struct Sampler<'a> {
    options: &'a GenerateOptions,
    /// Which of the texts that are written side by side.
    row: u32,
    /// How many tokens were chosen.
    index: u32,
    /// The tokens that have occurred, if they matter.
    seen: BTreeSet<u32>,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(options: &'a GenerateOptions, row: u32, prompt: &[u32]) -> Self {
        let penalised = options.repetition_penalty != 1.0;
        let seen = if penalised { prompt.iter().copied().collect() } else { BTreeSet::new() };
        Sampler { options, row, index: 0, seen }
    }

    /// The next token: the likeliest, or drawn from what the options leave of `softmax(logits / temperature)`.
    pub(super) fn choose(&mut self, logits: &[f32]) -> Result<u32, ModelError> {
        let token = if self.seen.is_empty() {
            self.pick(logits)
        } else {
            let mut logits = logits.to_vec();
            let penalty = self.options.repetition_penalty as f32;
            for &token in &self.seen {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                }
            }
            self.pick(&logits)
        };
        let token = token.ok_or_else(|| ModelError::Generate("the model has no tokens".into()))?;
        if self.options.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        self.index = self.index.wrapping_add(1);
        Ok(token)
    }

    fn pick(&self, logits: &[f32]) -> Option<u32> {
        // The smaller id wins a tie, as with argmax.
        let best =
            logits.iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        if self.options.temperature == 0.0 {
            return Some(best.0 as u32);
        }
        let left = self.left(logits, f64::from(*best.1));
        let mut share = uniform(self.options.seed, self.row, self.index);
        share *= left.iter().map(|(_, weight)| weight).sum::<f64>();
        for (token, weight) in &left {
            share -= weight;
            if share < 0.0 {
                return Some(*token);
            }
        }
        // Rounding may leave a crumb after the last one.
        left.last().map(|(token, _)| *token)
    }

    /// The tokens to draw from, from the likeliest on, with their weights; the likeliest one's is 1.
    fn left(&self, logits: &[f32], best: f64) -> Vec<(u32, f64)> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if let Some(k) = self.options.top_k.filter(|k| *k < order.len()) {
            order.select_nth_unstable_by(k - 1, by_logit);
            order.truncate(k);
        }
        order.sort_unstable_by(by_logit);
        let weight =
            |token: u32| ((f64::from(logits[token as usize]) - best) / self.options.temperature).exp();
        let mut left: Vec<(u32, f64)> = order.into_iter().map(|token| (token, weight(token))).collect();
        if let Some(p) = self.options.top_p {
            let wanted = p * left.iter().map(|(_, weight)| weight).sum::<f64>();
            let mut before = 0.0;
            let kept = left.iter().take_while(|(_, weight)| {
                let more = before < wanted;
                before += weight;
                more
            });
            let kept = kept.count().max(1);
            left.truncate(kept);
        }
        if let Some(p) = self.options.min_p {
            let kept = left.iter().take_while(|(_, weight)| *weight >= p).count().max(1);
            left.truncate(kept);
        }
        left
    }
}

/// The `index`-th number in `[0, 1)` of a text of a seed.
fn uniform(seed: u64, row: u32, index: u32) -> f64 {
    let [high, low, ..] = philox::philox4x32([index, row, 0, 0], [seed as u32, (seed >> 32) as u32]);
    ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of four tokens is drawn in 60,000.
    fn counts(options: &GenerateOptions) -> [usize; 4] {
        let logits = [0.0, 3f32.ln(), -1e30, 2f32.ln()];
        let mut sampler = Sampler::new(options, 0, &[]);
        let mut counts = [0usize; 4];
        for _ in 0..60_000 {
            counts[sampler.choose(&logits).expect("there are tokens") as usize] += 1;
        }
        counts
    }

    fn near(counts: [usize; 4], expected: [f64; 4]) {
        for (count, expected) in counts.into_iter().zip(expected) {
            assert!((count as f64 - expected).abs() < 500.0, "{counts:?}");
        }
    }

    #[test]
    fn draws_follow_the_softmax_of_the_tokens_that_are_left() {
        let plain = GenerateOptions::default();
        near(counts(&plain), [10_000.0, 30_000.0, 0.0, 20_000.0]);
        near(
            counts(&GenerateOptions { top_k: Some(3), ..plain.clone() }),
            [10_000.0, 30_000.0, 0.0, 20_000.0],
        );
        near(counts(&GenerateOptions { top_k: Some(1), ..plain.clone() }), [0.0, 60_000.0, 0.0, 0.0]);
        // Half is reached by the first one alone, a little more by two.
        near(counts(&GenerateOptions { top_p: Some(0.49), ..plain.clone() }), [0.0, 60_000.0, 0.0, 0.0]);
        near(counts(&GenerateOptions { top_p: Some(0.51), ..plain.clone() }), [0.0, 36_000.0, 0.0, 24_000.0]);
        near(counts(&GenerateOptions { min_p: Some(0.5), ..plain.clone() }), [0.0, 36_000.0, 0.0, 24_000.0]);
        near(counts(&GenerateOptions { min_p: Some(1.0), ..plain }), [0.0, 60_000.0, 0.0, 0.0]);
    }

    #[test]
    fn what_has_occurred_is_penalised_whatever_its_sign() {
        let options = GenerateOptions { temperature: 0.0, repetition_penalty: 2.0, ..Default::default() };
        let mut sampler = Sampler::new(&options, 0, &[1]);
        // 5 becomes 2.5; then 4 becomes 2, and 2.5 is the largest.
        let logits = [1.0, 5.0, 4.0, -1.0];
        let chosen: Vec<u32> = (0..3).map(|_| sampler.choose(&logits).expect("there are tokens")).collect();
        assert_eq!(chosen, [2, 1, 1]);
        let mut sampler = Sampler::new(&options, 0, &[0]);
        // -1 becomes -2.
        assert_eq!(sampler.choose(&[-1.0, -1.5]).expect("there are tokens"), 1);
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        let options = GenerateOptions { temperature: 0.0, ..Default::default() };
        assert_eq!(Sampler::new(&options, 0, &[]).pick(&[1.0, 5.0, 5.0, 2.0]), Some(1));
        assert_eq!(Sampler::new(&options, 0, &[]).pick(&[]), None);
    }

    #[test]
    fn low_temperatures_do_not_overflow() {
        let options = GenerateOptions { temperature: 1e-300, ..Default::default() };
        assert_eq!(Sampler::new(&options, 0, &[]).pick(&[1.0, 5.0, 4.0]), Some(1));
    }
}
