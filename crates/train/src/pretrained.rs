//! A trained model in a folder: weights, configuration and tokenizer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use wgrad_data::Tokenizer;
use wgrad_models::{AutoModelForCausalLM, CausalLanguageModel, gguf::GgufFile};
use wgrad_nn::{
    Init,
    lora::{is_lora, load_lora, lora_base, merge_lora},
};
use wgrad_tensor::DeviceHandle;

use crate::chat::{ChatTemplate, Message};
use crate::checkpoint::Checkpoint;
use crate::error::{Result, TrainError};
use crate::sample::{self, SampleOptions};

/// A language model and its tokenizer, as a checkpoint or a Hugging Face folder holds them (`config.json`, `model.safetensors`,
/// `tokenizer.json`), or a GGUF file; or the adapters of such a model, as PEFT saves them, whose configuration names it.
#[derive(Debug)]
pub struct Pretrained {
    folder: PathBuf,
    model: Box<dyn CausalLanguageModel>,
    tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    /// Tokens that end texts.
    ends: Vec<u32>,
}

impl Pretrained {
    /// Loads the model that `path` means: a run folder's last valid checkpoint, a checkpoint (its files are compared with their
    /// checksums), any folder with the three files, or a GGUF file. A damaged checkpoint of a run is passed over; `warn` gets a
    /// sentence about it.
    ///
    /// # Errors
    /// There is no model, or its files are damaged or of another kind.
    pub fn load(path: &Path, device: &DeviceHandle, warn: impl FnMut(String)) -> Result<Self> {
        if is_gguf(path) {
            return Self::load_gguf(path, device);
        }
        let folder = model_folder(path, warn)?;
        if is_lora(&folder) {
            return Self::load_adapted(folder, device);
        }
        let tokenizer = Tokenizer::load(&folder)?;
        let model = AutoModelForCausalLM::from_pretrained(&folder, device)?;
        tokenizer.check_model(model.vocab_size())?;
        let ends = ends(&folder, model.vocab_size());
        let chat = chat(&folder);
        Ok(Pretrained { folder, model, tokenizer, chat, ends })
    }

    /// Adapters, and the model that they name.
    fn load_adapted(folder: PathBuf, device: &DeviceHandle) -> Result<Self> {
        let named = lora_base(&folder)?.unwrap_or_default();
        let base = Path::new(&named);
        let base = if base.is_relative() && !base.exists() { folder.join(base) } else { base.to_owned() };
        if named.is_empty() || !base.exists() || is_lora(&base) {
            let reason = format!(
                "expected a model here in `base_model_name_or_path` of adapter_config.json, found `{named}`; set it to the \
                 folder or file of the model that the adapters belong to"
            );
            return Err(TrainError::RunFolder { path: folder, reason });
        }
        let mut adapted = Self::load(&base, device, |_| {})?;
        load_lora(&*adapted.model, &folder, &Init::new(device, 0))?;
        if folder.join(wgrad_data::TOKENIZER_FILE).is_file() {
            adapted.tokenizer = Tokenizer::load(&folder)?;
            adapted.tokenizer.check_model(adapted.model.vocab_size())?;
        }
        adapted.folder = folder;
        Ok(adapted)
    }

    /// Writes a Hugging Face folder: adapters become part of the weights, and a chat template goes with them.
    ///
    /// # Errors
    /// The weights cannot be computed or the files not be written.
    pub fn export(&self, folder: &Path) -> Result<()> {
        merge_lora(&*self.model)?;
        self.model.save_pretrained(folder)?;
        self.tokenizer.save(folder)?;
        let path = folder.join("chat_template.jinja");
        match &self.chat {
            Some(chat) => fs::write(&path, chat.source()).map_err(TrainError::io("write", &path)),
            None => Ok(()),
        }
    }

    /// The model and its tokenizer.
    pub(crate) fn into_parts(self) -> (Box<dyn CausalLanguageModel>, Tokenizer) {
        (self.model, self.tokenizer)
    }

    fn load_gguf(path: &Path, device: &DeviceHandle) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let tokenizer = Tokenizer::from_json(file.tokenizer_json()?, &path.display().to_string())?;
        let model = Box::new(file.llama(&Init::new(device, 0))?);
        let token = |key: &str| -> Result<Option<u32>> {
            let id = file.find_size(&format!("tokenizer.ggml.{key}_token_id"))?;
            Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < model.vocab_size()))
        };
        let text = |id: Option<u32>| id.map_or(Ok(String::new()), |id| tokenizer.decode(&[id]));
        let (bos, eos) = (text(token("bos")?)?, text(token("eos")?)?);
        let ends = [token("eos")?, token("eot")?].into_iter().flatten().collect();
        let chat =
            file.find_text("tokenizer.chat_template")?.map(|source| ChatTemplate::new(source, &bos, &eos));
        Ok(Pretrained { folder: path.to_owned(), model, tokenizer, chat, ends })
    }

    /// The folder or file that was loaded.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model.
    pub fn model(&self) -> &dyn CausalLanguageModel {
        &*self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// How conversations are written, where the tokenizer's configuration says it.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    /// Continues `prompt` up to a token that ends texts; `each` gets the text piece by piece, without the prompt and only in whole
    /// characters, and returns whether to go on.
    ///
    /// # Errors
    /// A prompt that the tokenizer refuses or that is empty, options that cannot be, or the device.
    pub fn generate(
        &self,
        prompt: &str,
        options: &SampleOptions,
        each: impl FnMut(&str) -> bool,
    ) -> Result<()> {
        let mut options = options.clone();
        options.stop_tokens.extend(&self.ends);
        sample::generate(&*self.model, &self.tokenizer, prompt, &options, each)
    }

    /// Answers the last message of a conversation; see [`Pretrained::generate`].
    ///
    /// # Errors
    /// The model has no chat template, or that refuses the conversation; as [`Pretrained::generate`].
    pub fn answer(
        &self,
        messages: &[Message],
        options: &SampleOptions,
        each: impl FnMut(&str) -> bool,
    ) -> Result<()> {
        let Some(chat) = &self.chat else {
            let message = "the model has no chat template (`chat_template` of tokenizer_config.json)";
            return Err(TrainError::Chat(message.into()));
        };
        self.generate(&chat.render(messages)?, options, each)
    }
}

/// Whether a path is that of a GGUF file.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// A JSON file that may be there; one that cannot be understood counts as none, since only defaults are taken from it.
fn json(path: &Path) -> Value {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Value::Null)
}

/// The tokens that end texts: of `generation_config.json`, else of `config.json`.
fn ends(folder: &Path, vocab_size: usize) -> Vec<u32> {
    let of = |file: &str| -> Vec<u32> {
        let ids = match &json(&folder.join(file))["eos_token_id"] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let ids = ids.iter().filter_map(Value::as_u64).filter(|id| *id < vocab_size as u64);
        ids.map(|id| id as u32).collect()
    };
    let first = of("generation_config.json");
    if first.is_empty() { of("config.json") } else { first }
}

/// The chat template of a folder: `chat_template.jinja`, or the one in `tokenizer_config.json`.
fn chat(folder: &Path) -> Option<ChatTemplate> {
    let config = json(&folder.join("tokenizer_config.json"));
    let token = |key: &str| {
        let token = &config[key];
        token.as_str().or_else(|| token["content"].as_str()).unwrap_or_default().to_owned()
    };
    let source =
        fs::read_to_string(folder.join("chat_template.jinja")).ok().or_else(
            || match &config["chat_template"] {
                Value::String(source) => Some(source.clone()),
                // Several ones with names.
                Value::Array(list) => {
                    let default = list.iter().find(|named| named["name"] == "default").or(list.first());
                    default.and_then(|named| named["template"].as_str()).map(str::to_owned)
                }
                _ => None,
            },
        )?;
    Some(ChatTemplate::new(&source, &token("bos_token"), &token("eos_token")))
}

/// The folder or file that `path` means: itself where it is or holds a model, a checkpoint (its files are compared with their checksums), or a run
/// folder's last valid checkpoint.
pub(crate) fn model_folder(path: &Path, warn: impl FnMut(String)) -> Result<PathBuf> {
    if is_gguf(path) || (path.join("config.json").is_file() || is_lora(path)) && !Checkpoint::is_at(path) {
        return Ok(path.to_owned());
    }
    Ok(Checkpoint::find(path, warn)?.0.path)
}
