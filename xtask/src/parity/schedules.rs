//! The sequences of `schedulers.json`: each entry's kind is its name, its constants are the numbers of its `spec`.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use wgrad::optim::{
    Anneal, Cyclic, CyclicMode, Feedback, LrScheduler, OneCycle, ReduceLrOnPlateau, Schedule,
};

use super::{compare::Report, reference::json};
use crate::Result;

/// `schedulers.json`.
#[derive(Deserialize)]
struct Sequences {
    base_lr: f64,
    n: usize,
    seq: BTreeMap<String, Sequence>,
}

#[derive(Deserialize)]
struct Sequence {
    spec: String,
    lr: Vec<f64>,
    momentum: Option<Vec<f64>>,
    metric: Option<Vec<f64>>,
    args: Option<ReduceLrOnPlateau>,
}

/// f64 against f64, in another order of operations.
const TOLERANCE: f64 = 1e-12;

/// Compares every sequence; returns how many there are.
pub(super) fn compare(path: &Path, report: &mut Report) -> Result<usize> {
    let sequences: Sequences = json(path)?;
    for (name, sequence) in &sequences.seq {
        let mut scheduler = scheduler(name, sequence, sequences.base_lr)
            .map_err(|e| format!("schedulers.json: `{name}`: {e}"))?;
        if sequence.lr.len() != sequences.n {
            return Err(format!(
                "schedulers.json: `{name}` has {} rates for {} steps",
                sequence.lr.len(),
                sequences.n
            )
            .into());
        }
        for (i, &want) in sequence.lr.iter().enumerate() {
            report.scalar(&format!("{name}[{i}].lr"), want, scheduler.lr(i as u64), TOLERANCE);
            if let Some(momenta) = &sequence.momentum {
                match (momenta.get(i), scheduler.momentum(i as u64)) {
                    (Some(&want), Some(got)) => {
                        report.scalar(&format!("{name}[{i}].momentum"), want, got, TOLERANCE)
                    }
                    _ => report.missing(format!("{name}[{i}]: a momentum that the other has not")),
                }
            }
            if let Some(metric) = sequence.metric.as_ref().and_then(|m| m.get(i)) {
                scheduler.observe(*metric)?;
            }
        }
    }
    Ok(sequences.seq.len())
}

/// The schedule of an entry.
fn scheduler(name: &str, sequence: &Sequence, lr: f64) -> Result<LrScheduler> {
    if let Some(plateau) = sequence.args {
        let feedback = Feedback::ReduceOnPlateau(plateau);
        return Ok(LrScheduler::with_feedback(Schedule::Constant { lr }, feedback));
    }
    let numbers = numbers(&sequence.spec);
    let whole = |x: f64| x as u64;
    let schedule = match (name, numbers.as_slice()) {
        ("step", &[step, gamma]) => Schedule::Step { lr, step_size: whole(step), gamma },
        ("multistep", [milestones @ .., gamma]) => Schedule::MultiStep {
            lr,
            milestones: milestones.iter().map(|m| whole(*m)).collect(),
            gamma: *gamma,
        },
        ("exponential", &[gamma]) => Schedule::Exponential { lr, gamma },
        ("constant", &[factor, total]) => Schedule::ConstantFactor { lr, factor, total_iters: whole(total) },
        ("linear", &[start_factor, end_factor, total]) => {
            Schedule::Linear { lr, start_factor, end_factor, total_iters: whole(total) }
        }
        ("cosine", &[t_max, eta_min]) => Schedule::Cosine { lr, t_max: whole(t_max), eta_min },
        ("cosine_warm_restarts", &[t_0, t_mult, eta_min]) => {
            Schedule::CosineRestarts { lr, t_0: whole(t_0), t_mult: whole(t_mult), eta_min }
        }
        ("polynomial", &[total, power]) => {
            Schedule::Polynomial { lr, end_lr: 0.0, total_iters: whole(total), power }
        }
        ("cyclic_triangular", &[base_lr, max_lr, up, down, low, high]) => Schedule::Cyclic(Cyclic {
            base_lr,
            max_lr,
            step_size_up: whole(up),
            step_size_down: Some(whole(down)),
            mode: CyclicMode::Triangular,
            gamma: 1.0,
            momentum: Some((low, high)),
        }),
        ("one_cycle", &[max_lr, total]) => Schedule::OneCycle(OneCycle {
            max_lr,
            total_steps: whole(total),
            pct_start: 0.3,
            anneal_strategy: Anneal::Cos,
            momentum: Some((0.85, 0.95)),
            div_factor: 25.0,
            final_div_factor: 1e4,
            three_phase: false,
        }),
        ("one_cycle_linear", &[max_lr, total, pct_start, div_factor, final_div_factor]) => {
            Schedule::OneCycle(OneCycle {
                max_lr,
                total_steps: whole(total),
                pct_start,
                anneal_strategy: Anneal::Linear,
                momentum: Some((0.85, 0.95)),
                div_factor,
                final_div_factor,
                three_phase: true,
            })
        }
        ("lambda_inverse_sqrt", _) if sequence.spec == "LambdaLR(1/sqrt(i+1))" => {
            Schedule::InverseSqrt { lr, timescale: 1 }
        }
        ("sequential", &[start_factor, end_factor, total, t_max, milestone]) => Schedule::Sequential {
            schedules: vec![
                Schedule::Linear { lr, start_factor, end_factor, total_iters: whole(total) },
                Schedule::Cosine { lr, t_max: whole(t_max), eta_min: 0.0 },
            ],
            milestones: vec![whole(milestone)],
        },
        ("hf_linear_warmup", &[warmup, total]) => {
            Schedule::Polynomial { lr, end_lr: 0.0, total_iters: whole(total - warmup), power: 1.0 }
                .with_warmup(whole(warmup))
        }
        ("hf_cosine_warmup", &[warmup, total, ..]) => {
            Schedule::Cosine { lr, t_max: whole(total - warmup), eta_min: 0.0 }.with_warmup(whole(warmup))
        }
        ("hf_cosine_hard_restarts", &[warmup, total, cycles]) => {
            Schedule::CosineHardRestarts { lr, total: whole(total - warmup), cycles: whole(cycles) }
                .with_warmup(whole(warmup))
        }
        ("hf_cosine_min_lr", &[warmup, total, rate]) => {
            Schedule::Cosine { lr, t_max: whole(total - warmup), eta_min: lr * rate }
                .with_warmup(whole(warmup))
        }
        ("hf_polynomial", &[warmup, total, end_lr, power]) => {
            Schedule::Polynomial { lr, end_lr, total_iters: whole(total - warmup), power }
                .with_warmup(whole(warmup))
        }
        ("hf_inverse_sqrt", &[warmup]) => {
            Schedule::InverseSqrt { lr, timescale: whole(warmup) }.with_warmup(whole(warmup))
        }
        ("hf_constant_warmup", &[warmup]) => Schedule::Constant { lr }.with_warmup(whole(warmup)),
        _ => return Err(format!("`{}` is not a schedule that is known", sequence.spec).into()),
    };
    schedule.check()?;
    Ok(LrScheduler::new(schedule))
}

/// The numbers of a text in order; digits within names (`T_0`) are none.
pub(super) fn numbers(text: &str) -> Vec<f64> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let words = text.split(|c: char| !part(c) && c != '-').flat_map(|word| {
        // A minus sign belongs to a number only within an exponent.
        if word.contains("e-") { vec![word] } else { word.split('-').collect() }
    });
    words.filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn numbers_are_told_from_names() {
        assert_eq!(numbers("Warm(T_0=4, T_mult=2, eta_min=.002)"), [4.0, 2.0, 0.002]);
        assert_eq!(numbers("lr_end 1e-3, cycled .8-.9; [4,9,15]"), [1e-3, 0.8, 0.9, 4.0, 9.0, 15.0]);
    }
}
