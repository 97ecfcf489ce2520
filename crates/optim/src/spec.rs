//! Optimizers by name, for recipes and configuration files.

use serde::{Deserialize, Serialize};
use wgrad_nn::Param;
use wgrad_tensor::Shape;

use crate::{
    AdadeltaConfig, AdafactorConfig, AdafactorHfConfig, AdagradConfig, AdamConfig, AdamWConfig, AdamaxConfig,
    AsgdConfig, LambConfig, Lbfgs, LbfgsConfig, LionConfig, MuonConfig, NAdamConfig, OptimError, Optimizer,
    ParamGroup, RAdamConfig, RmsPropConfig, RpropConfig, SgdConfig, Stepper, UpdateRule,
};

/// An optimizer and its constants as a value: `{ name = "sgd", momentum = 0.9 }`. Names are lower case, constants are spelt as
/// PyTorch spells them and have its defaults; unknown ones are refused. The learning rate belongs to the optimizer, weight decay
/// to the groups.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum OptimizerSpec {
    /// [`Sgd`](crate::Sgd).
    Sgd(SgdConfig),
    /// [`Adam`](crate::Adam).
    Adam(AdamConfig),
    /// [`AdamW`](crate::AdamW).
    AdamW(AdamWConfig),
    /// [`Adamax`](crate::Adamax).
    Adamax(AdamaxConfig),
    /// [`NAdam`](crate::NAdam).
    NAdam(NAdamConfig),
    /// [`RAdam`](crate::RAdam).
    RAdam(RAdamConfig),
    /// [`Adagrad`](crate::Adagrad).
    Adagrad(AdagradConfig),
    /// [`Adadelta`](crate::Adadelta).
    Adadelta(AdadeltaConfig),
    /// [`RmsProp`](crate::RmsProp).
    RmsProp(RmsPropConfig),
    /// [`Asgd`](crate::Asgd).
    Asgd(AsgdConfig),
    /// [`Rprop`](crate::Rprop).
    Rprop(RpropConfig),
    /// [`Lion`](crate::Lion).
    Lion(LionConfig),
    /// [`Lamb`](crate::Lamb).
    Lamb(LambConfig),
    /// [`Adafactor`](crate::Adafactor).
    Adafactor(AdafactorConfig),
    /// [`AdafactorHf`](crate::AdafactorHf).
    #[serde(rename = "adafactor_hf")]
    AdafactorHf(AdafactorHfConfig),
    /// [`Muon`](crate::Muon).
    Muon(MuonConfig),
    /// [`Lbfgs`].
    Lbfgs(LbfgsConfig),
}

/// Another optimizer for some parameters.
#[derive(Clone, PartialEq, Debug)]
pub struct Rest {
    /// Its rule.
    pub spec: OptimizerSpec,
    /// Its learning rate is the main one times this.
    pub lr_scale: f64,
}

impl OptimizerSpec {
    /// The update rule; `None` for L-BFGS, which has none.
    pub fn rule(&self) -> Option<Box<dyn UpdateRule>> {
        Some(match self.clone() {
            OptimizerSpec::Sgd(config) => Box::new(config),
            OptimizerSpec::Adam(config) => Box::new(config),
            OptimizerSpec::AdamW(config) => Box::new(config),
            OptimizerSpec::Adamax(config) => Box::new(config),
            OptimizerSpec::NAdam(config) => Box::new(config),
            OptimizerSpec::RAdam(config) => Box::new(config),
            OptimizerSpec::Adagrad(config) => Box::new(config),
            OptimizerSpec::Adadelta(config) => Box::new(config),
            OptimizerSpec::RmsProp(config) => Box::new(config),
            OptimizerSpec::Asgd(config) => Box::new(config),
            OptimizerSpec::Rprop(config) => Box::new(config),
            OptimizerSpec::Lion(config) => Box::new(config),
            OptimizerSpec::Lamb(config) => Box::new(config),
            OptimizerSpec::Adafactor(config) => Box::new(config),
            OptimizerSpec::AdafactorHf(config) => Box::new(config),
            OptimizerSpec::Muon(config) => Box::new(config),
            OptimizerSpec::Lbfgs(_) => return None,
        })
    }

    /// How many elements are kept for a parameter of this shape between two steps.
    pub fn state_elements(&self, shape: &Shape) -> usize {
        match (self, self.rule()) {
            (OptimizerSpec::Lbfgs(config), _) => (2 * config.history_size + 2) * shape.elements(),
            (_, Some(rule)) => rule.states(shape).iter().map(|(_, kept)| kept.elements()).sum(),
            (_, None) => 0,
        }
    }

    /// Checks every constant.
    ///
    /// # Errors
    /// [`OptimError::Value`] names the first constant that no run can have, and what it may be.
    pub fn check(&self) -> Result<(), OptimError> {
        match (self, self.rule()) {
            (OptimizerSpec::Lbfgs(config), _) => config.check(),
            (_, Some(rule)) => rule.check(),
            (_, None) => Ok(()),
        }
    }

    /// The optimizer of these groups.
    ///
    /// # Errors
    /// Those of [`Lbfgs::new`].
    pub fn build(&self, groups: Vec<ParamGroup>) -> Result<Box<dyn Optimizer>, OptimError> {
        if let OptimizerSpec::Lbfgs(config) = self {
            return Ok(Box::new(Lbfgs::new(groups, *config)?));
        }
        let ruled = groups.into_iter().filter_map(|group| Some((group, self.rule()?)));
        Ok(Box::new(Stepper::with_rules(ruled.collect())))
    }

    /// The optimizer of these groups, but for the parameters that its rule cannot update and those that are `excepted`: they are
    /// trained by `rest`, all in one program. So Muon trains matrices and AdamW embeddings, biases and norms.
    ///
    /// # Errors
    /// Either is L-BFGS, which takes all parameters or none.
    pub fn build_beside(
        &self,
        groups: Vec<ParamGroup>,
        rest: &Rest,
        excepted: impl Fn(&str, &Param) -> bool,
    ) -> Result<Box<dyn Optimizer>, OptimError> {
        let mut ruled: Vec<(ParamGroup, Box<dyn UpdateRule>)> = Vec::new();
        for group in groups {
            let (Some(rule), Some(other)) = (self.rule(), rest.spec.rule()) else {
                let message = "L-BFGS takes all parameters: it cannot be combined with another optimizer";
                return Err(OptimError::Unsuited(message.to_owned()));
            };
            let mut others =
                ParamGroup { params: Vec::new(), lr_scale: group.lr_scale * rest.lr_scale, ..group };
            let mut own = group;
            own.params.retain(|(name, param)| {
                let mine = rule.refuses(param.tensor().shape()).is_none() && !excepted(name, param);
                if !mine {
                    others.params.push((name.clone(), param.clone()));
                }
                mine
            });
            ruled.push((own, rule));
            ruled.push((others, other));
        }
        Ok(Box::new(Stepper::with_rules(ruled)))
    }
}
