//! LLaMA-type models from GGUF files.

use serde_json::Map;
use wgrad_nn::{Init, Module};
use wgrad_tensor::Tensor;

use super::GgufFile;
use crate::{InitScheme, LlamaConfig, LlamaForCausalLM, ModelError, RopeParameters};

/// Architectures of files and the `model_type` that they are.
const KNOWN: [(&str, &str); 3] = [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")];

/// Names in blocks, there and here.
const PARTS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The name here of a tensor there.
fn renamed(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, leaf) = rest.rsplit_once('.')?;
    let (_, part) = PARTS.iter().find(|(there, _)| *there == part)?;
    Some(format!("model.layers.{layer}.{part}.{leaf}"))
}

impl GgufFile {
    /// The configuration of its model, if that is a LLaMA, Mistral, Qwen2 or Qwen3.
    ///
    /// # Errors
    /// It is of another architecture, or a key is missing or of another kind.
    pub fn llama_config(&self) -> Result<LlamaConfig, ModelError> {
        let name = self.find_text("general.architecture")?.unwrap_or_default();
        let Some((_, model_type)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            let known = KNOWN.map(|(name, _)| name).join(", ");
            return Err(
                self.refuse(format!("its architecture is `{name}`, which is not known; known: {known}"))
            );
        };
        let key = |rest: &str| format!("{name}.{rest}");
        let heads = self.size(&key("attention.head_count"))?;
        let shape = |tensor: &str| self.tensors.get(tensor).map(|entry| entry.shape.as_slice());
        let Some(&[vocab_size, hidden_size]) = shape("token_embd.weight") else {
            return Err(self.refuse("has no tensor `token_embd.weight` of two dimensions".into()));
        };
        if shape("rope_freqs.weight").is_some() {
            let message = "its rotary frequencies are scaled by `rope_freqs.weight`, which is not supported";
            return Err(self.refuse(message.into()));
        }
        if let Some(kind) = self.find_text(&key("rope.scaling.type"))?.filter(|kind| *kind != "none") {
            return Err(
                self.refuse(format!("rotary scaling of type `{kind}` is not supported in GGUF files"))
            );
        }
        let head_dim = self.find_size(&key("attention.key_length"))?.unwrap_or(hidden_size / heads.max(1));
        let rotated = self.find_size(&key("rope.dimension_count"))?.unwrap_or(head_dim);
        let biased = shape("blk.0.attn_q.bias").is_some();
        let mut config = LlamaConfig {
            vocab_size,
            hidden_size,
            intermediate_size: self.size(&key("feed_forward_length"))?,
            num_hidden_layers: self.size(&key("block_count"))?,
            num_attention_heads: heads,
            num_key_value_heads: self.find_size(&key("attention.head_count_kv"))?,
            head_dim: Some(head_dim),
            max_position_embeddings: self.size(&key("context_length"))?,
            rms_norm_eps: self.find_number(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-6),
            tie_word_embeddings: shape("output.weight").is_none(),
            attention_bias: biased,
            sliding_window: self.find_size(&key("attention.sliding_window"))?,
            rope_parameters: Some(RopeParameters {
                rope_type: Some("default".into()),
                rope_theta: Some(self.find_number(&key("rope.freq_base"))?.unwrap_or(10_000.0)),
                partial_rotary_factor: (rotated != head_dim).then(|| rotated as f64 / head_dim.max(1) as f64),
                ..RopeParameters::default()
            }),
            ..LlamaConfig::of_type(if self.windowed(name) { "mistral" } else { model_type })
        };
        for (key, id) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
            if let Some(id) = self.find_size(&format!("tokenizer.ggml.{id}_token_id"))? {
                config.other.insert(key.into(), id.into());
            }
        }
        config.other.extend(Map::from_iter([("torch_dtype".to_owned(), "float32".into())]));
        Ok(config)
    }

    /// Files of Mistral say that they are LLaMA.
    fn windowed(&self, name: &str) -> bool {
        name == "llama" && self.get("llama.attention.sliding_window").is_some()
    }

    /// The model, its weights dequantised to the dtype of `init`.
    ///
    /// # Errors
    /// As [`GgufFile::llama_config`]; tensors are missing, unexpected, of another shape, or not numbers; or there is no room for them.
    pub fn llama(&self, init: &Init) -> Result<LlamaForCausalLM, ModelError> {
        let config = self.llama_config()?;
        let model = LlamaForCausalLM::new(&config, init, InitScheme::Zeros)?;
        let mut weights = Vec::with_capacity(self.tensors.len());
        for (name, entry) in &self.tensors {
            let here = renamed(name).unwrap_or_else(|| name.clone());
            let mut values = self.values(name)?;
            if let Some(index) = values.iter().position(|v| v.is_nan()) {
                return Err(self.refuse(format!("element {index} of `{name}` is not a number")));
            }
            // llama.cpp turns neighbours, Hugging Face turns halves: their rows of LLaMA's queries and keys differ in order.
            if config.model_type != "qwen2" && config.model_type != "qwen3" {
                let heads = match here.as_str() {
                    h if h.contains(".q_proj.") => Some(config.num_attention_heads),
                    h if h.contains(".k_proj.") => Some(config.key_heads()),
                    _ => None,
                };
                if let Some(heads) = heads {
                    let rows = entry.shape.first().copied().unwrap_or(0);
                    values = halves_first(&values, rows, heads);
                }
            }
            let tensor = Tensor::from_vec(values, entry.shape.as_slice(), init.device());
            weights.push((here, tensor));
        }
        let origin = self.path.display().to_string();
        wgrad_nn::safetensors::load_into(&origin, &model.named_tensors(), &weights, true)?;
        Ok(model)
    }
}

/// Of each head, the even rows before the odd ones.
fn halves_first(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let width = rows / heads.max(1);
    if rows == 0 || !rows.is_multiple_of(heads.max(1)) || !width.is_multiple_of(2) {
        // Of another shape than the model's, which loading refuses.
        return values.to_vec();
    }
    let length = values.len() / rows;
    let order = (0..rows).map(|row| {
        let (head, i) = (row / width, row % width);
        let half = width / 2;
        head * width + if i < half { 2 * i } else { 2 * (i - half) + 1 }
    });
    order.flat_map(|row| values[row * length..(row + 1) * length].iter().copied()).collect()
}
