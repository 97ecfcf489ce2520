//! What attention blocks of several models share.

use wgrad_nn::{
    Context,
    functional::{Attention, scaled_dot_product_attention},
};
use wgrad_tensor::{DType, Tensor};

/// Attention of projected queries `[b, i, n]`, keys and values `[b, j, n]` in `heads` equal parts of the width; `[b, i, n]`.
#[track_caller]
pub(crate) fn attend(
    [q, k, v]: [&Tensor; 3],
    heads: usize,
    options: &Attention<'_>,
    ctx: &Context,
) -> Tensor {
    let split = |x: &Tensor| {
        let [b, t, n] = x.dims::<3>();
        x.reshape([b, t, heads, n / heads.max(1)]).permute(&[0, 2, 1, 3])
    };
    let y_bhid = scaled_dot_product_attention(&split(q), &split(k), &split(v), options, ctx);
    let [b, h, i, d] = y_bhid.dims::<4>();
    y_bhid.permute(&[0, 2, 1, 3]).reshape([b, i, h * d])
}

/// A mask as `bool`: numbers other than 0 are true.
pub(crate) fn as_bool(mask: &Tensor) -> Tensor {
    if mask.dtype() == DType::Bool { mask.clone() } else { mask.cast(DType::Bool) }
}

/// The length of ids `[b, t]`, or a tensor that carries the reason why they do not fit a model with this many positions.
#[track_caller]
pub(crate) fn time_of(
    model: &'static str,
    ids: &Tensor,
    longest: usize,
    key: &str,
) -> Result<usize, Box<Tensor>> {
    if ids.error().is_some() {
        return Err(Box::new(ids.clone()));
    }
    let &[_, t] = ids.shape().dims() else {
        return Err(Box::new(ids.invalid(model, format!("expects ids [batch, time], got {}", ids.shape()))));
    };
    if t > longest {
        let message =
            format!("{t} positions exceed the longest text of {longest} (`{key}`); shorten the text");
        return Err(Box::new(ids.invalid(model, message)));
    }
    Ok(t)
}
