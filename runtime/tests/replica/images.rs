//! Pictures of the real engine, made over HTTP.

use std::sync::Arc;

use diffusion::{DType, Device};
use runtime::engine::{
    Adapter, AdapterFile, CallLimits, Candidate, Defaults, Diffusion, Engine, EngineError, ModelFacts, Progress, Request, Stepped, Weighed,
};
use runtime::picture::Pixels;
use runtime::residency::ModelKey;
use runtime::worker::Limits;
use runtime_api::{Dispatch, FailureReason, PromptSyntax};
use safetensors::{Dtype, tensor::TensorView};

use crate::house::House;
use crate::puppet::Gate;
use crate::tiny_model;

/// The real engine, each call of which waits at a gate.
struct Gated {
    engine: Diffusion,
    gate: Arc<Gate>,
}

impl Engine for Gated {
    type Folder = <Diffusion as Engine>::Folder;
    type Model = <Diffusion as Engine>::Model;
    type Image = <Diffusion as Engine>::Image;

    fn open(&self, key: &ModelKey) -> Result<Self::Folder, EngineError> {
        self.engine.open(key)
    }

    fn adapter_footprint(&self, file: &AdapterFile) -> u64 {
        self.engine.adapter_footprint(file)
    }

    fn load_adapter(&self, file: &AdapterFile, sha256: Option<&str>) -> Result<Adapter, EngineError> {
        self.engine.load_adapter(file, sha256)
    }

    fn footprint(&self, folder: &Self::Folder) -> u64 {
        self.engine.footprint(folder)
    }

    fn defaults(&self, folder: &Self::Folder) -> Defaults {
        self.engine.defaults(folder)
    }

    fn image_bytes(&self, of: Weighed<'_, Self::Folder, Self::Model>, request: &Request) -> u64 {
        self.engine.image_bytes(of, request)
    }

    fn load(&self, folder: &Self::Folder, sha256: Option<&str>, progress: &mut dyn FnMut(u64, u64)) -> Result<Self::Model, EngineError> {
        self.engine.load(folder, sha256, progress)
    }

    fn facts(&self, model: &Self::Model) -> ModelFacts {
        self.engine.facts(model)
    }

    fn prepare(&self, model: &Arc<Self::Model>, request: &Request) -> Result<Vec<Self::Image>, EngineError> {
        self.engine.prepare(model, request)
    }

    fn groups(&self, images: &[Candidate<'_, Self::Image>], limits: CallLimits) -> Vec<Vec<usize>> {
        self.engine.groups(images, limits)
    }

    fn step(&self, images: &mut [&mut Self::Image]) -> Stepped {
        self.gate.pass();
        self.engine.step(images)
    }

    fn progress(&self, image: &Self::Image) -> Progress {
        self.engine.progress(image)
    }

    fn hand_over(&self, images: &[Self::Image], request: &Request, start: f64) -> Result<Request, EngineError> {
        self.engine.hand_over(images, request, start)
    }

    fn decode(&self, image: &Self::Image) -> Result<Pixels, EngineError> {
        self.engine.decode(image)
    }

    fn preview(&self, image: &Self::Image) -> Result<Pixels, EngineError> {
        self.engine.preview(image)
    }
}

pub(crate) async fn house() -> House {
    let gate = Gate::closed();
    let engine = Gated { engine: Diffusion::new(Device::Cpu, DType::F32), gate: Arc::clone(&gate) };
    let house = House::with_engine(engine, gate, Limits::default()).await;
    tiny_model::write(&house.models.path().join("demo"));
    house
}

fn of_size(house: &House, name: &str, steps: u32) -> Dispatch {
    let mut dispatch = house.dispatch(name);
    dispatch.request.width = Some(32);
    dispatch.request.height = Some(16);
    dispatch.request.num_inference_steps = Some(steps);
    dispatch
}

/// Requests that differ in all that may differ within a call.
fn different(house: &House, suffix: &str) -> [Dispatch; 3] {
    let name = |name: &str| format!("{name}{suffix}");
    let plain = of_size(house, &name("plain"), 3);
    let mut ancestral = of_size(house, &name("ancestral"), 6);
    ancestral.request.sampler = Some("EulerAncestralDiscreteScheduler".to_owned());
    ancestral.request.prompt = "another".to_owned();
    ancestral.request.seed = Some(u64::MAX);
    ancestral.request.guidance_scale = Some(1.0);
    let mut ddim = of_size(house, &name("ddim"), 5);
    ddim.request.sampler = Some("DDIMScheduler".to_owned());
    ddim.request.negative_prompt = Some("b".to_owned());
    ddim.request.guidance_scale = Some(9.0);
    ddim.request.eta = Some(0.5);
    [plain, ancestral, ddim]
}

#[tokio::test]
async fn different_requests_share_calls_and_each_picture_is_the_one_made_alone() {
    let house = house().await;
    let mut streams = Vec::new();
    for dispatch in different(&house, "") {
        streams.push(house.send(&dispatch).await);
    }
    // The first may stand at the gate alone; whoever joins while it does runs together from then on.
    house.gate.open();
    for stream in streams {
        stream.done().await;
    }
    let calls = house.metric("emulsion_runtime_denoiser_calls_total").await;
    assert!(calls < 3.0 + 6.0 + 5.0, "{calls} calls: none was shared");
    assert_eq!(house.metric("emulsion_runtime_denoiser_rows_total").await, 2.0 * 3.0 + 6.0 + 2.0 * 5.0);

    for dispatch in different(&house, "-alone") {
        house.send(&dispatch).await.done().await;
    }
    for name in ["plain", "ancestral", "ddim"] {
        assert_eq!(house.storage.pixels(name), house.storage.pixels(&format!("{name}-alone")), "{name}");
    }
    assert_ne!(house.storage.pixels("plain"), house.storage.pixels("ddim"));
}

/// One of each family, and twice the second.
fn of_families(house: &House, suffix: &str) -> Vec<Dispatch> {
    let of = |model: &str, name: &str| {
        let mut dispatch = of_size(house, &format!("{name}{suffix}"), 3);
        dispatch.model = house.source(model);
        dispatch
    };
    let mut second = of("xl", "second");
    second.request.prompt_2 = Some("b".to_owned());
    second.request.original_size = Some([300, 20]);
    vec![of("demo", "first"), of("xl", "another"), second]
}

#[tokio::test]
async fn families_are_served_side_by_side_and_each_picture_is_the_one_made_alone() {
    let house = house().await;
    tiny_model::write_kind(&house.models.path().join("xl"), tiny_model::Kind::Xl);
    let mut streams = Vec::new();
    for dispatch in of_families(&house, "") {
        streams.push(house.send(&dispatch).await);
    }
    house.gate.open();
    for stream in streams {
        stream.done().await;
    }
    assert_eq!(house.metric("emulsion_runtime_load_seconds_count").await, 2.0);
    for dispatch in of_families(&house, "-alone") {
        house.send(&dispatch).await.done().await;
    }
    for name in ["first", "another", "second"] {
        assert_eq!(house.storage.pixels(name), house.storage.pixels(&format!("{name}-alone")), "{name}");
    }
    assert_ne!(house.storage.pixels("another"), house.storage.pixels("second"));
}

#[tokio::test]
async fn what_a_family_does_not_take_is_told_by_name() {
    let house = house().await;
    house.gate.open();
    tiny_model::write_kind(&house.models.path().join("refiner"), tiny_model::Kind::XlRefiner);
    let mut dispatch = of_size(&house, "refiner", 2);
    dispatch.model = house.source("refiner");
    let (reason, message) = house.send(&dispatch).await.failure().await;
    assert!(reason == FailureReason::InvalidRequest && message.contains("needs an image"), "{message}");
    let mut dispatch = of_size(&house, "first", 2);
    dispatch.request.aesthetic_score = Some(7.0);
    let (reason, message) = house.send(&dispatch).await.failure().await;
    assert!(reason == FailureReason::InvalidRequest && message.contains("aesthetic_score"), "{message}");
}

#[tokio::test]
async fn truncated_checkpoint_is_told_and_the_good_one_works_next() {
    let house = house().await;
    house.gate.open();
    let broken = house.models.path().join("broken");
    tiny_model::write(&broken);
    let weights = broken.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();

    let mut dispatch = of_size(&house, "broken", 2);
    dispatch.model = house.source("broken");
    let (reason, message) = house.send(&dispatch).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidModel);
    assert!(message.contains("diffusion_pytorch_model.safetensors"), "{message}");

    let picture = of_size(&house, "good", 2);
    house.send(&picture).await.done().await;
    let pixels = house.storage.pixels("good");
    assert_eq!((pixels.width, pixels.height), (32, 16));
    assert!(pixels.rgb.iter().any(|&value| value != pixels.rgb[0]), "the picture is one flat colour");
}

#[tokio::test]
async fn declared_digest_is_compared_with_the_files() {
    let house = house().await;
    house.gate.open();
    let mut dispatch = of_size(&house, "x", 1);
    dispatch.model.sha256 = Some("0".repeat(64));
    let (reason, message) = house.send(&dispatch).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidModel);
    let found = message.split_whitespace().find(|word| word.trim_end_matches(',').len() == 64).unwrap().trim_end_matches(',');
    dispatch.model.sha256 = Some(found.to_owned());
    house.send(&dispatch).await.done().await;
}

/// Writes an embedding of two vectors, `width` features each, that the API knows as `style`.
fn add_embedding(house: &House, dispatch: &mut Dispatch, width: usize) {
    let data: Vec<u8> = (0..2 * width).flat_map(|at| (at as f32 * 0.1).sin().to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![2, width], &data).unwrap();
    std::fs::write(house.models.path().join("style"), safetensors::serialize([("emb_params", view)], None).unwrap()).unwrap();
    dispatch.request.embeddings = vec!["style".to_owned()];
    dispatch.adapters = vec![house.source("style")];
}

#[tokio::test]
async fn prompts_may_name_the_embeddings_of_their_dispatch_and_no_others() {
    let house = house().await;
    house.gate.open();
    let named = |name: &str| {
        let mut dispatch = of_size(&house, name, 2);
        dispatch.request.prompt = "a style".to_owned();
        dispatch
    };
    let mut with = named("with");
    add_embedding(&house, &mut with, 16);
    house.send(&with).await.done().await;
    house.send(&named("without")).await.done().await;
    assert_ne!(house.storage.pixels("with"), house.storage.pixels("without"));

    add_embedding(&house, &mut with, 768);
    let (reason, message) = house.send(&with).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidRequest);
    assert!(message.contains("768") && message.contains("16"), "{message}");

    with.adapters.clear();
    let refused = house.post(serde_json::to_vec(&with).unwrap(), crate::house::TOKEN).await;
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("no source"));
}

#[tokio::test]
async fn weighted_prompts_are_read_and_what_cannot_be_is_the_callers_fault() {
    let house = house().await;
    house.gate.open();
    let weighted = |name: &str, prompt: &str| {
        let mut dispatch = of_size(&house, name, 2);
        dispatch.request.prompt = prompt.to_owned();
        dispatch.request.prompt_syntax = PromptSyntax::Weighted;
        dispatch
    };
    house.send(&weighted("light", "a (b:0.5) c")).await.done().await;
    house.send(&weighted("heavy", "a (b:1.5) c")).await.done().await;
    assert_ne!(house.storage.pixels("light"), house.storage.pixels("heavy"));
    let (reason, message) = house.send(&weighted("edited", "a [b:c:0.5]")).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidRequest);
    assert!(message.contains("prompt editing"), "{message}");
}
