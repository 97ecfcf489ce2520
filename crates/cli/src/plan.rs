//! `wgrad plan`

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use wgrad::runtime::{DeviceInfo, DeviceKind, human_bytes};
use wgrad::train::{LargestBatch, Planner, Recipe, StepPlan};

use crate::Failure;
use crate::args::PlanArgs;

/// How long to look for the largest batch.
const SEARCH: Duration = Duration::from_secs(20);

pub(crate) fn run(args: PlanArgs) -> Result<ExitCode, Failure> {
    // A recipe's mistakes are told before a device is opened.
    let recipe = Recipe::from_file(&args.recipe, &args.overrides)?;
    let device = wgrad::devices().open(&args.device.device)?.device;
    let spinner = spinner();
    spinner.set_message("compiling the step");
    let mut planner = Planner::new(&recipe, &device)?;
    if let Some(memory) = args.memory {
        planner.set_available(memory);
    }
    let plan = planner.plan()?;
    let largest = planner.largest_batch(&plan, SEARCH, |windows| {
        spinner.set_message(format!("looking for the largest batch: {windows} windows"));
    })?;
    spinner.finish_and_clear();
    if args.json {
        let mut line = serde_json::to_value(&plan)?;
        line["recipe"] = json!(recipe.name);
        line["fits"] = json!(plan.fits());
        line["largest_batch"] = serde_json::to_value(largest)?;
        println!("{line}");
    } else {
        print!("{}", text(&recipe, device.info(), &plan, &largest));
    }
    if plan.fits() {
        return Ok(ExitCode::SUCCESS);
    }
    let advice = match largest.batch_size {
        0 => "not even a batch of one window fits; choose a smaller model or a shorter context".to_owned(),
        n => format!("`--set train.batch_size={n}` fits"),
    };
    Err(format!(
        "the step needs {}, but only {} are available: {advice}",
        human_bytes(plan.memory.peak),
        human_bytes(plan.available_bytes.unwrap_or(0))
    )
    .into())
}

/// Shown on a terminal while the compiler works.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    // The template is a constant that indicatif accepts; its default is a spinner too.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn text(recipe: &Recipe, device: &DeviceInfo, plan: &StepPlan, largest: &LargestBatch) -> String {
    let m = &plan.memory;
    let mut lines = vec![format!("{} on {} ({})", recipe.name, device.id, device.name)];
    let mut line = |name: &str, value: String| lines.push(format!("{name:18}{value}"));
    line("parameters", count(plan.parameters as u64));
    let passes = match plan.grad_accumulation {
        1 => String::new(),
        n => format!(", {n} passes"),
    };
    line(
        "tokens a step",
        format!(
            "{} (batch of {} windows of {} tokens{passes})",
            count(plan.tokens_per_step as u64),
            plan.batch_size,
            plan.context
        ),
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
    lines.push(String::new());
    lines.join("\n")
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

/// Bytes from `8GiB`, `500 MB` or a plain number.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1048576.0,
        "g" | "gib" => 1073741824.0,
        "t" | "tib" => 1099511627776.0,
        _ => return Err(format!("unknown unit `{}`; use KiB, MiB, GiB or KB, MB, GB", unit.trim())),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number of bytes such as 8GiB".to_owned())?;
    Ok((number * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_in_binary_and_decimal_units() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert_eq!(parse_bytes("1.5 g"), Ok(3 << 29));
        assert_eq!(parse_bytes("500MB"), Ok(500_000_000));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(
            parse_bytes("GiB").is_err() && parse_bytes("8 parsecs").is_err() && parse_bytes("-1").is_err()
        );
    }

    #[test]
    fn counts_are_written_for_people() {
        assert_eq!([7, 875_264, 1_000_000].map(count), ["7", "875,264", "1,000,000"]);
    }
}
