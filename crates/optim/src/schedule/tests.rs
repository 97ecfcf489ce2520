//! Schedules against their formulas.

use super::*;

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12, "{found} instead of {expected}");
}

#[test]
fn warm_up_to_a_minimum_starts_above_zero_and_ends_at_the_minimum() {
    let s = Schedule::WarmupCosineTo { lr: 1e-3, min_lr: 1e-4, warmup: 100, total: 2000 };
    near(s.lr(0), 1e-5);
    near(s.lr(99), 1e-3);
    near(s.lr(100), 1e-3);
    near(s.lr(1050), 5.5e-4);
    near(s.lr(2000), 1e-4);
    near(s.lr(9000), 1e-4);
    // The same, composed.
    let cosine = Schedule::Cosine { lr: 1e-3, t_max: 1900, eta_min: 1e-4 };
    let composed = Schedule::Warmup { steps: 100, from_zero: false, then: Box::new(cosine) };
    (0..=2000).for_each(|i| near(composed.lr(i), s.lr(i)));
}

#[test]
fn hugging_face_warm_up_starts_at_zero_and_ends_at_zero() {
    let s = Schedule::WarmupCosine { lr: 5e-3, warmup: 5, total: 20 };
    near(s.lr(0), 0.0);
    near(s.lr(4), 4e-3);
    near(s.lr(5), 5e-3);
    // A third of the way down: (1 + cos 60°) / 2 = 3/4.
    near(s.lr(10), 3.75e-3);
    near(s.lr(20), 0.0);
}

#[test]
fn schedules_without_length_are_defined_everywhere() {
    near(Schedule::WarmupCosineTo { lr: 1.0, min_lr: 0.5, warmup: 0, total: 0 }.lr(0), 1.0);
    near(Schedule::WarmupCosine { lr: 1.0, warmup: 0, total: 0 }.lr(3), 0.0);
    near(Schedule::Polynomial { lr: 1.0, end_lr: 0.5, total_iters: 0, power: 2.0 }.lr(0), 0.5);
    near(Schedule::Cosine { lr: 1.0, t_max: 0, eta_min: 0.0 }.lr(0), 1.0);
    near(Schedule::Wsd { lr: 1.0, stable: 0, decay: 0, min_lr: 0.5, shape: DecayShape::Linear }.lr(9), 0.5);
    near(Schedule::Sequential { schedules: Vec::new(), milestones: Vec::new() }.lr(9), 0.0);
}

#[test]
fn inverse_time_falls_with_epochs() {
    let s = Schedule::InverseTime { lr: 0.1, decay: 0.5, steps_per_epoch: 1 };
    for (i, expected) in [0.1, 0.1 / 1.5, 0.05, 0.04].into_iter().enumerate() {
        near(s.lr(i as u64), expected);
    }
    near(Schedule::InverseTime { lr: 0.1, decay: 0.5, steps_per_epoch: 10 }.lr(20), 0.05);
}

#[test]
fn noam_peaks_at_the_end_of_its_warm_up() {
    let s = Schedule::Noam { d_model: 512, warmup: 4000, factor: 1.0 };
    near(s.lr(3999), (512.0f64 * 4000.0).powf(-0.5));
    assert!(s.lr(3998) < s.lr(3999) && s.lr(4000) < s.lr(3999));
    near(s.lr(0), 512f64.powf(-0.5) * 4000f64.powf(-1.5));
    near(s.lr(15_999), 512f64.powf(-0.5) * 16_000f64.powf(-0.5));
}

#[test]
fn a_stable_rate_decays_in_three_shapes() {
    let wsd = |shape| Schedule::Wsd { lr: 1.0, stable: 10, decay: 4, min_lr: 0.2, shape }.with_warmup(5);
    for (shape, at_quarter) in [
        (DecayShape::Linear, 0.75),
        (DecayShape::Cosine, 0.5 + 0.125f64.sqrt()),
        (DecayShape::OneMinusSqrt, 0.5),
    ] {
        let s = wsd(shape);
        for (i, expected) in
            [(0, 0.0), (2, 0.4), (5, 1.0), (15, 1.0), (16, 0.2 + 0.8 * at_quarter), (19, 0.2), (99, 0.2)]
        {
            near(s.lr(i), expected);
        }
    }
}

#[test]
fn products_scale_and_sequences_begin_anew() {
    let product = Schedule::Product {
        schedules: vec![
            Schedule::Exponential { lr: 0.1, gamma: 0.9 },
            Schedule::Step { lr: 1.0, step_size: 2, gamma: 0.5 },
        ],
    };
    near(product.lr(3), 0.1 * 0.9f64.powi(3) * 0.5);
    let text = r#"{"name": "sequential", "milestones": [3], "schedules": [
        {"name": "linear", "lr": 1, "start_factor": 0.5, "total_iters": 2}, {"name": "exponential", "lr": 1, "gamma": 0.5}]}"#;
    let sequence: Schedule = serde_json::from_str(text).expect("a schedule");
    let rates: Vec<f64> = (0..6).map(|i| sequence.lr(i)).collect();
    assert_eq!(rates, [0.5, 0.75, 1.0, 1.0, 0.5, 0.25]);
    let again: Schedule =
        serde_json::from_value(serde_json::to_value(&sequence).expect("JSON")).expect("the same");
    assert_eq!(again, sequence);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let constant = |lr| Schedule::Constant { lr };
    assert!(constant(f64::NAN).check().is_err());
    assert!(constant(-1.0).check().is_err());
    assert!(constant(0.1).check().is_ok());
    let sequence = |milestones: &[u64]| Schedule::Sequential {
        schedules: vec![constant(1.0), constant(0.5)],
        milestones: milestones.to_vec(),
    };
    assert!(sequence(&[3]).check().is_ok());
    assert!(sequence(&[3, 4]).check().is_err());
    for (text, wrong) in [
        (r#"{"name": "constant_factor", "lr": 1, "factor": 1.5}"#, "factor"),
        (r#"{"name": "linear", "lr": 1, "start_factor": 0}"#, "start_factor"),
        (r#"{"name": "linear", "lr": 1, "end_factor": -0.1}"#, "end_factor"),
        (r#"{"name": "step", "lr": 1, "step_size": 0}"#, "step_size"),
        (r#"{"name": "multi_step", "lr": 1, "milestones": [2], "gamma": -1}"#, "gamma"),
        (r#"{"name": "exponential", "lr": 1, "gamma": -0.5}"#, "gamma"),
        (r#"{"name": "inverse_time", "lr": 1, "decay": -1}"#, "decay"),
        (r#"{"name": "inverse_time", "lr": 1, "decay": 1, "steps_per_epoch": 0}"#, "steps_per_epoch"),
        (r#"{"name": "inverse_sqrt", "lr": 1, "timescale": 0}"#, "timescale"),
        (r#"{"name": "polynomial", "lr": 1, "total_iters": 0}"#, "total_iters"),
        (r#"{"name": "polynomial", "lr": 1, "end_lr": -1}"#, "end_lr"),
        (r#"{"name": "cosine", "lr": 1, "t_max": 0}"#, "t_max"),
        (r#"{"name": "cosine_restarts", "lr": 1, "t_0": 0}"#, "t_0"),
        (r#"{"name": "cosine_restarts", "lr": 1, "t_0": 5, "t_mult": 0}"#, "t_mult"),
        (r#"{"name": "cosine_hard_restarts", "lr": 1, "total": 0}"#, "total"),
        (r#"{"name": "cosine_hard_restarts", "lr": 1, "total": 9, "cycles": 0}"#, "cycles"),
        (r#"{"name": "warmup_cosine_to", "lr": 1, "min_lr": -1, "warmup": 1, "total": 9}"#, "min_lr"),
        (r#"{"name": "warmup_cosine", "lr": 1, "warmup": 0, "total": 0}"#, "total"),
        (r#"{"name": "noam", "d_model": 0, "warmup": 1}"#, "d_model"),
        (r#"{"name": "noam", "d_model": 8, "warmup": 0}"#, "warmup"),
        (r#"{"name": "wsd", "lr": -1, "stable": 1, "decay": 1}"#, "lr"),
        (r#"{"name": "cyclic", "base_lr": 0.1, "max_lr": 1, "step_size_up": 0}"#, "step_size_up"),
        (r#"{"name": "cyclic", "base_lr": 0.1, "max_lr": 1, "momentum": [0.8, 1.5]}"#, "momentum"),
        (r#"{"name": "one_cycle", "max_lr": 1, "total_steps": 0}"#, "total_steps"),
        (r#"{"name": "one_cycle", "max_lr": 1, "total_steps": 9, "pct_start": 1.5}"#, "pct_start"),
        (r#"{"name": "one_cycle", "max_lr": 1, "total_steps": 9, "div_factor": 0}"#, "div_factor"),
        (r#"{"name": "product", "schedules": []}"#, "the number of schedules"),
        (r#"{"name": "warmup", "steps": 3, "then": {"name": "cosine", "lr": 1, "t_max": 0}}"#, "t_max"),
    ] {
        let schedule: Schedule = serde_json::from_str(text).expect(text);
        let found = schedule.check().expect_err(text).to_string();
        assert!(found.starts_with(&format!("`{wrong}` must be ")), "{text}: {found}");
    }
    let plateau = |factor| {
        let rule = ReduceLrOnPlateau { factor, ..ReduceLrOnPlateau::default() };
        LrScheduler::with_feedback(constant(0.1), Feedback::ReduceOnPlateau(rule)).check()
    };
    assert!(plateau(0.5).is_ok() && plateau(1.0).is_err() && plateau(f64::NAN).is_err());
    assert!(
        serde_json::from_str::<Schedule>(r#"{"name": "step", "lr": 1, "step_size": 3, "gama": 0.5}"#)
            .is_err()
    );
}
