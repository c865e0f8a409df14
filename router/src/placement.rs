//! Where a request goes: the replica whose predicted start is soonest, or a new one. Pure; clock and state are arguments.

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
/// whoever starts replicas has the last word on their number. Ties go to the replica that has existed longest.
pub fn place(candidates: &[Candidate], may_start: bool, estimates: &Estimates, now: Instant) -> Choice {
    let best = candidates.iter().min_by_key(|candidate| (predicted_start(candidate, estimates, now), candidate.id));
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
        Candidate { id, starting_since: None, in_flight, resident }
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
