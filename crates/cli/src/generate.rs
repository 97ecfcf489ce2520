//! `wgrad generate`

use std::io::{self, Write};
use std::process::ExitCode;

use wgrad::train::{Message, Pretrained, SampleOptions};

use crate::Failure;
use crate::args::GenerateArgs;

pub(crate) fn run(args: GenerateArgs) -> Result<ExitCode, Failure> {
    let opened = wgrad::devices().open(&args.device.device)?;
    let model =
        Pretrained::load(&args.checkpoint, &opened.device, |warning| eprintln!("warning: {warning}"))?;
    let options = SampleOptions {
        tokens: args.max_new_tokens,
        bytes: None,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
        stop: args.stop,
        stop_tokens: Vec::new(),
        num_beams: args.beams,
    };
    let mut closed = None;
    let show = |piece: &str, closed: &mut Option<io::Error>| {
        write(piece, closed);
        closed.is_none()
    };
    if args.chat {
        let system = args.system.map(|text| Message::new("system", &text));
        let messages: Vec<Message> = system.into_iter().chain([Message::new("user", &args.prompt)]).collect();
        model.answer(&messages, &options, |piece| show(piece, &mut closed))?;
    } else {
        write(&args.prompt, &mut closed);
        model.generate(&args.prompt, &options, |piece| show(piece, &mut closed))?;
    }
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
