//! Where a request goes: the replica whose predicted start is soonest, or a new one. Pure; clock and state are arguments.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// A replica that may take the request.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub id: u64,
    /// `Some` while it starts, with the time it began.
    pub starting_since: Option<Instant>,
    /// Requests that were sent to it and have not ended.
    pub in_flight: u32,
    /// Whether it has the model in memory.
    pub resident: bool,
    /// Among replicas that would begin equally soon, the one with the largest is chosen.
    pub preference: u64,
}

/// Rendezvous hashing: how much the replica of this name prefers the model. Routers that know nothing of each other agree on it, so that a cold
/// model is loaded in one place; each model has an order of its own, and when a replica goes, only its models move.
pub fn preference(model_id: &str, replica: &str) -> u64 {
    // FNV-1a over both, then the finaliser of SplitMix64: names that differ in one letter must not come out in order.
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = model_id.bytes().chain([0]).chain(replica.bytes());
    let mut hash = bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// What is known of how long things take.
#[derive(Clone, Copy, Debug)]
pub struct Estimates {
    /// Starting a replica's process.
    pub start: Duration,
    /// Reading the model's weights.
    pub load: Duration,
    /// One request.
    pub request: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This replica; one that starts is waited for.
    Replica(u64),
    /// A new replica would be sooner, and there may be one.
    Start,
}

/// Chooses among `candidates`; `may_start` tells whether another replica may be started. Without candidates the choice is always `Start`:
/// whoever starts replicas has the last word on their number. Of replicas without a preference the one that has existed longest is chosen.
pub fn place(candidates: &[Candidate], may_start: bool, estimates: &Estimates, now: Instant) -> Choice {
    let best =
        candidates.iter().min_by_key(|candidate| (predicted_start(candidate, estimates, now), Reverse(candidate.preference), candidate.id));
    let new_replica = estimates.start + estimates.load;
    match best {
        Some(best) if !may_start || predicted_start(best, estimates, now) <= new_replica => Choice::Replica(best.id),
        _ => Choice::Start,
    }
}

/// How long until the candidate begins with the request.
fn predicted_start(candidate: &Candidate, estimates: &Estimates, now: Instant) -> Duration {
    let start =
        candidate.starting_since.map_or(Duration::ZERO, |since| estimates.start.saturating_sub(now.saturating_duration_since(since)));
    let load = if candidate.resident { Duration::ZERO } else { estimates.load };
    start + load + estimates.request.saturating_mul(candidate.in_flight)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESTIMATES: Estimates = Estimates { start: Duration::from_secs(2), load: Duration::from_secs(3), request: Duration::from_secs(1) };

    fn candidate(id: u64, in_flight: u32, resident: bool) -> Candidate {
        Candidate { id, starting_since: None, in_flight, resident, preference: 0 }
    }

    #[test]
    fn nothing_runs_so_one_is_started() {
        assert_eq!(place(&[], true, &ESTIMATES, Instant::now()), Choice::Start);
    }

    #[test]
    fn a_replica_with_the_model_goes_before_an_idle_one_without() {
        let candidates = [candidate(1, 0, false), candidate(2, 2, true)];
        assert_eq!(place(&candidates, true, &ESTIMATES, Instant::now()), Choice::Replica(2));
    }

    fn preferred(model: &str, replicas: &[String]) -> String {
        replicas.iter().max_by_key(|replica| preference(model, replica)).cloned().unwrap_or_default()
    }

    #[test]
    fn among_equals_the_preferred_one_is_chosen_and_a_sooner_one_before_it() {
        let preferring = |id, in_flight, preference| Candidate { preference, ..candidate(id, in_flight, false) };
        assert_eq!(place(&[preferring(1, 0, 5), preferring(2, 0, 9)], false, &ESTIMATES, Instant::now()), Choice::Replica(2));
        assert_eq!(place(&[preferring(1, 0, 5), preferring(2, 1, 9)], false, &ESTIMATES, Instant::now()), Choice::Replica(1));
    }

    #[test]
    fn models_are_spread_evenly_and_only_those_of_a_replica_that_goes_move() {
        const MODELS: usize = 10_000;
        let replicas: Vec<String> = (0..10).map(|number| format!("replica-{number}")).collect();
        let models = || (0..MODELS).map(|number| format!("model-{number}"));
        for replica in &replicas {
            let share = models().filter(|model| preferred(model, &replicas) == *replica).count();
            assert!(share.abs_diff(MODELS / replicas.len()) < MODELS / replicas.len() / 5, "{replica} has {share} of {MODELS}");
        }
        let (gone, left) = replicas.split_last().unwrap();
        for model in models() {
            let before = preferred(&model, &replicas);
            assert!(before == *gone || preferred(&model, left) == before, "{model}");
        }
    }

    #[test]
    fn preferences_are_the_same_in_every_version() {
        assert_eq!(preference("demo", "a"), 0xd9ea_4c70_2871_d4e8);
    }

    #[test]
    fn a_long_queue_outweighs_the_load() {
        let candidates = [candidate(1, 0, false), candidate(2, 4, true)];
        assert_eq!(place(&candidates, true, &ESTIMATES, Instant::now()), Choice::Replica(1));
    }

    #[test]
    fn a_busy_set_grows_only_if_it_may() {
        let candidates = [candidate(1, 6, true)];
        assert_eq!(place(&candidates, true, &ESTIMATES, Instant::now()), Choice::Start);
        assert_eq!(place(&candidates, false, &ESTIMATES, Instant::now()), Choice::Replica(1));
    }

    #[test]
    fn a_replica_that_starts_is_waited_for_the_more_the_longer_it_has_been_starting() {
        let now = Instant::now();
        let starting = |since: Duration| Candidate { starting_since: now.checked_sub(since), ..candidate(2, 0, true) };
        let busy = candidate(1, 1, true);
        assert_eq!(place(&[busy.clone(), starting(Duration::ZERO)], true, &ESTIMATES, now), Choice::Replica(1));
        assert_eq!(place(&[busy, starting(Duration::from_millis(1500))], true, &ESTIMATES, now), Choice::Replica(2));
    }
}
