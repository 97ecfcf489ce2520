//! Which parameters learn, and why others do not.

use std::fmt;

use wgrad_nn::Param;
use wgrad_tensor::{Tensor, TensorError, depends_on, eval, grad_allow_unused};

/// What happens to the gradient of one parameter.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum GradientFlow {
    /// It arrives; its norm.
    Flows(f64),
    /// The parameter is frozen: nobody asks for it.
    Frozen,
    /// The loss is not computed from the parameter at all: a layer that is not called, or a handle that was taken before the
    /// parameter got another value.
    Unused,
    /// The loss is computed from it, but only through what stops gradients: `detach`, integers, comparisons.
    Detached,
    /// It arrives, and every element is zero: a unit that never fires, a mask that hides all, a factor of zero.
    Dead,
    /// It arrives with elements that are not finite.
    NotFinite,
}

/// The gradient of every parameter, in order.
#[derive(Clone, PartialEq, Debug)]
pub struct GradientAudit {
    /// Names and findings.
    pub params: Vec<(String, GradientFlow)>,
}

impl GradientAudit {
    /// Looks at the gradients of a loss for parameters (`module.named_parameters()`).
    ///
    /// # Errors
    /// The loss or a gradient cannot be computed.
    pub fn of(loss: &Tensor, params: &[(String, Param)]) -> Result<Self, TensorError> {
        let values: Vec<Tensor> = params.iter().map(|(_, param)| param.tensor()).collect();
        let free: Vec<&Tensor> =
            params.iter().zip(&values).filter(|((_, p), _)| !p.is_frozen()).map(|(_, v)| v).collect();
        let mut gradients =
            if free.is_empty() { Vec::new() } else { grad_allow_unused(loss, &free)? }.into_iter();
        // Norm and largest element of each; the largest tells zero from what is too small to be squared.
        let measure =
            |g: Tensor| (g.square().sum_all().sqrt(), g.abs().reshape([g.elements()]).amax(&[0], false));
        let measures: Vec<Option<(Tensor, Tensor)>> = params
            .iter()
            .zip(&values)
            .map(|((_, p), v)| {
                if p.is_frozen() { None } else { gradients.next().flatten() }
                    .filter(|_| v.elements() > 0)
                    .map(measure)
            })
            .collect();
        eval(&measures.iter().flatten().flat_map(|(norm, most)| [norm, most]).collect::<Vec<_>>())?;
        let reached = depends_on(loss, &values.iter().collect::<Vec<_>>())?;
        let mut found = Vec::with_capacity(params.len());
        for (((name, param), measure), reached) in params.iter().zip(&measures).zip(reached) {
            let flow = match measure {
                _ if param.is_frozen() => GradientFlow::Frozen,
                None if reached => GradientFlow::Detached,
                None => GradientFlow::Unused,
                Some((norm, most)) => match (norm.item()?, most.item()?) {
                    (norm, most) if !norm.is_finite() || !most.is_finite() => GradientFlow::NotFinite,
                    (_, 0.0) => GradientFlow::Dead,
                    (norm, _) => GradientFlow::Flows(norm),
                },
            };
            found.push((name.clone(), flow));
        }
        Ok(GradientAudit { params: found })
    }

    /// The parameters that get no gradient although nobody froze them, or one of zeros or of nonsense.
    pub fn problems(&self) -> impl Iterator<Item = &(String, GradientFlow)> {
        self.params.iter().filter(|(_, flow)| !matches!(flow, GradientFlow::Flows(_) | GradientFlow::Frozen))
    }
}

impl fmt::Display for GradientAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count =
            |wanted: fn(&GradientFlow) -> bool| self.params.iter().filter(|(_, flow)| wanted(flow)).count();
        let (flows, frozen) =
            (count(|f| matches!(f, GradientFlow::Flows(_))), count(|f| matches!(f, GradientFlow::Frozen)));
        write!(f, "{flows} of {} parameters get a gradient, {frozen} are frozen", self.params.len())?;
        for (name, flow) in self.problems() {
            let reason = match flow {
                GradientFlow::Unused => "no gradient: the loss is not computed from it",
                GradientFlow::Detached => {
                    "no gradient: the loss reaches it only through operations that stop gradients"
                }
                GradientFlow::Dead => "a gradient of zeros",
                _ => "a gradient that is not finite",
            };
            write!(f, "\n  `{name}`: {reason}")?;
        }
        Ok(())
    }
}
