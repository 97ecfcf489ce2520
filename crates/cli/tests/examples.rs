//! The examples are run, not only built.

#[path = "../examples/keras_text_classifier.rs"]
mod keras_text_classifier;

#[test]
fn the_text_classifier_of_keras_guides_trains_and_predicts() {
    keras_text_classifier::main().expect("the example runs");
}

#[test]
fn it_is_about_as_short_as_in_keras() {
    let lines = include_str!("../examples/keras_text_classifier.rs").lines().count();
    assert!(lines < 60, "{lines} lines");
}
