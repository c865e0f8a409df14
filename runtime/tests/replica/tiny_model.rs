//! Model folders in diffusers' layout with the blocks of Stable Diffusion, a few channels wide, and random weights. Their pictures are
//! noise, but each of its bits depends on all that it should.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use diffusion::family;
use diffusion::layers::{ParameterSource, PartSources};
use diffusion::weights::WeightsError;
use diffusion::{DType, Device, Tensor};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// Weights are drawn from ± this, small enough that nothing overflows.
const SPREAD: f32 = 0.2;

/// Which family a model is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Version1,
    Xl,
    XlRefiner,
}

/// Writes a Stable Diffusion 1.5 into `folder`.
pub(crate) fn write(folder: &Path) {
    write_kind(folder, Kind::Version1);
}

/// Writes a model into `folder`.
pub(crate) fn write_kind(folder: &Path, kind: Kind) {
    write_configurations(folder, kind);
    write_weights(folder);
}

/// Random weights for all that the folder's configurations describe.
pub(crate) fn write_weights(folder: &Path) {
    let spec = family::open(folder).unwrap();
    let parts = Recorders(spec.parts().iter().map(|part| (part.folder, Recorder::default())).collect());
    drop(spec.conditioner(&parts).unwrap());
    drop(spec.denoiser(&parts).unwrap());
    drop(spec.vae(&parts).unwrap());
    for (part, recorder) in parts.0 {
        let file = if part.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
        recorder.write(&folder.join(part).join(format!("{file}.safetensors")));
    }
}

/// One for each part.
struct Recorders(BTreeMap<&'static str, Recorder>);

impl PartSources for Recorders {
    fn part(&self, folder: &'static str) -> Result<&dyn ParameterSource, WeightsError> {
        self.0.get(folder).map(|recorder| recorder as _).ok_or(WeightsError::NoPart { folder })
    }
}

/// Shape and bytes of a parameter.
type Kept = (Vec<usize>, Vec<u8>);

/// Answers a network that asks for its parameters with random ones, and keeps them.
#[derive(Default)]
struct Recorder {
    drawn: Cell<u32>,
    /// By name.
    kept: RefCell<BTreeMap<String, Kept>>,
}

impl Recorder {
    /// A fixed sequence between -1 and 1, so that every run has the same model.
    fn draw(&self) -> f32 {
        let next = self.drawn.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.drawn.set(next);
        (next >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn write(&self, path: &Path) {
        let kept = self.kept.borrow();
        let views = kept.iter().map(|(name, (shape, data))| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

impl ParameterSource for Recorder {
    fn get(&self, path: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        let is_norm = shape.len() == 1 && path.ends_with("weight");
        let centre = if is_norm { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| centre + SPREAD * self.draw()).collect();
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.kept.borrow_mut().insert(path.to_owned(), (shape.to_vec(), data));
        let failed = |source| WeightsError::Tensor { name: path.to_owned(), source };
        Tensor::from_vec(values, shape, &Device::Cpu).and_then(|tensor| tensor.to_dtype(DType::F32)).map_err(failed)
    }

    fn has(&self, _path: &str) -> bool {
        false
    }
}

/// Features of the pooled text.
const POOLED: usize = 8;
/// Features of each size or score.
const ID: usize = 4;
/// Features of a text encoder's tokens.
const TEXT: usize = 16;

/// Writes one of a model's files.
pub(crate) fn put(folder: &Path, name: &str, value: &Value) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

fn write_configurations(folder: &Path, kind: Kind) {
    let pipeline = match kind {
        Kind::Version1 => "StableDiffusionPipeline",
        Kind::Xl => "StableDiffusionXLPipeline",
        Kind::XlRefiner => "StableDiffusionXLImg2ImgPipeline",
    };
    let mut index = json!({
        "_class_name": pipeline,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    let mut unet = json!({
        "_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "sample_size": 8, "layers_per_block": 1,
        "block_out_channels": [16, 32], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": TEXT, "attention_head_dim": 2, "norm_num_groups": 8,
    });
    if kind != Kind::XlRefiner {
        index["text_encoder"] = json!(["transformers", "CLIPTextModel"]);
        put_text_encoder(folder, "text_encoder", "tokenizer");
    }
    if kind != Kind::Version1 {
        index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
        put_text_encoder(folder, "text_encoder_2", "tokenizer_2");
        let (encoders, numbers) = if kind == Kind::Xl { (2, 6) } else { (1, 5) };
        unet["cross_attention_dim"] = json!(encoders * TEXT);
        unet["addition_embed_type"] = json!("text_time");
        unet["addition_time_embed_dim"] = json!(ID);
        unet["projection_class_embeddings_input_dim"] = json!(POOLED + numbers * ID);
    }
    put(folder, "model_index.json", &index);
    put(folder, "unet/config.json", &unet);
    put(
        folder,
        "scheduler/scheduler_config.json",
        &json!({
            "_class_name": "EulerDiscreteScheduler",
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
            "clip_sample": false, "prediction_type": "epsilon", "set_alpha_to_one": false, "steps_offset": 1, "timestep_spacing": "leading",
        }),
    );
    put(
        folder,
        "vae/config.json",
        &json!({
            "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 1,
            "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "scaling_factor": 0.18215,
            "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
        }),
    );
}

/// Writes a CLIP text encoder of 16 features and its tokenizer of letters.
pub(crate) fn put_text_encoder(folder: &Path, encoder: &str, tokenizer: &str) {
    let vocabulary = vocabulary();
    put(
        folder,
        &format!("{encoder}/config.json"),
        &json!({
            "model_type": "clip_text_model", "vocab_size": vocabulary.len(), "hidden_size": TEXT, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
            "bos_token_id": 0, "eos_token_id": 1, "projection_dim": POOLED,
        }),
    );
    put(folder, &format!("{tokenizer}/vocab.json"), &json!(vocabulary));
    put(folder, &format!("{tokenizer}/tokenizer_config.json"), &json!({"model_max_length": 77}));
    fs::write(folder.join(tokenizer).join("merges.txt"), "#version: 0.2\n").unwrap();
}

/// Single letters, inside and at the end of a word.
fn vocabulary() -> BTreeMap<String, u32> {
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let letters = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("{letter}</w>")]);
    special.into_iter().chain(letters).zip(0..).collect()
}
