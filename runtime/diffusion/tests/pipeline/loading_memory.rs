//! How much memory loading takes, measured in a process of its own.

use std::path::Path;
use std::process::Command;

use diffusion::model::{Expectation, ExpectedLayout, ModelFiles, ModelFolder};
use diffusion::{DType, Device};
use serde_json::json;

use crate::single_file::write_hole;
use crate::tiny_model::TinyModel;

/// Peak memory while loading, beside the bytes that are kept.
const MOST: f64 = 1.15;
/// Says to the process of its own what to load: the file, its configuration, and the precision.
const FILE: &str = "EMULSION_TEST_FILE";
const CONFIG: &str = "EMULSION_TEST_CONFIG";
const HALF: &str = "EMULSION_TEST_HALF";

/// In bytes.
pub(crate) fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Loads what the environment says and tells the memory; passes at once where it says nothing.
#[test]
fn child_loads() {
    let (Ok(file), Ok(config)) = (std::env::var(FILE), std::env::var(CONFIG)) else { return };
    let dtype = if std::env::var(HALF).is_ok() { DType::F16 } else { DType::F32 };
    let open = ModelFolder::open_files(&ModelFiles { config: Some(config.into()), ..ModelFiles::of(file) }).unwrap();
    let before = memory("VmRSS");
    let model = open.load(&Device::Cpu, dtype, &mut |_| ()).unwrap();
    println!("kept {} peak {}", model.bytes(), memory("VmHWM") - before);
}

fn load(file: &Path, config: &Path, is_half: bool) -> (u64, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "loading_memory::child_loads", "--nocapture"]).env(FILE, file).env(CONFIG, config);
    if is_half {
        child.env(HALF, "1");
    }
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.lines().find(|line| line.contains("kept ")).expect(&text).split_whitespace().collect();
    let number = |word| words[words.iter().position(|known| *known == word).unwrap() + 1].parse().unwrap();
    (number("kept"), number("peak"))
}

#[test]
fn loading_takes_hardly_more_memory_than_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    TinyModel::default().write(&config);
    // 75 million parameters, and no tensor that is most of them.
    let mut wide = TinyModel::default();
    wide.unet["block_out_channels"] = json!([256, 512]);
    wide.unet["layers_per_block"] = json!(2);
    wide.unet["transformer_layers_per_block"] = json!(2);
    std::fs::write(config.join("unet/config.json"), wide.unet.to_string()).unwrap();
    let expectation = Expectation::of_folder(&config, ExpectedLayout::Original).unwrap();
    assert!(expectation.parameters > 60_000_000, "{} parameters", expectation.parameters);
    for (stored, is_half) in [("F32", false), ("F16", false), ("F32", true), ("F8_E4M3", true)] {
        let tensors = expectation.parts.iter().flat_map(|part| &part.tensors);
        let entries: Vec<_> = tensors.map(|tensor| (tensor.name.clone(), stored, tensor.shape.clone())).collect();
        let file = folder.path().join("model.safetensors");
        write_hole(&file, &entries, &[]);
        let (kept, peak) = load(&file, &config, is_half);
        let share = peak as f64 / kept as f64;
        println!("{stored}, half {is_half}: {kept} bytes kept, {peak} at most, {share:.3}");
        assert!(share <= MOST, "{stored}, half {is_half}: {share:.3} times the {kept} bytes kept");
    }
}
