//! `wgrad plan`

mod text;

use std::cmp::Ordering;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use wgrad::runtime::human_bytes;
use wgrad::train::{Alternative, LargestBatch, Planner, Recipe, StepPlan, Waiting};

use self::text::{more, text};
use crate::Failure;
use crate::args::PlanArgs;

/// How long to look for the largest batch.
const SEARCH: Duration = Duration::from_secs(20);

/// And for each combination of what saves memory.
const SEARCH_EACH: Duration = Duration::from_secs(10);

pub(crate) fn run(args: PlanArgs) -> Result<ExitCode, Failure> {
    // A recipe's mistakes are told before a device is opened.
    let recipe = Recipe::from_file(&args.recipe, &args.overrides)?;
    let device = wgrad::devices().open(&args.device.device)?.device;
    let waiting = Waiting::new("compiling the step");
    let mut planner = Planner::new(&recipe, &device)?;
    if let Some(memory) = args.memory {
        planner.set_available(memory);
    }
    let own = planner.savings();
    let plan = match planner.plan() {
        Ok(plan) => plan,
        Err(error) => {
            // What the device cannot bind may never exist with other settings.
            waiting.say("looking for settings that fit".to_owned());
            let others = planner.alternatives(None, SEARCH_EACH, |_, _| {}).unwrap_or_default();
            let ways = others.iter().filter(|a| a.fits).map(|a| set(&a.savings.changes(&own)));
            drop(waiting);
            return match ways.min_by_key(String::len) {
                Some(way) => Err(format!("{error}; `{way}` fits").into()),
                None => Err(error.into()),
            };
        }
    };
    let example = plan.units.example;
    let largest = planner.largest_batch(&plan, SEARCH, |count| {
        waiting.say(format!("looking for the largest batch: {count} {example}s"));
    })?;
    let alternatives = planner.alternatives(Some(&plan), SEARCH_EACH, |savings, count| {
        waiting.say(format!("looking for the largest batch with {savings}: {count} {example}s"));
    })?;
    drop(waiting);
    if args.json {
        let mut line = serde_json::to_value(&plan)?;
        line["recipe"] = json!(recipe.name);
        line["fits"] = json!(plan.fits());
        line["largest_batch"] = serde_json::to_value(largest)?;
        line["alternatives"] = serde_json::to_value(&alternatives)?;
        println!("{line}");
    } else {
        print!("{}", text(&recipe, device.info(), &plan, &largest, &alternatives));
    }
    if plan.fits() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!(
        "the step needs {}, but only {} are available: {}",
        human_bytes(plan.memory.peak),
        human_bytes(plan.available_bytes.unwrap_or(0)),
        advice(&plan, &largest, &alternatives)
    )
    .into())
}

/// Settings with which it fits, those with the least work first; or what to give up.
fn advice(plan: &StepPlan, largest: &LargestBatch, alternatives: &[Alternative]) -> String {
    let mut fitting: Vec<&Alternative> = alternatives.iter().filter(|a| a.fits).collect();
    fitting.sort_by(|a, b| {
        a.work.partial_cmp(&b.work).unwrap_or(Ordering::Equal).then(a.peak_bytes.cmp(&b.peak_bytes))
    });
    let mut ways: Vec<String> = Vec::new();
    if let Some(a) = fitting.first() {
        let bytes = human_bytes(a.peak_bytes.unwrap_or(0));
        ways.push(format!(
            "`{}` fits, with {bytes} and {} work",
            set(&a.savings.changes(&plan.savings)),
            more(a.work)
        ));
    }
    if largest.batch_size > 0 {
        ways.push(format!("`--set train.batch_size={}` fits", largest.batch_size));
    }
    if !ways.is_empty() {
        return ways.join("; ");
    }
    if let Some(best) = alternatives.iter().max_by_key(|a| a.largest_batch.batch_size)
        && best.largest_batch.batch_size > 0
    {
        let mut changes = best.savings.changes(&plan.savings);
        changes.push(format!("train.batch_size={}", best.largest_batch.batch_size));
        return format!("`{}` fits", set(&changes));
    }
    let m = &plan.memory;
    // Gradients are as large as the weights.
    let model = 2 * m.parameters + m.optimizer_state;
    if plan.available_bytes.is_some_and(|available| model > available) {
        let model = human_bytes(model);
        return format!("weights, gradients and optimizer state alone take {model}; choose a smaller model");
    }
    let shorter = if plan.units.are_tokens() { "a shorter context or " } else { "" };
    format!("not even a batch of one {} fits; choose {shorter}a smaller model", plan.units.example)
}

/// `--set train.loss_chunk=512 --set ...`
fn set(changes: &[String]) -> String {
    changes.iter().map(|change| format!("--set {change}")).collect::<Vec<_>>().join(" ")
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
    let bytes = number * factor;
    if bytes >= u64::MAX as f64 {
        return Err("expected fewer than 2^64 bytes, such as 8GiB".to_owned());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use wgrad::train::{MemoryPlan, Savings, Units};

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

    fn plan(available: u64, parameters: u64) -> (StepPlan, LargestBatch) {
        let memory = MemoryPlan {
            parameters,
            optimizer_state: 2 * parameters,
            peak: 9 << 20,
            ..MemoryPlan::default()
        };
        let plan = StepPlan {
            device: "cpu".into(),
            parameters: 0,
            batch_size: 8,
            context: Some(32),
            grad_accumulation: 1,
            savings: Savings::default(),
            examples_per_step: 8,
            tokens_per_step: Some(256),
            units: Units { example: "window", unit: "token", per_example: 32, data: "text" },
            memory,
            pool_bytes: 0,
            available_bytes: Some(available),
            dispatches: 0,
            kernels: Default::default(),
            flops: 100,
            bytes_moved: 0,
            bytes_minimum: 0,
            largest_tensor: Default::default(),
        };
        (plan, LargestBatch { batch_size: 0, peak_bytes: 0, exact: true })
    }

    fn alternative(loss_chunk: usize, work: f64, fits: bool, batch_size: usize) -> Alternative {
        Alternative {
            savings: Savings { gradient_checkpointing: work > 1.0, loss_chunk },
            peak_bytes: Some(3 << 20),
            work: Some(work),
            fits,
            largest_batch: LargestBatch { batch_size, peak_bytes: 0, exact: true },
        }
    }

    #[test]
    fn advice_names_the_settings_that_fit_with_the_least_work() {
        let (plan, largest) = plan(8 << 20, 1 << 20);
        let all =
            [alternative(0, 1.2, true, 9), alternative(64, 1.0, true, 8), alternative(64, 1.2, true, 12)];
        let told = advice(&plan, &largest, &all);
        assert_eq!(told, "`--set train.loss_chunk=64` fits, with 3.0 MiB and the same work");
        let told = advice(&plan, &LargestBatch { batch_size: 3, ..largest }, &all[..1]);
        let first = "`--set train.gradient_checkpointing=true` fits, with 3.0 MiB and 20 % more work";
        assert_eq!(told, format!("{first}; `--set train.batch_size=3` fits"));
        let told = advice(&plan, &largest, &[alternative(64, 1.2, false, 2)]);
        let all_three = "`--set train.gradient_checkpointing=true --set train.loss_chunk=64 --set train.batch_size=2` fits";
        assert_eq!(told, all_three);
    }

    #[test]
    fn advice_speaks_of_batch_and_context_only_where_they_matter() {
        let none = [alternative(64, 1.0, false, 0)];
        let (small, largest) = plan(8 << 20, 1 << 20);
        assert!(advice(&small, &largest, &none).contains("a shorter context or a smaller model"));
        let (large, largest) = plan(3 << 20, 1 << 20);
        let told = advice(&large, &largest, &none);
        assert_eq!(told, "weights, gradients and optimizer state alone take 4.0 MiB; choose a smaller model");
    }
}
