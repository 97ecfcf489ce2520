//! Looking rows up by number, and the transpose of it.

use wgrad_ir::Op;

use crate::Tensor;

impl Tensor {
    /// Rows of this table: `table [rows, rest..]` and integer `ids [idx..]` give `[idx.., rest..]` (an embedding lookup). The gradient
    /// adds up the cotangents of equal ids.
    ///
    /// Ids whose values the host knows (uploaded, or views of such) are checked here, and carry an error if one is out of range;
    /// ids computed on the device are clamped there, and the next read reports it.
    #[track_caller]
    pub fn index_select(&self, ids: &Tensor) -> Tensor {
        if let Some(message) = ids.out_of_range(self.shape().first().copied().unwrap_or(0))
            && self.error().is_none()
        {
            return ids.fail("index_select", format!("{message} of table {}", self.describe()));
        }
        Tensor::apply("index_select", Op::Gather, &[self, ids])
    }

    /// The transpose of [`Tensor::index_select`]: this tensor is `[idx.., rest..]` and the result `[rows, rest..]`, whose row `r` is the
    /// sum of the rows with id `r`. Ids are checked in the same way.
    #[track_caller]
    pub fn scatter_add_rows(&self, rows: usize, ids: &Tensor) -> Tensor {
        if let Some(message) = ids.out_of_range(rows)
            && self.error().is_none()
        {
            return ids.fail("scatter_add_rows", message);
        }
        Tensor::apply("scatter_add_rows", Op::ScatterAdd { rows }, &[ids, self])
    }

    fn out_of_range(&self, rows: usize) -> Option<String> {
        let (low, high) = self.0.range?;
        let bad = if low < 0 { low } else { high };
        (low < 0 || high >= rows as i64)
            .then(|| format!("id {bad} in {} is out of range for the {rows} rows", self.describe()))
    }
}
