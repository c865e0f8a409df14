//! What is known of one set's replicas, and what follows from it. Pure: the clock is an argument, and nothing is started here.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Endpoint, ReplicaSet, Work};
use crate::placement::{Candidate, Choice, Estimates, place};

/// Models remembered as resident, per replica; the replica itself decides what it keeps.
const RESIDENT_LIMIT: usize = 32;
/// After the first failed start in a row the next one waits this long, then twice as long, …
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// … and never longer than this.
const BACKOFF_LIMIT: Duration = Duration::from_secs(30);
/// Until measured otherwise. They only have to be of the right order.
const ESTIMATES: Estimates = Estimates { start: Duration::from_secs(2), load: Duration::from_secs(2), request: Duration::from_secs(2) };

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: u64,
    /// `None` while it starts.
    pub(super) endpoint: Option<Endpoint>,
    pub(super) started_at: Instant,
    pub(super) in_flight: u32,
    /// Since when it has had nothing to do.
    pub(super) idle_since: Instant,
    /// Gets no new work, and ends once nobody works with it.
    pub(super) condemned: bool,
    resident: Vec<String>,
    model_roots: Vec<PathBuf>,
}

#[derive(Debug)]
pub(super) struct SetState {
    pub(super) spec: ReplicaSet,
    pub(super) slots: Vec<Slot>,
    /// Starts that failed, ever, and the last one's reason: whoever waited for one sees the number grow.
    pub(super) failures: u64,
    pub(super) last_failure: String,
    failures_in_a_row: u32,
    not_before: Option<Instant>,
}

/// What to do for somebody who wants a lease.
#[derive(Debug)]
pub(super) enum Step {
    Lease {
        id: u64,
        endpoint: Endpoint,
    },
    /// A replica starts: look again when something changed.
    Wait,
    WaitUntil(Instant),
    Start,
}

impl SetState {
    pub(super) fn new(spec: ReplicaSet) -> Self {
        Self { spec, slots: Vec::new(), failures: 0, last_failure: String::new(), failures_in_a_row: 0, not_before: None }
    }

    /// Decides for one request, and counts it in flight where it gets a lease.
    pub(super) fn next_step(&mut self, work: &Work, now: Instant) -> Step {
        let candidates: Vec<Candidate> = self
            .slots
            .iter()
            .filter(|slot| !slot.condemned && slot.reaches(work))
            .map(|slot| Candidate {
                id: slot.id,
                starting_since: slot.endpoint.is_none().then_some(slot.started_at),
                in_flight: slot.in_flight,
                resident: slot.resident.contains(&work.model_id),
                // Nobody else gives them work.
                preference: 0,
            })
            .collect();
        if candidates.is_empty() {
            // Replicas that cannot reach the model's folder make room for one that can.
            self.slots.iter_mut().for_each(|slot| slot.condemned = true);
        }
        match place(&candidates, self.may_start(now), &ESTIMATES, now) {
            Choice::Replica(id) => self.lease(id),
            Choice::Start => match self.not_before.filter(|not_before| *not_before > now) {
                Some(not_before) => Step::WaitUntil(not_before),
                None => Step::Start,
            },
        }
    }

    fn lease(&mut self, id: u64) -> Step {
        let Some(slot) = self.slot(id) else { return Step::Wait };
        match slot.endpoint.clone() {
            Some(endpoint) => {
                slot.in_flight += 1;
                Step::Lease { id, endpoint }
            }
            None => Step::Wait,
        }
    }

    /// Condemned replicas do not count: they end as soon as they can.
    fn may_start(&self, now: Instant) -> bool {
        let live = self.slots.iter().filter(|slot| !slot.condemned).count();
        live < self.spec.max_replicas as usize && self.not_before.is_none_or(|not_before| not_before <= now)
    }

    pub(super) fn lacks_minimum(&self, now: Instant) -> bool {
        let live = self.slots.iter().filter(|slot| !slot.condemned).count();
        live < self.spec.min_replicas as usize && self.may_start(now)
    }

    pub(super) fn add_slot(&mut self, id: u64, now: Instant) {
        self.slots.push(Slot {
            id,
            endpoint: None,
            started_at: now,
            in_flight: 0,
            idle_since: now,
            condemned: false,
            resident: Vec::new(),
            model_roots: self.spec.model_roots.clone(),
        });
    }

    pub(super) fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.id == id)
    }

    pub(super) fn ready(&mut self, id: u64, endpoint: Endpoint, now: Instant) {
        self.failures_in_a_row = 0;
        self.not_before = None;
        if let Some(slot) = self.slot(id) {
            slot.endpoint = Some(endpoint);
            slot.idle_since = now;
        }
    }

    /// The replica never became ready.
    pub(super) fn start_failed(&mut self, id: u64, reason: String, now: Instant) {
        self.remove(id);
        self.failures += 1;
        self.last_failure = reason;
        let backoff = BACKOFF_FIRST.saturating_mul(1 << self.failures_in_a_row.min(16)).min(BACKOFF_LIMIT);
        self.failures_in_a_row += 1;
        self.not_before = Some(now + backoff);
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.slots.retain(|slot| slot.id != id);
    }

    pub(super) fn release(&mut self, id: u64, now: Instant) {
        if let Some(slot) = self.slot(id) {
            slot.in_flight = slot.in_flight.saturating_sub(1);
            slot.idle_since = now;
        }
    }

    /// Whether the replica shall end now. It is condemned by the answer, so that nobody gets a lease on it in between.
    pub(super) fn shall_end(&mut self, id: u64, idle_after: Duration, now: Instant) -> bool {
        let live = self.slots.iter().filter(|slot| !slot.condemned).count();
        let above_minimum = live > self.spec.min_replicas as usize;
        let Some(slot) = self.slot(id) else { return true };
        if slot.in_flight > 0 {
            return false;
        }
        let idle = now.saturating_duration_since(slot.idle_since) >= idle_after;
        slot.condemned |= idle && above_minimum;
        slot.condemned
    }
}

impl Slot {
    fn reaches(&self, work: &Work) -> bool {
        work.paths.iter().all(|path| self.model_roots.iter().any(|root| path.starts_with(root)))
    }

    pub(super) fn note_resident(&mut self, model_id: &str) {
        self.resident.retain(|resident| resident != model_id);
        self.resident.push(model_id.to_owned());
        if self.resident.len() > RESIDENT_LIMIT {
            self.resident.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SetKey;
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn set(min_replicas: u32, max_replicas: u32) -> SetState {
        SetState::new(ReplicaSet {
            key: SetKey::Pool("default".to_owned()),
            namespace: String::new(),
            min_replicas,
            max_replicas,
            idle_after: IDLE,
            model_roots: vec![PathBuf::from("/models")],
        })
    }

    fn work() -> Work {
        Work { model_id: "demo".to_owned(), paths: vec![PathBuf::from("/models/demo")] }
    }

    fn endpoint() -> Endpoint {
        Endpoint { base_url: "http://127.0.0.1:1".to_owned(), token: String::new() }
    }

    #[test]
    fn the_first_starts_a_replica_and_all_others_wait_for_it() {
        let (mut set, now) = (set(0, 1), Instant::now());
        assert!(matches!(set.next_step(&work(), now), Step::Start));
        set.add_slot(1, now);
        assert!(matches!(set.next_step(&work(), now), Step::Wait));
        set.ready(1, endpoint(), now);
        for _ in 0..100 {
            assert!(matches!(set.next_step(&work(), now), Step::Lease { id: 1, .. }), "one replica is all there may be");
        }
        assert_eq!(set.slots[0].in_flight, 100);
    }

    #[test]
    fn failed_starts_back_off_and_a_good_one_forgets_them() {
        let (mut set, now) = (set(0, 1), Instant::now());
        let mut waits = Vec::new();
        for id in 1..=9 {
            set.add_slot(id, now);
            set.start_failed(id, "no".to_owned(), now);
            let Step::WaitUntil(until) = set.next_step(&work(), now) else { panic!("no wait") };
            waits.push((until - now).as_millis());
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert!(matches!(set.next_step(&work(), now + BACKOFF_LIMIT), Step::Start));
        set.add_slot(10, now);
        set.ready(10, endpoint(), now);
        set.remove(10);
        assert!(matches!(set.next_step(&work(), now), Step::Start));
    }

    #[test]
    fn idle_replicas_above_the_minimum_end_and_busy_ones_do_not() {
        let (mut set, now) = (set(0, 1), Instant::now());
        set.add_slot(1, now);
        set.ready(1, endpoint(), now);
        assert!(!set.shall_end(1, IDLE, now + IDLE / 2));
        set.next_step(&work(), now);
        assert!(!set.shall_end(1, IDLE, now + IDLE * 2), "it works");
        set.release(1, now + IDLE * 2);
        assert!(!set.shall_end(1, IDLE, now + IDLE * 2), "it has just worked");
        assert!(set.shall_end(1, IDLE, now + IDLE * 3));
        assert!(matches!(set.next_step(&work(), now + IDLE * 3), Step::Start), "one that ends takes no work");

        let mut kept = self::set(1, 1);
        assert!(kept.lacks_minimum(now));
        kept.add_slot(1, now);
        kept.ready(1, endpoint(), now);
        assert!(!kept.lacks_minimum(now));
        assert!(!kept.shall_end(1, IDLE, now + IDLE * 3), "the minimum stays");
    }

    #[test]
    fn a_condemned_replica_ends_after_its_last_work_and_another_starts_at_once() {
        let (mut set, now) = (set(0, 1), Instant::now());
        set.add_slot(1, now);
        set.ready(1, endpoint(), now);
        set.next_step(&work(), now);
        set.slot(1).unwrap().condemned = true;
        assert!(matches!(set.next_step(&work(), now), Step::Start));
        assert!(!set.shall_end(1, IDLE, now));
        set.release(1, now);
        assert!(set.shall_end(1, IDLE, now));
    }

    #[test]
    fn a_model_outside_a_replicas_roots_gets_a_new_replica() {
        let (mut set, now) = (set(0, 1), Instant::now());
        set.add_slot(1, now);
        set.ready(1, endpoint(), now);
        let elsewhere = Work { paths: vec![PathBuf::from("/models/demo"), PathBuf::from("/elsewhere/ink.safetensors")], ..work() };
        set.spec.model_roots.push(PathBuf::from("/elsewhere"));
        assert!(matches!(set.next_step(&elsewhere, now), Step::Start));
        set.add_slot(2, now);
        set.ready(2, endpoint(), now);
        assert!(matches!(set.next_step(&elsewhere, now), Step::Lease { id: 2, .. }));
        assert!(matches!(set.next_step(&work(), now), Step::Lease { id: 2, .. }));
    }
}
