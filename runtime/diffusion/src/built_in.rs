//! Configurations that are part of this program: those of each family's public full-size models, for checkpoints that are a single file.
//!
//! They have paths like files, `built-in:sd15/unet/config.json`, so that whatever reads a model's folder reads them too and messages name
//! them. No file can have such a path by accident: they are looked up by their first component alone.
//!
//! The data is `built_in/configurations.json`. A file is an object; or a list, of names of objects that several share and of what differs. A
//! model `like` another has the other's files, key by key, unless it says so. T5's tokenizer here knows no words, since its vocabulary cannot
//! be had as a dependency: with it configurations can be read whole, and a checkpoint that needs it is asked to bring a folder.

use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Map, Value};

/// What the first component of such a path begins with.
const PREFIX: &str = "built-in:";
/// How many models may be alike in a chain.
const MAX_ALIKE: usize = 8;

/// The path of a model's folder.
pub(crate) fn folder(model: &str) -> PathBuf {
    PathBuf::from(format!("{PREFIX}{model}"))
}

/// Whether a path is one of these.
pub(crate) fn is_built_in(path: &Path) -> bool {
    parts(path).is_some()
}

/// The object that is the file at `path`; `None` where there is no such file, or the path is not one of these.
pub(crate) fn file(path: &Path) -> Option<Map<String, Value>> {
    let (model, part) = parts(path)?;
    // A part has one file: config.json, scheduler_config.json, tokenizer_config.json or tokenizer.json.
    let name = path.file_name()?.to_str()?;
    (["model_index.json", "tokenizer.json"].contains(&name) || name.ends_with("config.json")).then_some(())?;
    of_model(model, part.strip_suffix(".json").unwrap_or(part), MAX_ALIKE)
}

/// Model, and the folder within it or the file beside the folders.
fn parts(path: &Path) -> Option<(&str, &str)> {
    let mut components = path.components().map(Component::as_os_str);
    let model = components.next()?.to_str()?.strip_prefix(PREFIX)?;
    Some((model, components.next().unwrap_or_default().to_str()?))
}

fn data() -> &'static Value {
    static DATA: OnceLock<Value> = OnceLock::new();
    // A test reads every file of every model.
    DATA.get_or_init(|| serde_json::from_str(include_str!("built_in/configurations.json")).unwrap_or_default())
}

fn of_model(model: &str, part: &str, depth: usize) -> Option<Map<String, Value>> {
    let values = data()["models"].get(model)?;
    let inherited = values.get("like").and_then(Value::as_str).zip(depth.checked_sub(1));
    let mut file = inherited.and_then(|(like, depth)| of_model(like, part, depth));
    match values.get(part) {
        None => {}
        Some(Value::Object(differing)) => file.get_or_insert_default().extend(differing.clone()),
        // A list is whole by itself.
        Some(pieces) => {
            let piece = |piece: &Value| piece.as_str().map_or(piece, |name| &data()["shared"][name]).as_object().cloned();
            file = Some(pieces.as_array()?.iter().filter_map(piece).flatten().collect());
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, key: &str) -> Option<Value> {
        file(Path::new(path)).and_then(|file| file.get(key).cloned())
    }

    #[test]
    fn files_are_found_by_path_and_models_differ_key_by_key() {
        assert_eq!(get("built-in:sd15/unet/config.json", "in_channels"), Some(4.into()));
        assert_eq!(get("built-in:sd15-inpainting/unet/config.json", "in_channels"), Some(9.into()));
        assert_eq!(get("built-in:sd15-inpainting/unet/config.json", "cross_attention_dim"), Some(768.into()));
        assert_eq!(get("built-in:sd21-inpainting/scheduler/scheduler_config.json", "prediction_type"), Some("epsilon".into()));
        assert_eq!(get("built-in:sd21-inpainting/text_encoder/config.json", "hidden_size"), Some(1024.into()));
        assert_eq!(get("built-in:flux-schnell/vae/config.json", "shift_factor"), Some(0.1159.into()));
        assert_eq!(get("built-in:sdxl-refiner/model_index.json", "requires_aesthetics_score"), Some(true.into()));
        for path in [
            "built-in:sd15/tokenizer/added_tokens.json",
            "built-in:sd15/nothing/config.json",
            "built-in:nothing/unet/config.json",
            "built-in:sd15",
            "sd15/unet/config.json",
        ] {
            assert_eq!(file(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn every_declared_part_of_every_model_has_its_file() {
        for model in data()["models"].as_object().unwrap().keys() {
            let index = file(&folder(model).join("model_index.json")).unwrap();
            for (part, class) in index.iter().filter(|(_, class)| class.is_array() && !class[0].is_null()) {
                // T5's vocabulary cannot be had as a dependency.
                let is_t5 = class[1] == "T5TokenizerFast";
                assert!(
                    is_t5 || file(&folder(model).join(part).join("config.json")).is_some_and(|file| !file.is_empty()),
                    "{model} {part}"
                );
            }
        }
    }
}
