//! BERT and RoBERTa: names, files, padding, heads.

use std::{fs, sync::Arc};

use wgrad_cpu::CpuDevice;
use wgrad_models::{
    BertConfig, BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification,
    BertForTokenClassification, BertModel, ModelError, RobertaForMaskedLM, RobertaForSequenceClassification,
    bert::{classification_loss, question_answering_loss},
};
use wgrad_nn::{Context, Init, Module};
use wgrad_tensor::{DeviceHandle, Tensor, grad};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn config() -> BertConfig {
    BertConfig {
        vocab_size: 11,
        hidden_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 12,
        max_position_embeddings: 9,
        ..BertConfig::default()
    }
}

fn roberta() -> BertConfig {
    BertConfig { model_type: "roberta".into(), pad_token_id: Some(1), type_vocab_size: 1, ..config() }
}

fn ids(rows: &[&[i32]], device: &DeviceHandle) -> Tensor {
    let flat: Vec<i32> = rows.iter().flat_map(|row| row.iter().copied()).collect();
    Tensor::from_vec(flat, [rows.len(), rows[0].len()], device)
}

#[test]
fn parameters_are_named_as_hugging_face_names_them() -> Outcome {
    let init = Init::new(&device(), 0);
    let names =
        |model: &dyn Module| -> Vec<String> { model.named_parameters().into_iter().map(|p| p.0).collect() };
    let masked = names(&BertForMaskedLM::new(&config(), &init)?);
    for name in [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.0.attention.output.LayerNorm.weight",
        "bert.encoder.layer.0.intermediate.dense.bias",
        "bert.encoder.layer.0.output.dense.weight",
        "cls.predictions.bias",
        "cls.predictions.transform.LayerNorm.weight",
    ] {
        assert!(masked.iter().any(|n| n == name), "{name} is not in {masked:?}");
    }
    assert!(!masked.iter().any(|n| n.contains("pooler") || n.contains("decoder")));
    let classifier = names(&RobertaForSequenceClassification::new(&roberta(), &init)?);
    assert!(classifier.contains(&"roberta.embeddings.position_embeddings.weight".to_owned()));
    assert!(classifier.contains(&"classifier.out_proj.bias".to_owned()));
    let bare = BertModel::new(&config(), &init, true)?;
    assert_eq!(bare.num_parameters(), config().parameters() + 8 * 8 + 8);
    Ok(())
}

#[test]
fn a_folder_goes_out_and_in_unchanged() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let x = ids(&[&[1, 2, 3]], &device);
    let named = config().with_labels(&["no", "yes", "maybe"]);
    let saved = BertForSequenceClassification::new(&named, &Init::new(&device, 3))?;
    saved.save_pretrained(dir.path())?;
    let loaded = BertForSequenceClassification::from_pretrained(dir.path(), &device)?;
    assert_eq!(loaded.config(), saved.config());
    assert_eq!(loaded.config().num_labels(), 3);
    let logits =
        |m: &BertForSequenceClassification| m.forward(&x, None, None, &Context::eval()).to_vec::<f32>();
    assert_eq!(logits(&saved)?, logits(&loaded)?);
    // The part below the head alone.
    let body = BertModel::from_pretrained(dir.path(), &device)?;
    assert!(body.pooler.is_some());
    let states = |m: &BertModel| m.forward(&x, None, None, &Context::eval()).to_vec::<f32>();
    assert_eq!(states(&body)?, states(&saved.bert)?);
    // And with another head.
    let tags = BertForTokenClassification::on(body, &named, &Init::new(&device, 4))?;
    assert_eq!(tags.forward(&x, None, None, &Context::eval()).shape().dims(), [1, 3, 3]);
    Ok(())
}

#[test]
fn old_names_and_copies_of_tied_tensors_load_too() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let saved = BertForMaskedLM::new(&config(), &Init::new(&device, 3))?;
    saved.save_pretrained(dir.path())?;
    let old = |name: String| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    };
    let mut tensors: Vec<(String, Tensor)> =
        saved.state_dict().into_iter().map(|(n, t)| (old(n), t)).collect();
    let table = saved.bert.embeddings.word_embeddings.weight.tensor();
    tensors.push(("cls.predictions.decoder.weight".into(), table));
    tensors.push(("bert.embeddings.position_ids".into(), ids(&[&[0, 1, 2]], &device)));
    wgrad_nn::safetensors::save(&dir.path().join("model.safetensors"), &tensors, &[])?;
    let loaded = BertForMaskedLM::from_pretrained(dir.path(), &device)?;
    let x = ids(&[&[1, 2, 3]], &device);
    let logits = |m: &BertForMaskedLM| m.forward(&x, None, None, &Context::eval()).to_vec::<f32>();
    assert_eq!(logits(&saved)?, logits(&loaded)?);
    Ok(())
}

#[test]
fn padding_changes_nothing_for_the_other_positions() -> Outcome {
    let device = device();
    let short = [3, 4, 5];
    for (config, pad) in [(config(), 0), (roberta(), 1)] {
        let model = BertModel::new(&config, &Init::new(&device, 5), false)?;
        let plain = model.forward(&ids(&[&short], &device), None, None, &Context::eval()).to_vec::<f32>()?;
        let padded = ids(&[&[3, 4, 5, pad, pad]], &device);
        let mask = ids(&[&[1, 1, 1, 0, 0]], &device);
        let states = model.forward(&padded, Some(&mask), None, &Context::eval());
        for (a, b) in plain.iter().zip(states.narrow(1, 0, 3).to_vec::<f32>()?) {
            assert!((a - b).abs() < 1e-6, "{a} instead of {b}");
        }
        let sentence = model.sentence_embeddings(&padded, &mask, &Context::eval()).to_vec::<f32>()?;
        assert!((sentence.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    Ok(())
}

#[test]
fn answers_beyond_the_text_do_not_count() -> Outcome {
    let device = device();
    let model = BertForQuestionAnswering::new(&config(), &Init::new(&device, 5))?;
    let logits = model.forward(&ids(&[&[3, 4, 5], &[5, 4, 3]], &device), None, None, &Context::eval());
    let position = |values: &[i32]| Tensor::from_vec(values.to_vec(), [values.len()], &device);
    let both = question_answering_loss(&logits, [&position(&[1, 99]), &position(&[2, 99])]).item()?;
    let first = [0, 1].map(|part: usize| logits[part].narrow(0, 0, 1));
    let alone = question_answering_loss(&first, [&position(&[1]), &position(&[2])]).item()?;
    assert!((both - alone).abs() < 1e-6, "{both} instead of {alone}");
    Ok(())
}

#[test]
fn the_loss_of_a_classifier_follows_its_labels() -> Outcome {
    let device = device();
    let logits = Tensor::from_vec(vec![0.0f32, 0.0, 0.0, 0.0], [2, 2], &device);
    let classes = classification_loss(&logits, &Tensor::from_vec(vec![0i32, 1], [2], &device)).item()?;
    assert!((classes - 2f64.ln()).abs() < 1e-6);
    let many = Tensor::from_vec(vec![1.0f32, 1.0, 0.0, 1.0], [2, 2], &device);
    assert!((classification_loss(&logits, &many).item()? - 2f64.ln()).abs() < 1e-6);
    let score = Tensor::from_vec(vec![1.0f32, 2.0], [2, 1], &device);
    let targets = Tensor::from_vec(vec![0.0f32, 4.0], [2], &device);
    assert!((classification_loss(&score, &targets).item()? - 2.5).abs() < 1e-6);
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let init = Init::new(&device, 0);
    let wrong =
        |result: Result<BertForMaskedLM, ModelError>| result.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        wrong(BertForMaskedLM::new(&BertConfig { num_attention_heads: 3, ..config() }, &init))
            .contains("does not divide")
    );
    assert!(wrong(BertForMaskedLM::new(&roberta(), &init)).contains("expected `bert`"));
    assert!(RobertaForMaskedLM::new(&BertConfig { pad_token_id: None, ..roberta() }, &init).is_err());
    let model = RobertaForMaskedLM::new(&roberta(), &init)?;
    let long = Tensor::from_vec(vec![3i32; 8], [1, 8], &device);
    let message = model.forward(&long, None, &Context::eval()).error().map(ToString::to_string);
    assert!(message.is_some_and(|m| m.contains("longest text of 7")), "positions begin after padding's");
    BertForMaskedLM::new(&config(), &init)?.save_pretrained(dir.path())?;
    let text = fs::read_to_string(dir.path().join("config.json"))?
        .replace("\"hidden_size\": 8", "\"hidden_size\": 10");
    fs::write(dir.path().join("config.json"), text)?;
    assert!(wrong(BertForMaskedLM::from_pretrained(dir.path(), &device)).contains("instead of"));
    Ok(())
}

#[test]
fn every_parameter_that_a_head_reads_has_a_gradient() -> Outcome {
    let device = device();
    let model = RobertaForMaskedLM::new(&roberta(), &Init::new(&device, 1))?;
    let x = ids(&[&[3, 4, 1]], &device);
    let loss = wgrad_models::bert::token_loss(&model.forward(&x, None, &Context::eval()), &x);
    let parameters: Vec<Tensor> = model.named_parameters().iter().map(|(_, p)| p.tensor()).collect();
    assert_eq!(grad(&loss, &parameters.iter().collect::<Vec<_>>())?.len(), parameters.len());
    Ok(())
}

#[test]
fn logits_of_masked_positions_alone_are_those_of_all() -> Outcome {
    let device = device();
    let model = BertForMaskedLM::new(&config(), &Init::new(&device, 1))?;
    let states = model.bert.forward(&ids(&[&[3, 4, 5], &[6, 7, 8]], &device), None, None, &Context::eval());
    let rows = Tensor::from_vec(vec![5i32, 1], [2], &device);
    let (some, all) =
        (model.logits_at(&states, &rows).to_vec::<f32>()?, model.logits(&states).to_vec::<f32>()?);
    let expected: Vec<f32> = [&all[5 * 11..], &all[11..22]].concat();
    assert_eq!(some.len(), expected.len());
    assert!(some.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    Ok(())
}
