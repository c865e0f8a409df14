//! What all routers of a store count together: the rate of calls, the images at once.

use std::time::{Duration, Instant};

use super::{admit, entry_router, succeeded, tenant, tenant_of};
use crate::generation::StartReport;
use crate::store::{Entry, ImageClaim, KeyHash, ParallelImages, Rate, RateLease, Store};

/// Room for one request of these tests, each of which has two images.
const ONE: ParallelImages = ParallelImages(2);

pub(super) async fn concurrent_leases_give_each_slot_of_a_rate_away_once(store: &dyn Store) {
    const BURST: usize = 20;
    let caller = tenant(store).await;
    let rate = Rate::new(1, BURST as u32).expect("it is a rate");
    let leases = futures::future::join_all((0..2 * BURST).map(|_| store.lease_rate(caller.tenant, &rate))).await;
    let (mut slots, mut waits) = (Vec::new(), Vec::new());
    for lease in leases {
        match lease.expect("the store answers") {
            RateLease::Slots { first_in, count } => slots.push((first_in, count)),
            RateLease::Wait(wait) => waits.push(wait),
        }
    }
    slots.sort_unstable();
    assert_eq!((slots.len(), waits.len()), (BURST, BURST), "{slots:?}");
    // A minute apart, as seen from moments that are much less apart.
    assert!(slots.windows(2).all(|pair| pair[1].0 - pair[0].0 > Duration::from_secs(30)), "{slots:?}");
    assert!(waits.iter().all(|wait| *wait > Duration::ZERO && *wait <= Duration::from_secs(60)), "{waits:?}");
    store.add_key("other", "free", KeyHash([9; 32])).await.expect("another tenant is made");
    let other = tenant_of(store, KeyHash([9; 32])).await;
    let lease = store.lease_rate(other.tenant, &rate).await.expect("the store answers");
    assert_eq!(lease, RateLease::Slots { first_in: Duration::ZERO, count: 1 }, "tenants do not share a limit");
}

pub(super) async fn a_lease_brings_several_slots_of_a_fast_rate(store: &dyn Store) {
    const BURST: u32 = 200;
    let caller = tenant(store).await;
    let rate = Rate::new(600, BURST).expect("it is a rate");
    let begin = Instant::now();
    let mut taken = 0;
    while let RateLease::Slots { count, .. } = store.lease_rate(caller.tenant, &rate).await.expect("the store answers") {
        assert!(count == rate.lease_slots() || taken + count >= BURST, "{count} after {taken}");
        taken += count;
    }
    let gave_back = u32::try_from(begin.elapsed().as_millis() / 100).expect("it is short");
    assert!((BURST..=BURST + gave_back + 1).contains(&taken), "{taken}, of which {gave_back} came back meanwhile");
}

pub(super) async fn images_at_once_are_held_until_their_requests_end(store: &dyn Store) {
    let caller = tenant(store).await;
    let (first, second) = (admit(store, &caller).await, admit(store, &caller).await);
    assert_eq!(claim(store, &first, ONE).await, ImageClaim::Granted);
    assert_eq!(claim(store, &first, ONE).await, ImageClaim::Granted, "its own images are in nobody's way");
    assert_eq!(claim(store, &second, ONE).await, ImageClaim::NoRoom);
    store.add_key("other", "free", KeyHash([9; 32])).await.expect("another tenant is made");
    let other = admit(store, &tenant_of(store, KeyHash([9; 32])).await).await;
    assert_eq!(claim(store, &other, ONE).await, ImageClaim::Granted, "tenants do not share a limit");
    end(store, &first).await;
    assert_eq!(claim(store, &first, ONE).await, ImageClaim::Lost);
    assert_eq!(claim(store, &second, ONE).await, ImageClaim::Granted);
}

pub(super) async fn concurrent_claims_never_pass_the_images_at_once(store: &dyn Store) {
    let caller = tenant(store).await;
    let mut entries = Vec::new();
    for _ in 0..12 {
        entries.push(admit(store, &caller).await);
    }
    let claims = futures::future::join_all(entries.iter().map(|entry| claim(store, entry, ParallelImages(7)))).await;
    let granted = claims.iter().filter(|claim| **claim == ImageClaim::Granted).count();
    assert_eq!(granted, 3, "three of two images each fit: {claims:?}");
}

pub(super) async fn a_request_with_more_images_than_the_limit_goes_alone(store: &dyn Store) {
    let caller = tenant(store).await;
    let (first, second) = (admit(store, &caller).await, admit(store, &caller).await);
    assert_eq!(claim(store, &first, ParallelImages(1)).await, ImageClaim::Granted);
    assert_eq!(claim(store, &second, ParallelImages(1)).await, ImageClaim::NoRoom);
}

pub(super) async fn an_older_request_that_asked_for_room_goes_first(store: &dyn Store) {
    let caller = tenant(store).await;
    let mut entries = Vec::new();
    for _ in 0..3 {
        entries.push(admit(store, &caller).await);
    }
    assert_eq!(claim(store, &entries[0], ONE).await, ImageClaim::Granted);
    assert_eq!(claim(store, &entries[1], ONE).await, ImageClaim::NoRoom);
    end(store, &entries[0]).await;
    assert_eq!(claim(store, &entries[2], ONE).await, ImageClaim::NoRoom, "the one before it asked");
    assert_eq!(claim(store, &entries[1], ONE).await, ImageClaim::Granted);
}

pub(super) async fn work_that_is_taken_up_has_its_images_counted_anew(store: &dyn Store) {
    let caller = tenant(store).await;
    let (first, second) = (admit(store, &caller).await, admit(store, &caller).await);
    assert_eq!(claim(store, &first, ONE).await, ImageClaim::Granted);
    store.heartbeat(entry_router()).await.expect("the store answers");
    let taken = store.take_up(uuid::Uuid::from_u128(2), Duration::ZERO, 1).await.expect("the store answers");
    assert_eq!(taken.iter().map(|taken| taken.id).collect::<Vec<_>>(), [first.id]);
    assert_eq!(claim(store, &first, ONE).await, ImageClaim::Lost, "the first router was fenced out");
    assert_eq!(claim(store, &second, ONE).await, ImageClaim::Granted);
    assert_eq!(claim(store, &taken[0], ONE).await, ImageClaim::NoRoom);
}

async fn claim(store: &dyn Store, entry: &Entry, limit: ParallelImages) -> ImageClaim {
    store.claim_images(entry, limit).await.expect("the store answers")
}

async fn end(store: &dyn Store, entry: &Entry) {
    assert!(store.finish(entry.id, entry.fence, &succeeded(), &StartReport::default()).await.expect("the store answers"));
}
