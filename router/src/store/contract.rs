//! What every store must do. Each fact is a function over an empty `dyn Store`; `contract_of!` makes a test of each for one
//! implementation, so that SQLite and PostgreSQL pass the very same ones.

mod limits;
mod postgres_server;

use std::collections::HashSet;
use std::time::Duration;

use runtime_api::{Failure, FailureReason, ImageRequest};
use uuid::Uuid;

use limits::{
    a_lease_brings_several_slots_of_a_fast_rate, a_request_with_more_images_than_the_limit_goes_alone,
    an_older_request_that_asked_for_room_goes_first, concurrent_claims_never_pass_the_images_at_once,
    concurrent_leases_give_each_slot_of_a_rate_away_once, images_at_once_are_held_until_their_requests_end,
    work_that_is_taken_up_has_its_images_counted_anew,
};

use super::postgres::PostgresStore;
use super::sqlite::SqliteStore;
use super::{Admission, AdmitError, Allowance, Caller, Entry, KeyHash, Outcome, Store};
use crate::generation::{Mode, StartReport};

const KEY: KeyHash = KeyHash([7; 32]);
const UNLIMITED: Allowance = Allowance { calls_per_day: None, calls_per_month: None, queue_depth: 1000 };

macro_rules! contract_of {
    ($module:ident, $open:expr, $($fact:ident),+ $(,)?) => {
        mod $module {
            $(#[tokio::test]
            async fn $fact() {
                let Some((store, _folder)) = $open.await else { return };
                super::$fact(&store).await;
            })+
        }
    };
}

macro_rules! contract {
    ($($fact:ident),+ $(,)?) => {
        contract_of!(sqlite, super::open_sqlite(), $($fact),+);
        contract_of!(postgres, super::open_postgres(), $($fact),+);
    };
}

contract!(
    unknown_keys_have_no_caller,
    keys_of_one_tenant_name_share_a_tenant,
    an_admitted_request_is_found_by_its_tenant_alone,
    texts_are_kept_whatever_characters_they_have,
    public_ids_are_positive_and_rise_within_a_tenant,
    quota_turns_down_the_call_after_the_last_one,
    a_failed_request_gives_its_call_back,
    concurrent_admissions_never_pass_the_quota,
    the_queue_is_as_deep_as_the_plan_says,
    a_request_ends_once,
    work_of_a_silent_router_is_taken_up_once_and_fenced,
    work_of_a_living_router_stays_with_it,
    a_detached_request_stays_detached_for_its_next_router,
    inputs_are_needed_until_the_last_request_that_names_them_has_ended,
    requests_are_kept_as_long_as_the_plan_says_and_billed_for_ever,
    the_shared_secret_is_made_once,
    concurrent_leases_give_each_slot_of_a_rate_away_once,
    a_lease_brings_several_slots_of_a_fast_rate,
    images_at_once_are_held_until_their_requests_end,
    concurrent_claims_never_pass_the_images_at_once,
    a_request_with_more_images_than_the_limit_goes_alone,
    an_older_request_that_asked_for_room_goes_first,
    work_that_is_taken_up_has_its_images_counted_anew,
);

async fn open_sqlite() -> Option<(SqliteStore, tempfile::TempDir)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(&folder.path().join("store.sqlite")).await.expect("an empty folder takes a store");
    Some((store, folder))
}

async fn open_postgres() -> Option<(PostgresStore, ())> {
    let database = postgres_server::database().await?;
    Some((PostgresStore::open(&database.parse().expect("it is a URL")).await.expect("an empty database takes a store"), ()))
}

async fn tenant(store: &dyn Store) -> Caller {
    store.add_key("acme", "free", KEY).await.expect("a key is added");
    store.find_caller(KEY).await.expect("the store answers").expect("the key is known")
}

fn admission(caller: &Caller, allowance: Allowance) -> Admission {
    Admission {
        id: Uuid::now_v7(),
        tenant: caller.tenant,
        router: Uuid::from_u128(1),
        allowance,
        request: ImageRequest { samples: 2, ..ImageRequest::text_to_image("demo", "a red circle") },
        mode: Mode::Attached,
        dialect: "modelslab/v7",
        track_id: Some("mine".to_owned()),
    }
}

async fn admit(store: &dyn Store, caller: &Caller) -> Entry {
    store.admit(&admission(caller, UNLIMITED)).await.expect("an unlimited plan admits")
}

fn succeeded() -> Outcome {
    Outcome::Succeeded { nsfw_content_detected: vec![false, true] }
}

fn failed() -> Outcome {
    Outcome::Failed { failure: Failure { reason: FailureReason::Internal, message: "out of luck".to_owned() } }
}

async fn unknown_keys_have_no_caller(store: &dyn Store) {
    tenant(store).await;
    assert_eq!(store.find_caller(KeyHash([8; 32])).await.expect("the store answers"), None);
}

async fn keys_of_one_tenant_name_share_a_tenant(store: &dyn Store) {
    let first = tenant(store).await;
    store.add_key("acme", "premium", KeyHash([9; 32])).await.expect("a second key is added");
    let again = tenant_of(store, KeyHash([9; 32])).await;
    assert_eq!((again.tenant, again.plan.as_str()), (first.tenant, "premium"));
    store.add_key("other", "free", KeyHash([10; 32])).await.expect("another tenant is made");
    assert_ne!(tenant_of(store, KeyHash([10; 32])).await.tenant, first.tenant);
}

async fn tenant_of(store: &dyn Store, key: KeyHash) -> Caller {
    store.find_caller(key).await.expect("the store answers").expect("the key is known")
}

async fn an_admitted_request_is_found_by_its_tenant_alone(store: &dyn Store) {
    let caller = tenant(store).await;
    let entry = admit(store, &caller).await;
    assert_eq!(store.find_entry(caller.tenant, entry.public_id).await.expect("the store answers"), Some(entry.clone()));
    assert_eq!((entry.request.prompt.as_str(), entry.track_id.as_deref(), entry.mode), ("a red circle", Some("mine"), Mode::Attached));
    assert_eq!(store.find_entry(Uuid::from_u128(99), entry.public_id).await.expect("the store answers"), None);
}

async fn texts_are_kept_whatever_characters_they_have(store: &dyn Store) {
    let caller = tenant(store).await;
    let mut odd = admission(&caller, UNLIMITED);
    odd.request.prompt = "zero \u{0}, quotes '\", \u{1F3A8}, \u{202E}".to_owned();
    odd.track_id = Some("\u{0}\u{FFFF}".to_owned());
    let entry = store.admit(&odd).await.expect("an unlimited plan admits");
    let found = store.find_entry(caller.tenant, entry.public_id).await.expect("the store answers").expect("it was admitted");
    assert_eq!((found.request, found.track_id), (odd.request, odd.track_id));
}

async fn public_ids_are_positive_and_rise_within_a_tenant(store: &dyn Store) {
    let caller = tenant(store).await;
    let (first, second) = (admit(store, &caller).await.public_id, admit(store, &caller).await.public_id);
    assert!(first > 0);
    assert_eq!(second, first + 1);
}

async fn quota_turns_down_the_call_after_the_last_one(store: &dyn Store) {
    let caller = tenant(store).await;
    for (allowance, window) in
        [(Allowance { calls_per_day: Some(2), ..UNLIMITED }, "day"), (Allowance { calls_per_month: Some(2), ..UNLIMITED }, "month")]
    {
        while store.usage(caller.tenant).await.expect("the store answers").calls_today < 2 {
            store.admit(&admission(&caller, allowance)).await.expect("two calls are allowed");
        }
        match store.admit(&admission(&caller, allowance)).await {
            Err(AdmitError::QuotaUsed { calls: 2, window: named, retry_after }) => {
                assert_eq!(named, window);
                assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(31 * 24 * 3600));
            }
            other => panic!("the third call of a {window} was not turned down: {other:?}"),
        }
        assert_eq!(store.usage(caller.tenant).await.expect("the store answers").calls_today, 2);
    }
}

async fn a_failed_request_gives_its_call_back(store: &dyn Store) {
    let caller = tenant(store).await;
    for (outcome, calls, images) in [(failed(), 0, 0), (Outcome::Cancelled, 0, 0), (succeeded(), 1, 2)] {
        let entry = admit(store, &caller).await;
        assert!(store.finish(entry.id, entry.fence, &outcome, &StartReport::default()).await.expect("the store answers"));
        let usage = store.usage(caller.tenant).await.expect("the store answers");
        assert_eq!((usage.calls_today, usage.calls_this_month, usage.images), (calls, calls, images), "after {outcome:?}");
    }
}

async fn concurrent_admissions_never_pass_the_quota(store: &dyn Store) {
    const CALLS: u64 = 5;
    let caller = tenant(store).await;
    let admissions: Vec<_> = (0..20).map(|_| admission(&caller, Allowance { calls_per_day: Some(CALLS), ..UNLIMITED })).collect();
    let results = futures::future::join_all(admissions.iter().map(|admission| store.admit(admission))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count() as u64, CALLS);
    assert!(results.iter().filter_map(|result| result.as_ref().err()).all(|error| matches!(error, AdmitError::QuotaUsed { .. })));
}

async fn the_queue_is_as_deep_as_the_plan_says(store: &dyn Store) {
    let caller = tenant(store).await;
    let one = Allowance { queue_depth: 1, ..UNLIMITED };
    let entry = store.admit(&admission(&caller, one)).await.expect("the first fits");
    assert!(matches!(store.admit(&admission(&caller, one)).await, Err(AdmitError::QueueFull { depth: 1 })));
    store.finish(entry.id, entry.fence, &succeeded(), &StartReport::default()).await.expect("the store answers");
    store.admit(&admission(&caller, one)).await.expect("there is room again");
}

async fn a_request_ends_once(store: &dyn Store) {
    let caller = tenant(store).await;
    let entry = admit(store, &caller).await;
    let start = StartReport { cold: true, held_ms: 12, replica_start_ms: 34, replica: None };
    assert!(store.finish(entry.id, entry.fence, &succeeded(), &start).await.expect("the store answers"));
    assert!(!store.finish(entry.id, entry.fence, &failed(), &StartReport::default()).await.expect("the store answers"));
    let ended = store.find_entry(caller.tenant, entry.public_id).await.expect("the store answers").expect("the entry is kept");
    assert_eq!((ended.outcome, ended.start), (Some(succeeded()), start));
    assert!(ended.finished_at_ms.is_some_and(|finished| finished >= ended.accepted_at_ms));
    assert_eq!(store.usage(caller.tenant).await.expect("the store answers").images, 2);
}

async fn work_of_a_silent_router_is_taken_up_once_and_fenced(store: &dyn Store) {
    let caller = tenant(store).await;
    let entry = admit(store, &caller).await;
    store.heartbeat(entry_router()).await.expect("the store answers");
    let successor = Uuid::from_u128(2);
    let taken = store.take_up(successor, Duration::ZERO, 10).await.expect("the store answers");
    assert_eq!(taken.iter().map(|taken| (taken.id, taken.fence, taken.takeovers)).collect::<Vec<_>>(), [(entry.id, entry.fence + 1, 1)]);
    store.heartbeat(successor).await.expect("the store answers");
    let third = store.take_up(Uuid::from_u128(3), Duration::from_secs(3600), 10).await.expect("the store answers");
    assert_eq!(third, [], "the successor lives, so nobody else may have it");
    let late = store.finish(entry.id, entry.fence, &failed(), &StartReport::default()).await.expect("the store answers");
    assert!(!late, "the first router was fenced out");
    assert!(store.finish(entry.id, taken[0].fence, &succeeded(), &StartReport::default()).await.expect("the store answers"));
}

fn entry_router() -> Uuid {
    Uuid::from_u128(1)
}

async fn work_of_a_living_router_stays_with_it(store: &dyn Store) {
    let caller = tenant(store).await;
    store.heartbeat(entry_router()).await.expect("the store answers");
    admit(store, &caller).await;
    let taken = store.take_up(Uuid::from_u128(2), Duration::from_secs(3600), 10).await.expect("the store answers");
    assert_eq!(taken, []);
}

async fn a_detached_request_stays_detached_for_its_next_router(store: &dyn Store) {
    let caller = tenant(store).await;
    let entry = admit(store, &caller).await;
    store.detach(entry.id).await.expect("the store answers");
    let taken = store.take_up(Uuid::from_u128(2), Duration::ZERO, 10).await.expect("the store answers");
    assert_eq!(taken.iter().map(|taken| taken.mode).collect::<Vec<_>>(), [Mode::Detached]);
}

async fn inputs_are_needed_until_the_last_request_that_names_them_has_ended(store: &dyn Store) {
    let caller = tenant(store).await;
    admit(store, &caller).await;
    let mut entries = Vec::new();
    for mask in [None, Some("cd".repeat(32))] {
        let mut admission = admission(&caller, UNLIMITED);
        (admission.request.image, admission.request.mask_image) = (Some("ab".repeat(32)), mask);
        entries.push(store.admit(&admission).await.expect("an unlimited plan admits"));
    }
    let needed = async || store.needed_inputs(Duration::ZERO).await.expect("the store answers");
    assert_eq!(needed().await, HashSet::from(["ab".repeat(32), "cd".repeat(32)]));
    for (entry, left) in entries.iter().rev().zip([HashSet::from(["ab".repeat(32)]), HashSet::new()]) {
        store.finish(entry.id, entry.fence, &succeeded(), &StartReport::default()).await.expect("the store answers");
        assert_eq!(needed().await, left);
    }
    let kept = store.needed_inputs(Duration::from_secs(3600)).await.expect("the store answers");
    assert_eq!(kept, HashSet::from(["ab".repeat(32), "cd".repeat(32)]), "for some time after the end");
}

async fn requests_are_kept_as_long_as_the_plan_says_and_billed_for_ever(store: &dyn Store) {
    let caller = tenant(store).await;
    let ended = [admit(store, &caller).await, admit(store, &caller).await];
    let running = admit(store, &caller).await;
    for entry in &ended {
        store.finish(entry.id, entry.fence, &succeeded(), &StartReport::default()).await.expect("the store answers");
    }
    let expired = async |plan: &str, retention, limit| {
        let entries = store.expired(plan, retention, limit).await.expect("the store answers");
        entries.iter().map(|entry| entry.id).collect::<Vec<_>>()
    };
    assert_eq!(expired("free", Duration::from_secs(3600), 10).await, Vec::<Uuid>::new());
    assert_eq!(expired("premium", Duration::ZERO, 10).await, Vec::<Uuid>::new());
    assert_eq!(expired("free", Duration::ZERO, 10).await, [ended[0].id, ended[1].id]);
    assert_eq!(expired("free", Duration::ZERO, 1).await, [ended[0].id], "the oldest first");
    for id in [ended[0].id, running.id] {
        store.forget(id).await.expect("the store answers");
    }
    assert_eq!(expired("free", Duration::ZERO, 10).await, [ended[1].id]);
    let find = async |entry: &Entry| store.find_entry(caller.tenant, entry.public_id).await.expect("the store answers").is_some();
    assert_eq!((find(&ended[0]).await, find(&running).await), (false, true), "what has not ended is not forgotten");
    let usage = store.usage(caller.tenant).await.expect("the store answers");
    assert_eq!((usage.calls_today, usage.images), (3, 4));
}

async fn the_shared_secret_is_made_once(store: &dyn Store) {
    let secrets = futures::future::join_all((0..4).map(|_| store.shared_secret())).await;
    let secrets: HashSet<[u8; 32]> = secrets.into_iter().map(|secret| secret.expect("the store answers")).collect();
    assert_eq!((secrets.len(), secrets.contains(&[0; 32])), (1, false));
}

/// Several routers begin on one empty database at the same moment, and together keep what one alone would.
#[tokio::test]
async fn routers_on_one_database_keep_one_quota_and_hand_each_entry_to_one() {
    const ROUTERS: usize = 4;
    const CALLS: u64 = 10;
    let Some(database) = postgres_server::database().await else { return };
    let url = database.parse().expect("it is a URL");
    let opened = futures::future::join_all((0..ROUTERS).map(|_| PostgresStore::open(&url))).await;
    let stores: Vec<PostgresStore> = opened.into_iter().map(|store| store.expect("each one brings the schema up to date")).collect();
    let caller = tenant(&stores[0]).await;
    let asked: Vec<_> = (0..40).map(|_| admission(&caller, Allowance { calls_per_day: Some(CALLS), ..UNLIMITED })).collect();
    let admitted = asked.iter().enumerate().map(|(index, admission)| stores[index % ROUTERS].admit(admission));
    let admitted: Vec<Entry> = futures::future::join_all(admitted).await.into_iter().flatten().collect();
    assert_eq!(admitted.len() as u64, CALLS);
    assert_eq!(admitted.iter().map(|entry| entry.public_id).collect::<HashSet<_>>().len() as u64, CALLS);

    let router = |index: usize| Uuid::from_u128(100 + index as u128);
    for (index, store) in stores.iter().enumerate() {
        store.heartbeat(router(index)).await.expect("the store answers");
    }
    let takers = stores.iter().enumerate().map(|(index, store)| store.take_up(router(index), Duration::from_secs(3600), 100));
    let taken: Vec<Entry> =
        futures::future::join_all(takers).await.into_iter().flat_map(|taken| taken.expect("the store answers")).collect();
    let mut ids: Vec<Uuid> = taken.iter().map(|entry| entry.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len() as u64, taken.len() as u64), (CALLS, CALLS), "each entry has one new router");
}

#[tokio::test]
async fn a_store_whose_connections_were_cut_goes_on() {
    let Some(database) = postgres_server::database().await else { return };
    let store = PostgresStore::open(&database.parse().expect("it is a URL")).await.expect("an empty database takes a store");
    let caller = tenant(&store).await;
    let entry = admit(&store, &caller).await;
    postgres_server::cut_connections(&database).await;
    assert_eq!(store.find_entry(caller.tenant, entry.public_id).await.expect("the store answers again"), Some(entry));
}
