//! Images that are checked before they leave, with the real network and made-up weights, and files in every format.

use std::path::Path;

use runtime::picture::Pixels;
use runtime::safety::SafetyChecker;
use runtime::worker::Limits;
use runtime_api::{Event, FailureReason, OutputFormat, SafetyStyle};
use safetensors::{Dtype, tensor::TensorView};

use crate::house::{House, TOKEN};
use crate::puppet::{GOOD, Gate, Puppet};

/// Weights of nothing but a bias: every picture is as unsafe as `logit` says, whatever it shows.
fn write_weights(path: &Path, logit: f32) {
    let mut shapes = vec![("stem".to_owned(), vec![64, 3, 7, 7]), ("classifier".to_owned(), vec![2, 1024])];
    let mut channels = 64;
    for (stage, (count, inner)) in [(3, 32), (4, 64), (6, 128), (3, 256)].into_iter().enumerate() {
        for block in 0..count {
            let mut layer = |name: &str, shape: [usize; 4]| shapes.push((format!("stages.{stage}.{block}.{name}"), shape.to_vec()));
            layer("reduce", [inner, channels, 1, 1]);
            layer("look", [inner, inner, 3, 3]);
            layer("expand", [inner * 4, inner, 1, 1]);
            if block == 0 {
                layer("shortcut", [inner * 4, channels, 1, 1]);
            }
            channels = inner * 4;
        }
    }
    let zeros = vec![0; 4 * 1024 * 1024 * 4];
    let bias: Vec<u8> = [0.0, logit].into_iter().flat_map(f32::to_le_bytes).collect();
    let bytes = |shape: &[usize]| shape.iter().product::<usize>() * 4;
    let mut tensors = Vec::new();
    for (name, shape) in &shapes {
        let weight = TensorView::new(Dtype::F32, shape.clone(), &zeros[..bytes(shape)]).unwrap();
        let own = if name == "classifier" { &bias[..] } else { &zeros[..bytes(&shape[..1])] };
        tensors.push((format!("{name}.weight"), weight));
        tensors.push((format!("{name}.bias"), TensorView::new(Dtype::F32, vec![shape[0]], own).unwrap()));
    }
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

/// A replica whose checker finds everything as unsafe as `logit` says.
async fn house(logit: f32) -> House {
    let weights = tempfile::NamedTempFile::new().unwrap();
    write_weights(weights.path(), logit);
    let checker = SafetyChecker::open(weights.path()).unwrap();
    let gate = Gate::closed();
    gate.open();
    let house = House::with_safety_checker(Puppet { gate: gate.clone() }, gate, Limits::default(), Some(checker)).await;
    house.add_model("demo", GOOD);
    house
}

/// Makes an image, and tells what was found.
async fn made(house: &House, name: &str, style: Option<SafetyStyle>) -> (Pixels, Vec<bool>) {
    let mut dispatch = house.dispatch(name);
    dispatch.request.safety_checker = style;
    let found = match house.send(&dispatch).await.done().await.pop() {
        Some(Event::Done { nsfw_content_detected, .. }) => nsfw_content_detected,
        other => panic!("{other:?}"),
    };
    (house.storage.pixels(name), found)
}

#[tokio::test]
async fn unsafe_images_are_drawn_over_and_the_unchecked_are_as_ever() {
    let house = house(9.0).await;
    let (unchecked, found) = made(&house, "unchecked", None).await;
    assert_eq!(found, [false; 0]);
    assert!(unchecked.rgb.iter().any(|&value| value != unchecked.rgb[0]));
    for style in SafetyStyle::ALL {
        let (shown, found) = made(&house, style.name(), Some(style)).await;
        assert_eq!(found, [true], "{style:?}");
        assert_eq!((shown.width, shown.height), (unchecked.width, unchecked.height));
        assert_ne!(shown, unchecked, "{style:?}");
        assert_eq!(shown.rgb.iter().all(|&value| value == 0), style == SafetyStyle::Black, "{style:?}");
    }
}

#[tokio::test]
async fn safe_images_stay_as_they_are() {
    let house = house(1.0).await;
    let (unchecked, _) = made(&house, "unchecked", None).await;
    assert_eq!(made(&house, "checked", Some(SafetyStyle::Black)).await, (unchecked, vec![false]));
}

#[tokio::test]
async fn previews_of_checked_images_never_leave() {
    let house = house(9.0).await;
    for (style, previews) in [(None, 2), (Some(SafetyStyle::Blur), 0)] {
        let mut dispatch = house.dispatch("x");
        dispatch.partial_images = 2;
        dispatch.request.safety_checker = style;
        dispatch.request.samples = 2;
        dispatch.outputs = ["a", "b"].map(|name| house.storage.target(&format!("{name}{previews}"))).into();
        let events = house.send(&dispatch).await.done().await;
        let told = events.iter().filter(|event| matches!(event, Event::Preview { .. })).count();
        assert_eq!(told, previews * 2, "{style:?}");
        let Some(Event::Done { nsfw_content_detected, .. }) = events.last() else { panic!("{events:?}") };
        assert_eq!(nsfw_content_detected.len(), if style.is_some() { 2 } else { 0 });
    }
}

#[tokio::test]
async fn replica_without_weights_refuses_to_check_and_makes_all_else() {
    let house = House::open().await;
    let mut dispatch = house.dispatch("x");
    dispatch.request.safety_checker = Some(SafetyStyle::Blur);
    let answer = house.post(serde_json::to_vec(&dispatch).unwrap(), TOKEN).await;
    assert_eq!(answer.status(), 400);
    let failure: runtime_api::Failure = answer.json().await.unwrap();
    assert_eq!(failure.reason, FailureReason::InvalidRequest);
    assert!(failure.message.contains("--safety-checker"), "{failure:?}");
    house.send(&house.dispatch("y")).await.done().await;
    assert!(house.storage.picture("x").is_none());
}

#[tokio::test]
async fn files_are_of_the_format_that_was_asked_for_with_their_parameters() {
    let house = House::open().await;
    for format in OutputFormat::ALL {
        let mut dispatch = house.dispatch(format.name());
        dispatch.request.output_format = format;
        dispatch.request.output_quality = Some(90);
        house.send(&dispatch).await.done().await;
        let file = house.storage.file(format.name(), format.media_type());
        assert_eq!(image::guess_format(&file).unwrap().to_mime_type(), format.media_type());
        let decoded = image::load_from_memory(&file).unwrap();
        assert_eq!((decoded.width(), decoded.height()), (16, 8));
        if format != OutputFormat::Png {
            let parameters: Vec<u8> = "Steps: 4, ".encode_utf16().flat_map(u16::to_be_bytes).collect();
            assert!(file.windows(parameters.len()).any(|window| window == parameters), "{format:?}");
        }
    }
}
