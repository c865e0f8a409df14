//! How many calls a minute a tenant may send, decided alike by every store: they keep one number for each tenant, this judges. Pure.
//!
//! GCRA (ITU-T I.371) over slots: a tenant's slots follow each other at the interval of its rate, each is given away once, at most `burst`
//! of them lie ahead, and one whose time has passed is void. So no time `t` sees more than `t ÷ interval + burst` calls, whoever holds the slots.

use std::time::Duration;

const MINUTE_US: i64 = 60_000_000;
/// A lease holds at most what the rate gives in this time. What a router leases and does not use is lost to the tenant.
const LEASE_SPAN_US: i64 = 1_000_000;
/// A lease holds at most this part of the burst.
const LEASE_PART_OF_BURST: u32 = 10;

/// A plan's rate. Times are in whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_us: i64,
    burst: u32,
}

/// What a store answers to one who asks for slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLease {
    /// So many slots, at least one, an interval apart; the first one's time comes this long after the store was asked.
    Slots { first_in: Duration, count: u32 },
    /// All are taken; one is free after this long.
    Wait(Duration),
}

impl Rate {
    /// `None` for a rate of nothing; a burst of 0 counts as 1.
    pub fn new(per_minute: u32, burst: u32) -> Option<Self> {
        // Rounded up: rather a call a day too few than one too many.
        (per_minute > 0)
            .then(|| Self { interval_us: (MINUTE_US as u64).div_ceil(u64::from(per_minute)).cast_signed(), burst: burst.max(1) })
    }

    pub fn interval(&self) -> Duration {
        duration(self.interval_us)
    }

    /// From the time of the slot that comes next, how long before a call may have it.
    pub fn tolerance(&self) -> Duration {
        duration(self.interval_us.saturating_mul(i64::from(self.burst) - 1))
    }

    /// Slots that a router takes at once.
    pub fn lease_slots(&self) -> u32 {
        let in_span = u32::try_from(LEASE_SPAN_US / self.interval_us).unwrap_or(u32::MAX);
        in_span.min(self.burst / LEASE_PART_OF_BURST).max(1)
    }

    /// Takes at most `slots` of a tenant whose next slot is due at `due_us`, and says when its next one is due from now on.
    ///
    /// A due time that this rate cannot have led to, as after a change of the plan or of the clock, heals at once.
    pub fn take(&self, due_us: i64, now_us: i64, slots: u32) -> (i64, RateLease) {
        let horizon_us = now_us.saturating_add(self.interval_us.saturating_mul(i64::from(self.burst)));
        let first_us = due_us.clamp(now_us, horizon_us);
        let free = u32::try_from((horizon_us - first_us) / self.interval_us).unwrap_or(u32::MAX);
        let count = free.min(slots);
        let due_us = first_us.saturating_add(self.interval_us.saturating_mul(i64::from(count)));
        let lease = match count {
            0 => RateLease::Wait(duration(first_us + self.interval_us - horizon_us)),
            count => RateLease::Slots { first_in: duration(first_us - now_us), count },
        };
        (due_us, lease)
    }
}

fn duration(microseconds: i64) -> Duration {
    Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_a_second_of_the_rate_and_a_part_of_the_burst() {
        let slots = |per_minute, burst| Rate::new(per_minute, burst).unwrap().lease_slots();
        assert_eq!([slots(60, 20), slots(1, 100), slots(1000, 200), slots(1000, 50), slots(10_000, 1000)], [1, 1, 16, 5, 100]);
    }

    #[test]
    fn slots_are_given_away_once_and_at_most_a_burst_ahead() {
        let rate = Rate::new(60, 20).unwrap();
        let second = |seconds: u64| Duration::from_secs(seconds);
        let (due, lease) = rate.take(0, 5_000_000, 15);
        assert_eq!((due, lease), (20_000_000, RateLease::Slots { first_in: second(0), count: 15 }));
        let (due, lease) = rate.take(due, 5_000_000, 15);
        assert_eq!((due, lease), (25_000_000, RateLease::Slots { first_in: second(15), count: 5 }));
        assert_eq!(rate.take(due, 5_000_000, 15), (due, RateLease::Wait(second(1))));
        assert_eq!(rate.take(due, 5_900_000, 1), (due, RateLease::Wait(Duration::from_millis(100))));
        assert_eq!(rate.take(due, 6_000_000, 15).1, RateLease::Slots { first_in: second(19), count: 1 });
    }

    #[test]
    fn a_clock_that_was_wrong_or_a_slower_plan_holds_nobody_up() {
        let rate = Rate::new(60, 20).unwrap();
        let (due, lease) = rate.take(3_600_000_000, 0, 1);
        assert_eq!((due, lease), (20_000_000, RateLease::Wait(Duration::from_secs(1))));
        assert!(matches!(rate.take(due, 1_000_000, 1).1, RateLease::Slots { count: 1, .. }));
        assert_eq!(Rate::new(0, 20), None);
    }
}
