//! Beam search, with the scores and the stopping rule of Hugging Face's `generate`.

use wgrad_tensor::Tensor;

use super::{EncoderDecoder, writer::Writer};
use crate::ModelError;

/// How to search.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BeamSearch {
    /// How many texts are kept at each length.
    pub num_beams: usize,
    /// The longest text, without the token that starts it.
    pub max_new_tokens: usize,
    /// The score of a text is its log-probability divided by its length to this power: above 0 favours long texts.
    pub length_penalty: f64,
    /// Whether to stop as soon as `num_beams` texts have ended, instead of when none that goes on could be better.
    pub early_stopping: bool,
}

impl Default for BeamSearch {
    /// Four beams, 100 tokens, scores per token, no early stopping.
    fn default() -> Self {
        BeamSearch { num_beams: 4, max_new_tokens: 100, length_penalty: 1.0, early_stopping: false }
    }
}

/// A text and the sum of the logarithms of its tokens' probabilities, or its score where it has ended.
#[derive(Clone, Debug)]
struct Beam {
    text: Vec<i32>,
    score: f64,
}

/// The beams of one source.
struct Search {
    running: Vec<Beam>,
    ended: Vec<Beam>,
    over: bool,
}

/// The best text for each source of `ids [b, s]`: of all texts that are kept, the one of the best score. The texts begin with
/// [`EncoderDecoder::decoder_start_token_id`] and end with the token that ends a text, unless they are cut.
///
/// # Errors
/// There are no beams, or more than tokens; the model cannot be evaluated, or gives logits that are not numbers.
pub fn beam_search<M: EncoderDecoder + ?Sized>(
    model: &M,
    ids_bs: &Tensor,
    mask: Option<&Tensor>,
    options: &BeamSearch,
) -> Result<Vec<Vec<i32>>, ModelError> {
    let (beams, v) = (options.num_beams, model.vocab_size());
    if beams == 0 || beams > v {
        let message = format!("the number of beams is {beams}, expected 1 to the number of tokens, {v}");
        return Err(ModelError::Generate(message));
    }
    let writer = Writer::new(model, ids_bs, mask, beams, options.max_new_tokens)?;
    let longest = writer.longest().min(options.max_new_tokens);
    let start = vec![model.decoder_start_token_id()];
    let mut searches: Vec<Search> = (0..writer.targets() / beams)
        .map(|_| Search {
            running: vec![Beam { text: start.clone(), score: 0.0 }],
            ended: Vec::new(),
            over: false,
        })
        .collect();
    for length in 1..=longest {
        if searches.iter().all(|search| search.over) {
            break;
        }
        // Where there are fewer beams than places (at the start), the first one fills the rest.
        let places = searches.iter().flat_map(|search| {
            let beam = |place: usize| search.running.get(place).or(search.running.first());
            (0..beams).map(move |place| beam(place).map_or_else(Vec::new, |beam| beam.text.clone()))
        });
        let logits = writer.allowed(&places.collect::<Vec<_>>(), length == longest)?;
        for (search, logits) in searches.iter_mut().zip(logits.chunks_exact(beams * v)) {
            if !search.over {
                search.advance(logits, v, length, length == longest, model.eos_token_id(), options);
            }
        }
    }
    Ok(searches.into_iter().map(|search| search.best().unwrap_or_else(|| start.clone())).collect())
}

impl Search {
    /// One token more, given the logits of each running beam.
    fn advance(
        &mut self,
        logits: &[f32],
        v: usize,
        length: usize,
        last: bool,
        eos: Option<i32>,
        options: &BeamSearch,
    ) {
        let beams = options.num_beams;
        let mut next: Vec<(f64, usize, i32)> = Vec::with_capacity(self.running.len() * v);
        for (number, (beam, logits)) in self.running.iter().zip(logits.chunks_exact(v)).enumerate() {
            let highest = logits.iter().fold(f64::MIN, |m, &l| m.max(f64::from(l)));
            let total = highest + logits.iter().map(|&l| (f64::from(l) - highest).exp()).sum::<f64>().ln();
            let score = |logit: &f32| beam.score + f64::from(*logit) - total;
            next.extend(logits.iter().zip(0..).map(|(logit, token)| (score(logit), number, token)));
        }
        // Twice as many as beams, so that enough go on where some end; of these only the first `beams` may end.
        let wanted = (2 * beams).min(next.len());
        let descending = |a: &(f64, usize, i32), b: &(f64, usize, i32)| b.0.total_cmp(&a.0);
        if wanted < next.len() {
            next.select_nth_unstable_by(wanted, descending);
            next.truncate(wanted);
        }
        next.sort_by(descending);
        let scale = (length as f64).powf(options.length_penalty);
        let mut running = Vec::with_capacity(beams);
        for (rank, (score, number, token)) in next.into_iter().enumerate() {
            let ends = last || Some(token) == eos;
            if ends && rank >= beams || !ends && running.len() == beams {
                continue;
            }
            let mut text = self.running[number].text.clone();
            text.push(token);
            if ends {
                self.ended.push(Beam { text, score: score / scale });
            } else {
                running.push(Beam { text, score });
            }
        }
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(beams);
        self.running = running;
        let full = self.ended.len() == beams;
        // The best that goes on, as if it ended here, against the worst that has ended.
        let hope = self.running.first().map_or(f64::MIN, |beam| beam.score / scale);
        let worst = self.ended.last().filter(|_| full).map_or(f64::MIN, |beam| beam.score);
        self.over = self.running.is_empty() || full && (options.early_stopping || hope <= worst);
    }

    fn best(self) -> Option<Vec<i32>> {
        self.ended.into_iter().chain(self.running).next().map(|beam| beam.text)
    }
}
