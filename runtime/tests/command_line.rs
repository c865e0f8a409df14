//! `generate`, `inspect` and `trace` with the real executable and a tiny model.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use runtime::picture::{Pixels, decode_png};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

#[path = "replica/tiny_model.rs"]
mod tiny_model;

struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn with_model() -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny_model::write(&folder.path().join("model"));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Output {
        let mut run = Command::new(env!("CARGO_BIN_EXE_emulsion-runtime"));
        run.env_clear().current_dir(self.folder.path()).stdin(Stdio::null());
        run.args([command, "--model", "model"]).args(arguments).output().unwrap()
    }

    fn works(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.run(command, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.run(command, arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn picture(&self, name: &str) -> (Pixels, Vec<(String, String)>) {
        decode_png(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }
}

const SMALL: [&str; 6] = ["--width", "32", "--height", "16", "--steps", "2"];

fn entry<'a>(text: &'a [(String, String)], key: &str) -> Option<&'a str> {
    text.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[test]
fn refiner_goes_on_where_the_model_leaves_off() {
    let desk = Desk::with_model();
    tiny_model::write_kind(&desk.path("model"), tiny_model::Kind::Xl);
    tiny_model::write_kind(&desk.path("refiner"), tiny_model::Kind::XlRefiner);
    let base = ["--prompt", "a", "--prompt-2", "b", "--seed", "7", "--width", "32", "--height", "16", "--steps", "10"];
    let run = |more: &[&str]| desk.works("generate", &[&base[..], more].concat());
    run(&["--output", "alone.png"]);
    let refined = run(&["--output", "refined.png", "--refiner", "refiner", "--refiner-start", "0.5"]);
    assert_eq!(refined.matches("refined.png").count(), 1, "{refined}");
    run(&["--output", "later.png", "--refiner", "refiner"]);
    let [(alone, _), (refined, text), (later, defaults)] = ["alone.png", "refined.png", "later.png"].map(|name| desk.picture(name));
    assert!(alone.rgb != refined.rgb && refined.rgb != later.rgb && alone.rgb != later.rgb);
    assert_eq!((entry(&text, "refiner_start"), entry(&defaults, "refiner_start")), (Some("0.5"), Some("0.8")));
    assert_eq!(entry(&text, "prompt_2"), Some("b"));
    let refused = desk.fails("generate", &[&base[..], &["--refiner", "refiner", "--refiner-start", "1"]].concat());
    assert!(refused.contains("denoising_end 1"), "{refused}");
}

#[test]
fn generated_picture_carries_what_it_was_made_with() {
    let desk = Desk::with_model();
    let arguments = [&SMALL[..], &["--prompt", "a 雪", "--negative-prompt", "b", "--seed", "7", "--output", "new/one.png"]].concat();
    assert!(desk.works("generate", &arguments).contains("new/one.png seed 7"));
    let (pixels, text) = desk.picture("new/one.png");
    assert_eq!((pixels.width, pixels.height), (32, 16));
    for (key, value) in
        [("prompt", "a 雪"), ("negative_prompt", "b"), ("seed", "7"), ("num_inference_steps", "2"), ("sampler", "EulerDiscreteScheduler")]
    {
        assert_eq!(entry(&text, key), Some(value), "{key}");
    }
}

#[test]
fn drawn_seed_is_printed_and_makes_the_same_picture_again() {
    let desk = Desk::with_model();
    let said = desk.works("generate", &[&SMALL[..], &["--prompt", "a", "--output", "one.png"]].concat());
    let seed = said.trim().rsplit(' ').next().unwrap();
    desk.works("generate", &[&SMALL[..], &["--prompt", "a", "--seed", seed, "--output", "two.png"]].concat());
    assert_eq!(desk.picture("one.png").0, desk.picture("two.png").0);
}

#[test]
fn sampler_options_change_the_picture_and_are_written_into_it() {
    let desk = Desk::with_model();
    let made = |name: &str, arguments: &[&str]| {
        let file = format!("{name}.png");
        let own = ["--sampler", "DDIMScheduler", "--prompt", "a", "--seed", "7", "--output", &file];
        desk.works("generate", &[&SMALL[..], &own, arguments].concat());
        desk.picture(&file)
    };
    let plain = made("plain", &[]);
    for (key, value, arguments) in [
        ("sampler_options", r#"{"timestep_spacing":"trailing"}"#, ["--sampler-option", "timestep_spacing=trailing"]),
        ("eta", "0.5", ["--eta", "0.5"]),
    ] {
        let (pixels, text) = made(key, &arguments);
        assert_ne!(pixels, plain.0, "{key}");
        assert_eq!((entry(&text, key), entry(&plain.1, key)), (Some(value), None));
    }
    for (option, named) in [("algorithm_type=deis", "algorithm_type"), ("timestep_spacing=wide", "trailing")] {
        let said =
            desk.fails("generate", &[&SMALL[..], &["--prompt", "a", "--sampler", "DDIMScheduler", "--sampler-option", option]].concat());
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn syntax_skipped_layers_and_embeddings_change_the_picture_and_are_written_into_it() {
    let desk = Desk::with_model();
    write_tensors(&desk.path("style.safetensors"), &[("emb_params", vec![2, 16])]);
    let made = |name: &str, arguments: &[&str]| {
        let file = format!("{name}.png");
        desk.works("generate", &[&SMALL[..], &["--prompt", "(a:1.5) <s>", "--seed", "7", "--output", &file], arguments].concat());
        desk.picture(&file)
    };
    let plain = made("plain", &[]);
    for (key, value, arguments) in [
        ("prompt_syntax", "weighted", ["--prompt-syntax", "weighted"]),
        ("clip_skip", "1", ["--clip-skip", "1"]),
        ("embedding", "<s>", ["--embedding", "<s>=style.safetensors"]),
    ] {
        let (pixels, text) = made(key, &arguments);
        assert_ne!(pixels, plain.0, "{key}");
        assert_eq!((entry(&text, key), entry(&plain.1, key)), (Some(value), None));
    }
    for (arguments, named) in [
        (["--embedding", "<s>=model/unet/config.json"], "config.json"),
        (["--embedding", "a=style.safetensors"], "vocabulary"),
        (["--clip-skip", "9"], "clip_skip is 9"),
    ] {
        let said = desk.fails("generate", &[&SMALL[..], &["--prompt", "b"], &arguments].concat());
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn listed_prompts_are_made_in_one_run_as_they_would_be_alone() {
    let desk = Desk::with_model();
    let entries: Vec<_> = (0..11).map(|seed| serde_json::json!({"prompt": "a b", "seed": seed, "file": format!("{seed}.png")})).collect();
    std::fs::write(desk.path("prompts.json"), serde_json::to_vec(&entries).unwrap()).unwrap();
    desk.works("generate", &[&SMALL[..], &["--prompts", "prompts.json", "--output", "many"]].concat());
    desk.works("generate", &[&SMALL[..], &["--prompt", "a b", "--seed", "9", "--output", "nine.png"]].concat());
    assert_eq!(desk.picture("many/9.png").0, desk.picture("nine.png").0);
    assert_ne!(desk.picture("many/9.png").0, desk.picture("many/10.png").0);
}

#[test]
fn request_that_cannot_be_is_refused_by_name() {
    let desk = Desk::with_model();
    for (arguments, named) in [
        (["--prompt", "a", "--width", "63"], "width 63"),
        (["--prompt", "a", "--sampler", "NoSuchScheduler"], "NoSuchScheduler"),
        (["--prompt", "a", "--steps", "0"], "num_inference_steps 0"),
    ] {
        let said = desk.fails("generate", &arguments);
        assert!(said.contains(named), "{said}");
    }
    assert!(!desk.path("image.png").exists());
}

#[test]
fn picture_is_begun_with_another_one() {
    let desk = Desk::with_model();
    desk.works("generate", &[&SMALL[..], &["--prompt", "a", "--seed", "7", "--output", "one.png"]].concat());
    let image = ["--prompt", "b", "--seed", "8", "--steps", "3", "--image", "one.png", "--output", "two.png"];
    desk.works("generate", &[&image[..], &["--strength", "0.7"]].concat());
    let (pixels, text) = desk.picture("two.png");
    assert_eq!((pixels.width, pixels.height), (32, 16));
    assert!(entry(&text, "parameters").unwrap().contains("Denoising strength: 0.7"), "{text:?}");
    desk.works("generate", &[&image[..], &["--margins", "8,0,0,0", "--mask-blur", "0"]].concat());
    let (wider, _) = desk.picture("two.png");
    let (original, _) = desk.picture("one.png");
    assert_eq!((wider.width, wider.height), (40, 16));
    let kept = wider.rgb.chunks(40 * 3).map(|row| &row[8 * 3..]);
    assert!(kept.eq(original.rgb.chunks(32 * 3)));
    let said = desk.fails("generate", &["--prompt", "b", "--image", "model/model_index.json"]);
    assert!(said.contains("model_index.json") && said.contains("PNG, JPEG or WebP"), "{said}");
}

#[test]
fn whole_model_passes_inspection_and_a_cut_one_does_not() {
    let desk = Desk::with_model();
    let text = desk.works("inspect", &[]);
    assert!(text.contains("sd15") && text.contains("conv_in.weight") && text.contains("It would load."), "{text}");
    let weights = desk.path("model/vae/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(desk.run("inspect", &["--json"]).status.code(), Some(1));
    let said = desk.fails("generate", &["--prompt", "a"]);
    assert!(said.contains("vae/diffusion_pytorch_model.safetensors"), "{said}");
}

fn write_tensors(path: &Path, tensors: &[(&str, Vec<usize>)]) {
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| vec![0; shape.iter().product::<usize>() * 4]).collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| (*name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn trace_tells_the_latents_after_every_call_and_the_image() {
    let desk = Desk::with_model();
    let request = serde_json::json!({
        "prompt": "a", "width": 32, "height": 16, "samples": 2, "num_inference_steps": 3, "seed": 5, "sampler": "EulerAncestralDiscreteScheduler",
    });
    std::fs::write(desk.path("request.json"), request.to_string()).unwrap();
    desk.works("trace", &["--request", "request.json", "--output", "new/out.safetensors"]);
    let content = std::fs::read(desk.path("new/out.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&content).unwrap();
    assert_eq!(file.tensor("step_latents").unwrap().shape(), [3, 2, 4, 2, 4]);
    let image = file.tensor("image").unwrap();
    assert_eq!(image.shape(), [2, 16, 32, 3]);
    let values = image.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    assert!(values.into_iter().all(|value| (0.0..=1.0).contains(&value)));

    write_tensors(&desk.path("in.safetensors"), &[("latents_init", vec![2, 4, 2, 4])]);
    desk.works("trace", &["--request", "request.json", "--tensors", "in.safetensors", "--output", "given.safetensors"]);
    assert_ne!(std::fs::read(desk.path("given.safetensors")).unwrap(), content);
}

#[test]
fn trace_refuses_tensors_that_do_not_fit_by_name() {
    let desk = Desk::with_model();
    std::fs::write(desk.path("request.json"), r#"{"prompt": "a", "width": 32, "height": 16, "num_inference_steps": 1}"#).unwrap();
    for (name, shape, named) in [
        ("latents_init", vec![1, 4, 4, 2], "latents_init"),
        ("latents_init", vec![4, 2, 4], "latents_init"),
        ("mask_image", vec![16, 32], "does not use mask_image"),
        ("noise.1", vec![1, 4, 2, 4], "noise.0"),
    ] {
        write_tensors(&desk.path("in.safetensors"), &[(name, shape)]);
        let said = desk.fails("trace", &["--request", "request.json", "--tensors", "in.safetensors", "--output", "out.safetensors"]);
        assert!(said.contains(named), "{said}");
    }
    assert!(!desk.path("out.safetensors").exists());
}
