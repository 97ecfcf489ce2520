//! The `wgrad` command.
fn main() {}
