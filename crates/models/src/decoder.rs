//! What decoder-only transformers have in common: how their weights are drawn, and what attention knows about a pass.
//!
//! Legend of shapes: b batch, t time of the pass, s capacity of the cache, h heads, g key heads, d width of a head.

use std::cell::RefCell;

use wgrad_nn::{
    Context, Embedding, Initializer, Linear,
    functional::{Attention, cross_entropy, linear_cross_entropy, scaled_dot_product_attention},
};
use wgrad_tensor::{DType, Tensor, checkpoint};

use crate::KeyValueCache;

/// How the weights of a new model are drawn. Biases are 0 and the weights of norms 1 in either case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InitScheme {
    /// Normal with standard deviation `initializer_range`; for the two projections onto the residual stream of each block that
    /// divided by `√(2 layers)`, as the paper of GPT-2 and Hugging Face's GPT-2 do.
    #[default]
    ScaledResiduals,
    /// Normal with standard deviation `initializer_range` throughout, as Hugging Face's LLaMA does.
    Plain,
    /// Zeros, for weights that are loaded next.
    Zeros,
}

impl InitScheme {
    /// For all weights, and for those onto the residual stream.
    pub(crate) fn weights(self, std: f64, layers: usize) -> (Initializer, Initializer) {
        let normal = |std| Initializer::Normal { std };
        match self {
            InitScheme::Zeros => (Initializer::Zeros, Initializer::Zeros),
            InitScheme::Plain => (normal(std), normal(std)),
            InitScheme::ScaledResiduals => (normal(std), normal(std / (2.0 * layers as f64).sqrt())),
        }
    }
}

/// The output layer: `x [.., c]` to `[.., v]` by `head`, or by the token table where they are tied.
#[track_caller]
pub(crate) fn logits(x: &Tensor, head: Option<&Linear>, table: &Embedding) -> Tensor {
    match head {
        Some(head) => head.forward(x),
        None => x.matmul(&table.weight.tensor().t()),
    }
}

/// The mean cross-entropy of [`logits`] with the next tokens, of which only those of `chunk` positions exist at one time; all of them
/// where an adapter adds to them.
#[track_caller]
pub(crate) fn next_token_loss_in_chunks(
    x_btc: &Tensor,
    (head, table): (Option<&Linear>, &Embedding),
    targets_bt: &Tensor,
    chunk: usize,
) -> Tensor {
    if let Some(head) = head.filter(|head| head.is_adapted()) {
        return cross_entropy(&head.forward(x_btc), targets_bt, None);
    }
    let weight = head.map_or(&table.weight, |head| &head.weight);
    linear_cross_entropy(x_btc, &weight.tensor(), targets_bt, None, chunk)
}

/// The residual stream of whole texts: what `run` shows of it before each block, and what it ends with.
#[track_caller]
pub(crate) fn hidden_states(
    attention_mask: Option<&Tensor>,
    ctx: &Context,
    run: impl FnOnce(&Pass<'_>, &mut dyn FnMut(&Tensor)) -> Tensor,
) -> Vec<Tensor> {
    let mut states = Vec::new();
    let last = run(&Pass::whole(attention_mask, false, ctx), &mut |x| states.push(x.clone()));
    states.push(last);
    states
}

/// What `run` makes of what comes next in a cache, which then holds that too.
#[track_caller]
pub(crate) fn transform_next(cache: &mut KeyValueCache, run: impl FnOnce(&Pass<'_>) -> Tensor) -> Tensor {
    let ctx = Context::eval();
    let pass = Pass::next(cache, &ctx);
    let x_btc = run(&pass);
    let kept = pass.into_kept();
    cache.take(kept);
    x_btc
}

/// How a block's attention weighs keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighing {
    /// What scores are multiplied by.
    pub(crate) scale: f64,
    /// How many keys before and with its own a query sees; all if not given.
    pub(crate) window: Option<usize>,
    /// Dropout of attention weights.
    pub(crate) dropout: f64,
}

/// A pass through a model: over whole texts, or over what comes next in a cache.
pub(crate) struct Pass<'a> {
    ctx: &'a Context,
    /// `bool [b, t]`, false where a position is padding; of whole texts only.
    key_mask: Option<Tensor>,
    cache: Option<&'a KeyValueCache>,
    /// Of each block so far, the cache's keys and values with those of this pass.
    kept: RefCell<Vec<[Tensor; 2]>>,
    checkpointing: bool,
}

impl<'a> Pass<'a> {
    /// Over whole texts. In training with `checkpointing`, each block keeps only what went into it.
    pub(crate) fn whole(attention_mask: Option<&Tensor>, checkpointing: bool, ctx: &'a Context) -> Self {
        let key_mask = attention_mask
            .map(|mask| if mask.dtype() == DType::Bool { mask.clone() } else { mask.cast(DType::Bool) });
        let checkpointing = checkpointing && ctx.is_training();
        Pass { ctx, key_mask, cache: None, kept: RefCell::default(), checkpointing }
    }

    /// Over what comes next.
    pub(crate) fn next(cache: &'a KeyValueCache, ctx: &'a Context) -> Self {
        Pass { ctx, key_mask: None, cache: Some(cache), kept: RefCell::default(), checkpointing: false }
    }

    pub(crate) fn ctx(&self) -> &Context {
        self.ctx
    }

    /// What the cache is to hold next.
    pub(crate) fn into_kept(self) -> Vec<[Tensor; 2]> {
        self.kept.into_inner()
    }

    /// Rows of a table with one row per position, for `t` positions: `[1 or b, t, ..]`.
    #[track_caller]
    pub(crate) fn rows_of(&self, table: &Tensor, t: usize) -> Tensor {
        match self.cache {
            None => table.narrow(0, 0, t).unsqueeze(0),
            Some(cache) => table.embedding(&cache.positions(t)),
        }
    }

    /// How many positions a table must have for `t` more.
    pub(crate) fn reach(&self, t: usize) -> usize {
        self.cache.map_or(t, |cache| cache.capacity().max(t))
    }

    /// A block on the residual stream.
    #[track_caller]
    pub(crate) fn through(&self, x_btc: &Tensor, block: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        if self.checkpointing { checkpoint(&[x_btc], |x| block(&x[0])) } else { block(x_btc) }
    }

    /// Causal attention: `q [b, t, h, d]`, `k` and `v` `[b, t, g, d]` give `[b, t, h d]`. Blocks call it in order, each once.
    #[track_caller]
    pub(crate) fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, weighing: Weighing) -> Tensor {
        let [b, t, h, d] = q.dims::<4>();
        let Weighing { scale, window, dropout } = weighing;
        let options = Attention { scale: Some(scale), dropout, ..Attention::default() };
        let attention = |k: &Tensor, v: &Tensor, options: &Attention<'_>| {
            let [q, k, v] = [q, k, v].map(|x| x.permute(&[0, 2, 1, 3]));
            scaled_dot_product_attention(&q, &k, &v, options, self.ctx).permute(&[0, 2, 1, 3])
        };
        let y = match self.cache {
            None => {
                let key_mask = self.key_mask.as_ref();
                attention(k, v, &Attention { causal: true, window, key_mask, ..options })
            }
            Some(cache) => {
                let mut kept = self.kept.borrow_mut();
                let [keys, values] = cache.with_next(kept.len(), k, v);
                let visible_bts = cache.visible(t, window);
                let y = if t == 1 {
                    let key_mask = visible_bts.squeeze(1);
                    attention(&keys, &values, &Attention { key_mask: Some(&key_mask), ..options })
                } else {
                    let mask = visible_bts.unsqueeze(1);
                    attention(&keys, &values, &Attention { mask: Some(&mask), ..options })
                };
                kept.push([keys, values]);
                y
            }
        };
        y.reshape([b, t, h * d])
    }
}
