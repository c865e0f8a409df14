//! How many replicas a pool or a dedicated model shall have. Pure: demand, clock and what was decided before are arguments.
//!
//! * Up: at once, to `images waiting and in flight ÷ target`, at least one while there is any.
//! * Burst: where requests wait longer than [`BURST_AFTER`] although every replica is ready, twice as many.
//! * Down: when demand has stayed lower for `idle_after`, to the most that was wanted meanwhile; to zero when nothing was.
//! * While a router's demand is not known, nothing is stopped.
//!
//! What must survive a restart of the operator, the beginning of a wait before replicas are stopped, is in [`Scale`], which is kept on the
//! Deployment.

use std::time::Duration;

use crds::demand::Work;
use serde::{Deserialize, Serialize};

/// Requests that wait for so long are a sign that the target alone is not enough.
pub const BURST_AFTER: Duration = Duration::from_secs(10);
/// When to look again while demand is not known.
pub const UNKNOWN_RECHECK: Duration = Duration::from_secs(5);

/// Between which bounds, and by which figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The fewest replicas.
    pub min: i32,
    /// The most replicas.
    pub max: i32,
    /// Images that one replica shall have in flight.
    pub target_in_flight: i32,
    /// How long demand must have been lower before replicas are stopped.
    pub idle_after: Duration,
}

/// Demand as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// What all routers that were heard of hold.
    pub work: Work,
    /// Whether every router was heard of lately.
    pub is_complete: bool,
}

/// What was decided: replicas, and since when fewer would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scale {
    /// Replicas that there shall be.
    pub replicas: i32,
    /// Set while fewer would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shrink: Option<Shrink>,
}

/// A wait before replicas are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shrink {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// The most replicas that were wanted since.
    pub to: i32,
}

/// A decision, and when it must be made again though nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What there shall be.
    pub scale: Scale,
    /// `None`: not before something changes.
    pub look_again: Option<Duration>,
}

/// Decides. `ready` replicas take work now; `now_ms` is in milliseconds since 1970.
pub fn decide(bounds: &Bounds, load: &Load, before: Scale, ready: i32, now_ms: u64) -> Decision {
    let replicas = before.replicas.clamp(bounds.min, bounds.max);
    let wanted = wanted(bounds, &load.work, replicas, ready);
    if wanted >= replicas {
        return Decision { scale: Scale { replicas: wanted, shrink: None }, look_again: until_burst(bounds, load, wanted) };
    }
    let idle_after_ms = u64::try_from(bounds.idle_after.as_millis()).unwrap_or(u64::MAX);
    let begun = before.shrink.filter(|shrink| shrink.since_ms <= now_ms).unwrap_or(Shrink { since_ms: now_ms, to: wanted });
    let shrink = Shrink { to: begun.to.max(wanted).clamp(bounds.min, bounds.max), ..begun };
    let waited_ms = now_ms - shrink.since_ms;
    if !load.is_complete {
        return Decision { scale: Scale { replicas, shrink: Some(shrink) }, look_again: Some(UNKNOWN_RECHECK) };
    }
    if waited_ms < idle_after_ms {
        let left = Duration::from_millis(idle_after_ms - waited_ms);
        return Decision { scale: Scale { replicas, shrink: Some(shrink) }, look_again: Some(left) };
    }
    let replicas = shrink.to.min(replicas);
    // Even fewer may do from now on: a new wait begins.
    let shrink = (wanted < replicas).then_some(Shrink { since_ms: now_ms, to: wanted });
    Decision { scale: Scale { replicas, shrink }, look_again: shrink.map(|_| bounds.idle_after) }
}

fn wanted(bounds: &Bounds, work: &Work, replicas: i32, ready: i32) -> i32 {
    let target = u64::from(bounds.target_in_flight.max(1).unsigned_abs());
    let by_target = i32::try_from(work.images().div_ceil(target)).unwrap_or(i32::MAX);
    let waits_long = work.queued_requests > 0 && Duration::from_millis(work.oldest_wait_ms) >= BURST_AFTER;
    let by_burst = if waits_long && replicas > 0 && ready >= replicas { replicas.saturating_mul(2) } else { 0 };
    by_target.max(by_burst).clamp(bounds.min, bounds.max)
}

/// Waiting grows without any change that would be told.
fn until_burst(bounds: &Bounds, load: &Load, replicas: i32) -> Option<Duration> {
    let waits = load.work.queued_requests > 0 && replicas < bounds.max;
    waits.then(|| BURST_AFTER.saturating_sub(Duration::from_millis(load.work.oldest_wait_ms)).max(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const BOUNDS: Bounds = Bounds { min: 0, max: 5, target_in_flight: 4, idle_after: IDLE };
    const NOW: u64 = 1_000_000_000;

    fn load(queued: u64, in_flight: u64) -> Load {
        let work = Work {
            queued_requests: queued,
            queued_images: queued,
            in_flight_requests: in_flight,
            in_flight_images: in_flight,
            oldest_wait_ms: 0,
        };
        Load { work, is_complete: true }
    }

    fn scale(replicas: i32) -> Scale {
        Scale { replicas, shrink: None }
    }

    fn shrinking(replicas: i32, since_ms: u64, to: i32) -> Scale {
        Scale { replicas, shrink: Some(Shrink { since_ms, to }) }
    }

    #[test]
    fn replicas_follow_demand_up_at_once() {
        for (what, before, load, expected) in [
            ("the first request starts the first replica", scale(0), load(1, 0), 1),
            ("as many as the target asks for", scale(1), load(5, 4), 3),
            ("no more than there may be", scale(1), load(100, 4), 5),
            ("nothing to do", scale(0), load(0, 0), 0),
            ("enough already", scale(2), load(3, 5), 2),
        ] {
            assert_eq!(decide(&BOUNDS, &load, before, before.replicas, NOW).scale, scale(expected), "{what}");
        }
    }

    #[test]
    fn the_minimum_runs_without_demand() {
        let bounds = Bounds { min: 2, ..BOUNDS };
        assert_eq!(decide(&bounds, &load(0, 0), scale(0), 0, NOW), Decision { scale: scale(2), look_again: None });
    }

    #[test]
    fn idle_replicas_stop_after_the_delay_and_not_before() {
        let first = decide(&BOUNDS, &load(0, 0), scale(1), 1, NOW);
        assert_eq!(first, Decision { scale: shrinking(1, NOW, 0), look_again: Some(IDLE) });
        let half = decide(&BOUNDS, &load(0, 0), first.scale, 1, NOW + 30_000);
        assert_eq!(half, Decision { scale: first.scale, look_again: Some(IDLE / 2) });
        let after = decide(&BOUNDS, &load(0, 0), first.scale, 1, NOW + 60_000);
        assert_eq!(after, Decision { scale: scale(0), look_again: None });
    }

    #[test]
    fn a_request_in_between_begins_the_wait_anew() {
        let before = shrinking(1, NOW, 0);
        assert_eq!(decide(&BOUNDS, &load(0, 1), before, 1, NOW + 59_000).scale, scale(1));
    }

    #[test]
    fn the_most_that_was_wanted_meanwhile_stays() {
        let before = shrinking(5, NOW, 1);
        let peak = decide(&BOUNDS, &load(0, 9), before, 5, NOW + 10_000).scale;
        assert_eq!(peak, shrinking(5, NOW, 3));
        let after = decide(&BOUNDS, &load(0, 0), peak, 5, NOW + 60_000);
        assert_eq!(after, Decision { scale: shrinking(3, NOW + 60_000, 0), look_again: Some(IDLE) });
    }

    #[test]
    fn nothing_stops_while_a_router_is_not_heard_of_but_more_may_start() {
        let unknown = Load { is_complete: false, ..load(0, 0) };
        let held = decide(&BOUNDS, &unknown, shrinking(2, NOW, 0), 2, NOW + 600_000);
        assert_eq!(held, Decision { scale: shrinking(2, NOW, 0), look_again: Some(UNKNOWN_RECHECK) });
        let known_part = Load { is_complete: false, ..load(9, 0) };
        assert_eq!(decide(&BOUNDS, &known_part, scale(1), 1, NOW).scale.replicas, 3);
    }

    #[test]
    fn long_waits_double_what_runs_once_all_of_it_is_ready() {
        let waiting = |ms| Load { work: Work { oldest_wait_ms: ms, ..load(1, 4).work }, is_complete: true };
        assert_eq!(decide(&BOUNDS, &waiting(9_999), scale(2), 2, NOW).scale.replicas, 2);
        assert_eq!(decide(&BOUNDS, &waiting(10_000), scale(2), 2, NOW).scale.replicas, 4);
        assert_eq!(decide(&BOUNDS, &waiting(10_000), scale(4), 4, NOW).scale.replicas, 5);
        assert_eq!(decide(&BOUNDS, &waiting(10_000), scale(2), 1, NOW).scale.replicas, 2, "what starts is waited for");
    }

    #[test]
    fn narrower_bounds_hold_at_once() {
        let bounds = Bounds { max: 2, ..BOUNDS };
        assert_eq!(decide(&bounds, &load(0, 20), scale(5), 5, NOW).scale, scale(2));
    }

    #[test]
    fn a_clock_that_went_back_begins_the_wait_anew() {
        assert_eq!(decide(&BOUNDS, &load(0, 0), shrinking(1, NOW + 5_000, 0), 1, NOW).scale, shrinking(1, NOW, 0));
    }

    #[test]
    fn a_decision_repeated_is_the_same_decision() {
        for before in [scale(0), scale(3), shrinking(3, NOW - 1_000, 1)] {
            for load in [load(0, 0), load(3, 2), load(0, 20)] {
                let once = decide(&BOUNDS, &load, before, 3, NOW).scale;
                assert_eq!(decide(&BOUNDS, &load, once, 3, NOW).scale, once, "{before:?} {load:?}");
            }
        }
    }
}
