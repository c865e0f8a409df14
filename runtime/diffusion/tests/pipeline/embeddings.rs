//! Textual inversion: vectors take their word's place, for one request alone, and files that hold none are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffusion::model::{Model, ModelFolder};
use diffusion::pipeline::{InjectedTensors, Request, prepare};
use diffusion::text::{Embedding, MAX_EMBEDDING_VECTORS, MAX_EMBEDDINGS, NamedEmbedding, PromptSyntax};
use diffusion::{DType, Device, Tensor};

use crate::prompts::states_with;
use crate::tiny_model::{TinyModel, WIDTH};

/// A model, and a place for files.
struct Desk {
    folder: tempfile::TempDir,
    model: Arc<Model>,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        TinyModel::default().write(folder.path());
        let open = ModelFolder::open(folder.path()).unwrap();
        let model = Arc::new(open.load(&Device::Cpu, DType::F32, &mut |_| {}).unwrap());
        Self { folder, model }
    }

    fn file(&self, tensors: &[(&str, Tensor)]) -> PathBuf {
        let path = self.folder.path().join("embedding.safetensors");
        safetensors::serialize_to_file(tensors.iter().map(|(name, tensor)| (*name, tensor)), None, &path).unwrap();
        path
    }

    /// An embedding whose vectors are the model's own for these letters, each at a word's end.
    fn of_letters(&self, name: &str, letters: &str) -> NamedEmbedding {
        let weights = self.folder.path().join("text_encoder/model.safetensors");
        let table = candle_core::safetensors::load(weights, &Device::Cpu).unwrap()["text_model.embeddings.token_embedding.weight"].clone();
        let ids: Vec<u32> = letters.chars().map(|letter| 26 + u32::from(letter) - u32::from('a')).collect();
        let vectors = table.index_select(&Tensor::new(ids, &Device::Cpu).unwrap(), 0).unwrap();
        let embedding = Embedding::open(&self.file(&[("emb_params", vectors)])).unwrap();
        NamedEmbedding { names: vec![name.to_owned()], embedding }
    }

    fn states(&self, prompt: &str, syntax: PromptSyntax, embeddings: &[NamedEmbedding]) -> Vec<Vec<u32>> {
        states_with(&self.model, prompt, syntax, 0, embeddings)
    }

    fn refusal(&self, embeddings: Vec<NamedEmbedding>) -> String {
        let request = Request { width: 64, height: 64, embeddings, ..Request::with_defaults(&self.model, "a") };
        let error = prepare(&self.model, &request, &InjectedTensors::default()).unwrap_err();
        assert!(error.is_invalid_request(), "{error}");
        error.to_string()
    }
}

fn widths(embedding: &Embedding) -> Vec<usize> {
    embedding.widths().collect()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn vectors_take_the_place_of_their_word() {
    let desk = Desk::new();
    let embeddings = [desk.of_letters("<e>", "cd"), desk.of_letters("<e>x", "z"), desk.of_letters("Easy One", "q")];
    for (prompt, same) in [
        ("a <e> b", "a c d b"),
        ("a<e>b", "a c d b"),
        ("<e>_1", "d"),
        ("<e>x<e>", "z c d"),
        ("Easy One, easy one", "q , easy one"),
        ("no word of it", "no word of it"),
    ] {
        for syntax in [PromptSyntax::Plain, PromptSyntax::Weighted] {
            assert!(desk.states(prompt, syntax, &embeddings) == desk.states(same, syntax, &[]), "{prompt} {syntax:?}");
        }
    }
    let weighted = |prompt, embeddings: &[NamedEmbedding]| desk.states(prompt, PromptSyntax::Weighted, embeddings);
    assert!(weighted("a (<e>:1.5)", &embeddings) == weighted("a (c d:1.5)", &[]));
}

#[test]
fn vectors_of_one_word_stay_in_one_chunk() {
    let desk = Desk::new();
    let embeddings = [desk.of_letters("<e>", "cd")];
    let letters = "a ".repeat(74);
    let weighted = |prompt: &str, embeddings| desk.states(prompt, PromptSyntax::Weighted, embeddings);
    assert!(weighted(&format!("{letters}<e>"), &embeddings) == weighted(&format!("{letters}BREAK c d"), &[]));
    // What does not fit into the plain syntax's one row is cut, as everything else.
    let plain = |prompt: &str, embeddings| desk.states(prompt, PromptSyntax::Plain, embeddings);
    assert!(plain(&format!("{letters}<e>"), &embeddings) == plain(&format!("{letters}c"), &[]));
}

#[test]
fn embeddings_are_the_requests_alone() {
    let desk = Desk::new();
    let embeddings = [desk.of_letters("<e>", "cd")];
    let before = desk.states("a <e>", PromptSyntax::Plain, &[]);
    assert!(desk.states("a <e>", PromptSyntax::Plain, &embeddings) != before);
    assert!(desk.states("a <e>", PromptSyntax::Plain, &[]) == before);
}

#[test]
fn both_prompts_of_a_request_may_name_them() {
    let desk = Desk::new();
    let request = |prompt: &str, embeddings| Request {
        width: 64,
        height: 64,
        num_inference_steps: 1,
        negative_prompt: Some(prompt.to_owned()),
        embeddings,
        ..Request::with_defaults(&desk.model, prompt)
    };
    let latents = |request: &Request| {
        let mut image = prepare(&desk.model, request, &InjectedTensors::default()).unwrap().remove(0);
        assert!(diffusion::pipeline::step(&mut [&mut image]).outcomes[0].is_ok());
        image.latents().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let named = vec![desk.of_letters("<e>", "cd")];
    assert_eq!(latents(&request("<e>", named)), latents(&request("c d", vec![])));
}

#[test]
fn embeddings_that_do_not_fit_are_the_requests_fault() {
    let desk = Desk::new();
    let good = desk.of_letters("<e>", "cd");
    let named = |names: &[&str]| NamedEmbedding { names: names.iter().map(|name| (*name).to_owned()).collect(), ..good.clone() };
    let wide = Embedding::open(&desk.file(&[("<w>", zeros(&[768]))])).unwrap();
    let wide = NamedEmbedding { names: vec!["<w>".to_owned()], embedding: wide };
    for (embeddings, words) in [
        (vec![wide], vec!["768", "24", "`<w>`"]),
        (vec![named(&["a"])], vec!["`a`", "vocabulary"]),
        (vec![named(&["<|endoftext|>"])], vec!["vocabulary"]),
        (vec![named(&[])], vec!["vocabulary"]),
        (vec![named(&["<e>"]), named(&["<e>"])], vec!["`<e>`", "two embeddings"]),
        (vec![named(&["<e>"]), named(&["<e>_1"])], vec!["`<e>_1`"]),
        (vec![named(&[""])], vec!["no word"]),
        (vec![named(&["x\ny"])], vec!["no word"]),
        (vec![named(&[" <e>"])], vec!["no word"]),
        (vec![named(&[&"x".repeat(1000)])], vec!["no word"]),
        ((0..=MAX_EMBEDDINGS).map(|number| named(&[&format!("<{number}>")])).collect(), vec!["at most 32"]),
    ] {
        let refusal = desk.refusal(embeddings);
        assert!(refusal.starts_with("embeddings: ") && words.iter().all(|word| refusal.contains(word)), "{refusal}");
    }
    // A name that is taken is passed over while another is free.
    assert!(desk.states("a <e>", PromptSyntax::Plain, &[named(&["a", "<e>", "<e>"])]) == desk.states("a c d", PromptSyntax::Plain, &[]));
}

/// Vectors for each text encoder of a model with two, all those of the same letters.
fn of_both(folder: &Path, name: &str, letters: &str) -> NamedEmbedding {
    let vectors = |part: &str| {
        let weights = folder.join(part).join("model.safetensors");
        let table = candle_core::safetensors::load(weights, &Device::Cpu).unwrap()["text_model.embeddings.token_embedding.weight"].clone();
        let ids: Vec<u32> = letters.chars().map(|letter| 26 + u32::from(letter) - u32::from('a')).collect();
        table.index_select(&Tensor::new(ids, &Device::Cpu).unwrap(), 0).unwrap()
    };
    let path = folder.join("both.safetensors");
    let tensors = [("clip_l", vectors("text_encoder")), ("clip_g", vectors("text_encoder_2"))];
    safetensors::serialize_to_file(tensors.iter().map(|(name, tensor)| (*name, tensor)), None, &path).unwrap();
    NamedEmbedding { names: vec![name.to_owned()], embedding: Embedding::open(&path).unwrap() }
}

#[test]
fn each_of_two_text_encoders_takes_its_own_vectors() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::with_two_encoders().write(folder.path());
    let open = ModelFolder::open(folder.path()).unwrap();
    let model = Arc::new(open.load(&Device::Cpu, DType::F32, &mut |_| {}).unwrap());
    let embedding = of_both(folder.path(), "<e>", "cd");
    assert_eq!(widths(&embedding.embedding), [WIDTH + 8, WIDTH]);
    for syntax in [PromptSyntax::Plain, PromptSyntax::Weighted] {
        let states = |prompt: &str, embeddings: &[NamedEmbedding]| states_with(&model, prompt, syntax, 0, embeddings);
        assert!(states("a <e> b", std::slice::from_ref(&embedding)) == states("a c d b", &[]), "{syntax:?}");
    }
    let desk = Desk::new();
    let refusal = desk.refusal(vec![embedding]);
    assert!(refusal.contains("`clip_g` and `clip_l`") && refusal.contains("single text encoder"), "{refusal}");
    let single = Request { width: 64, height: 64, embeddings: vec![desk.of_letters("<e>", "c")], ..Request::with_defaults(&model, "a") };
    let refusal = prepare(&model, &single, &InjectedTensors::default()).unwrap_err();
    assert!(refusal.is_invalid_request() && refusal.to_string().contains("`clip_l`"), "{refusal}");
}

#[test]
fn both_formats_are_read_whatever_float_they_store() {
    let desk = Desk::new();
    let values = Tensor::arange(0_f32, 2.0 * WIDTH as f32, &Device::Cpu).unwrap().reshape((2, WIDTH)).unwrap();
    let theirs = Embedding::open(&desk.file(&[("emb_params", values.clone())])).unwrap();
    assert_eq!((theirs.word(), theirs.vectors(), widths(&theirs)), (None, 2, vec![WIDTH]));
    let diffusers = Embedding::open(&desk.file(&[("<cat-toy>", values.get(1).unwrap().to_dtype(DType::F16).unwrap())])).unwrap();
    assert_eq!((diffusers.word(), diffusers.vectors(), widths(&diffusers)), (Some("<cat-toy>"), 1, vec![WIDTH]));
}

#[test]
fn files_that_hold_no_embedding_are_refused() {
    let desk = Desk::new();
    let nothing = zeros(&[WIDTH]);
    let not_a_number = Tensor::full(f32::NAN, WIDTH, &Device::Cpu).unwrap();
    for (tensors, words) in [
        (vec![("clip_l", zeros(&[2, 768])), ("clip_g", zeros(&[2, 1280])), ("t5xxl", zeros(&[2, 4096]))], vec!["T5", "`t5xxl`", "without"]),
        (vec![("clip_l", zeros(&[2, 768])), ("t5", zeros(&[2, 4096]))], vec!["T5", "`t5`", "without"]),
        (vec![("clip_l", zeros(&[2, 768])), ("clip_g", zeros(&[1, 1280]))], vec!["another number of vectors"]),
        (vec![("lora_unet.lora_up.weight", nothing.clone()), ("lora_unet.lora_down.weight", nothing.clone())], vec!["2 tensors", "LoRA"]),
        (vec![], vec!["0 tensors"]),
        (vec![("emb_params", zeros(&[1, 2, WIDTH]))], vec!["[1, 2, 24]"]),
        (vec![("emb_params", zeros(&[MAX_EMBEDDING_VECTORS + 1, WIDTH]))], vec!["[76, 24]"]),
        (vec![("emb_params", zeros(&[0, WIDTH]))], vec!["[0, 24]"]),
        (vec![("emb_params", zeros(&[1 << 15]))], vec!["[32768]"]),
        (vec![("emb_params", not_a_number)], vec!["not finite"]),
        (vec![("emb_params", nothing.to_dtype(DType::U8).unwrap())], vec!["stored as U8"]),
    ] {
        let refusal = Embedding::open(&desk.file(&tensors)).unwrap_err().to_string();
        assert!(words.iter().all(|word| refusal.contains(word)), "{refusal}");
    }
    let pickle = desk.folder.path().join("embedding.pt");
    std::fs::write(&pickle, b"PK\x03\x04archive/data.pkl").unwrap();
    let refusal = Embedding::open(&pickle).unwrap_err().to_string();
    assert!(refusal.contains("embedding.pt") && refusal.contains("save_file"), "{refusal}");
    assert!(Embedding::open(Path::new("nowhere")).is_err());
}
