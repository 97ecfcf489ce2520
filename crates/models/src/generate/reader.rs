//! Reading tokens through a cache.

use wgrad_tensor::Tensor;

use crate::{CausalLanguageModel, KeyValueCache, ModelError};

/// Reads texts side by side into a [`KeyValueCache`] and tells what comes next.
#[derive(Debug)]
pub struct Reader<'m, M: ?Sized> {
    model: &'m M,
    cache: Option<KeyValueCache>,
    capacity: usize,
    /// What was read, of each text: padding, prompt and all after it.
    rows: Vec<Vec<u32>>,
    /// The padding of each text.
    starts: Vec<usize>,
}

/// A prompt is read in pieces of at most so many tokens.
const LONGEST_PIECE: usize = 128;

/// And of at least so many places, so that prompts of similar length share programs.
const SHORTEST_PIECE: usize = 8;

impl<'m, M: CausalLanguageModel + ?Sized> Reader<'m, M> {
    /// With room for texts of so many tokens, prompts included, or for the model's context where that is less.
    pub fn new(model: &'m M, tokens: usize) -> Self {
        // A power of two, so that texts of similar length share a program.
        let limit = model.max_context();
        let capacity = tokens.max(1).checked_next_power_of_two().unwrap_or(limit).min(limit);
        Reader { model, cache: None, capacity, rows: Vec::new(), starts: Vec::new() }
    }

    /// Begins with prompts, forgetting what was before; of prompts beyond the capacity the end is read. Returns logits `[prompts, v]` of
    /// what comes after them.
    ///
    /// # Errors
    /// The device, or logits that are not numbers.
    pub fn start(&mut self, prompts: &[&[u32]]) -> Result<Vec<f32>, ModelError> {
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0).min(self.capacity);
        let cut = |prompt: &[u32]| prompt[prompt.len().saturating_sub(longest)..].to_vec();
        let rows: Vec<Vec<u32>> = prompts.iter().map(|prompt| cut(prompt)).collect();
        self.starts = rows.iter().map(|row| longest - row.len()).collect();
        self.rows = rows
            .into_iter()
            .map(|row| std::iter::repeat_n(0, longest - row.len()).chain(row).collect())
            .collect();
        self.read_again()
    }

    /// Reads the next token of each text; returns logits `[texts, v]` of what comes after it. Where there is no more room, the texts go
    /// on from their last half.
    ///
    /// # Errors
    /// As [`Reader::start`].
    pub fn read(&mut self, next: &[u32]) -> Result<Vec<f32>, ModelError> {
        for (row, &token) in self.rows.iter_mut().zip(next) {
            row.push(token);
        }
        let length = self.rows.first().map_or(0, Vec::len);
        if length <= self.capacity {
            return self.piece(length.saturating_sub(1), 1, true);
        }
        let dropped = length - self.capacity.div_ceil(2);
        for (row, start) in self.rows.iter_mut().zip(&mut self.starts) {
            row.drain(..dropped);
            *start = start.saturating_sub(dropped);
        }
        self.read_again()
    }

    /// Puts the texts in another order; a text may occur several times or not at all.
    ///
    /// # Errors
    /// The device.
    pub fn reorder(&mut self, order: &[usize]) -> Result<(), ModelError> {
        if order.iter().copied().eq(0..self.rows.len()) {
            return Ok(());
        }
        self.rows = order.iter().filter_map(|&row| self.rows.get(row).cloned()).collect();
        self.starts = order.iter().filter_map(|&row| self.starts.get(row).copied()).collect();
        match &mut self.cache {
            Some(cache) => Ok(cache.reorder(order)?),
            None => Ok(()),
        }
    }

    /// Reads all rows from their beginning.
    fn read_again(&mut self) -> Result<Vec<f32>, ModelError> {
        let device = self.model.device();
        self.cache = Some(KeyValueCache::new(&self.model.cache_spec(), &self.starts, self.capacity, &device));
        let length = self.rows.first().map_or(0, Vec::len);
        let mut logits = Vec::new();
        for first in (0..length).step_by(LONGEST_PIECE) {
            let tokens = LONGEST_PIECE.min(length - first);
            logits = self.piece(first, tokens, first + tokens == length)?;
        }
        Ok(logits)
    }

    /// Reads so many tokens of each row from `first` on; logits after the last one, if they are wanted.
    fn piece(&mut self, first: usize, tokens: usize, wanted: bool) -> Result<Vec<f32>, ModelError> {
        let Some(cache) = &mut self.cache else {
            return Err(ModelError::Generate("nothing was read before; start with a prompt".into()));
        };
        let device = self.model.device();
        // The end is padded; what that leaves in the cache is overwritten before anything sees it.
        let t = if tokens == 1 { 1 } else { tokens.next_power_of_two().max(SHORTEST_PIECE) };
        let mut ids = Vec::with_capacity(t * self.rows.len());
        for row in &self.rows {
            let piece = row.iter().skip(first).take(tokens).map(|&token| token as i32);
            ids.extend(piece.chain(std::iter::repeat(0)).take(t));
        }
        let ids = Tensor::from_vec(ids, [self.rows.len(), t], &device);
        cache.set_position(first);
        let x_btc = self.model.transform_next(&ids, cache);
        if !wanted {
            cache.eval_with(&[])?;
            return Ok(Vec::new());
        }
        let last = Tensor::from_vec(vec![tokens as i32 - 1], [1], &device);
        let x_b1c = if t == 1 { x_btc } else { x_btc.index_select(1, &last) };
        let logits = self.model.logits(&x_b1c).cast(wgrad_tensor::DType::F32);
        cache.eval_with(&[&logits])?;
        let logits: Vec<f32> = logits.to_vec()?;
        if logits.iter().any(|l| l.is_nan()) {
            let message = "the model gives logits that are not numbers; its parameters are damaged";
            return Err(ModelError::Generate(message.into()));
        }
        Ok(logits)
    }
}
