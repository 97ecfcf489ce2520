//! Runs that are killed and stopped at arbitrary moments continue as if nothing had happened.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{curve, resume, succeed, train, weights};

/// Checkpoints every other step, so that many kills fall into one.
const SETTINGS: [&str; 5] = [
    "train.steps=60",
    "train.eval_every=15",
    "train.checkpoint_every=2",
    "sample.every=30",
    "sample.length=10",
];

/// Starts a command whose output nobody reads.
fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command starts")
}

/// A run that is never interrupted, and how long it takes.
fn reference(dir: &Path) -> (PathBuf, Duration) {
    let out = dir.join("reference");
    let begun = Instant::now();
    succeed(train(&out, &SETTINGS));
    (out, begun.elapsed())
}

fn assert_same_run(out: &Path, reference: &Path) {
    assert_eq!(curve(out), curve(reference));
    assert!(weights(out, 60) == weights(reference, 60), "the weights differ");
    let samples = |out: &Path| fs::read_to_string(out.join("samples.txt")).expect("samples");
    assert_eq!(samples(out), samples(reference));
    let names = |out: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(out.join("checkpoints")).expect("listed").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(out), names(reference), "no leftovers, no missing checkpoint");
}

#[test]
fn a_run_killed_at_random_moments_has_the_curve_of_one_that_was_not() {
    kill_and_compare(8);
}

#[test]
#[ignore = "takes minutes; `cargo xtask test --full` runs it"]
fn runs_killed_at_fifty_random_moments_have_the_curve_of_one_that_was_not() {
    kill_and_compare(50);
}

fn kill_and_compare(kills: usize) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (reference, duration) = reference(dir.path());
    let (mut killed, mut runs, mut random) = (0, 0, 12345_u64);
    while killed < kills {
        runs += 1;
        let out = dir.path().join(format!("run-{runs}"));
        loop {
            // Before its recipe is in place a run has not begun, and is begun anew.
            let begun = out.join("recipe.toml").exists();
            let mut child = start(if begun { resume(&out) } else { train(&out, &SETTINGS) });
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let share = (random >> 40) as f64 / (1_u64 << 24) as f64;
            if killed == kills {
                let status = child.wait().expect("a child");
                assert!(status.success(), "run {runs} after {killed} kills: {status}");
                break;
            }
            sleep(duration.mul_f64(share * 0.6));
            if let Some(status) = child.try_wait().expect("a child") {
                assert!(status.success(), "run {runs} after {killed} kills: {status}");
                break;
            }
            child.kill().expect("killed");
            child.wait().expect("gone");
            killed += 1;
        }
        assert_same_run(&out, &reference);
    }
    println!("{killed} kills in {runs} runs");
}

#[test]
fn an_interrupt_saves_a_checkpoint_says_how_to_resume_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (reference, _) = reference(dir.path());
    let out = dir.path().join("run");
    let child = train(&out, &SETTINGS)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < 5 {
        assert!(Instant::now() < deadline, "the run does not get anywhere");
        sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let output = child.wait_with_output().expect("a child");
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(text.contains(&format!("continue with: wgrad train --resume {}", out.display())), "{text}");
    succeed(resume(&out));
    assert_same_run(&out, &reference);
}
