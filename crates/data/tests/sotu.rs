//! The speeches that ship with the recipes, from files to batches.

use std::path::PathBuf;

use wgrad_data::{
    BpeOptions, Documents, TextSource, TokenStream, Tokenizer, WindowSampler, validation_batches,
    validation_windows,
};

fn split(first: u64, last: u64) -> Documents {
    let recipes = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    TextSource::new(["data/sotu/*.txt"]).with_range(first, last).resolve(&recipes).expect("the speeches")
}

/// The byte counts of the PyTorch program that trains the same model on the same split.
#[test]
fn the_splits_have_the_bytes_of_the_reference_program() {
    let (train, validation) = (split(1981, 2018), split(2019, 2021));
    assert_eq!((train.len(), validation.len()), (38, 3));
    assert_eq!(train.text().expect("readable").len(), 1_458_939);
    assert_eq!(validation.text().expect("readable").len(), 114_260);
}

#[test]
fn a_stream_of_bytes_is_the_text_and_its_windows_are_slices_of_it() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let documents = split(2019, 2021);
    let text = documents.text().expect("readable");
    let stream =
        TokenStream::build(&documents, &Tokenizer::Bytes, cache.path(), |warning| panic!("{warning}"))
            .expect("built");
    assert_eq!(stream.len(), text.len());

    let slice = |start: usize| text[start..start + 128].iter().map(|&byte| i32::from(byte));
    let starts = validation_windows(stream.len(), 128, 200).expect("fits");
    assert_eq!((starts[1], starts[199]), (573, 114_260 - 128 - 1));
    let batches = validation_batches(&stream, &starts, 128, 8).expect("a batch size");
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for batch in batches {
        let batch = batch.expect("all fit");
        inputs.extend(batch.inputs);
        targets.extend(batch.targets);
    }
    assert!(inputs.into_iter().eq(starts.iter().flat_map(|&start| slice(start))));
    assert!(targets.into_iter().eq(starts.iter().flat_map(|&start| slice(start + 1))));

    let sampler = WindowSampler::new(stream.len(), 128, 8, 3).expect("fits");
    let batch = sampler.batch(&stream, 17).expect("a batch");
    assert!(batch.inputs.into_iter().eq(sampler.starts(17).into_iter().flat_map(slice)));
}

#[test]
fn a_trained_vocabulary_shortens_the_speeches_and_restores_them() {
    let documents = split(2019, 2021);
    let tokenizer = Tokenizer::train_bpe(&documents, &BpeOptions::new(1024)).expect("trained");
    assert_eq!(tokenizer.vocab_size(), 1024);
    let folder = tempfile::tempdir().expect("a temporary folder");
    tokenizer.save(folder.path()).expect("saved");
    let loaded = Tokenizer::load(folder.path()).expect("loaded");

    let stream = TokenStream::build(&documents, &tokenizer, folder.path(), |warning| panic!("{warning}"))
        .expect("built");
    let ids = stream.get(0..stream.len()).expect("all");
    let text = documents.text().expect("readable");
    assert!(ids.len() * 2 < text.len(), "{} tokens for {} bytes", ids.len(), text.len());
    assert_eq!(loaded.decode(&ids).expect("decoded").as_bytes(), text);
    assert_eq!(loaded.encode(&text).expect("encoded"), ids, "speech by speech is the same as all at once");
}
