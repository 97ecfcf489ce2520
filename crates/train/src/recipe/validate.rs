//! Values that no run can have, refused before anything is read or computed.

use wgrad_optim::OptimizerSpec;

use super::{ModelRecipe, Precision, Recipe, RecipeError};

impl Recipe {
    /// Checks every value, and fills in `train.context` from the model.
    ///
    /// # Errors
    /// [`RecipeError::Value`] names the first key whose value is out of range, and what it may be.
    pub fn validate(&mut self) -> Result<(), RecipeError> {
        self.model.validate()?;
        self.optimizer.validate(self.train.clipping().is_some())?;
        let t = &mut self.train;
        if t.context == 0 {
            t.context = self.model.n_positions;
        }
        check("train.context", t.context <= self.model.n_positions, t.context, || {
            format!("at most model.n_positions, {}", self.model.n_positions)
        })?;
        positive("train.batch_size", t.batch_size)?;
        positive("train.grad_accumulation", t.grad_accumulation)?;
        let scales = !matches!(self.optimizer.spec, OptimizerSpec::Lbfgs(_));
        check("train.precision", scales || t.precision != Precision::F16, "f16", || {
            "f32 or bf16 with lbfgs, which cannot scale the loss".into()
        })?;
        positive("train.validation_windows", t.validation_windows)?;
        positive("train.keep_checkpoints", t.keep_checkpoints)?;
        // The random streams count steps in 32 bits.
        for (key, steps) in [
            ("train.steps", t.steps),
            ("train.eval_every", t.eval_every),
            ("train.checkpoint_every", t.checkpoint_every),
        ] {
            check(key, (1..1 << 32).contains(&steps), steps, || "in 1..2^32".into())?;
        }
        check("train.seed", i64::try_from(t.seed).is_ok(), t.seed, || "below 2^63".into())?;
        let clips = [
            ("train.clip_grad_norm", t.clip_grad_norm),
            ("train.clip_grad_value", t.clip_grad_value),
            ("train.clip_grad_adaptive", t.clip_grad_adaptive),
        ];
        let given = clips.iter().filter_map(|(key, most)| Some((*key, (*most)?)));
        for (number, (key, most)) in given.enumerate() {
            check(key, most > 0.0, most, || "above 0, or absent for no clipping".into())?;
            check(key, number == 0, most, || "absent where gradients are clipped in another way".into())?;
        }
        self.validate_schedule()?;
        self.validate_average()?;
        let s = &self.sample;
        check(
            "sample.temperature",
            s.temperature >= 0.0 && s.temperature.is_finite(),
            s.temperature,
            || "0 or more".into(),
        )?;
        // A sample is written between two steps: nothing else happens meanwhile.
        check("sample.length", (1..=100_000).contains(&s.length), s.length, || "in 1..=100000".into())?;
        check("sample.prompts", s.prompts.iter().all(|p| !p.is_empty()), "an empty one", || {
            "texts of at least one character".into()
        })?;
        if let Some(k) = s.top_k {
            positive("sample.top_k", k)?;
        }
        let name_ok = !self.name.contains(['/', '\\']) && !self.name.starts_with('.');
        check("name", name_ok, &self.name, || "a file name without `/` that does not begin with a dot".into())
    }
}

impl ModelRecipe {
    fn validate(&self) -> Result<(), RecipeError> {
        positive("model.n_layer", self.n_layer)?;
        positive("model.n_head", self.n_head)?;
        positive("model.n_embd", self.n_embd)?;
        positive("model.n_positions", self.n_positions)?;
        positive("model.n_inner", self.n_inner.unwrap_or(1))?;
        check("model.n_head", self.n_embd.is_multiple_of(self.n_head), self.n_head, || {
            format!("a divisor of model.n_embd, {}", self.n_embd)
        })?;
        for (key, p) in [
            ("model.resid_pdrop", self.resid_pdrop),
            ("model.embd_pdrop", self.embd_pdrop),
            ("model.attn_pdrop", self.attn_pdrop),
        ] {
            check(key, (0.0..1.0).contains(&p), p, || "in 0..1".into())?;
        }
        let epsilon = self.layer_norm_epsilon;
        check("model.layer_norm_epsilon", epsilon > 0.0, epsilon, || "above 0".into())?;
        let range = self.initializer_range;
        check("model.initializer_range", range >= 0.0 && range.is_finite(), range, || "0 or more".into())
    }
}

fn positive(key: &'static str, found: usize) -> Result<(), RecipeError> {
    check(key, found > 0, found, || "1 or more".into())
}

/// NaN fails every comparison and is thereby refused.
fn check(
    key: &'static str,
    good: bool,
    found: impl std::fmt::Display,
    expected: impl FnOnce() -> String,
) -> Result<(), RecipeError> {
    if good {
        Ok(())
    } else {
        Err(RecipeError::Value { key, expected: expected(), found: found.to_string() })
    }
}
