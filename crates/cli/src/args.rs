//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use wgrad::train::Override;

/// Train neural networks on any GPU, or without one.
#[derive(Debug, Parser)]
#[command(
    name = "wgrad",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  wgrad train recipes/gpt-nano.toml
  wgrad train recipes/fashion-cnn.toml
  wgrad plan recipes/gpt-nano.toml
  wgrad train recipes/gpt-nano.toml --device gpu --set train.steps=200
  wgrad train --resume runs/gpt-nano-001
  wgrad generate --checkpoint runs/gpt-nano-001 --prompt \"My fellow Americans, \"
  wgrad devices"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model by a recipe, or continue a run.
    Train(TrainArgs),
    /// Tell what a training step will need, before anything runs.
    Plan(PlanArgs),
    /// Try growing learning rates on a recipe, and draw the loss over them.
    LrFind(LrFindArgs),
    /// Write text with a trained model.
    Generate(GenerateArgs),
    /// Write a language model as a Hugging Face folder, its adapters merged into its weights.
    Export(ExportArgs),
    /// Measure a checkpoint's loss, and what else its task measures, on validation data.
    Evaluate(EvaluateArgs),
    /// List the devices of this machine, with their limits and features.
    Devices,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A run folder (runs/NAME-001, or --out) holds recipe.toml, metrics.jsonl, loss.svg, samples.txt and checkpoints/.
Ctrl-C saves a checkpoint and leaves; --resume continues bit for bit.
Where memory is short: --set train.gradient_checkpointing=true computes activations again in the backward pass,
--set train.loss_chunk=1024 computes logits for so many tokens at a time; `wgrad plan` says what each saves.

Examples:
  wgrad train recipes/gpt-nano.toml
  wgrad train recipes/gpt-nano.toml --out runs/short --set train.steps=500 --set optimizer.lr=3e-4
  wgrad train --resume runs/gpt-nano-001
  wgrad train --resume runs/gpt-nano-001 --set train.steps=4000
  wgrad train recipes/gpt-nano.toml --profile 5")]
pub(crate) struct TrainArgs {
    /// What to train, on what, and how; may be omitted with --resume.
    #[arg(required_unless_present = "resume")]
    pub(crate) recipe: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
    /// Continue the run in this folder from its last complete checkpoint.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub(crate) resume: Option<PathBuf>,
    /// Change a value of the recipe, by its dotted path; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<Override>,
    /// The run folder; must be empty or not there yet.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Measure the kernels of N steps after a warm-up, print them by time, write a trace for https://ui.perfetto.dev, and
    /// train on.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) profile: Option<u64>,
    /// Where the trace goes; default: trace.json in the run folder.
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub(crate) profile_out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The step is traced and compiled by the code that trains, and counted instead of run. The data need not be there.
Bytes are those that the device allocates for training; validation and samples need less.
The last lines compare with other settings of train.gradient_checkpointing and train.loss_chunk.
Exits with 1 if the memory does not suffice; the message names settings that fit.

Examples:
  wgrad plan recipes/gpt-nano.toml
  wgrad plan recipes/gpt-nano.toml --device gpu --set train.batch_size=64 --memory 8GiB
  wgrad plan recipes/gpt-nano.toml --json")]
pub(crate) struct PlanArgs {
    /// What would be trained.
    pub(crate) recipe: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
    /// Change a value of the recipe, by its dotted path; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<Override>,
    /// The memory to plan with, such as 8GiB; default: what is available now, where the device tells.
    #[arg(long, value_name = "BYTES", value_parser = crate::plan::parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// One JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The model is trained from its beginning with rates that grow from step to step; the recipe's schedule takes no part, and no
run folder is written. A good rate lies where the loss falls fastest, or somewhat above.

Examples:
  wgrad lr-find recipes/gpt-nano.toml
  wgrad lr-find recipes/gpt-nano.toml --start 1e-5 --end 1 --steps 60 --out lr.svg")]
pub(crate) struct LrFindArgs {
    /// What would be trained.
    pub(crate) recipe: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
    /// Change a value of the recipe, by its dotted path; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<Override>,
    /// The first rate.
    #[arg(long, default_value_t = 1e-6)]
    pub(crate) start: f64,
    /// The last rate.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) end: f64,
    /// How many steps at most; it ends early where the loss explodes.
    #[arg(long, default_value_t = 100)]
    pub(crate) steps: u64,
    /// Where the picture goes.
    #[arg(long, value_name = "FILE", default_value = "lr-find.svg")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgrad generate --checkpoint runs/gpt-nano-001 --prompt \"My fellow Americans, \"
  wgrad generate --checkpoint runs/gpt-nano-001/checkpoints/step-002000 --prompt \"We \" --temperature 0
  wgrad generate --checkpoint model.gguf --chat --prompt \"What is the capital of France?\"")]
pub(crate) struct GenerateArgs {
    /// A checkpoint's folder, a run folder (its last checkpoint is taken), a folder with config.json,
    /// model.safetensors and tokenizer.json, or a GGUF file.
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: PathBuf,
    /// What the text goes on from.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// Tokens to write.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) max_new_tokens: usize,
    /// Below 1 more cautious, above 1 wilder; 0 takes the likeliest token each time.
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub(crate) temperature: f64,
    /// Draw among the K likeliest tokens only.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Draw among the fewest tokens that together have probability P.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,
    /// Draw among tokens at least P times as likely as the likeliest one.
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f64>,
    /// Above 1 tokens that have occurred become less likely.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) repetition_penalty: f64,
    /// End the text where this would come; may be repeated.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Look for the likeliest text, following N at a time, instead of drawing.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) beams: usize,
    /// Take the prompt as what a user says, and let the model answer, by its chat template.
    #[arg(long)]
    pub(crate) chat: bool,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// Another seed, another text.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Checkpoints of adapters ([lora] in recipes) hold these alone, as PEFT does; others are Hugging Face folders as they are.

Examples:
  wgrad export --checkpoint runs/lora-smollm-001 --out my-model
  wgrad export --checkpoint model.gguf --out model")]
pub(crate) struct ExportArgs {
    /// A checkpoint's folder, a run folder (its last checkpoint is taken), a model's or its adapters' folder, or a GGUF file.
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: PathBuf,
    /// The folder to write; must be empty or not there yet.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgrad evaluate --checkpoint runs/gpt-nano-001
  wgrad evaluate --checkpoint path/to/model --recipe recipes/gpt-nano.toml")]
pub(crate) struct EvaluateArgs {
    /// A checkpoint's folder, or a run folder (its last checkpoint is taken).
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: PathBuf,
    /// Whose validation data to use; default: the run folder's own.
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// Change a value of the recipe, by its dotted path; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<Override>,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceArg {
    /// auto, cpu, gpu (the best adapter, software included), or an id from `wgrad devices` such as gpu:0.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_recipe_may_be_omitted_only_when_resuming() {
        assert!(Cli::try_parse_from(["wgrad", "train"]).is_err());
        assert!(Cli::try_parse_from(["wgrad", "train", "--resume", "r"]).is_ok());
        assert!(Cli::try_parse_from(["wgrad", "train", "r.toml", "--resume", "r", "--out", "o"]).is_err());
        let error =
            Cli::try_parse_from(["wgrad", "train", "r.toml", "--set", "steps"]).expect_err("no value");
        assert!(error.to_string().contains("there is no `=`"), "{error}");
    }
}
