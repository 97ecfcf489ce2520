//! Multi-head attention between two sequences.
//!
//! Legend: b batch, i queries, j keys, c width, h heads, d width of a head.

use wgrad_tensor::Tensor;

use crate::{
    Context, Init, Initializer, Linear, Module, Param,
    functional::{Attention, attention_weights, linear, scaled_dot_product_attention},
};

/// Multi-head attention (Vaswani et al., 2017) with PyTorch's parameters: queries, keys and values of one width, projected by one
/// packed matrix. Batches come first.
#[derive(Clone, Debug, Module)]
pub struct MultiheadAttention {
    /// `[3c, c]`: queries, then keys, then values.
    pub in_proj_weight: Param,
    /// `[3c]`.
    pub in_proj_bias: Option<Param>,
    /// `[c, c]`, applied to the joined heads.
    pub out_proj: Linear,
    /// Number of heads; it divides the width.
    pub num_heads: usize,
    /// Probability with which an attention weight is dropped in training.
    pub dropout: f64,
}

impl MultiheadAttention {
    /// With biases of zero and PyTorch's initial values: Xavier-uniform projections.
    pub fn new(init: &Init, width: usize, num_heads: usize, dropout: f64) -> Self {
        MultiheadAttention {
            in_proj_weight: init.param([3 * width, width], Initializer::XavierUniform),
            in_proj_bias: Some(init.param([3 * width], Initializer::Zeros)),
            out_proj: Linear::with(
                init,
                width,
                width,
                Initializer::linear_default(width),
                Some(Initializer::Zeros),
            ),
            num_heads,
            dropout,
        }
    }

    /// `query [b, i, c]`, `key` and `value` `[b, j, c]` give `[b, i, c]`. `options` has the masks; its dropout is replaced by the layer's.
    #[track_caller]
    pub fn forward(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        options: &Attention<'_>,
        ctx: &Context,
    ) -> Tensor {
        let Some([q, k, v]) = self.project(query, key, value) else {
            return self.misfit(query);
        };
        let options = Attention { dropout: self.dropout, ..*options };
        self.join(&scaled_dot_product_attention(&q, &k, &v, &options, ctx))
    }

    /// As [`MultiheadAttention::forward`] without dropout, with the weights averaged over the heads, `[b, i, j]`.
    #[track_caller]
    pub fn forward_with_weights(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        options: &Attention<'_>,
    ) -> (Tensor, Tensor) {
        let Some([q, k, v]) = self.project(query, key, value) else {
            let faulty = self.misfit(query);
            return (faulty.clone(), faulty);
        };
        let weights = attention_weights(&q, &k, options);
        (self.join(&weights.matmul(&v)), weights.mean(&[1], false))
    }

    /// Queries, keys and values `[b, h, .., d]`.
    #[track_caller]
    fn project(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Option<[Tensor; 3]> {
        let c = query.shape().last().copied().unwrap_or(0);
        let h = self.num_heads;
        if h == 0 || c % h != 0 || [query, key, value].iter().any(|t| t.rank() != 3) {
            return None;
        }
        let (weight, bias) = (self.in_proj_weight.tensor(), self.in_proj_bias.as_ref().map(Param::tensor));
        let heads = |x: Tensor| {
            let [b, t, c] = x.dims::<3>();
            x.reshape([b, t, h, c / h]).permute(&[0, 2, 1, 3])
        };
        // One product where all three are of one sequence.
        if query.is_same(key) && key.is_same(value) {
            let all = linear(query, &weight, bias.as_ref());
            return Some([0, 1, 2].map(|n| heads(all.narrow(-1, n * c, c))));
        }
        let part = |n: usize, x: &Tensor| {
            let bias = bias.as_ref().map(|b| b.narrow(0, n * c, c));
            heads(linear(x, &weight.narrow(0, n * c, c), bias.as_ref()))
        };
        Some([part(0, query), part(1, key), part(2, value)])
    }

    #[track_caller]
    fn join(&self, heads_bhid: &Tensor) -> Tensor {
        let [b, h, i, d] = heads_bhid.dims::<4>();
        self.out_proj.forward(&heads_bhid.permute(&[0, 2, 1, 3]).reshape([b, i, h * d]))
    }

    #[track_caller]
    fn misfit(&self, query: &Tensor) -> Tensor {
        let message = format!(
            "expects [batch, time, width] with a width that {} heads divide, got {}",
            self.num_heads,
            query.shape()
        );
        query.invalid("multi_head_attention", message)
    }
}
