//! Kernels, bytes and memory of the training steps, exactly: what no neighbour's load changes. `UPDATE_EXPECT=1` writes new
//! figures into this file; the limits below them do not move.

use std::{fmt::Write, sync::Arc};

use expect_test::{Expect, expect};
use wgrad::{
    prelude::DeviceHandle,
    runtime::{Device, PlanningDevice},
};
use wgrad_ir::{DType, Program};
use wgrad_kernels::{Choices, generate};

use super::{
    kinds,
    workloads::{Expression, Step, language_model},
};
use crate::profiles;

/// The program of a steady step.
fn steady(step: &mut dyn Step, device: &PlanningDevice) -> Arc<Program> {
    for _ in 0..2 {
        device.take_runs();
        step.prepare();
        step.run().expect("a step");
    }
    let mut runs = device.take_runs();
    assert_eq!(runs.len(), 1, "a step is one program");
    runs.remove(0).program
}

/// Compares the program of a steady training step with the figures, and with the limits of every such step.
fn check(workload: &str, profile: &'static str, layers: usize, expected: Expect) {
    let device = profiles::device(profile);
    let handle: DeviceHandle = device.clone();
    let program = &*steady(&mut language_model(workload, &handle).expect("a workload"), &device);
    let working = working_set(program);
    expected.assert_eq(&figures(program, working, &*handle));
    let launches = dispatches(program, &*handle);
    assert!(launches <= 30 * layers + 20, "{launches} dispatches");
    assert!(
        2 * program.bytes_moved() <= 3 * program.bytes_minimum(),
        "more than 1.5 times the bytes that must move"
    );
    if workload == "gpt-mini" {
        assert!(10 * working <= 6 * program.bytes_written(), "memory is hardly used twice");
    }
    assert_eq!(device.stats().copied_inputs, 0, "weights are updated in place from the first step on");
}

/// Compares the program of a ResNet block, forward and backward, with the figures.
fn check_resnet_block(profile: &'static str, expected: Expect) {
    let device = profiles::device(profile);
    let handle: DeviceHandle = device.clone();
    let program = &*steady(&mut Expression::resnet_block(&handle), &device);
    expected.assert_eq(&figures(program, working_set(program), &*handle));
}

/// Bytes that a step needs beside weights and optimizer state.
fn working_set(program: &Program) -> u64 {
    let ids: u64 = program.inputs.iter().filter(|i| i.dtype == DType::I32).map(|i| i.bytes).sum();
    program.allocated_bytes() + ids
}

/// What a device launches: on a CPU a kernel each.
fn dispatches(program: &Program, device: &dyn Device) -> usize {
    if device.info().id == "cpu" {
        return program.steps.len();
    }
    let of = |kernel| generate(kernel, device.caps(), &Choices::default()).expect("a shader").len();
    program.steps.iter().map(|step| of(&step.kernel)).sum()
}

fn figures(program: &Program, working: u64, device: &dyn Device) -> String {
    let mut text = String::new();
    for (kind, count) in kinds(program) {
        let _ = writeln!(text, "{kind} {count}");
    }
    let _ = writeln!(text, "kernels {}", program.steps.len());
    if device.info().id != "cpu" {
        let _ = writeln!(text, "dispatches {}", dispatches(program, device));
    }
    let (moved, least) = (program.bytes_moved(), program.bytes_minimum());
    let _ = writeln!(text, "bytes moved {moved}, {:.2} of the minimum {least}", moved as f64 / least as f64);
    let written = program.bytes_written();
    let _ = writeln!(
        text,
        "working set {working}, {:.2} of the {written} written",
        working as f64 / written as f64
    );
    let _ = writeln!(text, "updated in place {} of {}", program.updates.len(), program.inputs.len());
    text
}

#[test]
fn gpt_nano_on_a_cpu() {
    check(
        "gpt-nano",
        "cpu",
        4,
        expect![[r#"
        attention 4
        attention_grad 4
        map 3
        matmul 51
        reduce 15
        row 20
        scatter_add 1
        kernels 98
        bytes moved 240413200, 1.45 of the minimum 165890568
        working set 34184200, 0.45 of the 75152396 written
        updated in place 3 of 5
    "#]],
    );
}

#[test]
fn gpt_nano_on_a_software_adapter() {
    check(
        "gpt-nano",
        "software",
        4,
        expect![[r#"
            attention 4
            attention_grad 4
            map 2
            matmul 51
            reduce 15
            row 21
            scatter_add 1
            kernels 98
            dispatches 104
            bytes moved 240419848, 1.45 of the minimum 165890568
            working set 34184200, 0.45 of the 75155720 written
            updated in place 3 of 5
        "#]],
    );
}

#[test]
fn gpt_nano_on_a_desktop_adapter() {
    check(
        "gpt-nano",
        "desktop",
        4,
        expect![[r#"
            attention 4
            attention_grad 4
            map 2
            matmul 51
            reduce 15
            row 21
            scatter_add 1
            kernels 98
            dispatches 121
            bytes moved 246227976, 1.48 of the minimum 165890568
            working set 34184200, 0.44 of the 78059784 written
            updated in place 3 of 5
        "#]],
    );
}

#[test]
fn gpt_mini_on_a_cpu() {
    check(
        "gpt-mini",
        "cpu",
        6,
        expect![[r#"
        attention 6
        attention_grad 6
        map 3
        matmul 75
        reduce 21
        row 28
        scatter_add 1
        kernels 140
        bytes moved 1365093904, 1.35 of the minimum 1012165640
        working set 173400072, 0.49 of the 354955276 written
        updated in place 3 of 5
    "#]],
    );
}

#[test]
fn gpt_mini_on_a_software_adapter() {
    check(
        "gpt-mini",
        "software",
        6,
        expect![[r#"
            attention 6
            attention_grad 6
            map 2
            matmul 75
            reduce 21
            row 29
            scatter_add 1
            kernels 140
            dispatches 148
            bytes moved 1365120200, 1.35 of the minimum 1012165640
            working set 173400072, 0.49 of the 354968424 written
            updated in place 3 of 5
        "#]],
    );
}

#[test]
fn gpt_mini_on_a_desktop_adapter() {
    check(
        "gpt-mini",
        "desktop",
        6,
        expect![[r#"
            attention 6
            attention_grad 6
            map 2
            matmul 75
            reduce 21
            row 29
            scatter_add 1
            kernels 140
            dispatches 148
            bytes moved 1365120200, 1.35 of the minimum 1012165640
            working set 173400072, 0.49 of the 354968424 written
            updated in place 3 of 5
        "#]],
    );
}

#[test]
fn checkpoints_of_gpt_mini_halve_its_activations_for_a_third_more_work() {
    for profile in std::iter::once("cpu").chain(profiles::GPUS) {
        let [plain, kept] = [false, true].map(|on| {
            let device = profiles::device(profile);
            let handle: DeviceHandle = device.clone();
            let mut step = language_model("gpt-mini", &handle).expect("a workload");
            step.set_gradient_checkpointing(on);
            let gradients = 4 * step.params().expect("parameters") as u64;
            let program = steady(&mut step, &device);
            (working_set(&program) - gradients, program.flops())
        });
        assert!(2 * kept.0 <= plain.0, "{profile}: activations take {} of {} bytes", kept.0, plain.0);
        assert!(100 * kept.1 <= 135 * plain.1, "{profile}: {} operations instead of {}", kept.1, plain.1);
        assert!(kept.1 > plain.1, "{profile}: nothing is computed again");
    }
}

#[test]
fn a_resnet_block_on_a_cpu() {
    check_resnet_block(
        "cpu",
        expect![[r#"
        conv 6
        map 7
        reduce 3
        row 2
        kernels 18
        bytes moved 206416668, 2.45 of the minimum 84381716
        working set 38833688, 0.75 of the 51678736 written
        updated in place 0 of 13
    "#]],
    );
}

#[test]
fn a_resnet_block_on_a_software_adapter() {
    check_resnet_block(
        "software",
        expect![[r#"
        conv 6
        map 6
        reduce 3
        row 3
        kernels 18
        dispatches 18
        bytes moved 206424852, 2.45 of the minimum 84381716
        working set 38833684, 0.75 of the 51682828 written
        updated in place 0 of 13
    "#]],
    );
}

#[test]
fn a_resnet_block_on_a_desktop_adapter() {
    check_resnet_block(
        "desktop",
        expect![[r#"
        conv 6
        map 6
        reduce 3
        row 3
        kernels 18
        dispatches 18
        bytes moved 206424852, 2.45 of the minimum 84381716
        working set 38833684, 0.75 of the 51682828 written
        updated in place 0 of 13
    "#]],
    );
}
