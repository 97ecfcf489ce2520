//! From frames to labels: what connectionist temporal classification reads.

use std::collections::BTreeMap;

use wgrad_tensor::{Tensor, TensorError};

/// A reading of one sequence.
#[derive(Clone, PartialEq, Debug)]
pub struct CtcDecoded {
    /// The labels, without blanks.
    pub labels: Vec<i32>,
    /// The logarithm of its probability: of its one path (greedy), or of all of its paths that were followed (beam).
    pub log_prob: f64,
}

/// For each sequence the labels of the most probable path: the best class of each frame, repetitions joined, blanks left out.
///
/// `log_probs [t, n, c]` as in [`ctc_loss`](super::ctc_loss); evaluates them, and reads on the host.
///
/// # Errors
/// `log_probs` carries an error, cannot be evaluated or is not of that rank, or there are not `n` lengths of at most `t`.
#[track_caller]
pub fn ctc_greedy_decode(
    log_probs: &Tensor,
    input_lengths: &[usize],
    blank: usize,
) -> Result<Vec<CtcDecoded>, TensorError> {
    let frames = Frames::read("ctc_greedy_decode", log_probs, input_lengths, blank)?;
    let decode = |n: usize| {
        let (mut labels, mut log_prob, mut last) = (Vec::new(), 0.0, blank);
        for frame in frames.of(n) {
            // Of equals the first, as everywhere.
            let better = |best: usize, class: usize| if frame[class] > frame[best] { class } else { best };
            let class = (1..frame.len()).fold(0, better);
            log_prob += frame[class];
            if class != last && class != blank {
                labels.push(class as i32);
            }
            last = class;
        }
        CtcDecoded { labels, log_prob }
    };
    Ok((0..input_lengths.len()).map(decode).collect())
}

/// For each sequence its most probable readings, best first, at most `beam`: prefix beam search (Hannun et al., *First-Pass Large
/// Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs*, 2014), without a language model. With a beam
/// as wide as there are readings, probabilities are exact.
///
/// # Errors
/// As [`ctc_greedy_decode`]; a beam of 0.
#[track_caller]
pub fn ctc_beam_decode(
    log_probs: &Tensor,
    input_lengths: &[usize],
    blank: usize,
    beam: usize,
) -> Result<Vec<Vec<CtcDecoded>>, TensorError> {
    const NAME: &str = "ctc_beam_decode";
    if beam == 0 {
        log_probs.invalid(NAME, "expects a beam of 1 or more, got 0").check()?;
    }
    let frames = Frames::read(NAME, log_probs, input_lengths, blank)?;
    Ok((0..input_lengths.len()).map(|n| search(frames.of(n), blank, beam)).collect())
}

/// Logarithms of the probabilities of all paths of a reading so far.
#[derive(Clone, Copy)]
struct Paths {
    /// Of those that end in a blank.
    blank: f64,
    /// Of those that end in the last label.
    label: f64,
}

impl Paths {
    const NONE: Paths = Paths { blank: f64::NEG_INFINITY, label: f64::NEG_INFINITY };

    fn total(self) -> f64 {
        log_add(self.blank, self.label)
    }
}

fn search<'a>(frames: impl Iterator<Item = &'a [f64]>, blank: usize, beam: usize) -> Vec<CtcDecoded> {
    let mut readings: Vec<(Vec<i32>, Paths)> = vec![(Vec::new(), Paths { blank: 0.0, ..Paths::NONE })];
    for frame in frames {
        // Ordered, so that readings of one probability are the same ones every time.
        let mut next: BTreeMap<Vec<i32>, Paths> = BTreeMap::new();
        for (labels, paths) in &readings {
            let same = next.entry(labels.clone()).or_insert(Paths::NONE);
            same.blank = log_add(same.blank, paths.total() + frame[blank]);
            if let Some(&last) = labels.last() {
                same.label = log_add(same.label, paths.label + frame[last as usize]);
            }
            for class in (0..frame.len()).filter(|&class| class != blank) {
                let mut longer = labels.clone();
                longer.push(class as i32);
                // A label after itself needs a blank between.
                let before = if labels.last() == Some(&(class as i32)) { paths.blank } else { paths.total() };
                let entry = next.entry(longer).or_insert(Paths::NONE);
                entry.label = log_add(entry.label, before + frame[class]);
            }
        }
        readings = next.into_iter().filter(|(_, paths)| paths.total() > f64::NEG_INFINITY).collect();
        readings.sort_by(|a, b| b.1.total().total_cmp(&a.1.total()));
        readings.truncate(beam);
    }
    let decoded = |(labels, paths): (Vec<i32>, Paths)| CtcDecoded { labels, log_prob: paths.total() };
    readings.into_iter().map(decoded).collect()
}

fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if high == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// The frames of all sequences on the host.
struct Frames<'a> {
    elements: Vec<f64>,
    sequences: usize,
    classes: usize,
    lengths: &'a [usize],
}

impl<'a> Frames<'a> {
    #[track_caller]
    fn read(
        name: &'static str,
        log_probs: &Tensor,
        lengths: &'a [usize],
        blank: usize,
    ) -> Result<Self, TensorError> {
        log_probs.check()?;
        let shape = log_probs.shape();
        let [frames, sequences, classes] = *shape.dims() else {
            let message = format!("expects log_probs [frames, sequences, classes], got {shape}");
            return Err(refused(log_probs, name, message));
        };
        if lengths.len() != sequences || lengths.iter().any(|&n| n > frames) || blank >= classes {
            let message = format!(
                "expects {sequences} lengths of at most {frames} frames and a blank below {classes}, got {lengths:?} and {blank}"
            );
            return Err(refused(log_probs, name, message));
        }
        Ok(Frames { elements: log_probs.to_f64_vec()?, sequences, classes, lengths })
    }

    fn of(&self, n: usize) -> impl Iterator<Item = &[f64]> {
        let rows = self.elements.chunks_exact(self.classes);
        rows.skip(n).step_by(self.sequences).take(self.lengths[n])
    }
}

/// The error that a tensor refuses an operation with.
#[track_caller]
fn refused(x: &Tensor, name: &'static str, message: String) -> TensorError {
    match x.invalid(name, message.clone()).check() {
        Err(error) => error,
        Ok(()) => TensorError::Op { op: name, message, location: std::panic::Location::caller() },
    }
}
