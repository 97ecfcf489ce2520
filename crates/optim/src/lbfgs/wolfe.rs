//! A line search for steps that satisfy the strong Wolfe conditions.
//!
//! Along a direction, `f(t)` is the loss and `f'(t)` its slope. A step `t` is good if `f(t) ≤ f(0) + c₁ t f'(0)` (it gains enough)
//! and `|f'(t)| ≤ c₂ |f'(0)|` (it has gone far enough). Nocedal and Wright, "Numerical Optimization", algorithms 3.5 and 3.6, with
//! cubic interpolation and the safeguards of minFunc (Schmidt, 2005), as PyTorch has them.

/// `c₁` and `c₂`.
const GAIN: f64 = 1e-4;
const CURVATURE: f64 = 0.9;

/// The loss at a step, and what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Trial<G> {
    pub(super) t: f64,
    pub(super) loss: f64,
    /// The derivative of the loss by `t`.
    pub(super) slope: f64,
    pub(super) gradient: G,
}

/// Where the search ended, and how often the loss was evaluated.
#[derive(Debug)]
pub(super) struct Found<G> {
    pub(super) trial: Trial<G>,
    pub(super) evaluations: usize,
}

/// What bounds a search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The largest absolute element of the direction.
    pub(super) longest: f64,
    /// Brackets whose ends are closer (as points) are not searched.
    pub(super) tolerance_change: f64,
    /// Iterations at most.
    pub(super) iterations: usize,
}

/// Searches from `start` (where `t` is 0), first at `t`.
///
/// # Errors
/// Those of `evaluate`.
pub(super) fn strong_wolfe<G: Clone, E>(
    start: &Trial<G>,
    t: f64,
    limits: Limits,
    mut evaluate: impl FnMut(f64) -> Result<Trial<G>, E>,
) -> Result<Found<G>, E> {
    let gains = |trial: &Trial<G>| trial.loss <= start.loss + GAIN * trial.t * start.slope;
    let is_flat = |trial: &Trial<G>| trial.slope.abs() <= -CURVATURE * start.slope;
    let (mut previous, mut trial) = (start.clone(), evaluate(t)?);
    let (mut evaluations, mut iterations) = (1, 0);
    // Go on until a bracket is found that holds a good step, or a good step itself.
    let mut bracket = loop {
        if iterations >= limits.iterations {
            break [start.clone(), trial];
        }
        if !gains(&trial) || iterations > 1 && trial.loss >= previous.loss {
            break [previous, trial];
        }
        if is_flat(&trial) {
            return Ok(Found { trial, evaluations });
        }
        if trial.slope >= 0.0 {
            break [previous, trial];
        }
        let bounds = (trial.t + 0.01 * (trial.t - previous.t), trial.t * 10.0);
        let next = minimum_of_cubic(&previous, &trial, bounds);
        previous = std::mem::replace(&mut trial, evaluate(next)?);
        evaluations += 1;
        iterations += 1;
    };
    // Close in on it.
    let lower = |bracket: &[Trial<G>; 2]| usize::from(bracket[0].loss > bracket[1].loss);
    let (mut low, mut stuck) = (lower(&bracket), false);
    while iterations < limits.iterations {
        let (left, right) = (bracket[0].t.min(bracket[1].t), bracket[0].t.max(bracket[1].t));
        if (right - left) * limits.longest < limits.tolerance_change {
            break;
        }
        let mut t = minimum_of_cubic(&bracket[0], &bracket[1], (left, right));
        // Too close to an end twice in a row, or at an end, the trial moves inwards.
        let margin = 0.1 * (right - left);
        if (right - t).min(t - left) < margin {
            if stuck || t >= right || t <= left {
                t = if (t - right).abs() < (t - left).abs() { right - margin } else { left + margin };
                stuck = false;
            } else {
                stuck = true;
            }
        } else {
            stuck = false;
        }
        let trial = evaluate(t)?;
        evaluations += 1;
        iterations += 1;
        if !gains(&trial) || trial.loss >= bracket[low].loss {
            bracket[1 - low] = trial;
            low = lower(&bracket);
        } else {
            let good = is_flat(&trial);
            if !good && trial.slope * (bracket[1 - low].t - bracket[low].t) >= 0.0 {
                bracket[1 - low] = bracket[low].clone();
            }
            bracket[low] = trial;
            if good {
                break;
            }
        }
    }
    let [first, second] = bracket;
    Ok(Found { trial: if low == 0 { first } else { second }, evaluations })
}

/// Where the cubic through two trials with their slopes is lowest, within bounds; their middle where it has no minimum.
fn minimum_of_cubic<G>(a: &Trial<G>, b: &Trial<G>, (low, high): (f64, f64)) -> f64 {
    let (a, b) = if a.t <= b.t { (a, b) } else { (b, a) };
    let d1 = a.slope + b.slope - 3.0 * (a.loss - b.loss) / (a.t - b.t);
    let square = d1 * d1 - a.slope * b.slope;
    if square >= 0.0 {
        let d2 = square.sqrt();
        let t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2));
        t.max(low).min(high)
    } else {
        0.5 * (low + high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches along `f` from 0, and returns where it ended.
    fn search(f: impl Fn(f64) -> (f64, f64), t: f64) -> Trial<()> {
        let at = |t: f64| {
            let (loss, slope) = f(t);
            Trial { t, loss, slope, gradient: () }
        };
        let limits = Limits { longest: 1.0, tolerance_change: 1e-9, iterations: 25 };
        let found = strong_wolfe(&at(0.0), t, limits, |t| Ok::<_, ()>(at(t))).expect("no errors");
        assert!(found.evaluations <= 26);
        found.trial
    }

    #[test]
    fn steps_that_are_found_satisfy_both_conditions() {
        type Function = fn(f64) -> (f64, f64);
        let functions: [Function; 4] = [
            |t| ((t - 3.0).powi(2), 2.0 * (t - 3.0)),
            |t| (-t / (t * t + 2.0), (t * t - 2.0) / (t * t + 2.0).powi(2)),
            |t| {
                (
                    (t + 0.004).powi(5) - 2.0 * (t + 0.004).powi(4),
                    5.0 * (t + 0.004).powi(4) - 8.0 * (t + 0.004).powi(3),
                )
            },
            |t| (t.cos() + 0.1 * t * t - 0.5 * t, -t.sin() + 0.2 * t - 0.5),
        ];
        for f in functions {
            let (f0, g0) = f(0.0);
            // First steps beyond the nearest valley may end in another one.
            for t in [1e-3, 0.1, 1.0, 3.0] {
                let found = search(f, t);
                assert!(found.loss <= f0 + 1e-4 * found.t * g0, "from {t}: {found:?}");
                assert!(found.slope.abs() <= 0.9 * g0.abs(), "from {t}: {found:?}");
            }
        }
    }

    #[test]
    fn the_minimum_of_a_cubic_is_found_in_one_step() {
        // f(t) = t³ - 3 t has its minimum at 1.
        let at = |t: f64| Trial { t, loss: t * t * t - 3.0 * t, slope: 3.0 * t * t - 3.0, gradient: () };
        for (a, b) in [(0.0, 3.0), (3.0, 0.0)] {
            assert!((minimum_of_cubic(&at(a), &at(b), (0.0, 3.0)) - 1.0).abs() < 1e-12);
        }
        assert_eq!(minimum_of_cubic(&at(0.0), &at(3.0), (2.0, 3.0)), 2.0);
    }
}
