//! Calls that begin with a picture, in every dialect: how it comes in, what the replica gets, and what is refused.

use axum::Router;
use axum::http::header::LOCATION;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgba, RgbaImage};
use runtime_api::{Dispatch, Margins, Task};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::stage::{Stage, read};

const IMG2IMG: &str = "/api/v7/images/image-to-image";
const INPAINT: &str = "/api/v7/images/inpaint";
const OUTPAINT: &str = "/api/v6/image_editing/outpaint";
const EDITS: &str = "/v1/images/edits";

fn png(width: u32, height: u32, colour: [u8; 4]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbaImage::from_pixel(width, height, Rgba(colour)).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn red() -> Vec<u8> {
    png(72, 96, [200, 30, 30, 255])
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A server on loopback with `file` at `/picture.png`, a redirect to it at `/hop`, and one to the inside at `/inside`.
async fn serve(file: Vec<u8>) -> String {
    let found = |to: &'static str| get(move || async move { (axum::http::StatusCode::FOUND, [(LOCATION, to)]) });
    let routes = Router::new()
        .route("/picture.png", get(move || async move { file }))
        .route("/hop", found("/picture.png"))
        .route("/inside", found("http://127.0.0.2/latest/meta-data"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    base
}

/// A multipart body: texts, then files.
fn form(texts: &[(&str, &str)], files: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, text) in texts {
        body.extend(format!("--limit\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n").into_bytes());
    }
    for (name, file) in files {
        let head =
            format!("--limit\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a.bin\"\r\nContent-Type: text/plain\r\n\r\n");
        body.extend([head.as_bytes(), file, b"\r\n"].concat());
    }
    body.extend(b"--limit--\r\n");
    ("multipart/form-data; boundary=limit".to_owned(), body)
}

async fn post_form(stage: &Stage, path: &str, texts: &[(&str, &str)], files: &[(&str, &[u8])]) -> (u16, Value) {
    let (content_type, body) = form(texts, files);
    let request = stage.client.post(format!("{}{path}", stage.base)).bearer_auth(&stage.key);
    read(request.header("content-type", content_type).body(body)).await
}

fn assert_dispatched(dispatch: &Dispatch, inputs: &[Vec<u8>], expected: &[&[u8]]) {
    assert_eq!(inputs, expected);
    let named: Vec<&str> = dispatch.inputs.iter().map(|input| input.sha256.as_str()).collect();
    let digests: Vec<String> = expected.iter().map(|bytes| digest(bytes)).collect();
    assert_eq!(named, digests);
    let request = &dispatch.request;
    let in_request: Vec<&String> = request.image.iter().chain(&request.mask_image).collect();
    assert_eq!(in_request, digests.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn image_to_image_is_served_at_every_path_and_as_large_as_its_picture() {
    let stage = Stage::quick().await;
    for (path, fetch) in [
        (IMG2IMG, "/api/v7/images/fetch"),
        ("/api/v6/images/img2img", "/api/v6/images/fetch"),
        ("/api/v6/realtime/img2img", "/api/v6/realtime/fetch"),
        ("/api/v4/dreambooth/img2img", "/api/v4/dreambooth/fetch"),
        ("/api/v3/dreambooth/img2img", "/api/v3/dreambooth/fetch"),
        ("/api/v3/img2img", "/api/v3/fetch"),
    ] {
        let call = json!({ "model_id": "demo", "prompt": "a cat", "init_image": STANDARD.encode(red()), "instant_response": true });
        let (status, body) = stage.post(path, call).await;
        assert_eq!((status, &body["status"]), (200, &json!("processing")), "{path}: {body}");
        assert_eq!(body["fetch_result"], format!("{}{fetch}/{}", stage.base, body["id"]));
        let (status, body) = stage.post(&format!("{fetch}/{}", body["id"]), json!({})).await;
        assert_eq!((status, &body["status"]), (200, &json!("success")), "{path}: {body}");
        assert_eq!((&body["meta"]["W"], &body["meta"]["height"], &body["meta"]["strength"]), (&json!(72), &json!(96), &json!(0.8)));
        let (dispatch, inputs) = stage.last_received();
        assert_dispatched(&dispatch, &inputs, &[&red()]);
        let request = &dispatch.request;
        assert_eq!((request.task, request.strength, request.width, request.height), (Task::ImageToImage, Some(0.8), Some(72), Some(96)));
    }
}

#[tokio::test]
async fn a_picture_comes_as_url_data_uri_base64_list_or_file() {
    let stage = Stage::quick().await;
    let base = serve(red()).await;
    let text = STANDARD.encode(red());
    for init_image in [
        json!(format!("{base}/picture.png")),
        json!(format!("{base}/hop")),
        json!(format!("data:image/jpeg;base64,{text}")),
        json!(text),
        json!([text]),
    ] {
        let (status, body) = stage.post(IMG2IMG, json!({ "prompt": "a cat", "init_image": init_image, "prompt_strength": "0.5" })).await;
        assert_eq!(status, 200, "{body}");
        let (dispatch, inputs) = stage.last_received();
        assert_dispatched(&dispatch, &inputs, &[&red()]);
        assert_eq!(dispatch.request.strength, Some(0.5));
    }
    let (status, body) =
        post_form(&stage, IMG2IMG, &[("prompt", "a cat"), ("width", "64"), ("strength", "1")], &[("init_image", &red())]).await;
    assert_eq!(status, 200, "{body}");
    let (dispatch, inputs) = stage.last_received();
    assert_dispatched(&dispatch, &inputs, &[&red()]);
    assert_eq!((dispatch.request.width, dispatch.request.height, dispatch.request.strength), (Some(64), Some(96), Some(1.0)));
}

#[tokio::test]
async fn inpainting_has_a_picture_and_a_mask_at_every_path() {
    let stage = Stage::quick().await;
    let mask = png(8, 8, [255, 255, 255, 255]);
    for path in [
        INPAINT,
        "/api/v6/images/inpaint",
        "/api/v6/realtime/inpaint",
        "/api/v6/image_editing/inpaint",
        "/api/v4/dreambooth/inpaint",
        "/api/v3/dreambooth/inpaint",
        "/api/v3/inpaint",
    ] {
        let (init_image, mask_image) = (STANDARD.encode(red()), STANDARD.encode(&mask));
        let (status, body) = stage.post(path, json!({ "prompt": "a cat", "init_image": init_image, "mask_image": mask_image })).await;
        assert_eq!((status, &body["status"]), (200, &json!("success")), "{path}: {body}");
        let (dispatch, inputs) = stage.last_received();
        assert_dispatched(&dispatch, &inputs, &[&red(), &mask]);
        assert_eq!((dispatch.request.task, dispatch.request.strength), (Task::Inpaint, Some(1.0)));
    }
}

#[tokio::test]
async fn outpainting_puts_the_picture_in_the_middle() {
    let stage = Stage::quick().await;
    for path in [OUTPAINT, "/api/v5/outpaint"] {
        // As the vendor's Python client sends it.
        let call = json!({
            "prompt": "a cat", "image": STANDARD.encode(red()), "width": 128, "height": 112, "overlap_width": 64, "num_inference_steps": 20,
            "guidance_scale": 7.5
        });
        let (status, body) = stage.post(path, call).await;
        assert_eq!((status, &body["status"], &body["meta"]["overlap_width"]), (200, &json!("success"), &json!(18)), "{path}: {body}");
        let (dispatch, inputs) = stage.last_received();
        assert_dispatched(&dispatch, &inputs, &[&red()]);
        let request = &dispatch.request;
        assert_eq!((request.task, request.width, request.height, request.mask_blur), (Task::Outpaint, Some(128), Some(112), Some(18)));
        assert_eq!(request.margins, Some(Margins { left: 28, right: 28, top: 8, bottom: 8 }));
        assert_eq!(request.negative_prompt.as_deref(), Some("low quality"));
    }
    let (status, body) = stage.post(OUTPAINT, json!({ "image": STANDARD.encode(red()), "overlap_width": 100_000 })).await;
    assert_eq!(
        (status, &body["meta"]["prompt"], &body["meta"]["W"], &body["meta"]["H"]),
        (200, &json!("high quality"), &json!(104), &json!(144))
    );
    assert_eq!(stage.last_received().0.request.mask_blur, Some(18));
}

#[tokio::test]
async fn pictures_that_cannot_be_used_are_refused_by_the_name_of_their_field() {
    let stage = Stage::quick().await;
    let base = serve(b"<html>not found</html>".to_vec()).await;
    let red = STANDARD.encode(red());
    let mut bomb = png(1, 1, [0; 4]);
    bomb[16..24].copy_from_slice(&[0, 0, 0xc3, 0x50, 0, 0, 0xc3, 0x50]);
    let unreachable = "Unable to fetch image from provided URL: init_image leads to";
    for (path, fields, named) in [
        (IMG2IMG, json!({}), "init_image is required"),
        (IMG2IMG, json!({ "init_image": "" }), "init_image is required"),
        (IMG2IMG, json!({ "init_image": { "url": "x" } }), "init_image must be a text"),
        (IMG2IMG, json!({ "init_image": "not a picture!" }), "init_image must be an http:// or https:// URL, a data URI, or base64"),
        (IMG2IMG, json!({ "init_image": "file:///etc/passwd" }), "init_image must be an http:// or https:// URL"),
        (IMG2IMG, json!({ "init_image": "aGVsbG8=" }), "init_image is no picture that is read here: a PNG, JPEG or WebP file is needed"),
        (IMG2IMG, json!({ "init_image": [red, red] }), "more than one picture (init_image) is not supported"),
        (IMG2IMG, json!({ "init_image": red, "init_image_2": red }), "more than one picture (init_image_2) is not supported"),
        (IMG2IMG, json!({ "init_image": red, "mask_image": red }), "inpainting at this path (mask_image) is not supported"),
        (IMG2IMG, json!({ "init_image": "http://127.0.0.2/latest" }), &format!("{unreachable} an address that is not public")),
        (IMG2IMG, json!({ "init_image": format!("{base}/inside") }), &format!("{unreachable} an address that is not public")),
        (IMG2IMG, json!({ "init_image": format!("{base}/gone.png") }), &format!("{unreachable} a server that answered with status 404")),
        (IMG2IMG, json!({ "init_image": format!("{base}/picture.png") }), "init_image is no picture"),
        (IMG2IMG, json!({ "init_image": "http://user:word@127.0.0.1/" }), "init_image holds a user name or a password"),
        (IMG2IMG, json!({ "init_image": STANDARD.encode(&bomb) }), "init_image is"),
        (IMG2IMG, json!({ "init_image": red, "strength": 0 }), "strength must be above 0 and at most 1"),
        (IMG2IMG, json!({ "init_image": red, "strength": "2" }), "strength must be above 0 and at most 1"),
        (IMG2IMG, json!({ "init_image": red, "width": 65 }), "width must be divisible by 8"),
        (INPAINT, json!({ "mask_image": red }), "init_image is required"),
        (INPAINT, json!({ "init_image": red }), "mask_image is required"),
        (INPAINT, json!({ "init_image": red, "mask_image": "aGVsbG8=" }), "mask_image is no picture"),
        (OUTPAINT, json!({ "width": 64 }), "image is required"),
    ] {
        let mut call = fields.clone();
        call["prompt"] = json!("a cat");
        let (status, body) = stage.post(path, call).await;
        let message = body["message"].as_str().unwrap();
        assert_eq!((status, &body["status"]), (400, &json!("error")), "{path} {fields:.200}: {body}");
        assert!(message.contains(named), "{fields:.200}: {message}");
    }
    assert!(stage.replica.received.lock().unwrap().is_empty(), "nothing reached the replica");
}

#[tokio::test]
async fn only_paths_that_take_pictures_take_large_bodies() {
    let stage = Stage::quick().await;
    let padding = " ".repeat(2 * 1024 * 1024);
    let large = json!({ "prompt": "a cat", "init_image": format!("{}{padding}", STANDARD.encode(red())), "unknown": padding });
    assert_eq!(stage.post("/api/v7/images/text-to-image", large.clone()).await.0, 413);
    let (status, body) = stage.post(IMG2IMG, large).await;
    assert_eq!(status, 200, "{body}");
    let url = format!("{}{IMG2IMG}", stage.base);
    assert_eq!(read(stage.client.post(url).body("x".repeat(40 * 1024 * 1024 + 1))).await.0, 413);
}

#[tokio::test]
async fn an_edit_with_a_mask_draws_anew_what_is_transparent_in_it() {
    let stage = Stage::quick().await;
    let mut mask = image::load_from_memory(&red()).unwrap().into_rgba8();
    mask.put_pixel(3, 2, Rgba([0, 0, 0, 0]));
    let mut file = std::io::Cursor::new(Vec::new());
    mask.write_to(&mut file, ImageFormat::Png).unwrap();
    let file = file.into_inner();
    let (status, body) = post_form(&stage, EDITS, &[("prompt", "a cat"), ("n", "1")], &[("image", &red()), ("mask", &file)]).await;
    assert_eq!((status, &body["size"]), (200, &json!("72x96")), "{body}");
    let (dispatch, inputs) = stage.last_received();
    assert_eq!((dispatch.request.task, dispatch.request.strength), (Task::Inpaint, Some(1.0)));
    let white = image::load_from_memory(&inputs[1]).unwrap().into_luma8();
    assert_eq!(white.dimensions(), (72, 96));
    for (x, y, pixel) in white.enumerate_pixels() {
        assert_eq!(pixel.0[0], if (x, y) == (3, 2) { 255 } else { 0 }, "{x},{y}");
    }
}

#[tokio::test]
async fn an_edit_without_a_mask_changes_the_whole_picture() {
    let stage = Stage::quick().await;
    let (status, body) = post_form(&stage, EDITS, &[("prompt", "a cat"), ("size", "64x64"), ("seed", "7")], &[("image[]", &red())]).await;
    assert_eq!((status, &body["size"], &body["seed"]), (200, &json!("64x64"), &json!(7)), "{body}");
    let (dispatch, inputs) = stage.last_received();
    assert_dispatched(&dispatch, &inputs, &[&red()]);
    assert_eq!((dispatch.request.task, dispatch.request.strength), (Task::ImageToImage, Some(0.8)));
    let (status, body) =
        stage.post_bearer(EDITS, &json!({ "prompt": "a cat", "image": STANDARD.encode(red()), "strength": 0.25, "size": "auto" })).await;
    assert_eq!((status, &body["size"]), (200, &json!("72x96")), "{body}");
    assert_eq!(stage.last_received().0.request.strength, Some(0.25));
}

#[tokio::test]
async fn a_streamed_edit_has_events_of_its_own_kind() {
    let stage = Stage::quick().await;
    let (content_type, body) = form(&[("prompt", "a cat"), ("stream", "true"), ("partial_images", "1")], &[("image", &red())]);
    let request = stage.client.post(format!("{}{EDITS}", stage.base)).bearer_auth(&stage.key);
    let text = request.header("content-type", content_type).body(body).send().await.unwrap().text().await.unwrap();
    let kinds: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event:").map(str::trim)).collect();
    assert_eq!(kinds, ["image_edit.partial_image", "image_edit.completed"], "{text}");
    assert!(text.contains("\"type\":\"image_edit.completed\""), "{text}");
}

#[tokio::test]
async fn edits_that_cannot_be_made_are_bad_requests() {
    let stage = Stage::quick().await;
    let red = red();
    let texts: &[(&str, &str)] = &[("prompt", "a cat")];
    for (texts, files, named) in [
        (texts, vec![], "image is required"),
        (texts, vec![("image", red.as_slice()), ("image", &red)], "more than one picture (image) is not supported"),
        (texts, vec![("image", b"hello".as_slice())], "image is no picture that is read here"),
        (texts, vec![("image", &red), ("mask", &red)], "mask has no transparent pixels"),
        (&[("prompt", "a cat"), ("strength", "0")], vec![("image", &red)], "strength must be above 0"),
        (&[("prompt", " ")], vec![("image", &red)], "prompt is required"),
    ] {
        let (status, body) = post_form(&stage, EDITS, texts, &files).await;
        let message = body["error"]["message"].as_str().unwrap();
        assert!(status == 400 && message.contains(named), "{status} {body}");
    }
    assert!(stage.replica.received.lock().unwrap().is_empty(), "nothing reached the replica");
}
