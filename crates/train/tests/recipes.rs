//! Recipes: what ships is valid, and what is wrong is said precisely.

use std::path::{Path, PathBuf};

use wgrad_optim::OptimizerSpec;
use wgrad_train::{CausalLmRecipe, Override, Recipe, TaskRecipe};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name)
}

fn text() -> String {
    std::fs::read_to_string(shipped("gpt-tiny.toml")).expect("the recipe ships")
}

fn set(overrides: &[&str]) -> Vec<Override> {
    overrides.iter().map(|text| text.parse().expect("key=value")).collect()
}

fn language_model(recipe: &Recipe) -> &CausalLmRecipe {
    let TaskRecipe::CausalLm(sections) = &recipe.task else { panic!("{:?}", recipe.task) };
    sections
}

/// The message for the tiny recipe with `from` replaced by `to`.
fn complaint(from: &str, to: &str) -> String {
    let text = text();
    assert!(text.contains(from), "{from}");
    Recipe::from_toml(&text.replace(from, to), "r.toml", &[]).expect_err(to).to_string()
}

fn complaint_about(overrides: &[&str]) -> String {
    Recipe::from_toml(&text(), "r.toml", &set(overrides)).expect_err("a bad override").to_string()
}

#[test]
fn shipped_recipes_are_valid_and_survive_being_written_out() {
    for name in ["gpt-nano.toml", "gpt-tiny.toml", "fashion-cnn.toml"] {
        let recipe = Recipe::from_file(&shipped(name), &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(format!("{}.toml", recipe.name), name);
        if let TaskRecipe::CausalLm(sections) = &recipe.task {
            assert_eq!(recipe.train.context, sections.model.n_positions);
        }
        let again = Recipe::from_toml(&recipe.to_toml().expect("TOML"), "resolved", &[]).expect("valid");
        assert_eq!(again, recipe);
    }
}

/// `r.toml:LINE:` of the line that has `text_there`.
fn line_of(text_there: &str) -> String {
    let line = text().lines().position(|line| line.contains(text_there)).expect("a line") + 1;
    format!("r.toml:{line}:")
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_name() {
    let error = complaint("batch_size = 8", "batchsize = 8");
    assert!(error.starts_with(&format!("{}1: ", line_of("batch_size = 8"))), "{error}");
    assert!(error.contains("unknown key `train.batchsize`; did you mean `batch_size`?"), "{error}");
    for (there, key, message) in [
        ("betas = [0.9, 0.95]", "beta", "unknown key `optimizer.beta`; did you mean `betas`?"),
        ("warmup_steps = 10", "etamin", "unknown key `schedule.etamin`; did you mean `eta_min`?"),
    ] {
        let error = complaint(there, &format!("{key} = 1"));
        assert!(error.starts_with(&format!("{}1: ", line_of(there))), "{error}");
        assert!(error.contains(message), "{error}");
    }
    let error = complaint("[optimizer]", "[optimiser]");
    assert!(error.contains("unknown key `optimiser`; did you mean `optimizer`?"), "{error}");
    let error = complaint("range = [2009, 2018]", "rage = [2009, 2018]");
    assert!(error.contains("unknown key `data.train.rage`; did you mean `range`?"), "{error}");
    let error = complaint("kind = \"bytes\"", "kind = \"bpe\", vocabsize = 300");
    assert!(error.contains("unknown key `data.tokenizer.vocabsize`; did you mean `vocab_size`?"), "{error}");
}

#[test]
fn a_name_that_resembles_nothing_lists_what_is_valid() {
    let error = complaint("steps = 200", "qqq = 200");
    assert!(error.contains("`train.qqq` (valid here: steps, batch_size,"), "{error}");
}

#[test]
fn an_unknown_choice_names_the_nearest_one() {
    let error = complaint("name = \"adamw\"", "name = \"adamm\"");
    assert!(error.contains("`optimizer.name` cannot be `adamm`; did you mean `adam`?"), "{error}");
    let error = complaint("name = \"cosine\"", "name = \"cosin\"");
    assert!(error.contains("`schedule.name` cannot be `cosin`; did you mean `cosine`?"), "{error}");
    assert!(error.contains("reduce_on_plateau"), "{error}");
}

#[test]
fn a_wrong_type_is_refused_with_its_place() {
    let error = complaint("steps = 200", "steps = \"many\"");
    assert!(
        error.starts_with(&format!("{}9: ", line_of("steps = 200"))) && error.contains("`train.steps`"),
        "{error}"
    );
    assert!(error.contains("expected a whole number, 0 or more, found the text \"many\""), "{error}");
    let error = complaint("n_head = 2", "n_head = -2");
    assert!(
        error.contains("`model.n_head`: expected a whole number, 0 or more, found the number -2"),
        "{error}"
    );
}

#[test]
fn no_message_names_a_type_of_rust_s() {
    let rust = [
        "usize", "u64", "u32", "i64", "f64", "struct", "enum", "Recipe", "Spec", "sequence", "map", "boolean",
    ];
    let mut wrong = Vec::new();
    for (from, to, expected) in [
        (
            "steps = 200",
            "steps = 1.5",
            "`train.steps`: expected a whole number, 0 or more, found the number 1.5",
        ),
        ("steps = 200", "steps = true", "found true"),
        ("steps = 200", "steps = [1, 2]", "found a list"),
        ("lr = 3e-3", "lr = \"fast\"", "expected a number, found the text \"fast\""),
        ("betas = [0.9, 0.95]", "betas = 0.9", "expected a list of 2 values, found the number 0.9"),
        ("betas = [0.9, 0.95]", "betas = [0.9]", "expected a list of 2 values, found 1"),
        (
            "tie_word_embeddings = false",
            "tie_word_embeddings = 1",
            "expected true or false, found the number 1",
        ),
        (
            "prompts = [\"We \"]",
            "prompts = \"We \"",
            "`sample.prompts`: expected a list, found the text \"We \"",
        ),
        ("prompts = [\"We \"]", "prompts = [7]", "expected text in quotes, found the number 7"),
        (
            "tokenizer = { kind = \"bytes\" }",
            "tokenizer = \"bytes\"",
            "`data.tokenizer`: expected a table of keys",
        ),
        ("tokenizer = { kind = \"bytes\" }", "tokenizer = {}", "the key `kind` is missing"),
        ("name = \"adamw\"", "name = 7", "`optimizer"),
        ("type = \"gpt2\"", "type = []", "`model.type`"),
        ("[sample]\n", "[[sample]]\n", "`sample"),
        ("steps = 200", "steps = 99999999999999999999", "r.toml"),
    ] {
        for overrides in [Vec::new(), set_seed()] {
            let text = text();
            assert!(text.contains(from), "{from}");
            let recipe = Recipe::from_toml(&text.replace(from, to), "r.toml", &overrides);
            let error = recipe.expect_err(to).to_string();
            let told = error.replace(to, "");
            let mut words = told.split(|c: char| !c.is_alphanumeric());
            if !error.contains(expected) || words.any(|word| rust.contains(&word)) {
                wrong.push(format!("{to}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An override that changes nothing: recipes with overrides are read in another way.
fn set_seed() -> Vec<Override> {
    set(&["train.seed=0"])
}

#[test]
fn what_saves_memory_is_off_unless_a_recipe_asks_for_it() {
    let recipe = Recipe::from_toml(&text(), "r.toml", &[]).expect("valid");
    assert!(recipe.train.gradient_checkpointing == Some(false) && recipe.train.loss_chunk == Some(0));
    let resolved = recipe.to_toml().expect("TOML");
    assert!(
        resolved.contains("gradient_checkpointing = false") && resolved.contains("loss_chunk = 0"),
        "{resolved}"
    );
    let on = ["train.gradient_checkpointing=true", "train.loss_chunk=64"];
    let recipe = Recipe::from_toml(&text(), "r.toml", &set(&on)).expect("valid");
    assert!(recipe.train.gradient_checkpointing == Some(true) && recipe.train.loss_chunk == Some(64));
    for (bad, expected) in [
        (
            "train.gradient_checkpointing=1",
            "`train.gradient_checkpointing`: expected true or false, found the number 1",
        ),
        ("train.gradient_checkpointing=yes", "expected true or false, found the text \"yes\""),
        (
            "train.loss_chunk=-1",
            "`train.loss_chunk`: expected a whole number, 0 or more, found the number -1",
        ),
        ("train.loss_chunk=true", "`train.loss_chunk`: expected a whole number, 0 or more, found true"),
        ("train.gradient_checkpoint=true", "did you mean `gradient_checkpointing`?"),
        ("train.loss_chunks=4", "did you mean `loss_chunk`?"),
    ] {
        let error = complaint_about(&[bad]);
        assert!(error.contains(expected) && error.contains(&format!("--set {bad}")), "{bad}: {error}");
    }
}

#[test]
fn a_recipe_without_a_task_is_a_language_model_s() {
    let recipe = Recipe::from_toml(&text(), "r.toml", &[]).expect("valid");
    assert!(recipe.to_toml().expect("TOML").contains("[task]\nkind = \"causal-lm\"\n"));
    let named = Recipe::from_toml(&text(), "r.toml", &set(&["task.kind=causal-lm"])).expect("valid");
    assert_eq!(named, recipe);
    let error = complaint_about(&["task.kind=causal-ml"]);
    let expected = "--set task.kind=causal-ml: `task.kind` cannot be `causal-ml`; did you mean `causal-lm`?";
    assert!(error.starts_with(expected), "{error}");
    let error = complaint("[model]", "[task]\nkind = \"poetry\"\n[model]");
    assert!(error.starts_with("r.toml:") && error.contains("(valid here: causal-lm"), "{error}");
    let error = complaint_about(&["task.knd=causal-lm"]);
    assert!(error.contains("unknown key `task.knd`; did you mean `kind`?"), "{error}");
}

#[test]
fn a_missing_key_and_broken_syntax_are_refused_by_place() {
    let error = complaint("steps = 200\n", "");
    assert!(error.contains("the key `steps` is missing") && error.contains("r.toml"), "{error}");
    let error = complaint("steps = 200", "steps = = 200");
    assert!(error.starts_with(&line_of("steps = 200")), "{error}");
}

#[test]
fn overrides_reach_every_section_and_pass_the_same_checks() {
    let recipe = Recipe::from_toml(
        &text(),
        "r.toml",
        &set(&[
            "train.steps=7",
            "schedule.warmup_steps = 3",
            "name=mine",
            "optimizer.betas=[0.5, 0.6]",
            "data.root=a b",
        ]),
    )
    .expect("valid");
    assert_eq!((recipe.train.steps, recipe.schedule.warmup_steps, recipe.name.as_str()), (7, 3, "mine"));
    let OptimizerSpec::AdamW(config) = recipe.optimizer.spec else { panic!("{:?}", recipe.optimizer) };
    let root = language_model(&recipe).data.root.clone();
    assert_eq!((config.betas, root), ((0.5, 0.6), Some("a b".into())));

    // Another choice leaves the constants of the first behind.
    let chosen = set(&["optimizer.momentum=0.9", "optimizer.name=sgd", "schedule.name=wsd"]);
    let recipe = Recipe::from_toml(&text(), "r.toml", &chosen).expect("valid");
    assert!(
        matches!(recipe.optimizer.spec, OptimizerSpec::Sgd(sgd) if sgd.momentum == 0.9),
        "{:?}",
        recipe.optimizer
    );
    assert_eq!(recipe.optimizer.weight_decay, 0.1);

    let error = complaint_about(&["train.batch_size=4", "train.stepps=7"]);
    assert!(
        error.contains("--set train.stepps=7: unknown key `train.stepps`; did you mean `steps`?"),
        "{error}"
    );
    let error = complaint_about(&["train.steps=many"]);
    assert!(error.contains("--set train.steps=many: `train.steps`: expected a whole number"), "{error}");
    let error = complaint_about(&["name.inner=1"]);
    assert!(
        error.contains("expected text in quotes, found a table of keys") || error.contains("no keys"),
        "{error}"
    );
    for bad in ["steps", "=3", "train..steps=3"] {
        assert!(bad.parse::<Override>().is_err(), "{bad}");
    }
}

#[test]
fn values_that_no_run_can_have_are_refused_by_key() {
    for (override_, key) in [
        ("model.n_head=3", "`model.n_head` must be a divisor of model.n_embd, 32, found 3"),
        ("train.context=64", "`train.context` must be at most model.n_positions, 32, found 64"),
        ("optimizer.betas=[0.9, 1.0]", "`optimizer.betas` must be two numbers in 0..1"),
        ("optimizer.lr=nan", "`optimizer.lr` must be above 0"),
        ("optimizer.momentum=0.9", "unknown key `optimizer.momentum` (valid here: betas, eps,"),
        ("optimizer.eps=nan", "`optimizer.eps` must be finite and 0 or more, found NaN"),
        ("optimizer.name=lbfgs", "`optimizer"),
        ("train.steps=0", "`train.steps` must be in 1..2^32"),
        ("train.clip_grad_norm=0", "`train.clip_grad_norm` must be above 0"),
        ("schedule.min_lr=1.0", "`schedule.min_lr` must be in 0..=optimizer.lr"),
        ("schedule.warmup_steps=201", "`schedule.warmup_steps` must be at most train.steps, 200"),
        ("model.resid_pdrop=1.0", "`model.resid_pdrop` must be in 0..1"),
        ("sample.temperature=-1", "`sample.temperature` must be 0 or more"),
        ("sample.prompts=['']", "`sample.prompts` must be"),
        ("name='../x'", "`name` must be a file name"),
    ] {
        let error = complaint_about(&[override_]);
        assert!(error.contains(key), "{override_}: {error}");
    }
}

#[test]
fn a_recipe_that_is_not_there_is_an_error_with_its_path() {
    let error = Recipe::from_file(Path::new("nowhere/r.toml"), &[]).expect_err("no file").to_string();
    assert!(error.contains("cannot read the recipe `nowhere/r.toml`"), "{error}");
}
