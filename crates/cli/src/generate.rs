//! `wgrad generate`

use std::io::{self, Write};
use std::process::ExitCode;

use wgrad::train::{Pretrained, SampleOptions};

use crate::Failure;
use crate::args::GenerateArgs;

pub(crate) fn run(args: GenerateArgs) -> Result<ExitCode, Failure> {
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(format!("--temperature must be 0 or more, found {}", args.temperature).into());
    }
    if args.top_k == Some(0) {
        return Err("--top-k must be 1 or more, found 0; leave it out to draw among all tokens".into());
    }
    let opened = wgrad::devices().open(&args.device.device)?;
    let model =
        Pretrained::load(&args.checkpoint, &opened.device, |warning| eprintln!("warning: {warning}"))?;
    let options = SampleOptions {
        tokens: args.max_new_tokens,
        bytes: None,
        temperature: args.temperature,
        top_k: args.top_k,
        seed: args.seed,
    };
    let mut closed = None;
    write(&args.prompt, &mut closed);
    model.generate(&args.prompt, &options, |piece| {
        write(piece, &mut closed);
        closed.is_none()
    })?;
    write("\n", &mut closed);
    match closed {
        // Whoever read the text has had enough of it: `wgrad generate ... | head -1`.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Shows a piece of text at once; the first failure is kept, and nothing is written after it.
fn write(piece: &str, closed: &mut Option<io::Error>) {
    if closed.is_none() {
        let mut out = io::stdout().lock();
        *closed = out.write_all(piece.as_bytes()).and_then(|()| out.flush()).err();
    }
}
