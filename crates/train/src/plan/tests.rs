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
    let mut learner = Learner::new(recipe, 256, &device).expect("a model");
    let t = &recipe.train;
    let windows = t.batch_size * t.grad_accumulation;
    let tokens = windows * t.context;
    for step in 0..steps {
        let batch =
            Batch { inputs: vec![1; tokens], targets: vec![2; tokens], batch: windows, context: t.context };
        drop(learner.update(&batch, step).expect("a step"));
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
        assert_eq!(plan.tokens_per_step, accumulation * 8 * 32);
    }
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
fn a_plan_needs_no_text() {
    let recipe = recipe(&["data.root=/nowhere", "data.tokenizer={ kind = \"bpe\", vocab_size = 300 }"]);
    let plan = Planner::new(&recipe, &cpu()).expect("a planner").plan().expect("a plan");
    let bytes = Planner::new(&self::recipe(&[]), &cpu()).expect("a planner").plan().expect("a plan");
    // 44 more tokens in two tables of width 32.
    assert_eq!(plan.parameters, bytes.parameters + 2 * 44 * 32);
}
