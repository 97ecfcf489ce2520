use std::time::Duration;

use wgrad_cpu::CpuDevice;
use wgrad_ir::DeviceCaps;

use super::*;

fn recipe(settings: &[&str]) -> Recipe {
    let text = include_str!("../../../../recipes/gpt-tiny.toml");
    let overrides: Vec<_> = settings.iter().map(|s| s.parse().expect("key=value")).collect();
    Recipe::from_toml(text, "tiny", &overrides).expect("valid")
}

fn cpu() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

/// `DeviceStats::peak_bytes` of a fresh CPU device after some real steps. What lives then beside the program's own memory: the
/// model, the optimizer's state, and the ids of one forward pass; and the pool keeps where the model lay before its first step.
fn real_peak(recipe: &Recipe, steps: u64) -> u64 {
    let device = cpu();
    let mut recipe = recipe.clone();
    *recipe.task.spec_mut().root() = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes").into());
    let opening = Opening::Begin { cache: None };
    let task = recipe.task.spec().open(&recipe, &opening, &device, &mut |_| {}).expect("a task");
    let mut learner = Learner::new(&recipe, task, &device).expect("a model");
    let t = &recipe.train;
    let windows = t.batch_size * t.grad_accumulation;
    let columns = learner.task().columns();
    for step in 0..steps {
        drop(learner.update(&HostBatch::zeros(&columns, windows), step).expect("a step"));
    }
    device.stats().peak_bytes
}

#[test]
fn the_planned_peak_is_what_the_cpu_runtime_allocates() {
    for settings in [
        ["train.batch_size=8", "optimizer.name=adamw"].as_slice(),
        &["train.batch_size=3", "model.tie_word_embeddings=true", "model.n_layer=2"],
        &["train.batch_size=5", "train.context=17", "model.resid_pdrop=0"],
        &["train.batch_size=2", "train.grad_accumulation=3"],
        &["train.gradient_checkpointing=true", "train.loss_chunk=64", "model.n_layer=2"],
    ] {
        let recipe = recipe(settings);
        let plan = Planner::new(&recipe, &cpu()).expect("a planner").plan().expect("a plan");
        assert_eq!(plan.pool_bytes, real_peak(&recipe, 2), "{settings:?}: {plan:#?}");
        assert_eq!(plan.pool_bytes, real_peak(&recipe, 4), "{settings:?}: {plan:#?}");
    }
}

#[test]
fn the_kinds_of_memory_add_up_to_the_peak() {
    for accumulation in [1, 2] {
        let recipe = recipe(&[&format!("train.grad_accumulation={accumulation}")]);
        let plan = Planner::new(&recipe, &cpu()).expect("a planner").plan().expect("a plan");
        let m = plan.memory;
        let sum = m.parameters + m.optimizer_state + m.gradients + m.activations + m.batch + m.results;
        assert_eq!(sum, m.peak, "{m:?}");
        assert!(m.parameters >= 4 * plan.parameters as u64 && m.optimizer_state >= 2 * m.parameters, "{m:?}");
        // All gradients live until their norm is known. (A kernel that writes a few small ones together may bind more than it
        // writes, by which others seem to be gone: a few per cent of so small a model.)
        assert!(10 * m.gradients >= 9 * 4 * plan.parameters as u64, "{m:?}");
        assert_eq!(plan.tokens_per_step, Some(accumulation * 8 * 32));
    }
}

/// 8 windows of 32 tokens: logits of 256 x 4096, 4 MiB.
const LARGE_VOCABULARY: [&str; 2] = ["data.tokenizer={kind='bpe', vocab_size=4096}", "model.n_layer=2"];

#[test]
fn logits_in_chunks_never_exist_whole() {
    let (logits, table) = (4 << 20, 4 * 32 * 4096);
    let plan = |extra: &[&str]| {
        let recipe = recipe(&[&LARGE_VOCABULARY, extra].concat());
        Planner::new(&recipe, &cpu()).expect("a planner").plan().expect("a plan")
    };
    let whole = plan(&[]);
    assert!(whole.largest_tensor.bytes >= logits, "{:?}", whole.largest_tensor);
    let mut before = whole.memory.peak;
    for (setting, pieces) in [("train.loss_chunk=64", 4), ("train.loss_chunk=16", 16)] {
        let chunks = plan(&[setting]);
        // The largest tensor is the gradients' arena: two tables, and the rest of the model.
        assert!(chunks.largest_tensor.bytes < 3 * table, "{:?}", chunks.largest_tensor);
        // What one chunk hands to the next: its logits, their gradient, and sums of the output layer's gradient; a few of each, since
        // buffers are shared by whole ones.
        let loss = 3 * logits / pieces + 5 * table;
        let saved = whole.memory.activations - chunks.memory.activations;
        assert!(saved >= 2 * logits - loss, "{setting}: {saved} saved of {:?}", whole.memory);
        assert!(chunks.memory.peak < before, "{setting}: {:?}", chunks.memory);
        before = chunks.memory.peak;
        assert_eq!(chunks.flops, whole.flops, "no operation is done twice");
    }
}

#[test]
fn checkpointing_saves_activations_for_less_than_half_more_work() {
    let deep = |extra: &[&str]| {
        let recipe = recipe(&[&["model.n_layer=6", "train.batch_size=16"], extra].concat());
        Planner::new(&recipe, &cpu()).expect("a planner").plan().expect("a plan")
    };
    let (plain, saving) = (deep(&[]), deep(&["train.gradient_checkpointing=true"]));
    assert!(
        2 * saving.memory.activations < plain.memory.activations,
        "{:?} {:?}",
        saving.memory,
        plain.memory
    );
    let work = saving.flops as f64 / plain.flops as f64;
    assert!(work > 1.05 && work < 1.5, "{work}");
    assert!(saving.savings.gradient_checkpointing && !plain.savings.gradient_checkpointing);
}

#[test]
fn alternatives_are_the_plans_of_recipes_with_those_settings() {
    let large = [&LARGE_VOCABULARY[..], &["train.batch_size=16"]].concat();
    let mut planner = Planner::new(&recipe(&large), &cpu()).expect("a planner");
    planner.set_available(20 << 20);
    let own = planner.plan().expect("a plan");
    let found = planner.alternatives(Some(&own), Duration::from_secs(60), |_, _| {}).expect("alternatives");
    assert_eq!(found.len(), 3, "{found:?}");
    for alternative in &found {
        let set: Vec<String> = alternative.savings.changes(&own.savings);
        let settings: Vec<&str> = large.iter().copied().chain(set.iter().map(String::as_str)).collect();
        let mut other = Planner::new(&recipe(&settings), &cpu()).expect("a planner");
        other.set_available(20 << 20);
        let plan = other.plan().expect("a plan");
        assert_eq!(alternative.peak_bytes, Some(plan.memory.peak), "{set:?}");
        assert_eq!(alternative.work, Some(plan.flops as f64 / own.flops as f64));
        let largest = other.largest_batch(&plan, Duration::from_secs(60), |_| {}).expect("a batch");
        assert_eq!(alternative.largest_batch, largest, "{set:?}");
        // And from there back to the recipe's own.
        let back = other.alternatives(None, Duration::ZERO, |_, _| {}).expect("alternatives");
        assert!(back.iter().any(|b| b.savings == own.savings && b.peak_bytes == Some(own.memory.peak)));
    }
    assert_eq!(planner.plan().expect("a plan").memory, own.memory, "the planner is as it was");
}

#[test]
fn work_grows_with_the_batch_and_parameters_do_not() {
    let mut planner = Planner::new(&recipe(&[]), &cpu()).expect("a planner");
    let (small, large) = (planner.plan_batch(4).expect("a plan"), planner.plan_batch(8).expect("a plan"));
    assert_eq!(small.dispatches, large.dispatches);
    assert_eq!(2 * small.flops, large.flops);
    assert_eq!(small.memory.parameters, large.memory.parameters);
    assert!(small.memory.activations < large.memory.activations);
    assert_eq!(planner.plan_batch(4).expect("a plan").memory, small.memory, "plans leave nothing behind");
}

#[test]
fn the_largest_batch_fits_and_one_more_does_not() {
    let mut planner = Planner::new(&recipe(&[]), &cpu()).expect("a planner");
    for available in [20 << 20, 2 << 20] {
        planner.set_available(available);
        let plan = planner.plan().expect("a plan");
        let found = planner.largest_batch(&plan, Duration::from_secs(60), |_| {}).expect("a batch");
        assert!(found.exact && found.batch_size > 0, "{found:?}");
        assert!(planner.plan_batch(found.batch_size).expect("a plan").fits());
        assert!(!planner.plan_batch(found.batch_size + 1).expect("a plan").fits());
    }
}

#[test]
fn limits_of_a_gpu_bound_the_batch_by_name() {
    let caps = DeviceCaps { max_binding_bytes: 1 << 20, software: false, ..DeviceCaps::cpu() };
    let info = DeviceInfo {
        id: "gpu:0".into(),
        name: "a GPU".into(),
        kind: DeviceKind::DiscreteGpu,
        driver: String::new(),
        details: Vec::new(),
    };
    let mut planner = Planner::on(&recipe(&[]), PlanningDevice::new(info, caps)).expect("a planner");
    let plan = planner.plan().expect("a plan");
    assert_eq!(plan.available_bytes, None);
    let found = planner.largest_batch(&plan, Duration::from_secs(60), |_| {}).expect("a batch");
    assert!(found.exact, "{found:?}");
    let error = planner.plan_batch(found.batch_size + 1).expect_err("too large").to_string();
    assert!(error.contains("gpu:0") && error.contains("max_storage_buffer_binding_size"), "{error}");
}

#[test]
fn a_parameter_beyond_a_limit_is_named() {
    let caps = DeviceCaps { max_binding_bytes: 1 << 20, software: false, ..DeviceCaps::cpu() };
    let info = DeviceInfo {
        id: "gpu:0".into(),
        name: "a GPU".into(),
        kind: DeviceKind::DiscreteGpu,
        driver: String::new(),
        details: Vec::new(),
    };
    let vocabulary = "data.tokenizer={kind='bpe', vocab_size=20000}";
    for (settings, name) in [
        (&[vocabulary, "model.tie_word_embeddings=true"][..], "`transformer.wte.weight`"),
        (&[vocabulary], ".weight`"),
        (&["model.n_positions=20000", "train.context=8"], "`transformer.wpe.weight`"),
    ] {
        let planner = Planner::on(&recipe(settings), PlanningDevice::new(info.clone(), caps.clone()));
        let error = planner.expect("a planner").plan().expect_err("too large").to_string();
        assert!(error.contains(name) && error.contains("2.4 MiB"), "{settings:?}: {error}");
    }
}

#[test]
fn a_plan_needs_no_text() {
    let recipe = recipe(&["data.root=/nowhere", "data.tokenizer={ kind = \"bpe\", vocab_size = 300 }"]);
    let plan = Planner::new(&recipe, &cpu()).expect("a planner").plan().expect("a plan");
    let bytes = Planner::new(&self::recipe(&[]), &cpu()).expect("a planner").plan().expect("a plan");
    // 44 more tokens in two tables of width 32.
    assert_eq!(plan.parameters, bytes.parameters + 2 * 44 * 32);
}
