//! A plan as text.

use wgrad::runtime::{DeviceInfo, DeviceKind, human_bytes};
use wgrad::train::{Alternative, LargestBatch, Recipe, Savings, StepPlan};

/// The plan as lines for people.
pub(super) fn text(
    recipe: &Recipe,
    device: &DeviceInfo,
    plan: &StepPlan,
    largest: &LargestBatch,
    alternatives: &[Alternative],
) -> String {
    let m = &plan.memory;
    let mut lines = vec![format!("{} on {} ({})", recipe.name, device.id, device.name)];
    let mut line = |name: &str, value: String| lines.push(format!("{name:18}{value}"));
    line("parameters", count(plan.parameters as u64));
    let passes = match plan.grad_accumulation {
        1 => String::new(),
        n => format!(", {n} passes"),
    };
    let (units, example) = (&plan.units, plan.units.example);
    line(
        &format!("{}s a step", units.unit),
        match units.per_example {
            1 => format!("{} (batch of {}{passes})", count(plan.examples_per_step as u64), plan.batch_size),
            n => format!(
                "{} (batch of {} {example}s of {n} {}s{passes})",
                count((plan.examples_per_step * n) as u64),
                plan.batch_size,
                units.unit
            ),
        },
    );
    let available = match plan.available_bytes {
        Some(bytes) => format!("of {} available", human_bytes(bytes)),
        None => "(the driver does not tell how much there is; --memory does)".to_owned(),
    };
    line("memory", format!("{} at the fullest moment, {available}", human_bytes(m.peak)));
    for (name, bytes) in [
        ("parameters", m.parameters),
        ("optimizer state", m.optimizer_state),
        ("gradients", m.gradients),
        ("activations", m.activations),
        ("batch", m.batch),
        ("results", m.results),
    ] {
        line(&format!("  {name}"), format!("{:>12}", human_bytes(bytes)));
    }
    line(
        "largest tensor",
        format!("{}, {}", human_bytes(plan.largest_tensor.bytes), plan.largest_tensor.name),
    );
    let kinds: Vec<String> = plan.kernels.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    line("kernels a step", format!("{} ({})", plan.dispatches, kinds.join(", ")));
    line("FLOPs a step", format!("{:.3} GFLOP", plan.flops as f64 * 1e-9));
    let (moved, minimum) = (plan.bytes_moved, plan.bytes_minimum);
    line(
        "bytes a step",
        format!(
            "{} moved, {:.2} times the least ({})",
            human_bytes(moved),
            moved as f64 / minimum.max(1) as f64,
            human_bytes(minimum)
        ),
    );
    let qualifier = match (largest.exact, device.kind) {
        (false, _) => " or more (the search ran out of time)",
        (true, DeviceKind::Cpu | DeviceKind::SoftwareGpu) => "",
        (true, _) if plan.available_bytes.is_none() => " by the device's limits alone",
        (true, _) => "",
    };
    line(
        "largest batch",
        format!("{}{qualifier} ({})", count(largest.batch_size as u64), human_bytes(largest.peak_bytes)),
    );
    lines.extend(alternatives.iter().map(other));
    lines.push(String::new());
    lines.join("\n")
}

/// `with gradient_checkpointing: 1.2 GiB, 22 % more work, largest batch 64`
fn other(a: &Alternative) -> String {
    let settings = match a.savings {
        Savings { gradient_checkpointing: false, loss_chunk: 0 } => "without".to_owned(),
        savings => format!("with {savings}"),
    };
    let Some(bytes) = a.peak_bytes else {
        return format!("{settings}: a tensor beyond the device's limits");
    };
    let batch = &a.largest_batch;
    let or_more = if batch.exact { "" } else { " or more" };
    let fits = if a.fits { "" } else { " (does not fit)" };
    format!(
        "{settings}: {}{fits}, {} work, largest batch {}{or_more}",
        human_bytes(bytes),
        more(a.work),
        count(batch.batch_size as u64)
    )
}

/// `22 % more`, for 1.22 times the work.
pub(super) fn more(work: Option<f64>) -> String {
    let percent = (work.unwrap_or(1.0) - 1.0) * 100.0;
    match percent {
        p if p >= 0.5 => format!("{p:.0} % more"),
        p if p <= -0.5 => format!("{:.0} % less", -p),
        _ => "the same".to_owned(),
    }
}

/// `875,264`.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_for_people() {
        assert_eq!([7, 875_264, 1_000_000].map(count), ["7", "875,264", "1,000,000"]);
    }

    #[test]
    fn work_is_told_against_the_recipe_s_own() {
        assert_eq!([1.217, 1.001, 0.82].map(|w| more(Some(w))), ["22 % more", "the same", "18 % less"]);
    }
}
