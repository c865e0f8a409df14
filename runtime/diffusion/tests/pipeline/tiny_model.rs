//! Writes tiny random Stable Diffusion models in diffusers' layout: no Python, the same bytes every time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use diffusion::family;
use diffusion::layers::{ParameterSource, PartSources};
use diffusion::model::{Model, ModelFolder};
use diffusion::sampler::gaussian;
use diffusion::weights::WeightsError;
use diffusion::{DType, Device, Tensor};
use serde_json::{Value, json};

/// The configuration files, free to be changed before [`TinyModel::write`].
pub(crate) struct TinyModel {
    pub(crate) model_index: Value,
    /// Null where there is none.
    pub(crate) text_encoder: Value,
    /// Null where there is none.
    pub(crate) text_encoder_2: Value,
    pub(crate) unet: Value,
    pub(crate) vae: Value,
    pub(crate) scheduler: Value,
}

/// Letters the tokenizer knows, and a comma; everything else is unknown to it.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
const COMMA: &str = ",</w>";
/// Features of its tokens; a second text encoder's are wider by 8.
pub(crate) const WIDTH: usize = 24;
/// Features of the pooled text.
const POOLED: usize = 12;
/// Features of each size or score.
const ID: usize = 4;

impl Default for TinyModel {
    fn default() -> Self {
        Self {
            model_index: json!({
                "_class_name": "StableDiffusionPipeline",
                "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"], "safety_checker": [null, null],
            }),
            text_encoder: text_encoder(WIDTH, "quick_gelu"),
            text_encoder_2: Value::Null,
            unet: json!({
                "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": [2, 4],
                "cross_attention_dim": WIDTH, "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], "sample_size": 8,
            }),
            vae: json!({
                "block_out_channels": [8, 8, 8, 16], "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 4,
                "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
                "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
            }),
            scheduler: json!({
                "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1, "num_train_timesteps": 1000,
            }),
        }
    }
}

fn text_encoder(width: usize, activation: &str) -> Value {
    json!({
        "vocab_size": 2 * LETTERS.len() + 3, "hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": 77, "hidden_act": activation, "layer_norm_eps": 1e-5,
        "projection_dim": POOLED, "eos_token_id": 2,
    })
}

impl TinyModel {
    /// Stable Diffusion XL.
    pub(crate) fn with_two_encoders() -> Self {
        let mut model = Self { text_encoder_2: text_encoder(WIDTH + 8, "gelu"), ..Self::default() };
        model.model_index["_class_name"] = json!("StableDiffusionXLPipeline");
        model.model_index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
        model.unet["cross_attention_dim"] = json!(2 * WIDTH + 8);
        model.unet["addition_embed_type"] = json!("text_time");
        model.unet["addition_time_embed_dim"] = json!(ID);
        model.unet["projection_class_embeddings_input_dim"] = json!(POOLED + 6 * ID);
        model.unet["use_linear_projection"] = json!(true);
        model.unet["transformer_layers_per_block"] = json!([1, 2]);
        model
    }

    /// The refiner of Stable Diffusion XL.
    pub(crate) fn refiner() -> Self {
        let mut model = Self { text_encoder: Value::Null, ..Self::with_two_encoders() };
        model.model_index["_class_name"] = json!("StableDiffusionXLImg2ImgPipeline");
        model.model_index["text_encoder"] = json!([null, null]);
        model.unet["cross_attention_dim"] = json!(WIDTH + 8);
        model.unet["projection_class_embeddings_input_dim"] = json!(POOLED + 5 * ID);
        model
    }

    /// Writes configurations, tokenizer and the weights that the configurations describe.
    pub(crate) fn write(&self, folder: &Path) {
        for (name, value) in [
            ("model_index.json", &self.model_index),
            ("scheduler/scheduler_config.json", &self.scheduler),
            ("text_encoder/config.json", &self.text_encoder),
            ("text_encoder_2/config.json", &self.text_encoder_2),
            ("unet/config.json", &self.unet),
            ("vae/config.json", &self.vae),
        ] {
            if !value.is_null() {
                write(folder, name, &value.to_string());
            }
        }
        write_clip_tokenizer(folder, "tokenizer");
        write_clip_tokenizer(folder, "tokenizer_2");
        write_weights(folder);
    }

    /// Writes it somewhere and loads it in f32 on the CPU.
    pub(crate) fn load(&self) -> Arc<Model> {
        let folder = tempfile::tempdir().expect("folder");
        self.write(folder.path());
        let open = ModelFolder::open(folder.path()).expect("model");
        Arc::new(open.load(&Device::Cpu, DType::F32, &mut |_| {}).expect("load"))
    }
}

/// Random weights for all that the folder's configurations describe.
pub(crate) fn write_weights(folder: &Path) {
    let spec = family::open(folder).expect("spec");
    let parts = RandomParts(spec.parts().iter().map(|part| (part.folder, RandomSource::default())).collect());
    spec.conditioner(&parts).expect("conditioner");
    spec.denoiser(&parts).expect("denoiser");
    spec.vae(&parts).expect("vae");
    for (part, source) in parts.0 {
        let file = if part.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
        source.save(&folder.join(part).join(format!("{file}.safetensors")));
    }
}

/// Writes the tokenizer of letters into the model's part `name`.
pub(crate) fn write_clip_tokenizer(folder: &Path, name: &str) {
    let letters = LETTERS.chars().map(String::from);
    let tokens = letters.clone().chain(letters.map(|letter| letter + "</w>"));
    let tokens = tokens.chain(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned(), COMMA.to_owned()]);
    let vocabulary: serde_json::Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    write(folder, &format!("{name}/vocab.json"), &Value::Object(vocabulary).to_string());
    write(folder, &format!("{name}/merges.txt"), "#version: 0.2\n");
    let special = json!({
        "model_max_length": 77, "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    });
    write(folder, &format!("{name}/tokenizer_config.json"), &special.to_string());
}

pub(crate) fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
    std::fs::write(path, content).expect("file");
}

/// One for each part.
struct RandomParts(HashMap<&'static str, RandomSource>);

impl PartSources for RandomParts {
    fn part(&self, folder: &'static str) -> Result<&dyn ParameterSource, WeightsError> {
        self.0.get(folder).map(|source| source as _).ok_or(WeightsError::NoPart { folder })
    }
}

/// Answers with random numbers, scaled so that signals keep their size, and remembers them.
#[derive(Default)]
struct RandomSource {
    made: RefCell<Vec<(String, Tensor)>>,
    draws: RefCell<u32>,
}

impl RandomSource {
    fn save(&self, path: &Path) {
        let made: HashMap<String, Tensor> = self.made.take().into_iter().collect();
        safetensors::serialize_to_file(made.iter(), None, path).expect("weights");
    }
}

impl ParameterSource for RandomSource {
    fn get(&self, path: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        *self.draws.borrow_mut() += 1;
        let count: usize = shape.iter().product();
        let fan_in: usize = shape.iter().skip(1).product();
        let (mean, deviation) = match (shape.len(), path.ends_with("weight")) {
            (1, true) => (1.0, 0.2),
            (1, false) => (0.0, 0.1),
            _ => (0.0, 1.0 / (fan_in as f32).sqrt()),
        };
        let values: Vec<f32> = gaussian(7, 0, *self.draws.borrow(), count).iter().map(|value| mean + deviation * value).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("tensor");
        self.made.borrow_mut().push((path.to_owned(), tensor.clone()));
        Ok(tensor)
    }

    fn has(&self, _path: &str) -> bool {
        true
    }
}
