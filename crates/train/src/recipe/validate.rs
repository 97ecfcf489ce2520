//! Values that no run can have, refused before anything is read or computed.

use super::{ModelRecipe, OptimizerKind, OptimizerRecipe, Recipe, RecipeError, ScheduleKind};

impl Recipe {
    /// Checks every value, and fills in `train.context` from the model.
    ///
    /// # Errors
    /// [`RecipeError::Value`] names the first key whose value is out of range, and what it may be.
    pub fn validate(&mut self) -> Result<(), RecipeError> {
        self.model.validate()?;
        self.optimizer.validate()?;
        let t = &mut self.train;
        if t.context == 0 {
            t.context = self.model.n_positions;
        }
        check("train.context", t.context <= self.model.n_positions, t.context, || {
            format!("at most model.n_positions, {}", self.model.n_positions)
        })?;
        positive("train.batch_size", t.batch_size)?;
        positive("train.grad_accumulation", t.grad_accumulation)?;
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
        if let Some(norm) = t.clip_grad_norm {
            check("train.clip_grad_norm", norm > 0.0, norm, || "above 0, or absent for no clipping".into())?;
        }
        let s = &self.schedule;
        check("schedule.warmup_steps", s.warmup_steps <= t.steps, s.warmup_steps, || {
            format!("at most train.steps, {}", t.steps)
        })?;
        let floor = (0.0..=self.optimizer.lr).contains(&s.min_lr);
        check("schedule.min_lr", floor, s.min_lr, || format!("in 0..=optimizer.lr, {}", self.optimizer.lr))?;
        let used = s.name == ScheduleKind::Cosine || s.min_lr == 0.0;
        check("schedule.min_lr", used, s.min_lr, || "absent unless schedule.name is cosine".into())?;
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

impl OptimizerRecipe {
    fn validate(&self) -> Result<(), RecipeError> {
        check("optimizer.lr", self.lr > 0.0 && self.lr.is_finite(), self.lr, || "above 0".into())?;
        let betas = self.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        check("optimizer.betas", betas, format!("{:?}", self.betas), || "two numbers in 0..1".into())?;
        check("optimizer.eps", self.eps > 0.0 && self.eps.is_finite(), self.eps, || "above 0".into())?;
        let decay = self.weight_decay;
        check("optimizer.weight_decay", decay >= 0.0 && decay.is_finite(), decay, || "0 or more".into())?;
        check("optimizer.momentum", (0.0..1.0).contains(&self.momentum), self.momentum, || "in 0..1".into())?;
        let sgd = self.name == OptimizerKind::Sgd;
        check("optimizer.momentum", sgd || self.momentum == 0.0, self.momentum, || {
            "absent with adamw, whose momentum is betas[0]".into()
        })?;
        let nesterov = !self.nesterov || sgd && self.momentum > 0.0;
        check("optimizer.nesterov", nesterov, self.nesterov, || "false without sgd and its momentum".into())
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
