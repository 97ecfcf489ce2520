//! `[optimizer]`: its name, its constants, which parameters decay, and which are trained by another one.

use serde::{Deserialize, Serialize};
use wgrad_nn::{Module, name_matches};
use wgrad_optim::{Clipping, Lookahead, OptimError, Optimizer, OptimizerSpec, ParamGroup, Rest};

use super::RecipeError;
use crate::error::Result as TrainResult;

/// Which parameters decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Those of two or more dimensions: weights and embeddings, but no biases and norms.
    #[default]
    Matrices,
    /// Every parameter.
    All,
}

/// The optimizer. Keys beside these are the constants of the one that `name` names, spelt as PyTorch spells them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerRecipe {
    /// Highest learning rate.
    pub lr: f64,
    /// Weight decay per unit of learning rate.
    #[serde(default)]
    pub weight_decay: f64,
    /// Which parameters decay: `matrices` or `all`.
    #[serde(default)]
    pub decay: Decay,
    /// Name and constants.
    #[serde(flatten)]
    pub spec: OptimizerSpec,
    /// Parameters with a learning rate or a decay of their own; the first group that names a parameter holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRecipe>,
    /// Another optimizer for parameters that the first cannot train, and for those that are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<RestRecipe>,
    /// Slow weights that the trained ones are pulled back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookahead: Option<LookaheadRecipe>,
}

/// One of `optimizer.groups`: discriminative learning rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRecipe {
    /// Names of parameters, `*` standing for any characters.
    pub params: Vec<String>,
    /// Their highest learning rate; it follows the schedule as `optimizer.lr` does, which it is by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Their weight decay. Default: `optimizer.weight_decay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

impl GroupRecipe {
    fn names(&self, name: &str) -> bool {
        self.params.iter().any(|pattern| name_matches(pattern, name))
    }
}

/// `optimizer.lookahead`: [`Lookahead`] around the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LookaheadRecipe {
    /// Updates between two looks.
    pub k: u64,
    /// How far slow weights move.
    pub alpha: f64,
}

impl Default for LookaheadRecipe {
    fn default() -> Self {
        LookaheadRecipe { k: 5, alpha: 0.5 }
    }
}

/// `optimizer.rest`: an optimizer for some parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestRecipe {
    /// Highest learning rate.
    pub lr: f64,
    /// Names of parameters that it trains beside those that the first optimizer cannot; `*` stands for any characters.
    #[serde(default = "tables")]
    pub params: Vec<String>,
    /// Name and constants.
    #[serde(flatten)]
    pub spec: OptimizerSpec,
}

/// Embeddings and output layers, as Hugging Face names them.
fn tables() -> Vec<String> {
    ["*wte.*", "*wpe.*", "*embed*", "*lm_head.*"].map(str::to_owned).to_vec()
}

impl OptimizerRecipe {
    /// The optimizer of a model's parameters.
    pub(crate) fn build(
        &self,
        model: &dyn Module,
        clipping: Option<Clipping>,
    ) -> TrainResult<Box<dyn Optimizer>> {
        let groups = self.param_groups(model)?;
        let mut optimizer = match &self.rest {
            None => self.spec.build(groups)?,
            Some(rest) => {
                let other = Rest { spec: rest.spec.clone(), lr_scale: rest.lr / self.lr };
                let named = |name: &str| rest.params.iter().any(|pattern| name_matches(pattern, name));
                self.spec.build_beside(groups, &other, |name, _| named(name))?
            }
        };
        optimizer.set_clipping(clipping);
        Ok(match self.lookahead {
            Some(LookaheadRecipe { k, alpha }) => {
                let mut params = model.named_parameters();
                params.retain(|(_, param)| !param.is_frozen());
                Box::new(Lookahead::new(optimizer, params, k, alpha)?)
            }
            None => optimizer,
        })
    }

    /// The groups that are named, then the rest; of each those that decay, then the others.
    fn param_groups(&self, model: &dyn Module) -> Result<Vec<ParamGroup>, RecipeError> {
        let mut all = Vec::new();
        let default = GroupRecipe { params: vec!["*".into()], lr: None, weight_decay: None };
        for (number, group) in self.groups.iter().chain([&default]).enumerate() {
            let earlier = |name: &str| self.groups.iter().take(number).any(|group| group.names(name));
            let mut found = number == self.groups.len();
            for decays in [true, false] {
                let decay = if decays { group.weight_decay.unwrap_or(self.weight_decay) } else { 0.0 };
                let params = ParamGroup::of(model, decay, |name, param| {
                    let decayed = self.decay == Decay::All || param.tensor().rank() >= 2;
                    decayed == decays && group.names(name) && !earlier(name)
                });
                found |= !params.params.is_empty();
                if !params.params.is_empty() {
                    all.push(params.with_lr_scale(group.lr.map_or(1.0, |lr| lr / self.lr)));
                }
            }
            if !found {
                return Err(unmatched(format!("optimizer.groups[{number}].params"), &group.params, model));
            }
        }
        Ok(all)
    }

    /// What it is called in recipes.
    pub fn name(&self) -> String {
        name_of(&self.spec)
    }

    pub(super) fn validate(&self, clipped: bool) -> Result<(), RecipeError> {
        positive_rate("lr", self.lr)?;
        let decay = self.weight_decay;
        check("weight_decay", decay >= 0.0 && decay.is_finite(), decay, "0 or more")?;
        self.spec.check().map_err(|error| constant("optimizer", error))?;
        if let Some(LookaheadRecipe { k, alpha }) = self.lookahead {
            check("lookahead.k", k > 0, k, "1 or more")?;
            check("lookahead.alpha", (0.0..=1.0).contains(&alpha), alpha, "in 0..=1")?;
        }
        for (number, group) in self.groups.iter().enumerate() {
            let key = |key: &str| format!("groups[{number}].{key}");
            check(&key("params"), !group.params.is_empty(), "none", "one name of a parameter or more")?;
            positive_rate(&key("lr"), group.lr.unwrap_or(1.0))?;
            let decay = group.weight_decay.unwrap_or(0.0);
            check(&key("weight_decay"), decay >= 0.0 && decay.is_finite(), decay, "0 or more")?;
        }
        if let Some(rest) = &self.rest {
            positive_rate("rest.lr", rest.lr)?;
            rest.spec.check().map_err(|error| constant("optimizer.rest", error))?;
            for (key, spec) in [("name", &self.spec), ("rest.name", &rest.spec)] {
                let alone = matches!(spec, OptimizerSpec::Lbfgs(_));
                check(
                    key,
                    !alone,
                    name_of(spec),
                    "another than lbfgs where there is `optimizer.rest`: it takes all parameters",
                )?;
            }
            let muon = matches!(rest.spec, OptimizerSpec::Muon(_));
            check("rest.name", !muon, "muon", "one that trains vectors too")?;
        } else {
            let muon = matches!(self.spec, OptimizerSpec::Muon(_));
            let rest =
                "given with muon, which trains matrices only: `rest = { name = \"adamw\", lr = 3e-4 }`";
            check("rest", !muon, "none", rest)?;
        }
        if matches!(self.spec, OptimizerSpec::Lbfgs(_)) {
            check("weight_decay", decay == 0.0, decay, "0 with lbfgs")?;
            check(
                "name",
                !clipped,
                "lbfgs",
                "another one where gradients are clipped: curvature is learnt from whole ones",
            )?;
        }
        Ok(())
    }
}

/// Patterns that name no parameter.
pub(crate) fn unmatched(key: String, patterns: &[String], model: &dyn Module) -> RecipeError {
    let names: Vec<String> = model.named_parameters().into_iter().map(|(name, _)| name).collect();
    let some: Vec<&str> = names.iter().step_by(names.len().div_ceil(8).max(1)).map(String::as_str).collect();
    RecipeError::Setting {
        key,
        expected: format!("names of parameters, with `*` for any characters; there are {}", some.join(", ")),
        found: patterns.join(", "),
    }
}

fn name_of(spec: &OptimizerSpec) -> String {
    let value = serde_json::to_value(spec).unwrap_or_default();
    value.get("name").and_then(|name| name.as_str()).unwrap_or("unknown").to_owned()
}

fn positive_rate(key: &str, lr: f64) -> Result<(), RecipeError> {
    check(key, lr > 0.0 && lr.is_finite(), lr, "above 0")
}

/// An error of a constant, by the key's path.
fn constant(section: &str, error: OptimError) -> RecipeError {
    match error {
        OptimError::Value { name, expected, found } => {
            RecipeError::Setting { key: format!("{section}.{name}"), expected, found }
        }
        other => RecipeError::Setting {
            key: section.to_owned(),
            expected: other.to_string(),
            found: String::new(),
        },
    }
}

/// NaN fails every comparison and is thereby refused.
fn check(key: &str, good: bool, found: impl std::fmt::Display, expected: &str) -> Result<(), RecipeError> {
    if good {
        return Ok(());
    }
    let key = format!("optimizer.{key}");
    Err(RecipeError::Setting { key, expected: expected.to_owned(), found: found.to_string() })
}
