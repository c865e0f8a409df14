//! Checkpoints that are one file: how they are recognised, and what is said of files that are none.

use std::path::{Path, PathBuf};

use diffusion::family::{FAMILIES, recognise};
use diffusion::model::{Expectation, ExpectedLayout, ModelFiles, ModelFolder};
use diffusion::weights::{WeightSource, open_file};

use crate::tiny_model::TinyModel;

/// A tensor in a header: name, dtype, shape.
pub(crate) type Entry = (String, &'static str, Vec<usize>);

fn bytes(dtype: &str) -> usize {
    match dtype {
        "F8_E4M3" => 1,
        "F16" | "BF16" => 2,
        "F64" | "I64" => 8,
        _ => 4,
    }
}

/// A sparse file: the header, and a hole where the numbers would be.
pub(crate) fn write_hole(path: &Path, entries: &[Entry], metadata: &[(&str, &str)]) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape) in entries {
        let begin = end;
        end += shape.iter().product::<usize>() * bytes(dtype);
        header.insert(name.clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
    }
    if !metadata.is_empty() {
        header.insert(
            "__metadata__".to_owned(),
            metadata.iter().map(|(key, value)| ((*key).to_owned(), serde_json::Value::from(*value))).collect(),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

/// The header of a family's published checkpoint, at full size.
fn published(family: &str, dtype: &'static str) -> Vec<Entry> {
    let expectation = Expectation::of(family, ExpectedLayout::Original).unwrap();
    let tensors = expectation.parts.into_iter().flat_map(|part| part.tensors);
    tensors.map(|tensor| (tensor.name, dtype, tensor.shape)).collect()
}

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, entries: &[Entry]) -> PathBuf {
        let path = self.0.path().join("model.safetensors");
        write_hole(&path, entries, &[]);
        path
    }

    fn refusal(&self, entries: &[Entry]) -> String {
        ModelFolder::open(&self.file(entries)).unwrap_err().to_string()
    }
}

fn entries(names: &[&str]) -> Vec<Entry> {
    names.iter().map(|name| ((*name).to_owned(), "F32", vec![2, 2])).collect()
}

#[test]
fn every_family_that_is_served_is_recognised_by_its_published_header_and_would_load() {
    let desk = Desk::new();
    for family in FAMILIES.iter().map(|family| family.name()) {
        for dtype in ["F16", "BF16", "F32", "F8_E4M3"] {
            let mut entries = published(family, dtype);
            let file = desk.file(&entries);
            let recognised = recognise(open_file(&file).unwrap().index());
            assert_eq!(recognised.iter().map(|found| found.family).collect::<Vec<_>>(), [family]);
            if recognised[0].reads_t5 {
                let message = ModelFolder::open(&file).unwrap_err().to_string();
                assert!(message.contains("T5") && message.contains("--config"), "{message}");
                continue;
            }
            entries.push(("model_ema.decay".to_owned(), "F32", vec![]));
            let open = ModelFolder::open(&desk.file(&entries)).unwrap();
            assert_eq!(open.unused(), ["model_ema.decay"], "{family}");
        }
    }
}

#[test]
fn variants_of_a_family_are_told_apart_by_shapes_and_marks() {
    let configuration = |family, change: &dyn Fn(&mut Vec<Entry>), metadata: &[(&str, &str)]| {
        let desk = Desk::new();
        let mut entries = published(family, "F16");
        change(&mut entries);
        let path = desk.0.path().join("model.safetensors");
        write_hole(&path, &entries, metadata);
        recognise(open_file(&path).unwrap().index())[0].configuration
    };
    let inpainting = |entries: &mut Vec<Entry>| {
        let first = entries.iter_mut().find(|(name, ..)| name.ends_with("input_blocks.0.0.weight")).unwrap();
        first.2[1] = 9;
    };
    assert_eq!(configuration("sd15", &|_| (), &[]), "sd15");
    assert_eq!(configuration("sd15", &inpainting, &[]), "sd15-inpainting");
    let without_text = |entries: &mut Vec<Entry>| entries.retain(|(name, ..)| name.starts_with("model.diffusion_model."));
    assert_eq!(configuration("sd15", &without_text, &[]), "sd15");
}

#[test]
fn what_is_no_checkpoint_is_told_with_what_to_do() {
    let desk = Desk::new();
    for (names, kind, remedy) in [
        (&["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"][..], "an adapter", "beside the model"),
        (&["unet.mid_block.attentions.0.proj_in.lora_A.weight"], "an adapter", "beside the model"),
        (&["control_model.input_blocks.0.0.weight", "control_model.time_embed.0.bias"], "a ControlNet", "checkpoint"),
        (&["emb_params"], "a textual inversion", "embedding"),
        (&["clip_l", "clip_g"], "a textual inversion", "embedding"),
        (&["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"], "a language model", "makes images"),
        (&["encoder.conv_in.weight", "decoder.conv_in.weight"], "an autoencoder (VAE) alone", "component vae"),
        (&["first_stage_model.decoder.conv_in.weight"], "an autoencoder (VAE) alone", "component vae"),
        (&["text_model.embeddings.token_embedding.weight"], "a text encoder alone", "text encoder"),
        (&["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"], "a text encoder alone", "text encoder"),
        (&["conv_in.weight", "down_blocks.0.resnets.0.norm1.weight"], "alone, in diffusers' names", "whole pipeline"),
        (&["transformer_blocks.0.attn.to_q.weight"], "a transformer alone", "whole pipeline"),
        (&["conv_first.weight", "body.0.rdb1.conv1.weight"], "an upscaler", "makes images"),
        (&["model.diffusion_model.blocks.0.self_attn.q.weight"], "a family that is not served", "docs/checkpoints.md"),
        (&["a", "b"], "nothing known, with 2 tensors such as a, b", "docs/checkpoints.md"),
        (&[], "a file without tensors", "docs/checkpoints.md"),
    ] {
        let message = desk.refusal(&entries(names));
        assert!(message.contains(kind) && message.contains(remedy) && message.contains("model.safetensors"), "{names:?}: {message}");
    }
}

#[test]
fn damaged_and_mixed_checkpoints_are_refused_by_their_own_names() {
    let desk = Desk::new();
    let changed = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = published("sd15", "F16");
        change(&mut entries);
        desk.refusal(&entries)
    };
    let at = |entries: &[Entry], end: &str| entries.iter().position(|(name, ..)| name.ends_with(end)).unwrap();
    let time = "model.diffusion_model.time_embed.2.bias";

    let message = changed(&|entries| entries.retain(|(name, ..)| name != time));
    assert!(message.contains("1 tensor is missing") && message.contains(time) && message.contains("unet"), "{message}");
    let message = changed(&|entries| {
        let at = at(entries, "first_stage_model.decoder.mid.attn_1.q.weight");
        entries[at].2 = vec![512, 512, 3, 3];
    });
    assert!(message.contains("decoder.mid.attn_1.q.weight (configuration [512, 512, 1, 1], file [512, 512, 3, 3])"), "{message}");
    for dtype in ["F64", "I64", "BOOL"] {
        let message = changed(&|entries| {
            let at = at(entries, time);
            entries[at].1 = dtype;
            entries[at].2 = if dtype == "BOOL" { vec![1280, 4] } else { vec![1280] };
        });
        assert!(message.contains(time), "{dtype}: {message}");
    }
    let message = changed(&|entries| entries.push(("joint_blocks.0.x_block.attn.qkv.weight".to_owned(), "F16", vec![4, 4])));
    assert!(message.contains("sd15 and of sd3") && message.contains("mixed up"), "{message}");
    let message = changed(&|entries| entries.push(("model.diffusion_model.out.2.scale_weight".to_owned(), "F32", vec![])));
    assert!(message.contains("out.2.scale_weight") && message.contains("scaled 8-bit"), "{message}");
    let message = changed(&|entries| entries.retain(|(name, ..)| !name.starts_with("first_stage_model.")));
    assert!(message.contains("sd15 without a vae") && message.contains("--config"), "{message}");
}

#[test]
fn cut_files_and_huge_headers_are_refused_before_anything_is_read() {
    let desk = Desk::new();
    let path = desk.file(&published("sd15", "F16"));
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    let message = ModelFolder::open(&path).unwrap_err().to_string();
    assert!(message.contains("truncated"), "{message}");
    std::fs::write(&path, (100_u64 << 20).to_le_bytes()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(200 << 20).unwrap();
    let message = ModelFolder::open(&path).unwrap_err().to_string();
    assert!(message.contains("claims 104857600 bytes"), "{message}");
}

#[test]
fn files_that_do_not_go_together_are_refused() {
    let desk = Desk::new();
    let folder = desk.0.path().join("folder");
    TinyModel::default().write(&folder);
    let file = desk.file(&published("sd15", "F16"));
    let refused = |files: &ModelFiles| ModelFolder::open_files(files).unwrap_err().to_string();
    let with = |model: &Path, config: Option<&Path>| ModelFiles { config: config.map(Path::to_owned), ..ModelFiles::of(model) };

    // The file is of full size, the configuration is not.
    assert!(
        refused(&with(&file, Some(&folder))).contains("model.diffusion_model.")
            || refused(&with(&file, Some(&folder))).contains("cond_stage_model.")
    );
    assert!(refused(&with(&folder, Some(&folder))).contains("--config is for a single file"));
    assert!(refused(&with(&file, Some(&file))).contains("is not a folder"));
    assert!(refused(&ModelFiles::of("/nowhere/at/all")).contains("is not there"));
    assert!(refused(&ModelFiles::of("built-in:sd15")).contains("is not there"));
    let component = |name: &str| ModelFiles { components: [(name.to_owned(), folder.clone())].into(), ..ModelFiles::of(&folder) };
    assert!(refused(&component("vea")).contains("no component vea; it has text_encoder, unet, vae"));
    assert!(ModelFolder::open_files(&component("vae")).is_ok());
}
