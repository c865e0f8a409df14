//! Who gets in, and what is told to those who do not.

use runtime::worker::Limits;
use runtime_api::{Event, Failure, FailureReason};

use crate::house::{House, TOKEN};

async fn refused(house: &House, body: Vec<u8>) -> (u16, Failure) {
    let answer = house.post(body, TOKEN).await;
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn wrong_token_is_refused_and_health_needs_none() {
    let house = House::open().await;
    let body = serde_json::to_vec(&house.dispatch("x")).unwrap();
    assert_eq!(house.post(body, "guess").await.status(), 401);
    let without = reqwest::get(house.url("/v1/state")).await.unwrap();
    assert_eq!(without.status(), 401);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(reqwest::get(house.url(path)).await.unwrap().status(), 200, "{path}");
    }
    assert_eq!(house.storage.attempts(), 0);
}

#[tokio::test]
async fn full_queue_is_busy_and_free_again_when_work_starts() {
    let house = House::gated(Limits { queue_limit: 1, max_images: 1, ..Limits::default() }).await;
    let mut running = house.send(&house.dispatch("running")).await;
    house.state_becomes(|state| state.running == 1 && state.queued == 0).await;
    let mut waiting = house.send(&house.dispatch("waiting")).await;
    assert_eq!(waiting.next().await, Some(Event::Queued { ahead: 0 }));
    house.state_becomes(|state| state.queued == 1).await;

    let (status, failure) = refused(&house, serde_json::to_vec(&house.dispatch("third")).unwrap()).await;
    assert_eq!((status, failure.reason), (503, FailureReason::Busy));

    house.gate.open();
    running.until(|event| matches!(event, Event::Done { .. })).await;
    waiting.done().await;
    house.send(&house.dispatch("third")).await.done().await;
}

#[tokio::test]
async fn bodies_that_are_no_dispatch_are_refused() {
    let house = House::open().await;
    let (status, failure) = refused(&house, b"{".to_vec()).await;
    assert_eq!((status, failure.reason), (400, FailureReason::InvalidRequest));
    let (status, _) = refused(&house, vec![b' '; 9 << 20]).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn what_cannot_be_served_is_told_before_it_is_queued() {
    let house = House::open().await;
    let mut odd = house.dispatch("x");
    odd.request.width = Some(63);
    let mut too_few = house.dispatch("x");
    too_few.request.samples = 2;
    let mut ftp = house.dispatch("x");
    ftp.outputs[0].put_url = "ftp://127.0.0.1/x".to_owned();
    let mut text = house.dispatch("x");
    text.metadata = vec![("\n".to_owned(), "v".to_owned())];
    for dispatch in [odd, too_few, ftp, text] {
        let (status, failure) = refused(&house, serde_json::to_vec(&dispatch).unwrap()).await;
        assert_eq!((status, failure.reason), (400, FailureReason::InvalidRequest), "{failure:?}");
    }
    let mut outside = house.dispatch("x");
    outside.model.uri = "file:///etc".to_owned();
    let (status, failure) = refused(&house, serde_json::to_vec(&outside).unwrap()).await;
    assert_eq!((status, failure.reason), (400, FailureReason::InvalidModel));
    assert_eq!(house.state().await.queued, 0);
}

#[tokio::test]
async fn sampler_that_the_engine_does_not_know_is_the_callers_fault() {
    let house = House::open().await;
    let mut dispatch = house.dispatch("x");
    dispatch.request.sampler = Some("NoSuchScheduler".to_owned());
    assert_eq!(house.send(&dispatch).await.failure().await.0, FailureReason::InvalidRequest);
}

#[tokio::test]
async fn draining_replica_takes_nothing_and_finishes_what_it_took() {
    let house = House::gated(Limits::default()).await;
    let stream = house.send(&house.dispatch("x")).await;
    house.state_becomes(|state| state.running == 1).await;
    let replica = house.replica.clone();
    let drained = tokio::spawn(async move { replica.drain().await });
    house.state_becomes(|state| !state.accepting).await;
    assert_eq!(house.get("/readyz").await.status(), 503);
    let (status, failure) = refused(&house, serde_json::to_vec(&house.dispatch("y")).unwrap()).await;
    assert_eq!((status, failure.reason), (503, FailureReason::Busy));
    assert!(!drained.is_finished());
    house.gate.open();
    stream.done().await;
    drained.await.unwrap();
}
