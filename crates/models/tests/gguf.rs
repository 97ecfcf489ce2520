//! GGUF files: values of every kind, a model in and out, and files that are not what they say.

use std::{path::Path, sync::Arc};

use wgrad_cpu::CpuDevice;
use wgrad_models::{
    InitScheme, LlamaConfig, LlamaForCausalLM,
    gguf::{GgmlType, GgufFile},
};
use wgrad_nn::{Context, Init, Module};
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

/// Blocks of bytes `89 i + 31`, with scales that are powers of two, and what the Python package `gguf` 0.19 makes of them: every
/// 16th value (every second one of 32) from the sixth on, and the sum of all times their numbers from 1.
#[test]
fn blocks_have_the_values_that_ggml_gives_them() {
    type Case<'a> = (GgmlType, usize, &'a [(usize, u16)], &'a [f32], f64);
    let cases: [Case<'_>; 5] = [
        (GgmlType::Q4_0, 18, &[(0, 0x3800)], &[3.0, -4.0, -3.0, -2.0, -1.0, 0.0, -3.0, 2.5, 0.0, -2.0], 56.0),
        (
            GgmlType::Q4_1,
            20,
            &[(0, 0x3800), (2, 0xB400)],
            &[-0.25, 0.75, 1.75, 2.75, 3.75, 4.75, 6.25, 3.75, 1.75, 7.25],
            2026.5,
        ),
        (
            GgmlType::Q8_0,
            34,
            &[(0, 0x3400)],
            &[-28.5, 16.0, -3.5, -23.0, 21.5, 2.0, -17.5, 27.0, 7.5],
            -1300.0,
        ),
        (
            GgmlType::Q4K,
            144,
            &[(0, 0x2c00), (2, 0x3000)],
            &[
                -2.625, -2.625, 10.5, 26.25, 36.625, 36.625, 0.75, -5.375, 25.75, 25.75, 29.25, 6.5, 3.875,
                3.875,
            ],
            342723.5,
        ),
        (
            GgmlType::Q6K,
            210,
            &[(208, 0x2400)],
            &[10.3125, -17.5, -48.5625, -9.625, -3.140625, -9.375, 0.171875, 29.25, 27.8125, 0.0, 38.9375],
            -21377.3125,
        ),
    ];
    for (kind, size, scales, some, sum) in cases {
        let mut block: Vec<u8> = (0..size).map(|i| (i * 89 + 31) as u8).collect();
        for &(at, scale) in scales {
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        let values = kind.dequantise(&block);
        let step = (values.len() / 16).max(1);
        let found: Vec<f32> = values.iter().skip(5).step_by(step).take(some.len()).copied().collect();
        assert_eq!(found, some, "{kind:?}");
        let weighted: f64 = values.iter().zip(1..).map(|(v, n)| f64::from(*v) * f64::from(n)).sum();
        assert_eq!(weighted, sum, "{kind:?}");
        // Half a block more is no values more.
        block.extend_from_within(..size / 2);
        assert_eq!(kind.dequantise(&block).len(), values.len());
    }
}

/// Writes files, as far as the tests need it.
#[derive(Default)]
struct Writer {
    keys: (u64, Vec<u8>),
    tensors: (u64, Vec<u8>),
    data: Vec<u8>,
}

impl Writer {
    fn text(into: &mut Vec<u8>, text: &str) {
        into.extend((text.len() as u64).to_le_bytes());
        into.extend(text.as_bytes());
    }

    fn key(&mut self, name: &str, kind: u32, value: &[u8]) {
        self.keys.0 += 1;
        Self::text(&mut self.keys.1, name);
        self.keys.1.extend(kind.to_le_bytes());
        self.keys.1.extend(value);
    }

    fn size(&mut self, name: &str, value: u32) {
        self.key(name, 4, &value.to_le_bytes());
    }

    fn tensor(&mut self, name: &str, shape: &[usize], kind: u32, bytes: &[u8]) {
        self.tensors.0 += 1;
        Self::text(&mut self.tensors.1, name);
        self.tensors.1.extend((shape.len() as u32).to_le_bytes());
        for extent in shape.iter().rev() {
            self.tensors.1.extend((*extent as u64).to_le_bytes());
        }
        self.tensors.1.extend(kind.to_le_bytes());
        self.tensors.1.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }

    fn file(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(self.tensors.0.to_le_bytes());
        file.extend(self.keys.0.to_le_bytes());
        file.extend(&self.keys.1);
        file.extend(&self.tensors.1);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

fn model(device: &DeviceHandle) -> Outcome<LlamaForCausalLM> {
    let config = LlamaConfig {
        vocab_size: 11,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        max_position_embeddings: 16,
        initializer_range: 0.3,
        tie_word_embeddings: true,
        ..LlamaConfig::default()
    };
    Ok(LlamaForCausalLM::new(&config, &Init::new(device, 3), InitScheme::Plain)?)
}

/// The file of a model, its matrices in f16 or Q8_0 where `quantised`.
fn written(model: &LlamaForCausalLM, quantised: bool) -> Outcome<Vec<u8>> {
    let mut writer = Writer::default();
    let mut architecture = Vec::new();
    Writer::text(&mut architecture, "llama");
    writer.key("general.architecture", 8, &architecture);
    for (key, value) in [
        ("llama.block_count", 2),
        ("llama.context_length", 16),
        ("llama.embedding_length", 32),
        ("llama.feed_forward_length", 64),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
    ] {
        writer.size(key, value);
    }
    writer.key("llama.attention.layer_norm_rms_epsilon", 6, &1e-6f32.to_le_bytes());
    for (name, tensor) in model.state_dict() {
        let mut values: Vec<f32> = tensor.to_vec()?;
        let mut there = name
            .replace("model.layers.", "blk.")
            .replace("model.embed_tokens", "token_embd")
            .replace("model.norm", "output_norm");
        for (here, part) in [
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            there = there.replace(here, part);
        }
        if there.contains("attn_q") || there.contains("attn_k") {
            // As llama.cpp's converter does it: `reshape(heads, 2, d / 2, c).swapaxes(1, 2)`.
            let rows: Vec<Vec<f32>> = values.chunks(32).map(<[f32]>::to_vec).collect();
            let order = (0..rows.len()).map(|row| row / 8 * 8 + row % 2 * 4 + row % 8 / 2);
            values = order.flat_map(|row| rows[row].clone()).collect();
        }
        let shape = tensor.shape().to_vec();
        if quantised && shape.len() == 2 {
            let mut bytes = Vec::new();
            for block in values.chunks(32) {
                let d = half::f16::from_f32(block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0);
                bytes.extend(d.to_le_bytes());
                bytes.extend(block.iter().map(|v| (v / d.to_f32()).round() as i8 as u8));
            }
            writer.tensor(&there, &shape, 8, &bytes);
        } else {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.tensor(&there, &shape, 0, &bytes);
        }
    }
    Ok(writer.file())
}

fn logits(model: &LlamaForCausalLM, device: &DeviceHandle) -> Outcome<Vec<f32>> {
    let ids = Tensor::from_vec(vec![4i32, 5, 6, 1, 10], [1, 5], device);
    Ok(model.forward(&ids, None, &Context::eval()).to_vec()?)
}

#[test]
fn a_model_from_a_file_computes_what_it_computed_before() -> Outcome {
    let device = device();
    let model = model(&device)?;
    let expected = logits(&model, &device)?;
    for (quantised, rounding) in [(false, 1e-6), (true, 0.15)] {
        let file = GgufFile::parse(Path::new("model.gguf"), written(&model, quantised)?)?;
        let loaded = file.llama(&Init::new(&device, 0))?;
        assert!(loaded.config().tie_word_embeddings);
        for (a, b) in expected.iter().zip(logits(&loaded, &device)?) {
            assert!((a - b).abs() <= rounding, "quantised {quantised}: {a} and {b}");
        }
    }
    Ok(())
}

#[test]
fn files_that_are_not_what_they_say_are_refused_without_a_panic() -> Outcome {
    let device = device();
    let good = written(&model(&device)?, false)?;
    let parse = |bytes: Vec<u8>| GgufFile::parse(Path::new("model.gguf"), bytes);
    let file = parse(good.clone())?;
    let header =
        good.len() - file.tensors().map(|(_, shape, _)| 4 * shape.iter().product::<usize>()).sum::<usize>();
    for length in (0..good.len()).step_by(41).chain(0..64) {
        assert!(parse(good[..length].to_vec()).is_err(), "cut to {length}");
    }
    // Every byte of the header changed in several ways: an error or a file, and no more memory than the file has bytes.
    for at in 0..header {
        for change in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= change;
            if let Ok(file) = parse(bad) {
                let _ = file.llama_config();
                let _ = file.tokenizer_json();
                for (name, _, _) in file.tensors() {
                    let _ = file.values(name);
                }
            }
        }
    }
    // Random bytes behind a good beginning.
    let mut state = 1u64;
    for _ in 0..2000 {
        let mut bytes = good[..24].to_vec();
        for _ in 0..200 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes.push((state >> 33) as u8);
        }
        let _ = parse(bytes);
    }
    Ok(())
}

#[test]
fn what_a_file_lacks_or_has_too_much_is_named() -> Outcome {
    let device = device();
    let mut writer = Writer::default();
    let load = |writer: &Writer| {
        let file = GgufFile::parse(Path::new("model.gguf"), writer.file())?;
        file.llama(&Init::new(&device, 0)).map(|_| ())
    };
    let message = |writer: &Writer| load(writer).expect_err("the file is not whole").to_string();
    assert!(message(&writer).contains("its architecture is ``"));
    let mut name = Vec::new();
    Writer::text(&mut name, "mamba");
    writer.key("general.architecture", 8, &name);
    assert!(message(&writer).contains("its architecture is `mamba`, which is not known; known: llama"));
    let mut writer = Writer::default();
    let mut name = Vec::new();
    Writer::text(&mut name, "llama");
    writer.key("general.architecture", 8, &name);
    assert!(message(&writer).contains("has no `llama.attention.head_count`"));
    writer.key("llama.attention.head_count", 8, &name);
    assert!(message(&writer).contains("is the text `llama`, expected a size"));
    // A kind of tensor that is not known.
    let mut writer = Writer::default();
    writer.tensor("x", &[256], 10, &[0; 84]);
    assert!(message(&writer).contains("`x` is of the kind 10, which is not supported; known: F32"));
    let mut writer = Writer::default();
    writer.tensor("x", &[31], 8, &[0; 34]);
    assert!(message(&writer).contains("rows of 31 are no whole blocks of 32"));
    Ok(())
}
