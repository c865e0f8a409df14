//! `trace`: every step's latents, to compare with another implementation.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::Args;
use diffusion::picture::{GrayImage, RgbImage};
use diffusion::pipeline::{GivenLatents, ImageState, InjectedTensors, decode};
use diffusion::{DType, Device, Tensor};
use runtime_api::ImageRequest;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::adapter;
use super::model_files::ModelArguments;
use super::rounds::step_all;
use crate::atomic_file;
use crate::canvas::{Canvas, Pictures};
use crate::embeddings::word;
use crate::engine::{DeviceName, Diffusion, Embedding, Engine, NamedEmbedding, Precision, Request};
use crate::request::{Limits, complete};

/// A request is prompts and numbers.
const MAX_REQUEST_BYTES: u64 = 1 << 20;
/// Noise for a thousand steps of a 512×512 image is 64 MiB.
const MAX_TENSORS_BYTES: u64 = 1 << 30;
/// All latents are kept until they are written.
const MAX_TRACE_BYTES: usize = 4 << 30;
/// Names of the noise tensors begin so; the draw's number follows.
const NOISE_PREFIX: &str = "noise.";
/// What a tensors file may hold.
const ACCEPTED: &str = "latents_init, noise.N, image, mask_image, image_latents";

/// Run one request and write the latents after every solver call, to compare with another implementation.
///
/// The request is the canonical image request as JSON; its embeddings, and `model` of its adapters, are paths of files. The tensors may hold
/// `latents_init` [n,c,h,w] (unit variance, before the sampler's first scale) and `noise.0`, `noise.1`, … (all other random draws in
/// diffusers' order, [n,c,h,w] each; none means drawn from the seed).
/// Tasks that begin with pictures take `image` [h,w,3] and `mask_image` [h,w], both in 0…1, and image-to-image `image_latents` [n or 1,c,h,w]
/// in place of what the autoencoder makes of the image, or alone in place of an image. The output holds `step_latents` [calls,n,c,h,w] and `image` [n,h,w,3] in 0…1, which
/// is what the autoencoder made, also outside of a mask.
#[derive(Debug, Args)]
pub(super) struct Trace {
    #[command(flatten)]
    model: ModelArguments,
    /// JSON file with the request.
    #[arg(long, env = "EMULSION_REQUEST")]
    request: PathBuf,
    /// safetensors file with what takes the place of random draws.
    #[arg(long, env = "EMULSION_TENSORS")]
    tensors: Option<PathBuf>,
    /// safetensors file to write.
    #[arg(long, env = "EMULSION_OUTPUT")]
    output: PathBuf,
    /// Device to run on: cpu, cuda or cuda:N.
    #[arg(long, env = "EMULSION_DEVICE", default_value = "cpu")]
    device: DeviceName,
    /// Precision of weights and activations.
    #[arg(long, env = "EMULSION_DTYPE", value_enum, default_value = "f32")]
    dtype: Precision,
}

impl Trace {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let request = read_request(&self.request).with_context(|| format!("read request {}", self.request.display()))?;
        let (pictures, mut injected) = match &self.tensors {
            Some(path) => read_tensors(path).with_context(|| format!("read tensors {}", path.display()))?,
            None => Default::default(),
        };
        let engine = Diffusion::open(self.device, self.dtype)?;
        let folder = engine.open(&self.model.key())?;
        let model = Arc::new(engine.load(&folder, None, &mut |_, _| ())?);
        let defaults = engine.facts(&model).defaults;
        let adapters = request.adapters.iter().map(|asked| adapter::open(&engine, Path::new(&asked.model), asked.scale));
        let (embeddings, adapters) = (open_embeddings(&request)?, adapters.collect::<anyhow::Result<_>>()?);
        let limits = Limits::default();
        let canvas = match (&pictures.image, injected.image_latents.take()) {
            (None, Some(latents)) => Some(Canvas::of_latents(&request, GivenLatents(latents), model.spec().latent_scale(), &limits)?),
            (_, latents) => {
                injected.image_latents = latents;
                Canvas::new(&request, &pictures, &limits)?
            }
        };
        let request = Request { embeddings, adapters, ..complete(&request, canvas.as_ref(), &defaults, &limits, rand::random())? };
        let mut images = engine
            .prepare_injected(&model, &request, &injected)
            .context("make images from the request with latents_init and noise.N as given")?;
        let step_latents = run_all(&engine, &mut images)?;
        let image = finished(&images)?;
        write(&self.output, &[("step_latents", step_latents), ("image", image)])
            .with_context(|| format!("write {}", self.output.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The request's embeddings are paths here; each goes by the word its file says, or else by the file's name.
fn open_embeddings(request: &ImageRequest) -> anyhow::Result<Vec<NamedEmbedding>> {
    let open = |path: &String| {
        let path = Path::new(path);
        let embedding = Embedding::open(path)?;
        Ok(NamedEmbedding { names: vec![word(&embedding, path)], embedding })
    };
    request.embeddings.iter().map(open).collect()
}

/// Steps all images to their end; `[calls, n, c, h, w]`.
fn run_all(engine: &Diffusion, images: &mut [ImageState]) -> anyhow::Result<Tensor> {
    let first = images.first().context("the request makes no image")?;
    let calls = engine.progress(first).total;
    let bytes = calls.saturating_mul(images.len()).saturating_mul(first.latents().elem_count()).saturating_mul(size_of::<f32>());
    ensure!(bytes <= MAX_TRACE_BYTES, "the trace would have {bytes} bytes; ask for fewer steps, samples or pixels");
    let mut steps = Vec::with_capacity(calls);
    while images.iter().any(|image| !image.is_finished()) {
        step_all(engine, images)?;
        let latents: Vec<&Tensor> = images.iter().map(ImageState::latents).collect();
        steps.push(Tensor::stack(&latents, 0)?);
    }
    Ok(Tensor::stack(&steps, 0)?)
}

/// `[n, h, w, 3]` in 0…1.
fn finished(images: &[ImageState]) -> anyhow::Result<Tensor> {
    let pixels = |image: &ImageState| anyhow::Ok(decode(image)?.permute((1, 2, 0))?);
    let pixels = images.iter().map(pixels).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Tensor::stack(&pixels, 0)?)
}

fn read_request(path: &Path) -> anyhow::Result<ImageRequest> {
    Ok(serde_json::from_slice(&atomic_file::read_bounded(path, MAX_REQUEST_BYTES)?)?)
}

fn read_tensors(path: &Path) -> anyhow::Result<(Pictures, InjectedTensors)> {
    let content = atomic_file::read_bounded(path, MAX_TENSORS_BYTES)?;
    injected(&SafeTensors::deserialize(&content)?)
}

fn injected(file: &SafeTensors<'_>) -> anyhow::Result<(Pictures, InjectedTensors)> {
    let mut pictures = Pictures::default();
    let mut injected = InjectedTensors::default();
    let mut noise = Vec::new();
    for (name, view) in file.tensors() {
        let tensor = || tensor(&view).with_context(|| format!("tensor {name}"));
        let bytes =
            |shape: &str, is_shape: &dyn Fn(&[usize]) -> bool| bytes(&tensor()?, shape, is_shape).with_context(|| format!("tensor {name}"));
        if name == "latents_init" {
            injected.latents_init = Some(latents(tensor()?).with_context(|| format!("tensor {name}"))?);
        } else if name == "image_latents" {
            injected.image_latents = Some(latents(tensor()?).with_context(|| format!("tensor {name}"))?);
        } else if name == "image" {
            let ([height, width], data) = bytes("[h,w,3]", &|shape| matches!(shape, [_, _, 3]))?;
            pictures.image = Some(RgbImage { width, height, data });
        } else if name == "mask_image" {
            let ([height, width], data) = bytes("[h,w]", &|shape| shape.len() == 2)?;
            pictures.mask = Some(GrayImage { width, height, data });
        } else if let Some(number) = name.strip_prefix(NOISE_PREFIX) {
            let number: usize = number.parse().with_context(|| format!("tensor {name}: the noise's number"))?;
            noise.push((number, latents(tensor()?).with_context(|| format!("tensor {name}"))?));
        } else {
            bail!("tensor {name} is not known; a tensors file may hold {ACCEPTED}");
        }
    }
    noise.sort_by_key(|(number, _)| *number);
    if let Some(at) = noise.iter().enumerate().position(|(at, (number, _))| at != *number) {
        bail!("{NOISE_PREFIX}{at} is missing; the draws are numbered from 0 without gaps");
    }
    injected.noise = noise.into_iter().map(|(_, tensor)| tensor).collect();
    Ok((pictures, injected))
}

fn latents(tensor: Tensor) -> anyhow::Result<Tensor> {
    ensure!(tensor.rank() == 4, "shape {:?} is not [n,c,h,w]", tensor.dims());
    Ok(tensor)
}

/// Height, width and the bytes that stand for 0…1.
fn bytes(tensor: &Tensor, shape: &str, is_shape: &dyn Fn(&[usize]) -> bool) -> anyhow::Result<([usize; 2], Vec<u8>)> {
    ensure!(is_shape(tensor.dims()), "shape {:?} is not {shape}", tensor.dims());
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    let data = values.into_iter().map(|value| (value * 255.0).round_ties_even() as u8).collect();
    Ok(([tensor.dims()[0], tensor.dims()[1]], data))
}

fn tensor(view: &TensorView<'_>) -> anyhow::Result<Tensor> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => bail!("dtype {other:?} is not a float; store f32"),
    };
    Ok(Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?.to_dtype(DType::F32)?)
}

fn write(path: &Path, tensors: &[(&str, Tensor)]) -> anyhow::Result<()> {
    let bytes = |tensor: &Tensor| -> anyhow::Result<Vec<u8>> {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
    };
    let data = tensors.iter().map(|(_, tensor)| bytes(tensor)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, tensor), data) in tensors.iter().zip(&data) {
        views.push((*name, TensorView::new(Dtype::F32, tensor.dims().to_vec(), data)?));
    }
    atomic_file::write(path, &safetensors::serialize(views, None)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(names: &[&str]) -> Vec<u8> {
        let data = [0_u8; 16];
        let views = names.iter().map(|name| (*name, TensorView::new(Dtype::F32, vec![1, 1, 2, 2], &data).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    fn read(names: &[&str]) -> anyhow::Result<(Pictures, InjectedTensors)> {
        injected(&SafeTensors::deserialize(&file(names)).unwrap())
    }

    #[test]
    fn draws_come_in_the_order_of_their_numbers() {
        let names: Vec<String> = (0..12).map(|number| format!("noise.{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(["latents_init"]).collect();
        let (_, read) = read(&names).unwrap();
        assert_eq!(read.noise.len(), 12);
        assert_eq!(read.latents_init.unwrap().dims(), [1, 1, 2, 2]);
    }

    #[test]
    fn gap_in_the_draws_is_refused() {
        let refused = read(&["noise.0", "noise.2"]).unwrap_err().to_string();
        assert!(refused.contains("noise.1 is missing"), "{refused}");
        assert!(read(&["noise.x"]).is_err());
    }

    #[test]
    fn unknown_names_and_other_shapes_are_refused() {
        for name in ["image", "mask_image"] {
            let refused = format!("{:#}", read(&[name]).unwrap_err());
            assert!(refused.contains(name) && refused.contains("[h,w"), "{refused}");
        }
        assert!(read(&["image_latents"]).unwrap().1.image_latents.is_some());
        assert!(read(&["latent_init"]).unwrap_err().to_string().contains("not known"));
    }
}
