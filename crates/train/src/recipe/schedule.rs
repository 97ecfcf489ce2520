//! `[schedule]`: the learning rate over the steps.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_optim::{ErrorRatio, Feedback, LrScheduler, ReduceLrOnPlateau, Schedule};

use super::{Recipe, RecipeError, load::explain};

/// The learning rate over the steps. Keys beside these are those of the schedule that `name` names: the fields of
/// [`wgrad_optim::Schedule`], [`ReduceLrOnPlateau`] or [`ErrorRatio`]. Rates and lengths that are absent are the run's:
/// `optimizer.lr`, `min_lr`, and the steps after the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRecipe {
    /// The schedule's name.
    #[serde(default = "constant")]
    pub name: String,
    /// Steps until `lr` is reached: step `i` of them (from 0) has `lr * (i + 1) / warmup_steps`.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Whether the warm-up begins at 0 instead, `lr * i / warmup_steps`, as Hugging Face's do.
    #[serde(default)]
    pub warmup_from_zero: bool,
    /// The lowest rate of schedules that have one.
    #[serde(default)]
    pub min_lr: f64,
    /// All other keys.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

impl Default for ScheduleRecipe {
    fn default() -> Self {
        ScheduleRecipe {
            name: constant(),
            warmup_steps: 0,
            warmup_from_zero: false,
            min_lr: 0.0,
            options: Map::new(),
        }
    }
}

fn constant() -> String {
    "constant".to_owned()
}

/// Schedules that measurements change.
const PLATEAU: &str = "reduce_on_plateau";
const ERROR_RATIO: &str = "error_ratio";

/// Schedules that end at `min_lr`.
const FALLING: [&str; 7] =
    ["cosine", "cosine_restarts", "polynomial", "wsd", "cyclic", "sequential", PLATEAU];

impl Recipe {
    /// The learning rates of the run.
    ///
    /// # Errors
    /// `[schedule]` names no known schedule, or has a key that it has not, or a value that makes no sense.
    pub fn scheduler(&self) -> Result<LrScheduler, RecipeError> {
        let s = &self.schedule;
        let (lr, steps) = (self.optimizer.lr, self.train.steps.saturating_sub(s.warmup_steps).max(1));
        let run = Run {
            lr,
            min_lr: s.min_lr,
            steps,
            total: self.train.steps,
            warmup: s.warmup_steps,
            width: self.task.spec().width(),
        };
        let warmed = |schedule: Schedule| match s.warmup_steps {
            0 => schedule,
            steps => Schedule::Warmup { steps, from_zero: s.warmup_from_zero, then: Box::new(schedule) },
        };
        let mut options = s.options.clone();
        let feedback = match s.name.as_str() {
            PLATEAU => {
                options.entry("min_lr").or_insert(json!(s.min_lr));
                Feedback::ReduceOnPlateau(read::<ReduceLrOnPlateau>(options.clone())?)
            }
            ERROR_RATIO => {
                options.entry("lr").or_insert(json!(lr));
                Feedback::ErrorRatio(read::<ErrorRatio>(options.clone())?)
            }
            name => {
                options.insert("name".to_owned(), name.into());
                run.fill(&mut options, run.lr);
                let schedule: Schedule = read(options)?;
                // Noam's and one-cycle's rises are part of them.
                let schedule = match name {
                    "noam" | "one_cycle" => schedule,
                    _ => warmed(schedule),
                };
                schedule.check().map_err(|error| setting("schedule", "one that can be run", error))?;
                return Ok(LrScheduler::new(schedule));
            }
        };
        let scheduler = LrScheduler::with_feedback(warmed(Schedule::Constant { lr }), feedback);
        scheduler.check().map_err(|error| setting("schedule", "one that can be run", error))?;
        Ok(scheduler)
    }

    pub(super) fn validate_schedule(&self) -> Result<(), RecipeError> {
        self.scheduler()?;
        let s = &self.schedule;
        let value = |key: &str, good: bool, found: String, expected: String| {
            let key = format!("schedule.{key}");
            if good { Ok(()) } else { Err(RecipeError::Setting { key, expected, found }) }
        };
        let (steps, lr) = (self.train.steps, self.optimizer.lr);
        let (warmup, min_lr) = (s.warmup_steps, s.min_lr);
        value("warmup_steps", warmup <= steps, warmup.to_string(), format!("at most train.steps, {steps}"))?;
        let floor = (0.0..=lr).contains(&min_lr);
        value("min_lr", floor, min_lr.to_string(), format!("in 0..=optimizer.lr, {lr}"))?;
        let used = min_lr == 0.0 || FALLING.contains(&s.name.as_str());
        value(
            "min_lr",
            used,
            min_lr.to_string(),
            format!("absent unless schedule.name is one of {}", FALLING.join(", ")),
        )?;
        let rises = s.name != "one_cycle" || warmup == 0;
        value(
            "warmup_steps",
            rises,
            warmup.to_string(),
            "absent with one_cycle, which rises by itself: `pct_start`".to_owned(),
        )?;
        Ok(())
    }
}

/// What schedules take from the run.
struct Run {
    lr: f64,
    min_lr: f64,
    /// After the warm-up.
    steps: u64,
    total: u64,
    warmup: u64,
    /// The model's, if it has one.
    width: Option<usize>,
}

impl Run {
    /// Gives a schedule the rates and lengths that it lacks, its parts too.
    fn fill(&self, options: &mut Map<String, Value>, lr: f64) {
        let name = options.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (lr, min_lr, steps) = (json!(lr), json!(self.min_lr), json!(self.steps));
        let mut give = |key: &str, value: Value| {
            options.entry(key).or_insert(value);
        };
        match name.as_str() {
            "cyclic" => {
                give("base_lr", min_lr);
                give("max_lr", lr);
            }
            "one_cycle" => {
                give("max_lr", lr);
                give("total_steps", json!(self.total));
            }
            "noam" => {
                give("factor", lr);
                if let Some(width) = self.width {
                    give("d_model", json!(width));
                }
                give("warmup", json!(self.warmup.max(1)));
            }
            "sequential" | "product" => {
                let parts = options.get_mut("schedules").and_then(Value::as_array_mut);
                for (i, part) in parts.into_iter().flatten().filter_map(Value::as_object_mut).enumerate() {
                    // Factors of a product after the first are around 1.
                    self.fill(part, if name == "product" && i > 0 { 1.0 } else { self.lr });
                }
            }
            "warmup" => {
                if let Some(then) = options.get_mut("then").and_then(Value::as_object_mut) {
                    self.fill(then, self.lr);
                }
            }
            _ => {
                give("lr", lr);
                match name.as_str() {
                    "linear" => give("total_iters", steps),
                    "polynomial" => {
                        give("end_lr", min_lr);
                        give("total_iters", steps);
                    }
                    "cosine" => {
                        give("eta_min", min_lr);
                        give("t_max", steps);
                    }
                    "cosine_restarts" => give("eta_min", min_lr),
                    "cosine_hard_restarts" => give("total", steps),
                    "inverse_sqrt" => give("timescale", json!(self.warmup.max(1))),
                    "wsd" => {
                        give("min_lr", min_lr);
                        let tenth = self.steps.div_ceil(10);
                        give("decay", json!(tenth));
                        let decay = options.get("decay").and_then(Value::as_u64).unwrap_or(tenth);
                        options.entry("stable").or_insert(json!(self.steps.saturating_sub(decay)));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The options as a schedule's type; errors name the key and what is valid.
fn read<T: for<'de> Deserialize<'de>>(options: Map<String, Value>) -> Result<T, RecipeError> {
    serde_json::from_value(Value::Object(options)).map_err(|error| {
        let text = error.to_string();
        let path = if text.starts_with("unknown variant") { "schedule.name" } else { "schedule" };
        let mut error = explain("[schedule]".to_owned(), path, &text);
        if let RecipeError::Unknown { valid, .. } = &mut error
            && path == "schedule.name"
        {
            valid.extend([PLATEAU.to_owned(), ERROR_RATIO.to_owned()]);
        }
        error
    })
}

fn setting(key: &str, expected: &str, error: impl std::fmt::Display) -> RecipeError {
    RecipeError::Setting { key: key.to_owned(), expected: expected.to_owned(), found: error.to_string() }
}
