//! T5's tokenizer against what transformers' T5TokenizerFast made of the same texts (`unigram/make_reference.py`).

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diffusion::tokenizer::{MAX_TEXT_BYTES, TokenizerError, UnigramTokenizer};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unigram")
}

fn assert_equal(vocabulary: &Path, reference: &Path) {
    let tokenizer = UnigramTokenizer::open(vocabulary).unwrap();
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_str(&std::fs::read_to_string(reference).unwrap()).unwrap();
    assert!(cases.len() > 400);
    for (text, expected) in cases {
        let found = tokenizer.encode_padded(&text, expected.len()).unwrap().ids;
        assert_eq!(found, expected, "{text:?}");
        assert!(found.iter().all(|id| *id <= tokenizer.max_id()));
    }
}

#[test]
fn ids_equal_those_of_the_reference() {
    assert_equal(&folder().join("vocabulary"), &folder().join("reference.json"));
}

/// Of a folder with SentencePiece's own file alone.
#[test]
fn ids_equal_those_of_the_reference_from_a_sentence_piece_model() {
    assert_equal(&folder().join("sentence_piece"), &folder().join("sentence_piece.json"));
}

/// For a folder that `make_reference.py --of … --into DIR` made; without the variable there is nothing to compare.
#[test]
fn ids_equal_those_of_the_reference_for_a_given_folder() {
    let Some(folder) = std::env::var_os("EMULSION_UNIGRAM_CHECK").map(PathBuf::from) else { return };
    assert_equal(&folder, &folder.join("reference.json"));
}

#[test]
fn length_used_and_left_out_are_told() {
    let tokenizer = UnigramTokenizer::open(&folder().join("vocabulary")).unwrap();
    let whole = tokenizer.encode_padded("a red circle", 64).unwrap();
    assert_eq!((whole.ids.len(), whole.truncated), (64, 0));
    let cut = tokenizer.encode_padded("a red circle", whole.used - 1).unwrap();
    assert_eq!((cut.ids.len(), cut.used, cut.truncated), (whole.used - 1, whole.used - 1, 1));
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    assert!(matches!(tokenizer.encode_padded(&long, 8), Err(TokenizerError::TextTooLong { .. })));
}

/// The vocabulary with `change` made to its file.
fn opened(change: impl FnOnce(&mut Value)) -> Result<UnigramTokenizer, TokenizerError> {
    let scratch = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(folder().join("vocabulary/tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    change(&mut file);
    std::fs::write(scratch.path().join("tokenizer.json"), file.to_string()).unwrap();
    UnigramTokenizer::open(scratch.path())
}

#[test]
fn files_that_describe_another_tokenizer_are_refused_by_key() {
    assert!(opened(|_| ()).is_ok());
    let refused = |key: &str, change: &dyn Fn(&mut Value)| {
        let message = opened(|file| change(file)).unwrap_err().to_string();
        assert!(message.contains(key), "{key}: {message}");
    };
    refused("model", &|file| file["model"] = json!({"type": "BPE", "vocab": {}, "merges": []}));
    refused("model", &|file| file["model"]["vocab"] = json!([["", 0.0]]));
    refused("model", &|file| file["model"]["vocab"] = json!([["a"]]));
    refused("normalizer", &|file| file["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "(a*)*$"}, "content": ""}));
    refused("normalizer", &|file| file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}));
    refused("pre_tokenizer", &|file| {
        file["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a*)*$"}, "behavior": "Isolated", "invert": false})
    });
    refused("added_tokens", &|file| file["added_tokens"][0]["id"] = json!(-1));
    refused("UnkId", &|file| file["model"]["unk_id"] = json!(1_000_000));
}

fn opened_sentence_piece(bytes: &[u8], config: &Value) -> Result<UnigramTokenizer, String> {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("spiece.model"), bytes).unwrap();
    std::fs::write(scratch.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    UnigramTokenizer::open(scratch.path()).map_err(|error| error.to_string())
}

#[test]
fn sentence_piece_models_that_are_none_are_refused_by_file() {
    let whole = std::fs::read(folder().join("sentence_piece/spiece.model")).unwrap();
    let refused = |bytes: &[u8], reason: &str| {
        let message = opened_sentence_piece(bytes, &json!({})).unwrap_err();
        assert!(message.contains("spiece.model") && message.contains(reason), "{message}");
    };
    refused(b"", "is no SentencePiece model");
    refused(b"version https://git-lfs.github.com/spec/v1", "is no SentencePiece model");
    refused(&whole[..whole.len() / 2], "cut off");
    // A length beyond the file, a number without an end, a text that is none.
    refused(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], "is no SentencePiece model");
    refused(&[0xff; 12], "is no SentencePiece model");
    refused(&[0x0a, 0x03, 0x0a, 0x01, 0xff], "is no SentencePiece model");
    // The training's model type, of which later ones count.
    refused(&[&whole[..], &[0x12, 0x02, 0x18, 0x02]].concat(), "another kind than unigram");
    refused(&vec![0; (4 << 20) + 1], "more than 4194304 bytes");
    let message = opened_sentence_piece(&whole, &json!({"extra_ids": 1_000_000_000})).unwrap_err();
    assert!(message.contains("extra_ids") && message.contains("at most 10000"), "{message}");
}

#[test]
fn configuration_beside_a_sentence_piece_model_counts() {
    let whole = std::fs::read(folder().join("sentence_piece/spiece.model")).unwrap();
    let usual = opened_sentence_piece(&whole, &json!({})).unwrap();
    assert_eq!(usual.max_id(), 399, "300 pieces and 100 words besides");
    let few = opened_sentence_piece(&whole, &json!({"extra_ids": 3, "pad_token": {"content": "<unk>"}})).unwrap();
    assert_eq!((few.max_id(), few.encode_padded("", 3).unwrap().ids), (302, vec![1, 2, 2]));
}

/// The library looks up whatever a text leads to: a table that would lead it out is refused, every other one is harmless.
#[test]
fn tables_of_characters_never_lead_out_of_themselves() {
    let mut table = Vec::new();
    opened(|file| table = STANDARD.decode(file["normalizer"]["normalizers"][0]["precompiled_charsmap"].as_str().unwrap()).unwrap())
        .unwrap();
    let texts = ["ﬁne e\u{301} ｶﾞ ™ plain", "\u{1}\u{7f}ÿ 😀", "日本語"];
    let (mut taken, mut refused) = (0, 0);
    for at in (0..table.len()).step_by(table.len() / 400) {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = table.clone();
            changed[at] ^= change;
            let made = opened(|file| file["normalizer"]["normalizers"][0]["precompiled_charsmap"] = json!(STANDARD.encode(&changed)));
            match made {
                Ok(tokenizer) => {
                    taken += 1;
                    texts.iter().for_each(|text| assert!(tokenizer.encode_padded(text, 16).is_ok()));
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("normalizer"), "{error}");
                }
            }
        }
    }
    assert!(taken > 10 && refused > 10, "{taken} taken, {refused} refused");
}
