//! Pages of the documentation that are written from the code.

use std::{fs, path::Path};

use crate::Result;

/// Options of `cargo xtask docs`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only says whether the pages are up to date.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Writes `docs/src/operations.md`.
///
/// # Errors
/// The page cannot be written, or, with `--check`, is not what would be written.
pub(crate) fn run(args: &Args) -> Result {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/operations.md"));
    let page = wgrad_optable::operations_md();
    if !args.check {
        return Ok(fs::write(path, page)?);
    }
    // A checkout may have other line ends.
    let found = fs::read_to_string(path).unwrap_or_default().replace("\r\n", "\n");
    if found == page {
        Ok(())
    } else {
        Err("docs/src/operations.md does not say what the table of operations says; run `cargo xtask docs`"
            .into())
    }
}
