//! What holds for every text, seed and step.

use proptest::prelude::*;
use wgrad_data::{BpeOptions, Documents, TokenStream, Tokenizer, WindowSampler, below, validation_windows};

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.decode_stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id).expect("a known id")).collect();
    text += &stream.finish().expect("decoded");
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_come_back_from_the_bytes_tokenizer(bytes: Vec<u8>) {
        let ids = Tokenizer::Bytes.encode(&bytes).expect("any bytes");
        prop_assert!(ids.iter().map(|&id| id as u8).eq(bytes.iter().copied()));
        let text = Tokenizer::Bytes.decode(&ids).expect("known ids");
        prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
        prop_assert_eq!(streamed(&Tokenizer::Bytes, &ids), text);
    }

    #[test]
    fn any_text_comes_back_from_a_trained_tokenizer(text: String, sample in "[a-c é\n]{0,80}", size in 256_usize..300) {
        let documents = Documents::from_texts([sample.clone()]);
        let tokenizer = Tokenizer::train_bpe(&documents, &BpeOptions::new(size)).expect("trained");
        for text in [&text, &sample] {
            let ids = tokenizer.encode(text).expect("text");
            prop_assert_eq!(&tokenizer.decode(&ids).expect("known ids"), text);
            prop_assert_eq!(&streamed(&tokenizer, &ids), text);
        }
    }

    #[test]
    fn any_ids_decode_the_same_at_once_and_one_by_one(ids in prop::collection::vec(0_u32..256, 0..40)) {
        let documents = Documents::from_texts(["x"]);
        let tokenizer = Tokenizer::train_bpe(&documents, &BpeOptions::new(256)).expect("trained");
        prop_assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids).expect("known ids"));
    }

    #[test]
    fn ids_of_any_width_come_back_from_a_stream(
        ids in prop::collection::vec(any::<u32>(), 0..50),
        vocab_size in prop::sample::select(vec![1_usize, 256, 257, 65_536, 65_537, 1 << 31]),
    ) {
        let ids: Vec<u32> = ids.iter().map(|&id| below(u64::from(id) << 32, vocab_size as u64) as u32).collect();
        let stream = TokenStream::from_ids(&ids, vocab_size).expect("valid ids");
        prop_assert_eq!(stream.get(0..ids.len()).expect("all"), ids);
    }

    #[test]
    fn a_cached_stream_equals_the_one_in_memory(texts in prop::collection::vec(".{0,30}", 0..5)) {
        let documents = Documents::from_texts(texts);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cached = TokenStream::build(&documents, &Tokenizer::Bytes, folder.path(), |warning| panic!("{warning}")).expect("built");
        let owned = TokenStream::in_memory(&documents, &Tokenizer::Bytes).expect("built");
        prop_assert_eq!(cached.get(0..cached.len()).expect("all"), owned.get(0..owned.len()).expect("all"));
    }

    #[test]
    fn every_window_fits_and_depends_on_seed_and_step_alone(
        context in 1_usize..300, extra in 1_usize..100_000, batch in 1_usize..20, seed: u64, step: u64,
    ) {
        let len = context + extra;
        let sampler = WindowSampler::new(len, context, batch, seed).expect("fits");
        let starts = sampler.starts(step);
        prop_assert_eq!(starts.len(), batch);
        prop_assert!(starts.iter().all(|start| start + context < len));
        let again = WindowSampler::new(len, context, batch, seed).expect("fits");
        prop_assert_eq!(again.starts(step), starts);
    }

    #[test]
    fn a_restart_continues_the_uninterrupted_sequence(seed: u64, first in 0_u64..1000, restart in 0_u64..20) {
        let sampler = || WindowSampler::new(100_000, 64, 4, seed).expect("fits");
        let whole = sampler();
        let uninterrupted: Vec<_> = (first..first + 20).map(|step| whole.starts(step)).collect();
        let resumed = sampler();
        let rest: Vec<_> = (first + restart..first + 20).map(|step| resumed.starts(step)).collect();
        prop_assert_eq!(&uninterrupted[restart as usize..], &rest[..]);
    }

    #[test]
    fn other_seeds_and_steps_draw_other_windows(seed: u64, step: u64) {
        let starts = |seed, step| WindowSampler::new(1 << 40, 1, 4, seed).expect("fits").starts(step);
        prop_assert_ne!(starts(seed, step), starts(seed.wrapping_add(1), step));
        prop_assert_ne!(starts(seed, step), starts(seed, step.wrapping_add(1)));
        prop_assert_ne!(starts(seed, step), starts(seed ^ 1 << 40, step));
        prop_assert_ne!(starts(seed, step), starts(seed, step ^ 1 << 40));
    }

    #[test]
    fn validation_windows_ascend_from_end_to_end(context in 1_usize..50, extra in 1_usize..5000, count in 2_usize..300) {
        let starts = validation_windows(context + extra, context, count).expect("fits");
        prop_assert_eq!((starts.len(), starts[0], starts[count - 1]), (count, 0, extra - 1));
        prop_assert!(starts.is_sorted());
    }
}
