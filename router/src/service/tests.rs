//! The whole way of a request with a replica that the test plays: held, dispatched, broken off, cancelled, taken up, and billed once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use futures::StreamExt;
use runtime_api::{Event, Failure, FailureReason, ImageRequest, Task};
use uuid::Uuid;

use crate::generation::{Mode, Progress, StartReport, State};
use crate::inputs::Picture;
use crate::store::{Admission, Allowance, Caller, ImageClaim, Outcome, ParallelImages};
use crate::validation;

mod fake;

use fake::{House, SOON, put_picture, submission};

fn failure(reason: FailureReason) -> Failure {
    Failure { reason, message: "as the test wants it".to_owned() }
}

/// What a router accepted that never had a heartbeat.
fn foreign(caller: &Caller, request: ImageRequest) -> Admission {
    Admission {
        id: Uuid::now_v7(),
        tenant: caller.tenant,
        router: Uuid::from_u128(1),
        allowance: Allowance { calls_per_day: None, calls_per_month: None, queue_depth: 10 },
        request,
        mode: Mode::Detached,
        dialect: "openai",
        track_id: None,
    }
}

#[tokio::test]
async fn request_waits_until_the_first_replica_is_ready() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    house.replicas.ready.send_replace(false);
    let ticket = house.service.submit(&caller, submission(Mode::Attached)).await.unwrap();
    let id = ticket.generation.public_id;
    while house.replicas.ready.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(house.service.wait(&caller, id, Duration::ZERO).await.unwrap().state, State::Queued);
    house.replicas.ready.send_replace(true);
    house.call().await.complete().await;
    let end = house.end(&caller, id).await;
    assert_eq!(end.state, State::Succeeded);
    assert!(end.start.cold && end.start.replica_start_ms == 7);
    assert_eq!(end.start.replica.map(|timings| timings.denoise_ms), Some(5));
    assert_eq!(house.calls_and_images(caller.tenant).await, (1, 1));
}

#[tokio::test]
async fn images_go_when_the_plan_keeps_them_no_longer_and_stay_billed() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    house.call().await.complete().await;
    let end = house.end(&caller, ticket.generation.public_id).await;
    let is_there = async || house.service.outputs().exists(end.id, 0, end.request.output_format).await.unwrap();
    let is_known = async || house.store.find_entry(caller.tenant, end.public_id).await.unwrap().is_some();
    house.service.remove_expired().await;
    assert!(is_there().await && is_known().await);
    house.keep_outputs_for("0s");
    house.service.remove_expired().await;
    assert!(!is_there().await && !is_known().await);
    assert_eq!(house.calls_and_images(caller.tenant).await, (1, 1));
}

#[tokio::test]
async fn replica_that_dies_in_mid_image_is_replaced_and_the_request_is_billed_once() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    let first = house.call().await.take();
    first.tell(Event::Step { image: 0, evaluation: 1, evaluations: 2 });
    let dispatch = first.dispatch.clone();
    // It stored its image, but never came to say so.
    assert!(put_picture(&dispatch.outputs[0].put_url).await.is_success());
    drop(first);
    let second = house.call().await.take();
    assert_eq!((&second.dispatch.request, second.dispatch.id), (&dispatch.request, dispatch.id), "the same picture, in the same place");
    assert_eq!(put_picture(&second.dispatch.outputs[0].put_url).await, 412);
    second.tell(Event::Done { timings: Default::default(), nsfw_content_detected: Vec::new(), family: None });
    assert_eq!(house.end(&caller, ticket.generation.public_id).await.state, State::Succeeded);
    assert_eq!(house.replicas.condemned.load(Ordering::SeqCst), 1);
    assert_eq!(house.calls_and_images(caller.tenant).await, (1, 1));
}

#[tokio::test]
async fn pictures_of_a_request_are_there_for_every_attempt_and_gone_once_nobody_needs_them() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let mut changed = submission(Mode::Detached);
    changed.request.task = Task::ImageToImage;
    let png = crate::inputs::picture::tests::png(64, 64);
    changed.pictures.image = Some(Picture::from_bytes("image", png.clone()).unwrap());
    let ticket = house.service.submit(&caller, changed).await.unwrap();
    let get = |url: String| async { reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap() };
    let first = house.call().await.take().dispatch.inputs;
    house.service.sweep_inputs(Duration::ZERO).await;
    let second = house.call().await.take();
    assert_eq!(second.dispatch.inputs[0].sha256, first[0].sha256);
    let url = second.dispatch.inputs[0].get_url.clone();
    assert_eq!(get(url.clone()).await.bytes().await.unwrap(), png);
    second.complete().await;
    assert_eq!(house.end(&caller, ticket.generation.public_id).await.state, State::Succeeded);
    house.service.sweep_inputs(Duration::from_secs(3600)).await;
    assert_eq!(get(url.clone()).await.status(), 200, "kept for its time of retention");
    house.service.sweep_inputs(Duration::ZERO).await;
    assert_eq!(get(url).await.status(), 404);
}

#[tokio::test]
async fn request_that_breaks_every_replica_fails_unbilled() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    for _ in 0..3 {
        drop(house.call().await.take());
    }
    let end = house.end(&caller, ticket.generation.public_id).await;
    assert!(matches!(end.state, State::Failed(Failure { reason: FailureReason::Internal, .. })), "{:?}", end.state);
    assert_eq!(house.calls_and_images(caller.tenant).await, (0, 0));
}

#[tokio::test]
async fn replica_that_says_done_without_images_is_not_believed() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    house.call().await.take().tell(Event::Done { timings: Default::default(), nsfw_content_detected: Vec::new(), family: None });
    house.call().await.complete().await;
    assert_eq!(house.end(&caller, ticket.generation.public_id).await.state, State::Succeeded);
}

#[tokio::test]
async fn what_the_caller_can_mend_is_not_tried_again_and_a_busy_replica_is() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    for _ in 0..4 {
        house.call().await.refuse(StatusCode::SERVICE_UNAVAILABLE, failure(FailureReason::Busy));
    }
    house.call().await.refuse(StatusCode::BAD_REQUEST, failure(FailureReason::InvalidRequest));
    let end = house.end(&caller, ticket.generation.public_id).await;
    assert_eq!(end.state, State::Failed(failure(FailureReason::InvalidRequest)));
    assert_eq!(house.calls_and_images(caller.tenant).await, (0, 0));
}

#[tokio::test]
async fn attached_caller_that_leaves_cancels_its_request_unbilled() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Attached)).await.unwrap();
    let id = ticket.generation.public_id;
    let stream = house.call().await.take();
    stream.tell(Event::Step { image: 0, evaluation: 1, evaluations: 20 });
    drop(ticket);
    stream.cancelled().await;
    assert_eq!(house.end(&caller, id).await.state, State::Cancelled);
    assert_eq!(house.calls_and_images(caller.tenant).await, (0, 0));
}

#[tokio::test]
async fn detached_request_goes_on_when_its_ticket_is_dropped() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Attached)).await.unwrap();
    let stream = house.call().await.take();
    let id = ticket.detach().await.public_id;
    stream.complete().await;
    assert_eq!(house.end(&caller, id).await.state, State::Succeeded);
    assert_eq!(house.store.find_entry(caller.tenant, id).await.unwrap().unwrap().mode, Mode::Detached);
}

#[tokio::test]
async fn cancelled_request_frees_its_replica() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    let stream = house.call().await.take();
    let cancelled = house.service.cancel(&caller, ticket.generation.public_id).await.unwrap();
    assert_eq!(cancelled.state, State::Cancelled);
    stream.cancelled().await;
    let stranger = house.caller("stranger").await;
    assert!(house.service.cancel(&stranger, ticket.generation.public_id).await.is_err());
}

#[tokio::test]
async fn request_without_a_replica_fails_at_the_deadline_unbilled() {
    let house = House::with_hold_deadline(Duration::from_millis(20)).await;
    let caller = house.caller("acme").await;
    house.replicas.ready.send_replace(false);
    let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    let end = house.end(&caller, ticket.generation.public_id).await;
    assert!(matches!(end.state, State::Failed(Failure { reason: FailureReason::DeadlineExceeded, .. })), "{:?}", end.state);
    assert_eq!(house.calls_and_images(caller.tenant).await, (0, 0));
}

#[tokio::test]
async fn refused_request_counts_nothing() {
    let house = House::build().await;
    let caller = house.caller("acme").await;
    let mut blank = submission(Mode::Attached);
    blank.request.prompt = " ".to_owned();
    assert!(house.service.submit(&caller, blank).await.is_err());
    let mut unknown = submission(Mode::Attached);
    unknown.request.model = "dmeo".to_owned();
    let refusal = house.service.submit(&caller, unknown).await.unwrap_err();
    assert_eq!(refusal.to_string(), "Model not found: dmeo (did you mean demo?)");
    assert_eq!(house.calls_and_images(caller.tenant).await, (0, 0));
    assert_eq!(house.service.unfinished(), 0);
}

#[tokio::test]
async fn watcher_sees_previews_and_the_end() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Attached)).await.unwrap();
    let stream = house.call().await.take();
    stream.tell(Event::Preview { image: 0, index: 0, png_base64: "AAAA".to_owned() });
    stream.complete().await;
    let told = tokio::time::timeout(SOON, house.service.watch(&ticket).collect::<Vec<_>>()).await.expect("the stream ends");
    assert!(told.iter().any(|progress| matches!(progress, Progress::Preview { image: 0, index: 0, .. })));
    assert!(matches!(told.last(), Some(Progress::Changed(State::Succeeded))), "{told:?}");
}

#[tokio::test]
async fn work_of_a_dead_router_is_taken_up_where_somebody_still_wants_it() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let request = validation::normalise(submission(Mode::Detached).request, &crate::catalog::tests::model("demo"), None, || 7).unwrap();
    let mut admit = Vec::new();
    for mode in [Mode::Attached, Mode::Detached] {
        admit.push(house.store.admit(&Admission { mode, ..foreign(&caller, request.clone()) }).await.unwrap());
    }
    house.service.beat(true).await;
    let call = house.call().await;
    assert_eq!(call.dispatch.id, admit[1].id, "nobody waits for the attached one");
    assert_eq!(call.dispatch.request, request);
    call.complete().await;
    assert_eq!(house.end(&caller, admit[0].public_id).await.state, State::Cancelled);
    assert_eq!(house.end(&caller, admit[1].public_id).await.state, State::Succeeded);
    assert_eq!(house.calls_and_images(caller.tenant).await, (1, 1));
}

#[tokio::test]
async fn images_that_another_router_has_made_leave_no_room_until_they_end() {
    let mut house = House::build().await;
    let (caller, other) = (house.caller("acme").await, house.caller("other").await);
    let foreign = house.store.admit(&foreign(&caller, ImageRequest { samples: 15, ..submission(Mode::Detached).request })).await.unwrap();
    assert_eq!(house.store.claim_images(&foreign, ParallelImages(15)).await.unwrap(), ImageClaim::Granted);
    let held_back = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    let beside = house.service.submit(&other, submission(Mode::Detached)).await.unwrap();
    let call = house.call().await;
    assert_eq!(call.dispatch.id, beside.generation.id, "another tenant's goes on");
    call.complete().await;
    let succeeded = Outcome::Succeeded { nsfw_content_detected: Vec::new() };
    assert!(house.store.finish(foreign.id, foreign.fence, &succeeded, &StartReport::default()).await.unwrap());
    let call = house.call().await;
    assert_eq!(call.dispatch.id, held_back.generation.id);
    // And now these are counted for the other router.
    let second = house.store.admit(&self::foreign(&caller, submission(Mode::Detached).request)).await.unwrap();
    assert_eq!(house.store.claim_images(&second, ParallelImages(1)).await.unwrap(), ImageClaim::NoRoom);
    call.complete().await;
    assert_eq!(house.end(&caller, held_back.generation.public_id).await.state, State::Succeeded);
}

#[tokio::test]
async fn stopping_router_leaves_its_work_to_the_journal() {
    let mut house = House::build().await;
    let caller = house.caller("acme").await;
    let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
    let stream = house.call().await.take();
    house.service.shut_down(Duration::ZERO).await;
    stream.cancelled().await;
    assert!(!house.service.is_ready());
    assert!(house.service.submit(&caller, submission(Mode::Detached)).await.is_err(), "a router that stops takes nothing new");
    let entry = house.store.find_entry(caller.tenant, ticket.generation.public_id).await.unwrap().unwrap();
    assert_eq!(entry.outcome, None);
}

#[tokio::test]
async fn every_tenant_gets_its_turn_beside_one_with_many_requests() {
    let mut house = House::build().await;
    let greedy = house.caller("greedy").await;
    for _ in 0..30 {
        house.service.submit(&greedy, submission(Mode::Detached)).await.unwrap();
    }
    let mut running = Vec::new();
    for _ in 0..8 {
        running.push(house.call().await.take());
    }
    let mut modest = Vec::new();
    for tenant in ["a", "b", "c"] {
        let caller = house.caller(tenant).await;
        let ticket = house.service.submit(&caller, submission(Mode::Detached)).await.unwrap();
        modest.push(ticket.generation.id);
    }
    // Kept running, so that only one place is free at a time.
    let mut next = Vec::new();
    for stream in running.drain(..4) {
        stream.complete().await;
        next.push(house.call().await.take());
    }
    let next: Vec<Uuid> = next.iter().map(|stream| stream.dispatch.id).collect();
    assert!(modest.iter().all(|id| next.contains(id)), "{modest:?} are among the next {next:?}");
}
