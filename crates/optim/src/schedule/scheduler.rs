//! A schedule together with what it has been told.

use serde::{Deserialize, Serialize};

use super::{ErrorRatio, Rate, ReduceLrOnPlateau, Schedule, plateau::PlateauState};
use crate::OptimError;

/// How measurements change the rate.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Feedback {
    /// Falls when a metric no longer improves.
    ReduceOnPlateau(ReduceLrOnPlateau),
    /// Lies between two rates by how large an error is. The schedule's own rate is scaled as `lr` is.
    ErrorRatio(ErrorRatio),
}

/// A [`Schedule`], and optionally a rule by which measurements change its rates; a value whose state can be saved.
#[derive(Clone, PartialEq, Debug)]
pub struct LrScheduler {
    schedule: Schedule,
    feedback: Option<Feedback>,
    state: State,
}

/// What measurements have left.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    None,
    Plateau(PlateauState),
    ErrorRatio {
        #[serde(with = "crate::bits")]
        lr: f64,
        /// NaN before the first measurement.
        #[serde(with = "crate::bits")]
        reference: f64,
    },
}

impl LrScheduler {
    /// A schedule by the step alone.
    pub fn new(schedule: Schedule) -> Self {
        LrScheduler { schedule, feedback: None, state: State::None }
    }

    /// A schedule whose rates are changed by measurements; before the first one they are the schedule's.
    pub fn with_feedback(schedule: Schedule, feedback: Feedback) -> Self {
        let state = match &feedback {
            Feedback::ReduceOnPlateau(plateau) => State::Plateau(plateau.begin(base(&schedule))),
            Feedback::ErrorRatio(rule) => State::ErrorRatio { lr: rule.lr, reference: f64::NAN },
        };
        LrScheduler { schedule, feedback: Some(feedback), state }
    }

    pub(super) fn feedback(&self) -> Option<&Feedback> {
        self.feedback.as_ref()
    }

    /// The learning rate of step `i`, counted from 0.
    pub fn lr(&self, i: u64) -> f64 {
        let scheduled = self.schedule.lr(i);
        match (&self.feedback, &self.state) {
            (Some(Feedback::ReduceOnPlateau(_)), State::Plateau(state)) => {
                let base = base(&self.schedule);
                if scheduled == base { state.lr } else { scheduled * (state.lr / base) }
            }
            (Some(Feedback::ErrorRatio(rule)), State::ErrorRatio { lr, .. }) => {
                if scheduled == rule.lr {
                    *lr
                } else {
                    scheduled * (lr / rule.lr)
                }
            }
            _ => scheduled,
        }
    }

    /// The momentum of step `i`, where the schedule cycles it.
    pub fn momentum(&self, i: u64) -> Option<f64> {
        self.schedule.momentum(i)
    }

    /// The part that depends on the step alone.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Takes a measurement: a validation loss, an accuracy, an error. Returns how an error ratio came about, so that a clamped one
    /// can be logged.
    ///
    /// # Errors
    /// [`ErrorRatio::rate`]'s.
    pub fn observe(&mut self, metric: f64) -> Result<Option<Rate>, OptimError> {
        match (&self.feedback, &mut self.state) {
            (Some(Feedback::ReduceOnPlateau(plateau)), State::Plateau(state)) => {
                plateau.observe(state, metric);
                Ok(None)
            }
            (Some(Feedback::ErrorRatio(rule)), State::ErrorRatio { lr, reference }) => {
                let known = rule.reference_error.or((!reference.is_nan()).then_some(*reference));
                let compared = known.unwrap_or(metric);
                let rate = rule.rate(metric, compared)?;
                (*lr, *reference) = (rate.lr, compared);
                Ok(Some(rate))
            }
            _ => Ok(None),
        }
    }

    /// What measurements have left, for a checkpoint.
    pub fn state_dict(&self) -> serde_json::Value {
        serde_json::to_value(self.state).unwrap_or_default()
    }

    /// Goes on from a saved state, bit for bit.
    ///
    /// # Errors
    /// The state is of another kind of schedule; nothing has changed then.
    pub fn load_state_dict(&mut self, state: &serde_json::Value) -> Result<(), OptimError> {
        let unfit =
            |problem: String| OptimError::State { problems: vec![format!("the schedule's: {problem}")] };
        let state = State::deserialize(state).map_err(|error| unfit(error.to_string()))?;
        if std::mem::discriminant(&state) != std::mem::discriminant(&self.state) {
            return Err(unfit("it is of another kind of schedule".to_owned()));
        }
        self.state = state;
        Ok(())
    }
}

/// The rate that a plateau's rate is compared with: the schedule's, once it has warmed up.
fn base(schedule: &Schedule) -> f64 {
    match schedule {
        Schedule::Warmup { then, .. } => base(then),
        other => other.lr(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_was_saved_goes_on_bit_for_bit() {
        let plateau = ReduceLrOnPlateau { factor: 0.3, patience: 0, ..ReduceLrOnPlateau::default() };
        let ratio = ErrorRatio { lr: 0.1, target_lr: 0.01, reference_error: None };
        for feedback in [Feedback::ReduceOnPlateau(plateau), Feedback::ErrorRatio(ratio)] {
            let fresh = LrScheduler::with_feedback(Schedule::Constant { lr: 0.1 }.with_warmup(3), feedback);
            let mut one = fresh.clone();
            for metric in [1.0, 0.7, 0.9] {
                one.observe(metric).expect("measured");
            }
            let text = one.state_dict().to_string();
            let mut two = fresh.clone();
            two.load_state_dict(&serde_json::from_str(&text).expect("JSON")).expect("the same kind");
            assert_eq!(one, two);
            assert_ne!(one.lr(5), fresh.lr(5));
            for metric in [0.95, 0.2, 0.3] {
                one.observe(metric).expect("measured");
                two.observe(metric).expect("measured");
                assert_eq!(one.lr(2).to_bits(), two.lr(2).to_bits());
                assert_eq!(one.lr(5).to_bits(), two.lr(5).to_bits());
            }
            // Before any measurement, infinities included.
            let mut again = fresh.clone();
            again.load_state_dict(&fresh.state_dict()).expect("the same kind");
            let mut other = LrScheduler::new(Schedule::Constant { lr: 0.1 });
            assert!(other.load_state_dict(&one.state_dict()).is_err());
        }
    }

    #[test]
    fn a_plateau_scales_what_the_schedule_says() {
        let plateau = ReduceLrOnPlateau { factor: 0.5, patience: 0, ..ReduceLrOnPlateau::default() };
        let warm = Schedule::Constant { lr: 0.4 }.with_warmup(4);
        let mut scheduler = LrScheduler::with_feedback(warm, Feedback::ReduceOnPlateau(plateau));
        scheduler.observe(1.0).expect("measured");
        assert_eq!((scheduler.lr(1), scheduler.lr(9)), (0.1, 0.4));
        scheduler.observe(1.0).expect("measured");
        assert_eq!((scheduler.lr(1), scheduler.lr(9)), (0.05, 0.2));
    }
}
