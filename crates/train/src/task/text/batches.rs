//! Batches of texts of similar lengths, to train on and to measure with.

use wgrad_data::{BatchPlan, LengthBuckets};

use crate::task::{BatchMaker, batch::HostBatch};

/// The default of `data.max_length`.
pub(super) fn max_length() -> usize {
    128
}

/// The default of `data.pad_to_multiple_of`.
pub(super) fn multiple() -> usize {
    16
}

/// What makes the batches of a run, epoch by epoch, none wider than `longest`.
pub(super) fn by_length(
    buckets: LengthBuckets,
    longest: usize,
    batch: impl Fn(&BatchPlan) -> wgrad_data::Result<HostBatch> + Send + 'static,
) -> BatchMaker {
    let mut epoch: Option<(u64, Vec<BatchPlan>)> = None;
    Box::new(move |step| {
        let (number, place) = buckets.place(step);
        if epoch.as_ref().is_none_or(|(known, _)| *known != number) {
            epoch = Some((number, buckets.epoch(number)));
        }
        let plan = epoch.as_ref().and_then(|(_, plans)| plans.get(place).cloned()).unwrap_or_default();
        batch(&BatchPlan { width: plan.width.min(longest), ..plan })
    })
}

/// Batches of `examples` rows in which every example counts once, none wider than `longest`, and how many rows of each count.
pub(super) fn in_order(
    buckets: &LengthBuckets,
    examples: usize,
    longest: usize,
) -> impl Iterator<Item = (BatchPlan, usize)> {
    buckets.in_order().into_iter().map(move |plan| {
        let (rows, width) = (filled(&plan.rows, examples), plan.width.min(longest));
        (BatchPlan { rows, width }, plan.rows.len())
    })
}

/// The last batch, filled up with its first example: one shape, one program.
pub(super) fn filled(rows: &[usize], examples: usize) -> Vec<usize> {
    let fill = rows.first().copied().unwrap_or_default();
    let mut full = rows.to_vec();
    full.resize(examples.max(1), fill);
    full
}
