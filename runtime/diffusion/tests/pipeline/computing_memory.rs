//! What computing takes beside the weights is what was said before: an allocator counts in a process of its own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use diffusion::model::{Model, ModelFolder};
use diffusion::picture::RgbImage;
use diffusion::pipeline::{InjectedTensors, Request, Start, decode, prepare, step};
use diffusion::{DType, Device};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

use crate::flow::FlowModel;
use crate::tiny_model::TinyModel;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Tells the process of its own from the others.
const CHILD: &str = "EMULSION_TEST_COUNTS_MEMORY";
/// What is said may be so many times what is counted, and so much more.
const TIMES: u64 = 2;
const BEYOND_BYTES: u64 = 40 << 20;

/// Writes a model into a folder.
type Write<'a> = &'a dyn Fn(&Path);

/// Bytes that are alive at the worst moment of `work`, beside those before it.
fn counted<T>(work: impl FnOnce() -> T) -> (T, u64) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let made = work();
    (made, (ALLOCATOR.peak_usage() - before) as u64)
}

fn wide(mut tiny: TinyModel) -> TinyModel {
    tiny.unet["block_out_channels"] = json!([64, 128]);
    wide_autoencoder(&mut tiny.vae);
    tiny
}

fn wide_autoencoder(vae: &mut Value) {
    vae["block_out_channels"] = json!([32, 32, 64, 64]);
}

fn wide_transformer(tiny: FlowModel, head_features: usize) -> FlowModel {
    let features = 8 * head_features;
    let tiny = tiny.change("transformer/config.json", "num_attention_heads", json!(8));
    tiny.change("transformer/config.json", "attention_head_dim", json!(head_features))
        .change("transformer/config.json", "caption_projection_dim", json!(features))
        .change("transformer/config.json", "pos_embed_max_size", json!(64))
        .change("vae/config.json", "block_out_channels", json!([32, 32, 64, 64]))
}

/// Whether `said` is a bound of `counted`, and one worth having.
fn judge(what: &str, said: u64, counted: u64) -> bool {
    let holds = counted <= said && said <= TIMES * counted + BEYOND_BYTES;
    println!("{what}: {:.1} MB said, {:.1} MB counted{}", said as f64 / 1e6, counted as f64 / 1e6, if holds { "" } else { " <-" });
    holds
}

/// Draws at one size with one count of images in a call; whether all was as said.
fn draws_as_said(name: &str, model: &Arc<Model>, [width, height]: [usize; 2], samples: usize) -> bool {
    let request = Request { width, height, num_inference_steps: 1, samples, ..Request::with_defaults(model, "a red cat") };
    let picture = || Arc::new(RgbImage { width, height, data: vec![99; 3 * width * height] });
    let start = if model.spec().needs_picture() { Start::Image { image: picture(), strength: 1.0 } } else { Start::Noise };
    let request = Request { start, ..request };
    let mut images = prepare(model, &request, &InjectedTensors::default()).unwrap();
    let (report, denoised) = counted(|| step(&mut images.iter_mut().collect::<Vec<_>>()));
    report.outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    let (_, decoded) = counted(|| decode(&images[0]).unwrap());
    let (computing, scale) = (model.computing(), model.spec().latent_scale());
    let latent = [height / scale, width / scale];
    let what = format!("{name} {:?} {width}×{height} × {}", model.exec().compute, report.rows);
    let denoises = judge(&format!("{what} rows"), computing.denoising_bytes(report.rows, latent), denoised);
    judge(&format!("{what} decoded"), computing.picture_bytes(latent), decoded) && denoises
}

/// Counts where the environment says so; passes at once where it does not.
#[test]
fn child_counts() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let families: [(&str, Write<'_>); 5] = [
        ("Stable Diffusion", &|folder| wide(TinyModel::default()).write(folder)),
        ("XL", &|folder| wide(TinyModel::with_two_encoders()).write(folder)),
        ("refiner", &|folder| wide(TinyModel::refiner()).write(folder)),
        ("Stable Diffusion 3", &|folder| wide_transformer(FlowModel::sd3(), 8).write(folder)),
        ("Flux", &|folder| wide_transformer(FlowModel::flux(true), 16).write(folder)),
    ];
    let mut holds = true;
    for (name, write) in families {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let open = ModelFolder::open(folder.path()).unwrap();
        // Kernels run in f32 alone; what candle's primitives make for a GPU, they make for a processor in f16.
        let of_f32 = [([512, 512], 1), ([512, 256], 3)];
        for (dtype, cases) in [(DType::F32, &of_f32[..]), (DType::F16, &[([256, 256], 1)])] {
            let model = Arc::new(open.load(&Device::Cpu, dtype, &mut |_| ()).unwrap());
            for (size, samples) in cases {
                holds &= draws_as_said(name, &model, *size, *samples);
            }
        }
    }
    assert!(holds);
}

#[test]
fn computing_takes_what_was_said() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", "computing_memory::child_counts", "--nocapture"]).env(CHILD, "1").output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
