//! `generate`: images from the command line, without a server.

mod order;
mod pictures;
mod refiner;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use diffusion::model::Model;
use indicatif::{ProgressBar, ProgressStyle};
use runtime_api::ImageRequest;
use serde_json::Value;

use super::adapter::{self, AdapterPath};
use super::compute::ComputeArguments;
use super::model_files::ModelArguments;
use super::rounds::step_all;
use crate::atomic_file;
use crate::canvas::Canvas;
use crate::engine::{AdapterUse, Diffusion, Embedding, Engine, ModelFacts, NamedEmbedding, PromptSyntax, Request};
use crate::infotext::{self, Names, infotext};
use crate::picture::{bounded_text, encode_png};
use crate::request::{Limits, complete};
use crate::residency::ModelKey;
use order::Order;
use pictures::PictureArguments;
use refiner::{Refiner, RefinerArguments};

/// Images on the way at once: enough to share calls, few enough for a laptop's memory.
const IMAGES_AT_ONCE: usize = 8;

/// Make images from prompts and write them as PNG files with their parameters inside.
#[derive(Debug, Args)]
pub(super) struct Generate {
    #[command(flatten)]
    model: ModelArguments,
    /// What to draw; may be given more than once.
    #[arg(long, required_unless_present = "prompts", conflicts_with = "prompts")]
    prompt: Vec<String>,
    /// JSON file with a list of {"prompt", "seed", "file"}; --output is then a folder.
    #[arg(long, env = "EMULSION_PROMPTS")]
    prompts: Option<PathBuf>,
    /// What not to draw.
    #[arg(long)]
    negative_prompt: Option<String>,
    /// What the second text encoder reads, for models with two; the prompt if not given.
    #[arg(long)]
    prompt_2: Option<String>,
    /// What not to draw, for the second text encoder.
    #[arg(long)]
    negative_prompt_2: Option<String>,
    /// How prompts are read: as they stand and cut to 75 tokens, or with AUTOMATIC1111's brackets and of any length.
    #[arg(long, value_enum, default_value_t)]
    prompt_syntax: Syntax,
    /// How many of the text encoder's last layers are skipped for the prompt.
    #[arg(long)]
    clip_skip: Option<u32>,
    /// A textual inversion and the word by which prompts name it; may be given more than once.
    #[arg(long = "embedding", value_name = "NAME=FILE", value_parser = named_file)]
    embeddings: Vec<(String, PathBuf)>,
    /// Pixels; the model's own if not given.
    #[arg(long)]
    width: Option<u32>,
    /// Pixels; the model's own if not given.
    #[arg(long)]
    height: Option<u32>,
    /// Solver steps.
    #[arg(long)]
    steps: Option<u32>,
    /// Strength of guidance; 1 and below mean none.
    #[arg(long)]
    guidance_scale: Option<f64>,
    #[command(flatten)]
    pictures: PictureArguments,
    #[command(flatten)]
    refiner: RefinerArguments,
    /// Class name of a diffusers scheduler; the model folder's own if not given.
    #[arg(long)]
    sampler: Option<String>,
    /// An option of the sampler, by its name in diffusers (use_karras_sigmas=true); may be given more than once.
    #[arg(long = "sampler-option", value_name = "NAME=VALUE", value_parser = sampler_option)]
    sampler_options: Vec<(String, Value)>,
    /// How much fresh noise DDIM and TCD draw at each step, 0 to 1.
    #[arg(long)]
    eta: Option<f64>,
    /// The same seed makes the same image; drawn and printed if not given. With several prompts, each has the one after the last.
    #[arg(long)]
    seed: Option<u64>,
    /// An adapter's file, as FILE or FILE:STRENGTH; may be given more than once, and all act together.
    #[arg(long, value_name = "FILE[:STRENGTH]")]
    adapter: Vec<AdapterPath>,
    #[command(flatten)]
    compute: ComputeArguments,
    /// PNG file for one prompt, folder for several.
    #[arg(long, env = "EMULSION_OUTPUT", default_value = "image.png")]
    output: PathBuf,
}

/// How prompts are read.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Syntax {
    #[default]
    Plain,
    Weighted,
}

/// `NAME=FILE`.
pub(super) fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty()).ok_or("write NAME=FILE")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

/// `NAME=VALUE`, where what is no JSON value is a text.
fn sampler_option(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

/// What every image has besides prompts and numbers.
#[derive(Clone)]
struct Extras {
    embeddings: Vec<NamedEmbedding>,
    adapters: Vec<AdapterUse>,
}

/// An image on its way, and what it will be.
struct Picture {
    order: Order,
    request: Request,
    is_refined: bool,
}

impl Generate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let orders = self.orders()?;
        let open = |(name, file): &(String, PathBuf)| {
            let embedding = Embedding::open(file)?;
            anyhow::Ok(NamedEmbedding { names: vec![name.clone()], embedding })
        };
        let embeddings = self.embeddings.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
        let engine = self.compute.engine()?;
        let model = Arc::new(load(&engine, &self.model.key())?);
        let refiner = self.refiner.load(|key| load(&engine, key))?;
        let open = |asked: &AdapterPath| adapter::open(&engine, &asked.path, asked.scale);
        let adapters = self.adapter.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
        self.make(&engine, (&model, refiner.as_ref()), orders, &Extras { embeddings, adapters })?;
        Ok(ExitCode::SUCCESS)
    }

    fn orders(&self) -> anyhow::Result<Vec<Order>> {
        let seed = self.seed.unwrap_or_else(rand::random);
        match &self.prompts {
            Some(path) => order::read(path, &self.output, seed).with_context(|| format!("read prompts {}", path.display())),
            None => Ok(order::of_prompts(&self.prompt, &self.output, seed)),
        }
    }

    /// Images join as others finish, so that calls stay full.
    fn make(
        &self,
        engine: &Diffusion,
        (model, refiner): (&Arc<Model>, Option<&Refiner>),
        orders: Vec<Order>,
        extras: &Extras,
    ) -> anyhow::Result<()> {
        let facts = engine.facts(model);
        let canvas = self.canvas()?;
        let mut orders = orders.into_iter();
        let mut images = Vec::new();
        let mut pictures: Vec<Picture> = Vec::new();
        let bar = bar("{msg} {bar:40} {pos}/{len} steps, {eta} left").with_message("drawing");
        loop {
            for order in orders.by_ref().take(IMAGES_AT_ONCE - images.len()) {
                let Extras { embeddings, adapters } = extras.clone();
                let request = Request { embeddings, adapters, ..self.request(&order, canvas.as_ref(), &facts)? };
                for image in engine.prepare(model, &request)? {
                    bar.inc_length(engine.progress(&image).total as u64);
                    images.push(image);
                    pictures.push(Picture { order: order.clone(), request: request.clone(), is_refined: false });
                }
            }
            if images.is_empty() {
                bar.finish_and_clear();
                return Ok(());
            }
            step_all(engine, &mut images)?;
            bar.inc(images.len() as u64);
            for index in (0..images.len()).rev() {
                if engine.progress(&images[index]).is_finished() {
                    let image = images.remove(index);
                    let picture = pictures.remove(index);
                    if let Some(refiner) = refiner.filter(|_| !picture.is_refined) {
                        for image in engine.prepare(&refiner.model, &engine.hand_over(&[image], &picture.request, refiner.start)?)? {
                            bar.inc_length(engine.progress(&image).total as u64);
                            images.push(image);
                        }
                        pictures.push(Picture { is_refined: true, ..picture });
                        continue;
                    }
                    let mut entries = parameters(&picture.request, &facts);
                    entries.extend(refiner.into_iter().flat_map(Refiner::parameters));
                    save(&picture, &encode_png(&engine.decode(&image)?, &entries)?)?;
                    bar.suspend(|| println!("{} seed {}", picture.order.file.display(), picture.request.seed));
                }
            }
        }
    }

    /// The pictures that all images begin with.
    fn canvas(&self) -> anyhow::Result<Option<Canvas>> {
        let request = ImageRequest { width: self.width, height: self.height, ..self.pictures.request() };
        Ok(Canvas::new(&request, &self.pictures.read()?, &Limits::default())?)
    }

    fn request(&self, order: &Order, canvas: Option<&Canvas>, facts: &ModelFacts) -> anyhow::Result<Request> {
        let request = ImageRequest {
            prompt: order.prompt.clone(),
            negative_prompt: order.negative_prompt.clone().or_else(|| self.negative_prompt.clone()),
            prompt_2: self.prompt_2.clone(),
            negative_prompt_2: self.negative_prompt_2.clone(),
            denoising_end: self.refiner.denoising_end(),
            prompt_syntax: match self.prompt_syntax {
                Syntax::Plain => runtime_api::PromptSyntax::Plain,
                Syntax::Weighted => runtime_api::PromptSyntax::Weighted,
            },
            clip_skip: self.clip_skip,
            width: self.width,
            height: self.height,
            num_inference_steps: self.steps,
            guidance_scale: self.guidance_scale,
            sampler: self.sampler.clone(),
            sampler_options: self.sampler_options.iter().cloned().collect(),
            eta: self.eta,
            seed: Some(order.seed),
            ..self.pictures.request()
        };
        Ok(complete(&request, canvas, &facts.defaults, &Limits::default(), order.seed)?)
    }
}

fn load(engine: &Diffusion, key: &ModelKey) -> anyhow::Result<Model> {
    let folder = engine.open(key)?;
    let bar = bar("{msg} {bar:40} {bytes}/{total_bytes}").with_message("loading");
    let model = engine.load(&folder, None, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(model)
}

fn save(picture: &Picture, png: &[u8]) -> anyhow::Result<()> {
    atomic_file::write(&picture.order.file, png).with_context(|| format!("write {}", picture.order.file.display()))
}

/// What the image was made with, as PNG metadata.
fn parameters(request: &Request, facts: &ModelFacts) -> Vec<(String, String)> {
    let mut entries = vec![("Software", concat!("Emulsion ", env!("CARGO_PKG_VERSION")).to_owned()), ("prompt", request.prompt.clone())];
    entries.extend(request.negative_prompt.as_ref().map(|text| ("negative_prompt", text.clone())));
    entries.extend(request.prompt_2.as_ref().map(|text| ("prompt_2", text.clone())));
    entries.extend(request.negative_prompt_2.as_ref().map(|text| ("negative_prompt_2", text.clone())));
    if request.prompt_syntax == PromptSyntax::Weighted {
        entries.push(("prompt_syntax", "weighted".to_owned()));
    }
    entries.extend(request.clip_skip.map(|skip| ("clip_skip", skip.to_string())));
    if !request.sampler_options.is_empty() {
        entries.push(("sampler_options", Value::Object(request.sampler_options.clone()).to_string()));
    }
    if request.eta > 0.0 {
        entries.push(("eta", request.eta.to_string()));
    }
    entries.extend(request.embeddings.iter().map(|named| ("embedding", named.names.join(" "))));
    entries.extend([
        ("width", request.width.to_string()),
        ("height", request.height.to_string()),
        ("num_inference_steps", request.num_inference_steps.to_string()),
        ("guidance_scale", request.guidance_scale.to_string()),
        ("sampler", request.sampler.clone().unwrap_or_else(|| facts.sampler.clone())),
        ("seed", request.seed.to_string()),
        ("model_sha256", facts.digest.clone()),
        (infotext::KEY, infotext(request, facts, Names::default(), 0)),
    ]);
    let adapters = request.adapters.iter();
    entries.extend(adapters.map(|asked| ("adapter_sha256", format!("{}:{}", asked.adapter.digest(), asked.scale))));
    entries.into_iter().map(|(key, value)| (key.to_owned(), bounded_text(&value).into_owned())).collect()
}

/// A bar on standard error; hidden where that is no terminal.
fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    // A template that does not parse leaves the library's own.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
