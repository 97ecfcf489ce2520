//! Keys and values of what a language model has read, so that each token is read once (Pope et al., *Efficiently Scaling Transformer
//! Inference*, 2022).
//!
//! Legend of shapes: b batch, t time of a pass, s capacity, g key heads, d width of a head.

use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{DType, Donation, Tensor, TensorError, eval_donating};

/// Of what size the keys and values of a model are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheSpec {
    /// Number of blocks.
    pub layers: usize,
    /// Key heads of a block.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Element type.
    pub dtype: DType,
}

/// The keys and values of `b` texts that are read side by side, with room for `s` tokens each.
///
/// Where the next tokens go is an input of the compiled program: one program reads any token. Texts of different lengths are
/// padded in front; what stands before a text's start is seen by nothing.
#[derive(Debug)]
pub struct KeyValueCache {
    /// Of each block, `[b, s, g, d]` twice.
    layers: Vec<[Tensor; 2]>,
    /// What `layers` were computed from, to be overwritten.
    before: Vec<[Tensor; 2]>,
    /// i32 `[b, 1, 1]`, the place of each text's first token.
    starts: Tensor,
    position: usize,
    capacity: usize,
}

impl KeyValueCache {
    /// An empty cache for texts that begin after so many places of padding.
    pub fn new(spec: &CacheSpec, starts: &[usize], capacity: usize, device: &DeviceHandle) -> Self {
        let shape = [starts.len(), capacity, spec.heads, spec.width];
        let zeros = || Tensor::zeros(shape, spec.dtype, device).detach_realized();
        let starts: Vec<i32> = starts.iter().map(|&start| start as i32).collect();
        KeyValueCache {
            layers: (0..spec.layers).map(|_| [zeros(), zeros()]).collect(),
            before: Vec::new(),
            starts: Tensor::from_slice(&starts, [starts.len(), 1, 1], device),
            position: 0,
            capacity,
        }
    }

    /// Where the next token goes.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How many tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Lets the next token go there: what was read further on is forgotten.
    pub fn set_position(&mut self, position: usize) {
        self.position = position.min(self.capacity);
    }

    /// Takes what a pass made of it.
    pub(crate) fn take(&mut self, kept: Vec<[Tensor; 2]>) {
        if self.before.is_empty() {
            self.before = std::mem::take(&mut self.layers);
        }
        self.layers = kept;
    }

    /// Computes the keys and values of the last pass together with `wanted`, in the memory of those before it.
    ///
    /// # Errors
    /// As [`wgrad_tensor::eval`].
    pub fn eval_with(&mut self, wanted: &[&Tensor]) -> Result<(), TensorError> {
        {
            let new: Vec<&Tensor> = self.layers.iter().flatten().collect();
            let old: Vec<&Tensor> = self.before.iter().flatten().collect();
            let all: Vec<&Tensor> = new.into_iter().chain(wanted.iter().copied()).collect();
            let donation = Donation { leaves: &old, holders: &old, by: "a key-value cache" };
            eval_donating(&all, &donation)?;
        }
        self.before.clear();
        for tensor in self.layers.iter_mut().flatten() {
            *tensor = tensor.to_leaf()?;
        }
        Ok(())
    }

    /// The same cache with the texts in another order; a text may occur several times or not at all.
    ///
    /// # Errors
    /// As [`wgrad_tensor::eval`].
    pub fn reorder(&mut self, rows: &[usize]) -> Result<(), TensorError> {
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let rows = Tensor::from_slice(&rows, [rows.len()], self.starts.device());
        let pick = |tensor: &Tensor| tensor.embedding(&rows);
        self.starts = pick(&self.starts);
        self.layers = self.layers.iter().map(|[keys, values]| [pick(keys), pick(values)]).collect();
        let mut all: Vec<&Tensor> = self.layers.iter().flatten().collect();
        all.push(&self.starts);
        wgrad_tensor::eval(&all)?;
        self.starts = self.starts.to_leaf()?;
        for tensor in self.layers.iter_mut().flatten() {
            *tensor = tensor.to_leaf()?;
        }
        Ok(())
    }

    /// Keys and values of a block, with those of the next `t` tokens in their places.
    pub(crate) fn with_next(&self, layer: usize, k_btgd: &Tensor, v_btgd: &Tensor) -> [Tensor; 2] {
        let Some([keys, values]) = self.layers.get(layer) else {
            let fault =
                k_btgd.invalid("key_value_cache", format!("has no block {layer}; it is another model's"));
            return [fault.clone(), fault];
        };
        let [_, t, _, _] = k_btgd.dims::<4>();
        let device = keys.device();
        // How far behind the first new token a place is.
        let after_s = Tensor::arange(self.capacity, device).sub(self.here());
        let last = Tensor::constant(t as f64 - 1.0, DType::I32, device);
        let zero = Tensor::constant(0.0, DType::I32, device);
        let new_s = after_s.ge(&zero).logical_and(after_s.le(&last)).reshape([1, self.capacity, 1, 1]);
        let put = |new: &Tensor, old: &Tensor| {
            let new = new.cast(old.dtype());
            let spread =
                if t == 1 { new } else { new.index_select(1, &after_s.maximum(&zero).minimum(&last)) };
            new_s.where_(&spread, old)
        };
        [put(k_btgd, keys), put(v_btgd, values)]
    }

    /// Which places the next `t` tokens see, `bool [b, t, s]`: their own text's up to themselves, at most `window` of them.
    pub(crate) fn visible(&self, t: usize, window: Option<usize>) -> Tensor {
        let device = self.starts.device();
        let key_s = Tensor::arange(self.capacity, device);
        let query_t1 = Tensor::arange(t, device).add(self.here()).unsqueeze(-1);
        let mut see_bts = key_s.le(&query_t1).logical_and(key_s.ge(&self.starts));
        if let Some(window) = window {
            let first = query_t1.sub(Tensor::constant(window as f64, DType::I32, device));
            see_bts = see_bts.logical_and(key_s.gt(&first));
        }
        see_bts
    }

    /// The positions of the next `t` tokens in their texts, i32 `[b, t]`; 0 in padding.
    pub(crate) fn positions(&self, t: usize) -> Tensor {
        let place_t = Tensor::arange(t, self.starts.device()).add(self.here());
        let zero = Tensor::constant(0.0, DType::I32, self.starts.device());
        // Tokens that pad the end of a pass may reach beyond the capacity.
        let last = Tensor::constant(self.capacity as f64 - 1.0, DType::I32, self.starts.device());
        place_t.sub(self.starts.squeeze(-1)).maximum(&zero).minimum(&last)
    }

    /// The place of the next token; an input of programs.
    fn here(&self) -> Tensor {
        Tensor::scalar(self.position as f64, DType::I32, self.starts.device())
    }
}
