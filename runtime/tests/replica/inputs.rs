//! Pictures that a dispatch says where to get: fetched, checked and used, or refused with what is wrong.

use axum::http::StatusCode;
use runtime::picture::{Pixels, encode_png};
use runtime_api::{Dispatch, FailureReason, InputSource, Task};
use sha2::{Digest, Sha256};

use crate::house::{House, TOKEN};

fn png(width: u32, height: u32, value: u8) -> Vec<u8> {
    encode_png(&Pixels { width, height, rgb: vec![value; (width * height * 3) as usize] }, &[]).unwrap()
}

/// Keeps `file` in the storage as `name`, and names it by its digest.
fn input(house: &House, name: &str, file: Vec<u8>) -> InputSource {
    let sha256 = hex::encode(Sha256::digest(&file));
    house.storage.give(name, file);
    InputSource { sha256, get_url: house.storage.target(name).put_url }
}

fn image_to_image(house: &House, source: InputSource) -> Dispatch {
    let mut dispatch = house.dispatch("made");
    dispatch.request.task = Task::ImageToImage;
    dispatch.request.image = Some(source.sha256.clone());
    dispatch.inputs = vec![source];
    dispatch
}

#[tokio::test]
async fn image_decides_the_size_of_what_is_made() {
    let house = House::open().await;
    let source = input(&house, "in", png(35, 24, 7));
    house.send(&image_to_image(&house, source)).await.done().await;
    let made = house.storage.pixels("made");
    assert_eq!((made.width, made.height), (32, 24));
}

#[tokio::test]
async fn inpainting_gets_image_and_mask() {
    let house = House::open().await;
    let (image, mask) = (input(&house, "image", png(16, 16, 7)), input(&house, "mask", png(4, 4, 255)));
    let mut dispatch = image_to_image(&house, image);
    dispatch.request.task = Task::Inpaint;
    dispatch.request.mask_image = Some(mask.sha256.clone());
    dispatch.inputs.push(mask);
    house.send(&dispatch).await.done().await;
    assert_eq!(house.storage.pixels("made").width, 16);
}

#[tokio::test]
async fn storage_that_stumbles_is_asked_again() {
    let house = House::open().await;
    let source = input(&house, "in", png(8, 8, 7));
    house.storage.refuse(&[StatusCode::SERVICE_UNAVAILABLE]);
    house.send(&image_to_image(&house, source)).await.done().await;
}

#[tokio::test]
async fn what_is_no_picture_is_the_callers_fault() {
    let house = House::open().await;
    for file in [b"GIF89a".to_vec(), png(8, 8, 7)[..40].to_vec()] {
        let source = input(&house, "in", file);
        let (reason, message) = house.send(&image_to_image(&house, source)).await.failure().await;
        assert_eq!(reason, FailureReason::InvalidRequest, "{message}");
    }
    let source = input(&house, "small", png(7, 8, 7));
    let (reason, message) = house.send(&image_to_image(&house, source)).await.failure().await;
    assert!(reason == FailureReason::InvalidRequest && message.contains("too small"), "{message}");
}

#[tokio::test]
async fn another_file_than_the_request_names_is_not_used_and_no_url_is_told() {
    let house = House::open().await;
    let mut source = input(&house, "in", png(8, 8, 7));
    source.sha256 = "ab".repeat(32);
    let (reason, message) = house.send(&image_to_image(&house, source)).await.failure().await;
    assert!(reason == FailureReason::Internal && message.contains("sha256"), "{message}");

    let source = input(&house, "in", png(8, 8, 7));
    for status in [StatusCode::TEMPORARY_REDIRECT, StatusCode::FORBIDDEN] {
        house.storage.refuse(&[status]);
        let (reason, message) = house.send(&image_to_image(&house, source.clone())).await.failure().await;
        assert_eq!(reason, FailureReason::Internal);
        assert!(message.contains(status.as_str()) && !message.contains("signature") && !message.contains("127.0.0.1"), "{message}");
    }
    assert!(house.storage.picture("made").is_none());
}

#[tokio::test]
async fn dispatch_that_does_not_say_where_a_picture_is_stays_outside() {
    let house = House::open().await;
    let source = input(&house, "in", png(8, 8, 7));
    let mut nowhere = image_to_image(&house, source.clone());
    nowhere.inputs.clear();
    let mut unnamed = image_to_image(&house, source.clone());
    unnamed.request.image = None;
    let mut extra = image_to_image(&house, source.clone());
    extra.inputs.push(source.clone());
    let mut file = image_to_image(&house, source);
    file.inputs[0].get_url = "file:///etc/passwd".to_owned();
    for dispatch in [nowhere, unnamed, extra, file] {
        let answer = house.post(serde_json::to_vec(&dispatch).unwrap(), TOKEN).await;
        assert_eq!(answer.status(), 400, "{}", answer.text().await.unwrap());
    }
}

#[tokio::test]
async fn cancelled_generation_leaves_while_its_picture_is_on_the_way() {
    let house = House::open().await;
    let source = input(&house, "in", png(8, 8, 7));
    house.storage.hold();
    let stream = house.send(&image_to_image(&house, source)).await;
    house.state_becomes(|state| state.queued == 1).await;
    drop(stream);
    house.state_becomes(|state| state.queued == 0 && state.running == 0).await;
    house.storage.release();
    assert!(house.storage.picture("made").is_none());
}
