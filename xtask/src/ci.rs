//! What must hold before a change lands.

use crate::{Result, test};

/// Formatting, lints, documentation, then the test suite: the cheapest first.
///
/// # Errors
/// The first check that fails.
pub(crate) fn run() -> Result {
    test::stage("format", || test::cargo(&["fmt", "--all", "--check"], &[]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    test::stage("lints", || test::cargo(&clippy, &[]))?;
    let doc = ["doc", "--workspace", "--no-deps", "--all-features"];
    test::stage("documentation", || test::cargo(&doc, &[("RUSTDOCFLAGS", "-D warnings")]))?;
    test::run(&test::Args { full: false })
}
