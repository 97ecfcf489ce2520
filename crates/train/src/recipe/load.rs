//! Reads a recipe, applies `--set key=value`, and says precisely what is wrong with either.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::Recipe;
use crate::task::TaskKind;

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read the recipe `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// It is not TOML, or a value has the wrong type.
    #[error("{place}: {message}")]
    Malformed {
        /// File, line and column, or the override.
        place: String,
        /// The key, what was expected, what came.
        message: String,
    },
    /// A key or a choice that there is not.
    #[error("{place}: {message}{}", suggestion(.nearest, .valid))]
    Unknown {
        /// File, line and column, or the override.
        place: String,
        /// The key's whole path, or the choice and its key.
        message: String,
        /// The nearest valid name, where one is near.
        nearest: Option<String>,
        /// All valid names.
        valid: Vec<String>,
    },
    /// A value that no run can have.
    #[error("`{key}` must be {expected}, found {found}")]
    Value {
        /// The key's path.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A constant of an optimizer or a schedule that no run can have.
    #[error("`{key}` must be {expected}, found {found}")]
    Setting {
        /// The key's path.
        key: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An override that is not `key=value`.
    #[error("`--set {text}`: {reason}; write for example `--set train.steps=1000`")]
    Override {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn suggestion(nearest: &Option<String>, valid: &[String]) -> String {
    let nearest = nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    format!("{nearest} (valid here: {})", valid.join(", "))
}

/// One `--set key=value`: a dotted path into the recipe and a TOML value. A value that is not TOML is taken as text.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    text: String,
    path: Vec<String>,
    value: Value,
}

impl FromStr for Override {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Self, RecipeError> {
        let bad = |reason: &str| RecipeError::Override { text: text.into(), reason: reason.into() };
        let (key, value) = text.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
        let path: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(bad("a part of the key is empty"));
        }
        let value = match toml::from_str::<Table>(&format!("v = {value}")) {
            Ok(mut table) if table.len() == 1 => table.remove("v"),
            _ => None,
        };
        let value = value.unwrap_or_else(|| Value::String(text[key.len() + 1..].to_owned()));
        Ok(Override { text: text.to_owned(), path, value })
    }
}

/// Sections whose `name` decides which keys they have, and the keys that all have.
const CHOICES: [(&str, &[&str]); 2] = [
    ("optimizer", &["lr", "weight_decay", "decay", "groups", "lookahead"]),
    ("schedule", &["warmup_steps", "warmup_from_zero", "min_lr"]),
];

impl Override {
    /// Whether it chooses among optimizers or schedules, each of which has constants of its own.
    fn is_choice(&self) -> bool {
        CHOICES.iter().any(|(section, _)| self.path == [*section, "name"])
    }

    fn apply(&self, table: &mut Table) -> Result<(), RecipeError> {
        let Some((last, sections)) = self.path.split_last() else { return Ok(()) };
        if self.is_choice()
            && let Some((section, common)) = CHOICES.iter().find(|(section, _)| self.path[0] == *section)
            && let Some(old) = table.get_mut(*section).and_then(Value::as_table_mut)
            && old.get("name").is_some_and(|name| *name != self.value)
        {
            // The constants of the one that was chosen in the file mean nothing to the other.
            old.retain(|key, _| common.contains(&key));
        }
        let mut table = table;
        for section in sections {
            let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().ok_or_else(|| RecipeError::Override {
                text: self.text.clone(),
                reason: format!("`{section}` is a value and has no keys"),
            })?;
        }
        table.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

impl Recipe {
    /// Reads a recipe file, applies overrides, fills in what depends on the file (`name`, `data.root`) and checks values.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has an unknown key or a value of the wrong type or range.
    pub fn from_file(path: &Path, overrides: &[Override]) -> Result<Self, RecipeError> {
        let read = |source| RecipeError::Read { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(read)?;
        let mut recipe = Self::parse(&text, &path.display().to_string(), overrides)?;
        if recipe.name.is_empty() {
            recipe.name = path.file_stem().map_or("run".into(), |stem| stem.to_string_lossy().into_owned());
        }
        // A run folder's recipe must find the data from anywhere.
        let root = recipe.task.spec_mut().root();
        let folder = path.parent().unwrap_or(Path::new("")).join(root.take().unwrap_or_default());
        *root = Some(std::path::absolute(folder).map_err(read)?);
        recipe.validate().map_err(|error| located(error, &path.display().to_string(), &text))?;
        Ok(recipe)
    }

    /// Reads a recipe's text; `origin` names it in messages.
    ///
    /// # Errors
    /// As [`Recipe::from_file`].
    pub fn from_toml(text: &str, origin: &str, overrides: &[Override]) -> Result<Self, RecipeError> {
        let mut recipe = Self::parse(text, origin, overrides)?;
        recipe.validate().map_err(|error| located(error, origin, text))?;
        Ok(recipe)
    }

    /// The recipe as TOML, defaults included.
    ///
    /// # Errors
    /// A value that TOML cannot hold, such as a seed above 2^63 - 1.
    pub fn to_toml(&self) -> Result<String, RecipeError> {
        self.task.to_toml(self).map_err(|error| RecipeError::Malformed {
            place: "the resolved recipe".into(),
            message: error.to_string(),
        })
    }

    fn parse(text: &str, origin: &str, overrides: &[Override]) -> Result<Self, RecipeError> {
        let source = Source::new(text, origin, overrides)?;
        source.read::<KindOnly>()?.task.kind.read(&source)
    }
}

/// What decides which sections a recipe has.
#[derive(Deserialize)]
struct KindOnly {
    #[serde(default)]
    task: AnyTask,
}

#[derive(Default, Deserialize)]
struct AnyTask {
    #[serde(default)]
    kind: TaskKind,
}

/// A recipe's text with overrides, to be read as one type or another.
pub(crate) struct Source<'a> {
    text: &'a str,
    origin: &'a str,
    overrides: &'a [Override],
    /// The text with overrides applied, if there are any.
    changed: Option<Table>,
}

impl<'a> Source<'a> {
    fn new(text: &'a str, origin: &'a str, overrides: &'a [Override]) -> Result<Self, RecipeError> {
        let mut source = Source { text, origin, overrides, changed: None };
        if !overrides.is_empty() {
            let mut table: Table = toml::from_str(text).map_err(|error| source.syntax(error))?;
            let (choices, others): (Vec<&Override>, Vec<&Override>) =
                overrides.iter().partition(|o| o.is_choice());
            for one in choices.into_iter().chain(others) {
                one.apply(&mut table)?;
            }
            source.changed = Some(table);
        }
        Ok(source)
    }

    /// The text as a `T`; what is wrong is told with its place.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, RecipeError> {
        if let Some(table) = &self.changed {
            return read_table(Value::Table(table.clone()), self.origin, self.overrides);
        }
        let deserializer = toml::Deserializer::parse(self.text).map_err(|error| self.syntax(error))?;
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let path = error.path().to_string();
            let error = error.into_inner();
            let place = place(self.origin, self.text, error.span());
            located(explain(place, &path, error.message()), self.origin, self.text)
        })
    }

    fn syntax(&self, error: toml::de::Error) -> RecipeError {
        malformed(place(self.origin, self.text, error.span()), error.message())
    }
}

/// Deserialises a table that has no positions: messages name the override that brought the key, or the file.
fn read_table<T: DeserializeOwned>(
    value: Value,
    origin: &str,
    overrides: &[Override],
) -> Result<T, RecipeError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().message().to_owned();
        let named = |o: &&Override| {
            let key = o.path.join(".");
            key == path
                || key.rsplit_once('.').is_some_and(|(section, _)| section == path) && {
                    o.path.last().is_some_and(|last| message.contains(&format!("`{last}`")))
                }
        };
        let place = overrides.iter().find(named).map_or(origin.to_owned(), |o| format!("--set {}", o.text));
        explain(place, &path, &message)
    })
}

/// `recipe.toml:12:1` for a byte range of the text.
fn place(origin: &str, text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let Some(before) = span.and_then(|span| text.get(..span.start)) else { return origin.to_owned() };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    format!("{origin}:{line}:{column}")
}

/// The error with the line of the key that it is about, where it knows no more than the section: keys of optimizers and schedules
/// are compared with those of the one that is named, whose place in the file serde does not keep.
fn located(mut error: RecipeError, origin: &str, text: &str) -> RecipeError {
    let RecipeError::Unknown { place, message, .. } = &mut error else { return error };
    let key = message.strip_prefix("unknown key `").and_then(|m| m.strip_suffix('`'));
    let Some((section, key)) = key.and_then(|key| key.rsplit_once('.')) else { return error };
    if !CHOICES.iter().any(|(choice, _)| *choice == section) {
        return error;
    }
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| line.trim() != format!("[{section}]"));
    let names = |line: &str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    if let Some((number, line)) = lines.find(|(_, line)| names(line)) {
        let column = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
        *place = format!("{origin}:{}:{column}", number + 1);
    } else if place.starts_with('[') {
        *place = origin.to_owned();
    }
    error
}

fn malformed(place: String, message: &str) -> RecipeError {
    RecipeError::Malformed { place, message: message.trim().replace('\n', ", ") }
}

/// Turns serde's message into one with the key's path and the nearest valid name.
pub(super) fn explain(place: String, path: &str, message: &str) -> RecipeError {
    // Serde names what it met first and what it knows after it, each in backquotes.
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
    let section = if path == "." { "" } else { path };
    let unknown_key = message.starts_with("unknown field");
    if unknown_key || message.starts_with("unknown variant") {
        let found = quoted.next().unwrap_or_default();
        let valid: Vec<String> = quoted.collect();
        let message = if unknown_key {
            // The path ends with the unknown key itself where the deserialiser had got as far as that.
            let section = section.strip_suffix(&found).map_or(section, |s| s.trim_end_matches('.'));
            let dot = if section.is_empty() { "" } else { "." };
            format!("unknown key `{section}{dot}{found}`")
        } else {
            // The choice among optimizers is their `name`, which serde does not say.
            let name =
                if section.starts_with("optimizer") && !section.ends_with("decay") { ".name" } else { "" };
            format!("`{section}{name}` cannot be `{found}`")
        };
        return RecipeError::Unknown { place, message, nearest: nearest(&found, &valid), valid };
    }
    let message = match section {
        "" => in_words(message),
        key => format!("`{key}`: {}", in_words(message)),
    };
    malformed(place, &message)
}

/// Serde's messages name Rust's types and its own; people who write recipes know TOML's.
fn in_words(message: &str) -> String {
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("the key {key} is missing");
    }
    let Some((found, expected)) = message.split_once(", expected ") else { return message.to_owned() };
    let found = match (found.split_once(": "), found.strip_prefix("invalid length ")) {
        (Some(("invalid type" | "invalid value", found)), _) => thing(found),
        (_, Some(length)) => length.to_owned(),
        _ => return message.to_owned(),
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "a borrowed string" | "path string" | "a path string" => "text in quotes",
        "a sequence" => "a list",
        "variant identifier" | "string or table" => "a name in quotes",
        "a map" => "a table of keys",
        other if other.starts_with("struct ") || other.contains("enum ") => "a table of keys",
        other => match other.strip_prefix("an array of length ").or(other.strip_prefix("a tuple of size ")) {
            Some(length) => return format!("expected a list of {length} values, found {found}"),
            None => other,
        },
    };
    format!("expected {expected}, found {found}")
}

/// What serde met: `string "many"`, ``integer `-2` ``, `sequence`.
fn thing(found: &str) -> String {
    for (kind, word) in [
        ("string ", "the text "),
        ("integer ", "the number "),
        ("floating point ", "the number "),
        ("boolean ", ""),
        ("sequence", "a list"),
        ("map", "a table of keys"),
    ] {
        if let Some(value) = found.strip_prefix(kind) {
            return format!("{word}{}", value.trim_matches('`'));
        }
    }
    found.to_owned()
}

/// The most similar name, if it is similar enough to be what was meant.
fn nearest(found: &str, valid: &[String]) -> Option<String> {
    let score = |name: &String| strsim::jaro_winkler(&found.to_lowercase(), &name.to_lowercase());
    let best = valid.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.7).then(|| best.clone())
}
