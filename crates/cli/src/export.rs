//! `wgrad export`

use std::process::ExitCode;

use wgrad::train::Pretrained;

use crate::Failure;
use crate::args::ExportArgs;

pub(crate) fn run(args: ExportArgs) -> Result<ExitCode, Failure> {
    let out = &args.out;
    if out.is_dir() && std::fs::read_dir(out)?.next().is_some() {
        return Err(format!(
            "expected an empty folder or none, found files in {}; name another one",
            out.display()
        )
        .into());
    }
    let opened = wgrad::devices().open(&args.device.device)?;
    let model =
        Pretrained::load(&args.checkpoint, &opened.device, |warning| eprintln!("warning: {warning}"))?;
    model.export(out)?;
    println!("{} written to {}", model.folder().display(), out.display());
    Ok(ExitCode::SUCCESS)
}
