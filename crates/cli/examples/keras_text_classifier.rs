//! The text classifier of Keras' guides: words to ids, padded rows, embeddings, their mean, one probability.
//!
//! `cargo run --release --example keras_text_classifier`

use wgrad::{
    data::{PadOptions, WordOptions, WordTokenizer, pad_sequences},
    models::{TextClassifier, TextClassifierConfig},
    optim::{Adam, AdamConfig},
    prelude::*,
};

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = wgrad::devices().open("auto")?.device;
    let texts = ["This is the first example.", "This is the second example.", "And this is the third one."];
    let labels = Tensor::from_vec(vec![0.0f32, 1.0, 0.0], [3, 1], &device);

    let words = WordOptions { num_words: Some(1000), ..WordOptions::default() };
    let tokenizer = WordTokenizer::fit(texts, &words)?;
    let rows = |texts: &[&str]| {
        let options = PadOptions { maxlen: Some(10), ..PadOptions::default() };
        let padded = pad_sequences(&tokenizer.texts_to_sequences(texts), &options);
        padded.ids.chunks(padded.width).for_each(|row| println!("{row:?}"));
        Tensor::from_vec(padded.ids, [padded.rows, padded.width], &device)
    };
    let x = rows(&texts);

    let config = TextClassifierConfig { num_words: 1000, dim: 64 };
    let model = TextClassifier::new(&config, &Init::new(&device, 1))?;
    let adam = AdamConfig { eps: 1e-7, epsilon_hat: true, ..AdamConfig::default() };
    let mut optimizer = Adam::new(all_parameters(&model, 0.0), adam);
    optimizer.set_lr(1e-3);
    for epoch in 1..=10 {
        let probabilities = model.forward(&x, &Context::train(1, epoch));
        let accuracy = TextClassifier::accuracy(&probabilities, &labels).item()?;
        let loss = optimizer.step(&TextClassifier::loss(&probabilities, &labels))?.loss.item()?;
        println!("Epoch {epoch}/10  accuracy: {accuracy:.4}  loss: {loss:.4}");
    }

    let test = rows(&["Another example here.", "More examples to follow."]);
    println!("{:?}", model.forward(&test, &Context::eval()).to_vec::<f32>()?);
    Ok(())
}
