//! What the two syntaxes have in common, how long prompts are divided, and which are refused.

use std::sync::{Arc, LazyLock};

use diffusion::conditioning::{Description, MicroConditioning};
use diffusion::guidance::Branch;
use diffusion::model::Model;
use diffusion::pipeline::{InjectedTensors, Request, prepare};
use diffusion::text::{COMMA_BACKTRACK_TOKENS, MAX_CHUNKS, NamedEmbedding, PromptSyntax};
use diffusion::tokenizer::Tokenizer;
use proptest::prelude::*;

use crate::tiny_model::TinyModel;

/// Tokens of one chunk.
const ROOM: usize = 75;

fn states(model: &Model, prompt: &str, syntax: PromptSyntax, clip_skip: usize) -> Vec<Vec<u32>> {
    states_with(model, prompt, syntax, clip_skip, &[])
}

/// The bits of each token's states where the request brings `embeddings`.
pub(crate) fn states_with(
    model: &Model,
    prompt: &str,
    syntax: PromptSyntax,
    clip_skip: usize,
    embeddings: &[NamedEmbedding],
) -> Vec<Vec<u32>> {
    let words = model.conditioner().words(embeddings, model.exec()).unwrap();
    let asked = Description {
        branch: Branch::Positive,
        prompts: [Some(prompt), None, None],
        syntax,
        words: &words,
        clip_skip,
        max_sequence_length: None,
        size: [64, 64],
        from_picture: false,
        micro: &MicroConditioning::default(),
    };
    let encoded = model.conditioner().encode(&asked, model.exec()).unwrap();
    let rows: Vec<Vec<f32>> = encoded.states.squeeze(0).unwrap().to_vec2().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

fn weighted(model: &Model, prompt: &str) -> Vec<Vec<u32>> {
    states(model, prompt, PromptSyntax::Weighted, 0)
}

/// So many tokens, each a letter that is a word.
fn letters(count: usize) -> String {
    (0..count).map(|at| format!("{} ", char::from(b'a' + (at % 26) as u8))).collect()
}

#[test]
fn long_prompts_are_rows_of_their_own_joined_along_the_tokens() {
    let model = TinyModel::default().load();
    let (first, second) = (letters(ROOM), letters(3));
    let expected: Vec<_> = [weighted(&model, &first), weighted(&model, &second)].concat();
    assert_eq!(expected.len(), 2 * (ROOM + 2));
    assert!(weighted(&model, &(first + &second)) == expected);
    assert!(weighted(&model, "a b BREAK c") == [weighted(&model, "a b"), weighted(&model, "c")].concat());
    assert!(weighted(&model, "BREAK c BREAK") == [weighted(&model, ""), weighted(&model, "c")].concat());
}

#[test]
fn what_follows_a_comma_near_the_end_of_a_chunk_moves_on() {
    let model = TinyModel::default().load();
    for (behind, moves) in [(COMMA_BACKTRACK_TOKENS - 1, true), (COMMA_BACKTRACK_TOKENS, false), (0, true)] {
        let (before, behind) = (letters(ROOM - 1 - behind) + ",", letters(behind));
        let parts = if moves { [before.clone(), behind.clone() + "z"] } else { [before.clone() + &behind, "z".to_owned()] };
        let expected = [weighted(&model, &parts[0]), weighted(&model, &parts[1])].concat();
        assert!(weighted(&model, &format!("{before}{behind}z")) == expected, "{} tokens behind the comma", behind.len() / 2);
    }
}

#[test]
fn weights_act_in_their_own_chunk_alone() {
    let model = TinyModel::default().load();
    let mixed = weighted(&model, "(a:1.5) b BREAK c");
    assert!(mixed[ROOM + 2..] == weighted(&model, "c"));
    assert!(mixed[..ROOM + 2] == weighted(&model, "(a:1.5) b"));
    assert!(mixed[..ROOM + 2] != weighted(&model, "a b"));
}

#[test]
fn prompts_that_cannot_be_read_are_the_requests_fault() {
    let model = TinyModel::default().load();
    let request = Request { width: 64, height: 64, prompt_syntax: PromptSyntax::Weighted, ..Request::with_defaults(&model, "") };
    let most = "BREAK ".repeat(MAX_CHUNKS - 1) + "a";
    for (prompt, word) in [
        ("[a:b:0.5]".to_owned(), "prompt editing"),
        ("[a|b]".to_owned(), "alternating"),
        ("(a:99)".to_owned(), "weight 99"),
        ("(a:1.2.3)".to_owned(), "1.2.3"),
        ("(".repeat(1000), "brackets are open"),
        (letters(MAX_CHUNKS * ROOM + 1), "chunks of 75 tokens"),
        (most.clone() + " BREAK a", "chunks of 75 tokens"),
        ("a".repeat(1 << 20), "bytes"),
    ] {
        for bad in
            [Request { prompt: prompt.clone(), ..request.clone() }, Request { negative_prompt: Some(prompt.clone()), ..request.clone() }]
        {
            let error = prepare(&model, &bad, &InjectedTensors::default()).unwrap_err();
            assert!(error.is_invalid_request() && error.to_string().contains(word), "{error}");
        }
    }
    assert_eq!(weighted(&model, &most).len(), MAX_CHUNKS * (ROOM + 2));
}

#[test]
fn clip_skip_leaves_out_layers_of_every_chunk() {
    let model = TinyModel::default().load();
    let skipped = states(&model, "a BREAK b", PromptSyntax::Weighted, 1);
    assert!(skipped == [states(&model, "a", PromptSyntax::Plain, 1), states(&model, "b", PromptSyntax::Plain, 1)].concat());
    assert!(skipped != weighted(&model, "a BREAK b"));
}

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| TinyModel::default().load());
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    Tokenizer::open(&folder.path().join("tokenizer")).unwrap()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn short_prompt_without_brackets_is_the_same_in_both_syntaxes(prompt in "[^()\\[\\]\\\\]{0,70}", clip_skip in 0_usize..3) {
        prop_assume!(!prompt.contains("BREAK"));
        let model = &MODEL;
        prop_assume!(TOKENIZER.encode(&prompt).unwrap().len() <= ROOM);
        prop_assert!(states(model, &prompt, PromptSyntax::Weighted, clip_skip) == states(model, &prompt, PromptSyntax::Plain, clip_skip));
    }
}
