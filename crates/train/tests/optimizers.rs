//! Every optimizer and schedule that a recipe can name trains, and its run resumes.

use std::path::Path;
use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_tensor::DeviceHandle;
use wgrad_train::{Interrupt, Outcome, Override, Recipe, RunOptions, resume, train};

fn recipe(settings: &[&str]) -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gpt-tiny.toml");
    let common =
        ["train.batch_size=2", "train.validation_windows=2", "train.checkpoint_every=2", "sample.every=0"];
    let overrides: Vec<Override> =
        common.iter().chain(settings).map(|text| text.parse().expect("key=value")).collect();
    Recipe::from_file(&path, &overrides).unwrap_or_else(|error| panic!("{settings:?}: {error}"))
}

fn options() -> RunOptions {
    let device: DeviceHandle = Arc::new(CpuDevice::new());
    RunOptions { device, interrupt: Interrupt::default(), profile: None }
}

/// The validation loss after so many steps, in one go and in two.
fn in_one_and_in_two(settings: &[&str]) -> (f64, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let done = |outcome| match outcome {
        Outcome::Finished { validation_loss, .. } => validation_loss,
        other => panic!("{other:?}"),
    };
    let whole =
        train(recipe(&[settings, &["train.steps=4"]].concat()), Some(&folder.path().join("a")), options());
    let half = folder.path().join("b");
    // The schedule must be that of four steps from the beginning: the run is cut, not shortened.
    let all = recipe(&[settings, &["train.steps=4"]].concat());
    train(all.clone(), Some(&half), options()).unwrap_or_else(|e| panic!("{settings:?}: {e}"));
    std::fs::remove_dir_all(half.join("checkpoints/step-000004")).expect("the last checkpoint");
    let resumed = resume(&half, None, &[], options());
    (
        done(whole.unwrap_or_else(|e| panic!("{settings:?}: {e}"))),
        done(resumed.unwrap_or_else(|e| panic!("{settings:?}: {e}"))),
    )
}

#[test]
fn every_optimizer_trains_by_a_recipe_and_resumes_bit_for_bit() {
    for name in [
        "{ name = 'sgd', lr = 0.1, momentum = 0.9, nesterov = true }",
        "{ name = 'adam', lr = 1e-3, amsgrad = true, weight_decay = 0.01 }",
        "{ name = 'nadam', lr = 1e-3 }",
        "{ name = 'rmsprop', lr = 1e-3, centered = true, momentum = 0.5 }",
        "{ name = 'lamb', lr = 1e-2, lookahead = { k = 2 } }",
        "{ name = 'adafactor', lr = 1e-2 }",
        "{ name = 'muon', lr = 0.02, rest = { name = 'adamw', lr = 1e-3, betas = [0.9, 0.95] } }",
        "{ name = 'lbfgs', lr = 0.5, max_iter = 2 }",
    ] {
        let setting = format!("optimizer={name}");
        let mut settings = vec!["schedule={ name = 'constant', warmup_steps = 2 }", &setting];
        if name.contains("lbfgs") {
            // Without clipping.
            settings
                .push("train={ steps = 4, batch_size = 2, validation_windows = 2, checkpoint_every = 2 }");
        }
        let (whole, halves) = in_one_and_in_two(&settings);
        assert!(whole.is_finite() && whole.to_bits() == halves.to_bits(), "{name}: {whole} and {halves}");
    }
}

#[test]
fn every_schedule_is_chosen_by_a_recipe() {
    for schedule in [
        "{ name = 'constant' }",
        "{ name = 'constant_factor' }",
        "{ name = 'linear', end_factor = 0.1 }",
        "{ name = 'step', step_size = 5 }",
        "{ name = 'multi_step', milestones = [3, 7] }",
        "{ name = 'exponential', gamma = 0.9, warmup_steps = 3 }",
        "{ name = 'inverse_time', decay = 0.5, steps_per_epoch = 10 }",
        "{ name = 'inverse_sqrt', warmup_steps = 10, warmup_from_zero = true }",
        "{ name = 'polynomial', power = 2, min_lr = 1e-4 }",
        "{ name = 'cosine', min_lr = 1e-4 }",
        "{ name = 'cosine_restarts', t_0 = 20, t_mult = 2 }",
        "{ name = 'cosine_hard_restarts', cycles = 3 }",
        "{ name = 'cyclic', step_size_up = 10, mode = 'triangular2', min_lr = 1e-4 }",
        "{ name = 'one_cycle', momentum = [0.85, 0.95] }",
        "{ name = 'noam', warmup_steps = 20 }",
        "{ name = 'wsd', warmup_steps = 10, decay = 50, shape = 'one_minus_sqrt' }",
        "{ name = 'sequential', milestones = [5], schedules = [{ name = 'constant' }, { name = 'cosine', t_max = 20 }] }",
        "{ name = 'product', schedules = [{ name = 'constant' }, { name = 'exponential', gamma = 0.9 }] }",
        "{ name = 'reduce_on_plateau', factor = 0.5, patience = 2, warmup_steps = 5 }",
        "{ name = 'error_ratio', target_lr = 1e-4, reference_error = 2.0 }",
    ] {
        let recipe = recipe(&[&format!("schedule={schedule}")]);
        let scheduler = recipe.scheduler().unwrap_or_else(|e| panic!("{schedule}: {e}"));
        let rates: Vec<f64> = (0..200).map(|i| scheduler.lr(i)).collect();
        assert!(
            rates.iter().all(|lr| lr.is_finite() && (0.0..=3e-3 + 1e-12).contains(lr)),
            "{schedule}: {rates:?}"
        );
        assert!(rates.iter().any(|lr| *lr > 0.0), "{schedule}");
        let written = recipe.to_toml().unwrap_or_else(|e| panic!("{schedule}: {e}"));
        assert_eq!(Recipe::from_toml(&written, "resolved", &[]).expect("valid"), recipe, "{schedule}");
    }
}

#[test]
fn rates_that_measurements_change_resume_bit_for_bit() {
    for schedule in [
        "{ name = 'reduce_on_plateau', factor = 0.5, patience = 0, threshold = 0.5 }",
        "{ name = 'error_ratio', target_lr = 1e-4 }",
    ] {
        let setting = format!("schedule={schedule}");
        let (whole, halves) = in_one_and_in_two(&[&setting, "train.eval_every=1"]);
        assert!(whole.to_bits() == halves.to_bits(), "{schedule}: {whole} and {halves}");
    }
}

#[test]
fn averages_of_weights_are_validated_and_resume_bit_for_bit() {
    let schedule = "schedule={ name = 'constant', warmup_steps = 2 }";
    let (plain, _) = in_one_and_in_two(&[schedule]);
    for average in ["{ kind = 'ema', decay = 0.5 }", "{ kind = 'swa', start = 2 }"] {
        let setting = format!("average={average}");
        let (whole, halves) = in_one_and_in_two(&[schedule, &setting]);
        assert!(
            whole.to_bits() == halves.to_bits() && whole != plain,
            "{average}: {whole} and {halves}, {plain}"
        );
    }
}

#[test]
fn what_no_optimizer_or_schedule_can_do_is_refused_by_key() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gpt-tiny.toml"))
            .expect("the recipe ships");
    for (setting, message) in [
        (
            "optimizer={ name = 'sgd', lr = 0.1, nesterov = true }",
            "`optimizer.nesterov` must be false without momentum",
        ),
        ("optimizer={ name = 'muon', lr = 0.1 }", "`optimizer.rest` must be given with muon"),
        (
            "optimizer={ name = 'lbfgs', lr = 0.1 }",
            "`optimizer.name` must be another one where gradients are clipped",
        ),
        (
            "optimizer={ name = 'adam', lr = 0.1, lookahead = { k = 0 } }",
            "`optimizer.lookahead.k` must be 1 or more",
        ),
        ("optimizer={ name = 'adam', lr = 0.1, rho = 0.9 }", "unknown key `optimizer.rho`"),
        ("schedule={ name = 'step' }", "step_size"),
        (
            "schedule={ name = 'step', step_size = 3, gama = 0.1 }",
            "unknown key `schedule.gama`; did you mean `gamma`?",
        ),
        ("schedule={ name = 'sequential', milestones = [3], schedules = [] }", "`schedule` must be"),
        ("average={ kind = 'ema', decay = 1.0 }", "`average.decay` must be in 0..1"),
        ("average={ kind = 'mean' }", "`average.kind` cannot be `mean`"),
        ("train.clip_grad_value=1.0", "absent where gradients are clipped in another way"),
    ] {
        let overrides = ["train.clip_grad_norm=1.0", setting].map(|text| text.parse().expect("key=value"));
        let error = Recipe::from_toml(&text, "r.toml", &overrides).expect_err(setting).to_string();
        assert!(error.contains(message), "{setting}: {error}");
    }
}
