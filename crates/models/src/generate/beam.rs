//! Beam search: the likeliest texts among those that keep up with the best at every step.

use crate::{CausalLanguageModel, ModelError};

use super::{Reader, check_prompt};

/// How to search.
#[derive(Clone, PartialEq, Debug)]
pub struct BeamOptions {
    /// How many texts are followed at a time.
    pub num_beams: usize,
    /// How many tokens a text has at most.
    pub max_new_tokens: usize,
    /// The logarithm of a text's probability is divided by its length to this power, as Hugging Face does: above 0 longer texts win more
    /// often.
    pub length_penalty: f64,
    /// Whether the search ends as soon as there are `num_beams` finished texts; else when none that is followed can still be better, as
    /// far as its score now tells.
    pub early_stopping: bool,
    /// Each ends a text; it counts for its length and probability, and is not part of it.
    pub stop_tokens: Vec<u32>,
}

impl Default for BeamOptions {
    /// 4 beams of up to 100 tokens, scored by the mean logarithm.
    fn default() -> Self {
        BeamOptions {
            num_beams: 4,
            max_new_tokens: 100,
            length_penalty: 1.0,
            early_stopping: false,
            stop_tokens: Vec::new(),
        }
    }
}

/// A text that was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Beam {
    /// Its new tokens.
    pub tokens: Vec<u32>,
    /// The logarithm of its probability over its length to the power of the penalty.
    pub score: f64,
}

/// The likeliest continuations of `prompt`, best first, at most `num_beams`.
///
/// # Errors
/// The prompt is empty, holds a token that the model does not have, or leaves no room in the model's context; there are no beams; or the
/// model cannot be evaluated or gives logits that are not numbers.
pub fn beam_search(
    model: &(impl CausalLanguageModel + ?Sized),
    prompt: &[u32],
    options: &BeamOptions,
) -> Result<Vec<Beam>, ModelError> {
    check_prompt(model, prompt)?;
    let beams = options.num_beams;
    if beams == 0 || !options.length_penalty.is_finite() {
        let message = format!("{beams} beams with a length penalty of {}", options.length_penalty);
        return Err(ModelError::Generate(message));
    }
    let wanted = prompt.len().saturating_add(options.max_new_tokens);
    if wanted > model.max_context() {
        return Err(ModelError::Generate(format!(
            "{wanted} tokens with the prompt exceed the context of {}; ask for fewer",
            model.max_context()
        )));
    }
    if options.max_new_tokens == 0 {
        return Ok(Vec::new());
    }
    let vocab = model.vocab_size();
    let mut reader = Reader::new(model, wanted);
    // The same text in every row; only the first one may go on, so that they become different.
    let mut logits = reader.start(&vec![prompt; beams])?;
    let mut running: Vec<(Vec<u32>, f64)> = vec![(Vec::new(), f64::NEG_INFINITY); beams];
    running[0].1 = 0.0;
    let mut finished = Finished { beams: Vec::new(), room: beams };
    let scored = |sum: f64, length: usize| sum / (length as f64).powf(options.length_penalty);
    for length in 1..=options.max_new_tokens {
        let candidates = candidates(&logits, vocab, &running, beams.saturating_mul(2));
        let (mut next, mut from) = (Vec::new(), Vec::new());
        for (rank, &(row, token, sum)) in candidates.iter().enumerate() {
            if options.stop_tokens.contains(&token) {
                // An ending beyond the best ones would not have been followed either.
                if rank < beams {
                    finished.add(Beam { tokens: running[row].0.clone(), score: scored(sum, length) });
                }
            } else if next.len() < beams {
                let mut tokens = running[row].0.clone();
                tokens.push(token);
                next.push((tokens, sum));
                from.push(row);
            }
        }
        if next.is_empty() {
            running.clear();
            break;
        }
        // A vocabulary smaller than the beams may leave too few.
        while next.len() < beams {
            next.push((next[0].0.clone(), f64::NEG_INFINITY));
            from.push(from[0]);
        }
        running = next;
        let best = running.iter().map(|(_, sum)| *sum).fold(f64::NEG_INFINITY, f64::max);
        let hopeless = options.early_stopping || finished.worst() >= scored(best, length);
        if finished.beams.len() >= beams && hopeless {
            running.clear();
            break;
        }
        if length < options.max_new_tokens {
            reader.reorder(&from)?;
            let last: Vec<u32> = running.iter().filter_map(|(tokens, _)| tokens.last().copied()).collect();
            logits = reader.read(&last)?;
        }
    }
    for (tokens, sum) in running.into_iter().filter(|(_, sum)| sum.is_finite()) {
        let score = scored(sum, tokens.len());
        finished.add(Beam { tokens, score });
    }
    Ok(finished.beams)
}

/// The best texts that have ended, best first.
struct Finished {
    beams: Vec<Beam>,
    room: usize,
}

impl Finished {
    fn add(&mut self, beam: Beam) {
        let place = self.beams.partition_point(|other| other.score >= beam.score);
        self.beams.insert(place, beam);
        self.beams.truncate(self.room);
    }

    fn worst(&self) -> f64 {
        self.beams.last().map_or(f64::NEG_INFINITY, |beam| beam.score)
    }
}

/// The best continuations by one token as `(row, token, sum of logarithms)`, best first.
fn candidates(
    logits: &[f32],
    vocab: usize,
    running: &[(Vec<u32>, f64)],
    wanted: usize,
) -> Vec<(usize, u32, f64)> {
    let mut all = Vec::new();
    for (row, ((_, sum), logits)) in running.iter().zip(logits.chunks(vocab.max(1))).enumerate() {
        if !sum.is_finite() {
            continue;
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
        let normaliser = f64::from(largest) + total.ln();
        all.extend(
            logits.iter().enumerate().map(|(token, &l)| (row, token as u32, sum + f64::from(l) - normaliser)),
        );
    }
    let by_sum = |a: &(usize, u32, f64), b: &(usize, u32, f64)| {
        b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)).then(a.1.cmp(&b.1))
    };
    if wanted < all.len() {
        all.select_nth_unstable_by(wanted, by_sum);
        all.truncate(wanted);
    }
    all.sort_unstable_by(by_sum);
    all
}
