//! Which files of a repository a model needs. Pure.
//!
//! Repositories hold the same weights several times: in full and half precision, as one file and in shards, in formats of other programs. What
//! is taken is what the loader would take of the whole folder, and no byte more.

use std::collections::BTreeSet;

/// Configurations and vocabularies, by the names they have in every folder.
const SMALL_FILES: [&str; 9] = [
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "scheduler_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
];
/// Says which parts there are.
pub(super) const MODEL_INDEX: &str = "model_index.json";
/// Base names of weights, and the endings of one file and of an index of shards, each in the order in which the loader looks for them.
const BASE_NAMES: [&str; 2] = ["diffusion_pytorch_model", "model"];
const ENDINGS: [(&str, &str); 2] = [("safetensors", "safetensors.index.json"), ("fp16.safetensors", "safetensors.index.fp16.json")];

/// The weights of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    File(String),
    /// The index of shards.
    Shards(String),
}

/// The files that tell what the model is, but for its weights.
pub(super) fn small_files<'a>(names: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    let is_small = |name: &&str| match name.split_once('/') {
        None => *name == MODEL_INDEX,
        Some((_, file)) => SMALL_FILES.contains(&file),
    };
    names.map(String::as_str).filter(is_small).collect()
}

/// The weights in a part's folder, if there are any that can be read.
pub(super) fn weights(part: &str, has: impl Fn(&str) -> bool) -> Option<Weights> {
    for (single, sharded) in ENDINGS {
        for base in BASE_NAMES {
            let file = format!("{part}/{base}.{single}");
            if has(&file) {
                return Some(Weights::File(file));
            }
            let index = format!("{part}/{base}.{sharded}");
            if has(&index) {
                return Some(Weights::Shards(index));
            }
        }
    }
    None
}

/// The only safetensors file beside no folder, where a repository holds one file and no pipeline.
///
/// # Errors
/// With what there is instead.
pub(super) fn only_file<'a>(names: impl Iterator<Item = &'a String>) -> Result<&'a str, String> {
    let weights: Vec<&str> = names.map(String::as_str).filter(|name| name.ends_with(".safetensors") && !name.contains('/')).collect();
    match weights.as_slice() {
        [only] => Ok(only),
        [] => Err(format!("the source has neither a {MODEL_INDEX} nor a .safetensors file beside it; name the file that is meant")),
        several => {
            const SHOWN: usize = 8;
            let shown = several.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
            Err(format!("the source has {} .safetensors files ({shown}); name the one that is meant", several.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn full_precision_goes_before_half_and_one_file_before_shards() {
        let choose = |files: &[&str]| weights("unet", |name| files.iter().any(|file| format!("unet/{file}") == name));
        let file = |name: &str| Some(Weights::File(format!("unet/{name}")));
        let full = "diffusion_pytorch_model.safetensors";
        let half = "diffusion_pytorch_model.fp16.safetensors";
        let index = "diffusion_pytorch_model.safetensors.index.json";
        assert_eq!(choose(&[half, full, index, "diffusion_pytorch_model.bin"]), file(full));
        assert_eq!(choose(&[half, index]), Some(Weights::Shards(format!("unet/{index}"))));
        assert_eq!(choose(&[half]), file(half));
        assert_eq!(choose(&["diffusion_pytorch_model.bin", "diffusion_pytorch_model.non_ema.safetensors"]), None);
    }

    #[test]
    fn configurations_are_taken_and_nothing_else() {
        let all = names(&[
            "README.md",
            MODEL_INDEX,
            "unet/config.json",
            "unet/x.safetensors",
            "tokenizer/vocab.json",
            "vae/deep/config.json",
            "config.json",
        ]);
        assert_eq!(small_files(all.iter()).into_iter().collect::<Vec<_>>(), [MODEL_INDEX, "tokenizer/vocab.json", "unet/config.json"]);
    }

    #[test]
    fn a_repository_of_one_file_is_that_file() {
        assert_eq!(only_file(names(&["README.md", "a.safetensors", "x/b.safetensors"]).iter()), Ok("a.safetensors"));
        assert!(only_file(names(&["README.md"]).iter()).is_err());
        assert!(only_file(names(&["a.safetensors", "b.safetensors"]).iter()).unwrap_err().contains("a.safetensors, b.safetensors"));
    }
}
