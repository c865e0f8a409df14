//! How much memory the autoencoder takes for the largest pictures, measured in a process of its own.

use std::process::Command;

use diffusion::model::{MAX_SIDE_PIXELS, ModelFolder};
use diffusion::{DType, Device, Tensor};
use serde_json::json;

use crate::loading_memory::memory;
use crate::tiny_model::TinyModel;

/// Side of a tile, in pixels.
const TILE: usize = 256;
/// What the largest picture takes at most, beside what one tile takes: so many times the picture itself in f32. It lies there in rows of
/// tiles and joined.
const PICTURES: u64 = 3;
/// Says to the process of its own which folder and how many pixels along each side.
const FOLDER: &str = "EMULSION_TEST_FOLDER";
const SIDE: &str = "EMULSION_TEST_SIDE";

/// Decodes what the environment says and tells the memory; passes at once where it says nothing.
#[test]
fn child_decodes() {
    let (Ok(folder), Ok(side)) = (std::env::var(FOLDER), std::env::var(SIDE)) else { return };
    let side: usize = side.parse().unwrap();
    let model = ModelFolder::open(folder.as_ref()).unwrap().load(&Device::Cpu, DType::F32, &mut |_| ()).unwrap();
    let latents = Tensor::randn(0_f32, 1.0, (1, 4, side / 8, side / 8), &Device::Cpu).unwrap();
    let before = memory("VmRSS");
    let picture = model.vae().decode(&latents, model.vae_exec()).unwrap();
    assert_eq!(picture.dims(), [1, 3, side, side]);
    println!("peak {}", memory("VmHWM") - before);
}

fn peak(folder: &std::path::Path, side: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "decoding_memory::child_decodes", "--nocapture"]).env(FOLDER, folder).env(SIDE, side.to_string());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.split("peak ").nth(1)).expect(&text).parse().unwrap()
}

#[test]
fn largest_picture_takes_hardly_more_memory_than_a_tile_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = TinyModel::default();
    tiny.vae["block_out_channels"] = json!([16, 16, 16, 16]);
    tiny.vae["sample_size"] = json!(TILE);
    tiny.write(folder.path());
    let (tile, largest) = (peak(folder.path(), TILE), peak(folder.path(), MAX_SIDE_PIXELS));
    let picture = (3 * MAX_SIDE_PIXELS * MAX_SIDE_PIXELS * 4) as u64;
    println!("{tile} bytes for a tile, {largest} for {MAX_SIDE_PIXELS}×{MAX_SIDE_PIXELS}, whose picture has {picture}");
    // Whole, one of its inner tensors would have more.
    let inner = picture / 3 * 16;
    assert!(tile + PICTURES * picture < inner * 3, "this could not tell tiles from none");
    assert!(largest <= tile + PICTURES * picture, "{largest} bytes; {tile} for a tile, {picture} for the picture");
}
