//! The examples are run, not only built.

#[path = "../examples/custom_model.rs"]
mod custom_model;

#[test]
fn a_model_of_ones_own_learns_in_a_loop_of_ones_own() {
    custom_model::main().expect("the example runs");
}

#[test]
fn the_custom_model_is_a_short_program() {
    let lines = include_str!("../examples/custom_model.rs").lines().count();
    assert!(lines < 80, "{lines} lines");
}
