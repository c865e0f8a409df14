//! Finished images reach their targets, or the caller hears why not.

use axum::http::StatusCode;
use runtime_api::FailureReason;

use crate::house::House;

#[tokio::test]
async fn image_is_stored_with_its_metadata() {
    let house = House::open().await;
    let mut dispatch = house.dispatch("x");
    dispatch.metadata = vec![("prompt".to_owned(), "a red circle".to_owned())];
    house.send(&dispatch).await.done().await;
    let (pixels, text) = house.storage.picture("x").unwrap();
    assert_eq!((pixels.width, pixels.height), (16, 8));
    assert_eq!(text[..1], dispatch.metadata);
    assert_eq!(text[1].0, "parameters");
    assert!(text[1].1.starts_with("a red circle\nSteps: 4, ") && text[1].1.contains("Seed: 7, Size: 16x8"), "{text:?}");

    dispatch.metadata = vec![("parameters".to_owned(), "the router's own".to_owned())];
    dispatch.outputs = vec![house.storage.target("y")];
    house.send(&dispatch).await.done().await;
    assert_eq!(house.storage.picture("y").unwrap().1, dispatch.metadata);
}

#[tokio::test]
async fn storage_that_stumbles_is_tried_again() {
    let house = House::open().await;
    house.storage.refuse(&[StatusCode::SERVICE_UNAVAILABLE, StatusCode::INTERNAL_SERVER_ERROR]);
    house.send(&house.dispatch("x")).await.done().await;
    assert_eq!(house.storage.attempts(), 3);
}

#[tokio::test]
async fn output_that_is_there_already_counts_as_stored() {
    let house = House::open().await;
    for status in [StatusCode::PRECONDITION_FAILED, StatusCode::CONFLICT] {
        house.storage.refuse(&[status]);
        house.send(&house.dispatch("x")).await.done().await;
    }
    assert_eq!(house.storage.attempts(), 2);
}

#[tokio::test]
async fn refused_output_fails_without_telling_the_url() {
    let house = House::open().await;
    house.storage.refuse(&[StatusCode::FORBIDDEN]);
    let (reason, message) = house.send(&house.dispatch("x")).await.failure().await;
    assert_eq!(reason, FailureReason::OutputRejected);
    assert!(message.contains("403") && !message.contains("signature") && !message.contains("127.0.0.1"), "{message}");
    assert_eq!(house.storage.attempts(), 1);
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let house = House::open().await;
    house.storage.refuse(&[StatusCode::TEMPORARY_REDIRECT]);
    assert_eq!(house.send(&house.dispatch("x")).await.failure().await.0, FailureReason::OutputRejected);
    assert_eq!(house.storage.attempts(), 1);
}
