//! One encoder for two tasks.

use std::path::Path;

use wgrad::{models::MultiTaskEncoder, nn::multi_task::weighted_sum, prelude::*};

use super::{Batch, Case, Kind, Outputs};
use crate::Result;

pub(super) fn open(dir: &Path, device: &DeviceHandle, _: &Kind) -> Result<Box<dyn Case>> {
    Ok(Box::new(MultiTaskEncoder::from_pretrained(dir, device)?))
}

impl Case for MultiTaskEncoder {
    fn module(&self) -> &dyn Module {
        self
    }

    fn forward(&self, batch: &Batch, ctx: &Context) -> Result<Outputs> {
        let output = self.forward(batch.get("input_ids")?, batch.find("pad_mask"), ctx);
        let [cls, tag] = output.losses(batch.get("labels_cls")?, batch.get("labels_tag")?);
        let loss = weighted_sum(&[&cls, &tag], &[0.7, 0.3]);
        Ok([
            ("hidden", output.hidden),
            ("logits_cls", output.logits_cls),
            ("logits_tag", output.logits_tag),
            ("loss_cls", cls),
            ("loss_tag", tag),
            ("loss", loss),
        ]
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .into())
    }
}
