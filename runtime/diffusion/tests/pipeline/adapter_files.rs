//! Adapter files of every format for the tiny model: random, the same bytes every time.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use diffusion::adapter::{Adapter, AdapterError, AdapterFile};
use diffusion::sampler::gaussian;
use diffusion::{DType, Device, Tensor};

pub(crate) const QUERY: &str = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
pub(crate) const TEXT: &str = "text_model_encoder_layers_0_mlp_fc1";

/// A file in the making.
#[derive(Clone, Default)]
pub(crate) struct AdapterTensors {
    pub(crate) tensors: HashMap<String, Tensor>,
    draws: u32,
}

impl AdapterTensors {
    /// A random tensor, small enough that signals keep their size.
    pub(crate) fn random(mut self, name: &str, shape: &[usize]) -> Self {
        self.draws += 1;
        let values: Vec<f32> = gaussian(11, 0, self.draws, shape.iter().product()).iter().map(|value| 0.4 * value).collect();
        self.with(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    }

    pub(crate) fn with(mut self, name: &str, tensor: Tensor) -> Self {
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    pub(crate) fn number(self, name: &str, value: f32) -> Self {
        self.with(name, Tensor::new(value, &Device::Cpu).unwrap())
    }

    /// Positive lengths around 1.
    fn lengths(self, name: &str, shape: &[usize]) -> Self {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|at| 0.7 + 0.05 * (at % 13) as f32).collect();
        self.with(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    }

    /// down and up of one module in kohya's names; `down` and `up` are shapes.
    pub(crate) fn low_rank(self, module: &str, down: &[usize], up: &[usize]) -> Self {
        self.random(&format!("{module}.lora_down.weight"), down).random(&format!("{module}.lora_up.weight"), up)
    }

    pub(crate) fn write(&self, path: &Path) {
        safetensors::serialize_to_file(self.tensors.iter(), None, path).unwrap();
    }

    pub(crate) fn open(&self) -> Result<AdapterFile, AdapterError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter.safetensors");
        self.write(&path);
        AdapterFile::open(&path)
    }

    /// Written somewhere and loaded in f32 on the CPU.
    pub(crate) fn load(&self) -> Result<Arc<Adapter>, AdapterError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter.safetensors");
        self.write(&path);
        AdapterFile::open(&path)?.load(&Device::Cpu, DType::F32, None).map(Arc::new)
    }
}

/// LoRA on linear layers of denoiser and text encoder, on 1×1 and 3×3 convolutions, one of stride 2, one with a core; ranks differ.
pub(crate) fn low_rank() -> AdapterTensors {
    AdapterTensors::default()
        .low_rank(&format!("lora_unet_{QUERY}"), &[4, 16], &[16, 4])
        .number(&format!("lora_unet_{QUERY}.alpha"), 2.0)
        .low_rank("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", &[3, 24], &[16, 3])
        .low_rank("lora_unet_down_blocks_0_resnets_0_time_emb_proj", &[2, 64], &[16, 2])
        .low_rank("lora_unet_mid_block_attentions_0_proj_in", &[2, 32, 1, 1], &[32, 2, 1, 1])
        .low_rank("lora_unet_down_blocks_0_downsamplers_0_conv", &[2, 16, 3, 3], &[16, 2, 1, 1])
        .low_rank("lora_unet_down_blocks_0_resnets_0_conv1", &[5, 16, 1, 1], &[16, 5, 1, 1])
        .random("lora_unet_down_blocks_0_resnets_0_conv1.lora_mid.weight", &[5, 5, 3, 3])
        .low_rank(&format!("lora_te_{TEXT}"), &[4, 24], &[48, 4])
        .number(&format!("lora_te_{TEXT}.alpha"), 8.0)
}

/// DoRA over outputs in peft's names, on a linear layer, a convolution and the text encoder.
pub(crate) fn dora() -> AdapterTensors {
    let mut tensors = AdapterTensors::default();
    for (module, down, up, lengths) in [
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v", &[2_usize, 16][..], &[16_usize, 2][..], &[16_usize][..]),
        ("unet.down_blocks.0.resnets.0.conv2", &[2, 16, 3, 3], &[16, 2, 1, 1], &[1, 16, 1, 1]),
        ("text_encoder.text_model.encoder.layers.1.self_attn.out_proj", &[2, 24], &[24, 2], &[24]),
    ] {
        tensors = tensors.random(&format!("{module}.lora_A.weight"), down).random(&format!("{module}.lora_B.weight"), up);
        tensors = tensors.lengths(&format!("{module}.lora_magnitude_vector.weight"), lengths);
    }
    tensors
}

/// LoHa on a linear layer and on a convolution with cores, with DoRA over inputs.
pub(crate) fn hadamard() -> AdapterTensors {
    let (linear, conv) = (format!("lora_unet_{QUERY}"), "lora_unet_down_blocks_0_resnets_0_conv1");
    let mut tensors = AdapterTensors::default().number(&format!("{linear}.alpha"), 1.0).lengths(&format!("{linear}.dora_scale"), &[1, 16]);
    for (name, shape) in [("hada_w1_a", [16, 3]), ("hada_w1_b", [3, 16]), ("hada_w2_a", [16, 3]), ("hada_w2_b", [3, 16])] {
        tensors = tensors.random(&format!("{linear}.{name}"), &shape);
    }
    for (name, shape) in [("hada_w1_a", [2, 16]), ("hada_w1_b", [2, 16]), ("hada_w2_a", [2, 16]), ("hada_w2_b", [2, 16])] {
        tensors = tensors.random(&format!("{conv}.{name}"), &shape);
    }
    let core = [2, 2, 3, 3];
    tensors
        .random(&format!("{conv}.hada_t1"), &core)
        .random(&format!("{conv}.hada_t2"), &core)
        .lengths(&format!("{conv}.dora_scale"), &[1, 16, 1, 1])
}

/// LoKr on a linear layer and on two convolutions, in SGM names, whole and in factors.
pub(crate) fn kronecker() -> AdapterTensors {
    let query = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q";
    let (conv, down) = ("lora_unet_input_blocks_1_0_in_layers_2", "lora_unet_input_blocks_2_0_op");
    AdapterTensors::default()
        .random(&format!("{query}.lokr_w1"), &[4, 2])
        .random(&format!("{query}.lokr_w2_a"), &[4, 3])
        .random(&format!("{query}.lokr_w2_b"), &[3, 8])
        .number(&format!("{query}.alpha"), 1.5)
        .random(&format!("{conv}.lokr_w1_a"), &[2, 1])
        .random(&format!("{conv}.lokr_w1_b"), &[1, 4])
        .random(&format!("{conv}.lokr_w2_a"), &[2, 8])
        .random(&format!("{conv}.lokr_w2_b"), &[2, 4])
        .random(&format!("{conv}.lokr_t2"), &[2, 2, 3, 3])
        .random(&format!("{down}.lokr_w1"), &[8, 8])
        .random(&format!("{down}.lokr_w2"), &[2, 2, 3, 3])
}

/// Whole differences of weights and biases.
pub(crate) fn full() -> AdapterTensors {
    AdapterTensors::default()
        .random("lora_unet_down_blocks_0_resnets_0_conv1.diff", &[16, 16, 3, 3])
        .random("lora_unet_down_blocks_0_resnets_0_conv1.diff_b", &[16])
        .random(&format!("lora_te_{TEXT}.diff"), &[48, 24])
        .random(&format!("lora_te_{TEXT}.diff_b"), &[48])
}

/// One of each format, by name.
pub(crate) fn every_format() -> Vec<(&'static str, AdapterTensors)> {
    vec![("low rank", low_rank()), ("dora", dora()), ("hadamard", hadamard()), ("kronecker", kronecker()), ("full", full())]
}
