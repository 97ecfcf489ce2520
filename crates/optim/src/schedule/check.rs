//! What schedules can be run.

use super::{Cyclic, Feedback, LrScheduler, OneCycle, ReduceLrOnPlateau, Schedule};
use crate::{
    OptimError,
    error::{check, check_not_negative},
};

/// A length that is divided by, or a number of parts.
fn at_least_one(name: &str, found: u64) -> Result<(), OptimError> {
    check(name, found > 0, found, "1 or more")
}

/// A momentum at either end of a cycle.
fn momenta(found: Option<(f64, f64)>) -> Result<(), OptimError> {
    let (base, max) = found.unwrap_or_default();
    let good = [base, max].iter().all(|m| (0.0..1.0).contains(m));
    check("momentum", good, format!("{:?}", (base, max)), "two numbers in 0..1")
}

impl Schedule {
    /// What makes a schedule unusable, if anything: PyTorch's limits, where it has the schedule.
    ///
    /// # Errors
    /// [`OptimError::Value`] names the first number that no schedule can be run with, and what it may be.
    pub fn check(&self) -> Result<(), OptimError> {
        use check_not_negative as number;
        match self {
            Schedule::Constant { lr } => number("lr", *lr)?,
            Schedule::ConstantFactor { lr, factor, .. } => {
                number("lr", *lr)?;
                check("factor", (0.0..=1.0).contains(factor), factor, "in 0..=1")?;
            }
            Schedule::Linear { lr, start_factor, end_factor, .. } => {
                number("lr", *lr)?;
                let good = 0.0 < *start_factor && *start_factor <= 1.0;
                check("start_factor", good, start_factor, "above 0 and at most 1")?;
                check("end_factor", (0.0..=1.0).contains(end_factor), end_factor, "in 0..=1")?;
            }
            Schedule::Step { lr, step_size, gamma } => {
                number("lr", *lr)?;
                number("gamma", *gamma)?;
                at_least_one("step_size", *step_size)?;
            }
            Schedule::MultiStep { lr, gamma, .. } | Schedule::Exponential { lr, gamma } => {
                number("lr", *lr)?;
                number("gamma", *gamma)?;
            }
            Schedule::InverseTime { lr, decay, steps_per_epoch } => {
                number("lr", *lr)?;
                number("decay", *decay)?;
                at_least_one("steps_per_epoch", *steps_per_epoch)?;
            }
            Schedule::InverseSqrt { lr, timescale } => {
                number("lr", *lr)?;
                at_least_one("timescale", *timescale)?;
            }
            Schedule::Polynomial { lr, end_lr, total_iters, power } => {
                number("lr", *lr)?;
                number("end_lr", *end_lr)?;
                number("power", *power)?;
                at_least_one("total_iters", *total_iters)?;
            }
            Schedule::Cosine { lr, t_max, eta_min } => {
                number("lr", *lr)?;
                number("eta_min", *eta_min)?;
                at_least_one("t_max", *t_max)?;
            }
            Schedule::CosineRestarts { lr, t_0, t_mult, eta_min } => {
                number("lr", *lr)?;
                number("eta_min", *eta_min)?;
                at_least_one("t_0", *t_0)?;
                at_least_one("t_mult", *t_mult)?;
            }
            Schedule::CosineHardRestarts { lr, total, cycles } => {
                number("lr", *lr)?;
                at_least_one("total", *total)?;
                at_least_one("cycles", *cycles)?;
            }
            Schedule::WarmupCosineTo { lr, min_lr, total, .. } => {
                number("lr", *lr)?;
                number("min_lr", *min_lr)?;
                at_least_one("total", *total)?;
            }
            Schedule::WarmupCosine { lr, total, .. } => {
                number("lr", *lr)?;
                at_least_one("total", *total)?;
            }
            Schedule::Noam { d_model, warmup, factor } => {
                number("factor", *factor)?;
                at_least_one("d_model", *d_model)?;
                at_least_one("warmup", *warmup)?;
            }
            Schedule::Wsd { lr, min_lr, .. } => {
                number("lr", *lr)?;
                number("min_lr", *min_lr)?;
            }
            Schedule::Cyclic(cyclic) => cyclic.check()?,
            Schedule::OneCycle(cycle) => cycle.check()?,
            Schedule::Warmup { then, .. } => then.check()?,
            Schedule::Sequential { schedules, milestones } => {
                let ordered = milestones.windows(2).all(|pair| pair[0] < pair[1]);
                let fits = schedules.len() == milestones.len() + 1 && ordered;
                let expected = "increasing steps, one fewer than schedules";
                check("milestones", fits, format!("{milestones:?}"), expected)?;
                schedules.iter().try_for_each(Schedule::check)?;
            }
            Schedule::Product { schedules } => {
                at_least_one("the number of schedules", schedules.len() as u64)?;
                schedules.iter().try_for_each(Schedule::check)?;
            }
        }
        // What the numbers make together.
        for i in [0, 1, 7, 1000] {
            let (lr, expected) = (self.lr(i), "a rate of 0 or more at every step");
            check("schedule", lr.is_finite() && lr >= 0.0, format!("{lr} at step {i}"), expected)?;
        }
        Ok(())
    }
}

impl Cyclic {
    fn check(&self) -> Result<(), OptimError> {
        check_not_negative("base_lr", self.base_lr)?;
        check_not_negative("max_lr", self.max_lr)?;
        check_not_negative("gamma", self.gamma)?;
        at_least_one("step_size_up", self.step_size_up)?;
        at_least_one("step_size_down", self.step_size_down.unwrap_or(1))?;
        momenta(self.momentum)
    }
}

impl OneCycle {
    fn check(&self) -> Result<(), OptimError> {
        let divides = |name: &str, x: f64| check(name, x > 0.0 && x.is_finite(), x, "above 0 and finite");
        check_not_negative("max_lr", self.max_lr)?;
        at_least_one("total_steps", self.total_steps)?;
        check("pct_start", (0.0..=1.0).contains(&self.pct_start), self.pct_start, "in 0..=1")?;
        divides("div_factor", self.div_factor)?;
        divides("final_div_factor", self.final_div_factor)?;
        momenta(self.momentum)
    }
}

impl ReduceLrOnPlateau {
    /// What makes the rule unusable, if anything.
    ///
    /// # Errors
    /// [`OptimError::Value`] names the first number that it cannot be run with, and what it may be.
    pub fn check(&self) -> Result<(), OptimError> {
        check("factor", (0.0..1.0).contains(&self.factor), self.factor, "in 0..1")?;
        check("threshold", self.threshold.is_finite(), self.threshold, "finite")?;
        check_not_negative("min_lr", self.min_lr)?;
        check_not_negative("eps", self.eps)
    }
}

impl LrScheduler {
    /// What makes the schedule or the rule by which measurements change it unusable, if anything.
    ///
    /// # Errors
    /// Those of [`Schedule::check`] and [`ReduceLrOnPlateau::check`], and of rates that are negative or not finite.
    pub fn check(&self) -> Result<(), OptimError> {
        self.schedule().check()?;
        match self.feedback() {
            Some(Feedback::ReduceOnPlateau(plateau)) => plateau.check(),
            Some(Feedback::ErrorRatio(ratio)) => {
                let reference = ratio.reference_error.unwrap_or(1.0);
                check_not_negative("lr", ratio.lr)?;
                check_not_negative("target_lr", ratio.target_lr)?;
                check(
                    "reference_error",
                    reference > 0.0 && reference.is_finite(),
                    reference,
                    "above 0 and finite",
                )
            }
            None => Ok(()),
        }
    }
}
