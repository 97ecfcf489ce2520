//! The workloads: the same shapes, optimizer and generated batches as the harnesses of other frameworks use.

use wgrad::{
    models::{
        BertConfig, BertForMaskedLM, Gpt2Config, Gpt2Init, Gpt2LMHead, IGNORED_LABEL, InitScheme,
        LlamaConfig, LlamaForCausalLM, bert::token_loss, generate::Reader,
    },
    nn::{Activation, BatchNorm2d, Conv2d, Init, LayerNorm, Linear, functional},
    prelude::{
        AdamW, AdamWConfig, Context, DeviceHandle, Module, Optimizer, Tensor, TensorError, all_parameters,
        eval, grad,
    },
};

use crate::Result;

/// Something to time: [`Step::prepare`] and [`Step::run`] together are one step.
pub(crate) trait Step {
    /// Makes and uploads the batch of the next step.
    fn prepare(&mut self) {}
    /// Queues the work of one step.
    fn run(&mut self) -> Result;
    /// Tokens that a step trains on.
    fn tokens(&self) -> Option<usize> {
        None
    }
    /// Trainable numbers.
    fn params(&self) -> Option<usize> {
        None
    }
}

/// An expression of tensors that stay the same, evaluated anew in each step.
pub(crate) struct Expression {
    evaluate: Box<dyn Fn() -> std::result::Result<Vec<Tensor>, TensorError>>,
}

impl Expression {
    /// `C = A B` of square f32 matrices of `n` rows.
    pub(crate) fn matmul(n: usize, device: &DeviceHandle) -> Self {
        let [a, b] = numbers([&[n, n], &[n, n]], device);
        Expression { evaluate: Box::new(move || Ok(vec![a.matmul(&b)])) }
    }

    /// Softmax over rows of 1,024.
    pub(crate) fn softmax(device: &DeviceHandle) -> Self {
        let [x] = numbers([&[4096, 1024]], device);
        Expression { evaluate: Box::new(move || Ok(vec![x.softmax(-1)])) }
    }

    /// Layer norm over rows of 1,024.
    pub(crate) fn layer_norm(device: &DeviceHandle) -> Self {
        let norm = LayerNorm::new(&Init::new(device, 0), 1024, 1e-5);
        let [x] = numbers([&[4096, 1024]], device);
        Expression { evaluate: Box::new(move || Ok(vec![norm.forward(&x)])) }
    }

    /// Two 3 x 3 convolutions with batch norm in training mode, ReLU and a residual, and all gradients of the mean square.
    pub(crate) fn resnet_block(device: &DeviceHandle) -> Self {
        let init = Init::new(device, 0);
        let padding = functional::Padding::Both([1, 1]);
        let options = functional::Conv { padding, ..functional::Conv::default() };
        let conv = || Conv2d::new(&init, 64, 64, [3, 3], options, false);
        let layers = [(conv(), BatchNorm2d::new(&init, 64)), (conv(), BatchNorm2d::new(&init, 64))];
        let [x] = numbers([&[8, 64, 56, 56]], device);
        Expression {
            evaluate: Box::new(move || {
                let ctx = Context::train(0, 0);
                let [(conv1, norm1), (conv2, norm2)] = &layers;
                let y = norm1.forward(&conv1.forward(&x), &ctx).relu();
                let y = x.add(norm2.forward(&conv2.forward(&y), &ctx)).relu();
                let loss = y.square().mean_all();
                let mut trained = vec![x.clone()];
                for (conv, norm) in &layers {
                    trained.push(conv.weight.tensor());
                    trained.extend(norm.weight.iter().chain(&norm.bias).map(|p| p.tensor()));
                }
                let mut wanted = grad(&loss, &trained.iter().collect::<Vec<_>>())?;
                wanted.push(loss);
                Ok(wanted)
            }),
        }
    }

    /// Three times a 3 x 3 convolution with batch norm in training mode, ReLU and max pooling, then a linear layer and all gradients of
    /// the cross-entropy.
    pub(crate) fn small_cnn(device: &DeviceHandle) -> Self {
        let init = Init::new(device, 0);
        let padding = functional::Padding::Both([1, 1]);
        let options = functional::Conv { padding, ..functional::Conv::default() };
        let conv = |inputs, outputs| Conv2d::new(&init, inputs, outputs, [3, 3], options, false);
        let layers = [(1, 16), (16, 32), (32, 64)]
            .map(|(inputs, outputs)| (conv(inputs, outputs), BatchNorm2d::new(&init, outputs)));
        let head = Linear::new(&init, 64 * 9, 10, true);
        let [x] = numbers([&[128, 1, 28, 28]], device);
        let targets = Tensor::from_vec((0..128).map(|i| i % 10).collect::<Vec<i32>>(), [128], device);
        Expression {
            evaluate: Box::new(move || {
                let ctx = Context::train(0, 0);
                let mut trained = Vec::new();
                let mut y = x.clone();
                for (conv, norm) in &layers {
                    y = norm.forward(&conv.forward(&y), &ctx).relu();
                    y = functional::max_pool2d(&y, &functional::MaxPool::new([2, 2]));
                    trained.push(conv.weight.tensor());
                    trained.extend(norm.weight.iter().chain(&norm.bias).map(|p| p.tensor()));
                }
                trained.push(head.weight.tensor());
                trained.extend(head.bias.iter().map(|p| p.tensor()));
                let loss =
                    functional::cross_entropy(&head.forward(&y.reshape([128, 64 * 9])), &targets, None);
                let mut wanted = grad(&loss, &trained.iter().collect::<Vec<_>>())?;
                wanted.push(loss);
                Ok(wanted)
            }),
        }
    }

    /// A 3 x 3 convolution with a filter for each of 64 channels, and all gradients of the mean square.
    pub(crate) fn depthwise(device: &DeviceHandle) -> Self {
        let padding = functional::Padding::Both([1, 1]);
        let options = functional::Conv { padding, groups: 64, ..functional::Conv::default() };
        let [x, weight] = numbers([&[8, 64, 56, 56], &[64, 1, 3, 3]], device);
        Expression {
            evaluate: Box::new(move || {
                let loss = functional::conv2d(&x, &weight, None, &options).square().mean_all();
                let mut wanted = grad(&loss, &[&x, &weight])?;
                wanted.push(loss);
                Ok(wanted)
            }),
        }
    }

    /// Causal attention and its gradient: 4 sequences of 512, 8 heads of width 64.
    pub(crate) fn attention(device: &DeviceHandle) -> Self {
        let shape: &[usize] = &[4, 8, 512, 64];
        let [q, k, v] = numbers([shape; 3], device);
        Expression {
            evaluate: Box::new(move || {
                let attention = functional::Attention { causal: true, ..functional::Attention::default() };
                let ctx = Context::train(0, 0);
                let out = functional::scaled_dot_product_attention(&q, &k, &v, &attention, &ctx);
                let mut wanted = grad(&out.square().sum_all(), &[&q, &k, &v])?;
                wanted.push(out);
                Ok(wanted)
            }),
        }
    }
}

impl Step for Expression {
    fn run(&mut self) -> Result {
        let wanted = (self.evaluate)()?;
        Ok(eval(&wanted.iter().collect::<Vec<_>>())?)
    }
}

/// Tensors of numbers in (-1, 1).
fn numbers<const N: usize>(shapes: [&[usize]; N], device: &DeviceHandle) -> [Tensor; N] {
    let mut lcg = Lcg(7);
    shapes.map(|shape| {
        let elements: usize = shape.iter().product();
        let values: Vec<f32> = (0..elements).map(|_| (lcg.next() % 2001) as f32 / 1000.0 - 1.0).collect();
        Tensor::from_vec(values, shape, device)
    })
}

/// A training step of a GPT: batch, forward, backward, AdamW.
pub(crate) struct LanguageModel {
    model: Gpt2LMHead,
    optimizer: AdamW,
    batches: Lcg,
    batch: usize,
    context: usize,
    device: DeviceHandle,
    next: Option<(Tensor, Tensor)>,
}

/// `gpt-nano` or `gpt-mini`: pre-norm GPT over bytes, learned positions, exact GELU, untied head without bias, no dropout.
///
/// # Errors
/// The name is not known, or the model does not fit on the device.
pub(crate) fn language_model(name: &str, device: &DeviceHandle) -> Result<LanguageModel> {
    let (n_layer, n_head, n_embd, context, batch) = match name {
        "gpt-nano" => (4, 4, 128, 128, 8),
        "gpt-mini" => (6, 6, 384, 256, 4),
        other => return Err(format!("no workload `{other}`; there are gpt-nano and gpt-mini").into()),
    };
    let config = Gpt2Config {
        vocab_size: 256,
        n_positions: context,
        n_embd,
        n_layer,
        n_head,
        activation_function: Activation::Gelu,
        tie_word_embeddings: false,
        resid_pdrop: 0.0,
        embd_pdrop: 0.0,
        attn_pdrop: 0.0,
        ..Gpt2Config::default()
    };
    let model = Gpt2LMHead::new(&config, &Init::new(device, 1337), Gpt2Init::Plain)?;
    let mut optimizer = AdamW::new(all_parameters(&model, 0.01), AdamWConfig::default());
    optimizer.set_lr(3e-4);
    let (batches, device) = (Lcg(42), device.clone());
    Ok(LanguageModel { model, optimizer, batches, batch, context, device, next: None })
}

impl LanguageModel {
    /// Computes the activations of each block again in the backward pass, or keeps them.
    #[cfg(test)]
    pub(crate) fn set_gradient_checkpointing(&mut self, on: bool) {
        self.model.set_gradient_checkpointing(on);
    }

    /// Queues some steps.
    ///
    /// # Errors
    /// A step fails.
    pub(crate) fn steps(&mut self, count: usize) -> Result {
        for _ in 0..count {
            self.prepare();
            self.run()?;
        }
        Ok(())
    }
}

impl Step for LanguageModel {
    fn prepare(&mut self) {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..self.batch {
            let (start, stride) = (self.batches.next() % 256, 1 + self.batches.next() % 7);
            let token = |t: usize| ((start + t as u64 * stride) & 255) as i32;
            inputs.extend((0..self.context).map(token));
            targets.extend((1..=self.context).map(token));
        }
        let tensor = |ids| Tensor::from_vec(ids, [self.batch, self.context], &self.device);
        self.next = Some((tensor(inputs), tensor(targets)));
    }

    fn run(&mut self) -> Result {
        let (ids, targets) = self.next.take().ok_or("a step without a batch")?;
        let logits = self.model.forward(&ids, None, &Context::train(0, 0));
        let loss = Gpt2LMHead::next_token_loss(&logits, &targets);
        // What still holds the old weights keeps them from being updated in place.
        drop(logits);
        self.optimizer.step(&loss)?;
        Ok(())
    }

    fn tokens(&self) -> Option<usize> {
        Some(self.batch * self.context)
    }

    fn params(&self) -> Option<usize> {
        Some(self.model.num_parameters())
    }
}

/// A training step of a masked language model: batch, forward, backward, AdamW.
pub(crate) struct MaskedLanguageModel {
    model: BertForMaskedLM,
    optimizer: AdamW,
    batches: Lcg,
    device: DeviceHandle,
    /// Ids, masked positions, and what stood there.
    next: Option<[Tensor; 3]>,
}

impl MaskedLanguageModel {
    const BATCH: usize = 16;
    const TIME: usize = 128;

    /// `bert-mini`: 4 layers, width 256, 4 heads, inner width 1,024, 8,192 tokens, no dropout.
    ///
    /// # Errors
    /// The model does not fit on the device.
    pub(crate) fn bert_mini(device: &DeviceHandle) -> Result<Self> {
        let config = BertConfig {
            vocab_size: 8192,
            hidden_size: 256,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            intermediate_size: 1024,
            max_position_embeddings: Self::TIME,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            ..BertConfig::default()
        };
        let model = BertForMaskedLM::new(&config, &Init::new(device, 1337))?;
        let mut optimizer = AdamW::new(all_parameters(&model, 0.01), AdamWConfig::default());
        optimizer.set_lr(1e-4);
        Ok(MaskedLanguageModel { model, optimizer, batches: Lcg(42), device: device.clone(), next: None })
    }
}

impl Step for MaskedLanguageModel {
    /// Tokens 5 to 8,191, of which 15 % are replaced by token 4 and are to be found again.
    fn prepare(&mut self) {
        let (mut inputs, mut rows, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..Self::BATCH * Self::TIME {
            let (token, masked) = (5 + (self.batches.next() % 8187) as i32, self.batches.next() % 100 < 15);
            inputs.push(if masked { 4 } else { token });
            if masked {
                rows.push(row as i32);
                labels.push(token);
            }
        }
        // A multiple of so many, so that one program serves nearly all batches.
        let count = labels.len().next_multiple_of(128);
        rows.resize(count, 0);
        labels.resize(count, IGNORED_LABEL);
        let tensor = |values: Vec<i32>, shape: &[usize]| Tensor::from_vec(values, shape, &self.device);
        let ids = tensor(inputs, &[Self::BATCH, Self::TIME]);
        self.next = Some([ids, tensor(rows, &[count]), tensor(labels, &[count])]);
    }

    fn run(&mut self) -> Result {
        let [ids, rows, labels] = self.next.take().ok_or("a step without a batch")?;
        let states = self.model.bert.forward(&ids, None, None, &Context::train(0, 0));
        let loss = token_loss(&self.model.logits_at(&states, &rows), &labels);
        // What still holds the old weights keeps them from being updated in place.
        drop(states);
        self.optimizer.step(&loss)?;
        Ok(())
    }

    fn tokens(&self) -> Option<usize> {
        Some(Self::BATCH * Self::TIME)
    }

    fn params(&self) -> Option<usize> {
        Some(self.model.num_parameters())
    }
}

/// A token of greedy generation with a cache of keys and values.
pub(crate) struct Generation {
    reader: Reader<'static, LlamaForCausalLM>,
    prompt: Vec<u32>,
    /// After the last token that was read; none before the prompt.
    logits: Vec<f32>,
    params: usize,
}

impl Generation {
    const PROMPT: usize = 32;

    /// `generate`: a LLaMA of SmolLM2-135M's shape, a prompt of 32 tokens, room for so many more.
    ///
    /// # Errors
    /// The model does not fit on the device.
    pub(crate) fn smollm2(tokens: usize, device: &DeviceHandle) -> Result<Self> {
        let config = LlamaConfig {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: Some(3),
            max_position_embeddings: 2048,
            tie_word_embeddings: true,
            ..LlamaConfig::of_type("llama")
        };
        let model = LlamaForCausalLM::new(&config, &Init::new(device, 0), InitScheme::Plain)?;
        let params = model.num_parameters();
        // The reader borrows it until the program ends.
        let reader = Reader::new(&*Box::leak(Box::new(model)), Self::PROMPT + tokens);
        let mut lcg = Lcg(0);
        let prompt = (0..Self::PROMPT).map(|_| 3 + (lcg.next() % 49_149) as u32).collect();
        Ok(Generation { reader, prompt, logits: Vec::new(), params })
    }
}

impl Step for Generation {
    /// The first step reads the prompt, the others a token.
    fn run(&mut self) -> Result {
        let likeliest = self.logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        self.logits = match likeliest {
            None => self.reader.start(&[&self.prompt])?,
            Some((token, _)) => self.reader.read(&[token as u32])?,
        };
        Ok(())
    }

    fn tokens(&self) -> Option<usize> {
        Some(1)
    }

    fn params(&self) -> Option<usize> {
        Some(self.params)
    }
}

/// The generator of every peer's batches: 64-bit linear congruential, upper 31 bits.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
