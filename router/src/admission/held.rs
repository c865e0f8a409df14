//! What one router holds of one tenant's rate: leased slots, or the word that there are none. Pure; the clock is an argument.

use std::time::{Duration, Instant};

use crate::store::{Rate, RateLease};

#[derive(Debug)]
pub(super) struct Held {
    rate: Rate,
    /// The time of the first slot that is held; one that has passed is void.
    next: Instant,
    count: u32,
    /// Until then the store has nothing, as it said.
    refused_until: Instant,
    /// When the tenant's next slot is due as far as this router knows, for when the store does not answer.
    due: Instant,
}

/// What became of a call that asked for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    Slot,
    Refused(Duration),
    /// Nothing is held, and the store may have some.
    Nothing,
}

impl Held {
    pub(super) fn nothing(rate: Rate, now: Instant) -> Self {
        Self { rate, next: now, count: 0, refused_until: now, due: now }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether forgetting this would change an answer.
    pub(super) fn matters(&self, now: Instant) -> bool {
        self.count > 0 && self.last_slot() >= now || self.refused_until > now
    }

    pub(super) fn spend(&mut self, now: Instant) -> Spent {
        while self.count > 0 {
            let slot = self.next;
            self.next += self.rate.interval();
            self.count -= 1;
            if slot >= now {
                return Spent::Slot;
            }
        }
        match self.refused_until.saturating_duration_since(now) {
            Duration::ZERO => Spent::Nothing,
            wait => Spent::Refused(wait),
        }
    }

    /// Takes in what the store answered, and spends one slot of it for the call that asked. The store looked at its clock at some moment
    /// between `sent` and `received`: slots are taken to end early, and waits late, by at most the time between.
    pub(super) fn keep(&mut self, lease: RateLease, sent: Instant, received: Instant) -> Result<(), Duration> {
        match lease {
            RateLease::Slots { first_in, count } => {
                self.next = sent + first_in + self.rate.interval();
                self.count = count.saturating_sub(1);
                self.due = sent + first_in + self.rate.interval() * count;
                Ok(())
            }
            RateLease::Wait(wait) => {
                self.refused_until = received + wait;
                self.due = received + wait + self.rate.tolerance();
                Err(wait)
            }
        }
    }

    /// Counts a call without the store: as if this router were the only one.
    pub(super) fn take_alone(&mut self, now: Instant) -> Result<(), Duration> {
        if self.spend(now) == Spent::Slot {
            return Ok(());
        }
        let due = self.due.saturating_duration_since(now);
        let (due_us, lease) = self.rate.take(i64::try_from(due.as_micros()).unwrap_or(i64::MAX), 0, 1);
        self.due = now + Duration::from_micros(due_us.unsigned_abs());
        match lease {
            RateLease::Slots { .. } => Ok(()),
            RateLease::Wait(wait) => Err(wait),
        }
    }

    fn last_slot(&self) -> Instant {
        self.next + self.rate.interval() * self.count.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Routers of one store whose clock stands where the test says.
    struct Routers {
        rate: Rate,
        start: Instant,
        held: Vec<Held>,
        due_us: i64,
        /// When each call passed.
        passed: Vec<Duration>,
    }

    impl Routers {
        fn new(count: usize, per_minute: u32, burst: u32) -> Self {
            let (rate, start) = (Rate::new(per_minute, burst).unwrap(), Instant::now());
            Self { rate, start, held: (0..count).map(|_| Held::nothing(rate, start)).collect(), due_us: 0, passed: Vec::new() }
        }

        /// One call `at` a router; `latency` passes until the store has looked at its clock, and again until its answer is here.
        fn call(&mut self, router: usize, at: Duration, latency: Duration) -> Result<(), Duration> {
            let (now, held) = (self.start + at, &mut self.held[router]);
            let (verdict, moment) = match held.spend(now) {
                Spent::Slot => (Ok(()), at),
                Spent::Refused(wait) => (Err(wait), at),
                Spent::Nothing => {
                    let moment = at + latency;
                    let now_us = i64::try_from(moment.as_micros()).unwrap();
                    let (due_us, lease) = self.rate.take(self.due_us, now_us, self.rate.lease_slots());
                    self.due_us = due_us;
                    (held.keep(lease, now, now + latency * 2), moment)
                }
            };
            if verdict.is_ok() {
                self.passed.push(moment);
            }
            verdict
        }

        /// The most calls that passed beyond the rate in any time between two of them.
        fn most_beyond_the_rate(&self) -> u128 {
            let beyond = |from: usize, to: usize| {
                let intervals = (self.passed[to] - self.passed[from]).as_nanos() / self.rate.interval().as_nanos();
                ((to - from + 1) as u128).saturating_sub(intervals)
            };
            (0..self.passed.len()).flat_map(|from| (from..self.passed.len()).map(move |to| beyond(from, to))).max().unwrap_or(0)
        }
    }

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn a_burst_passes_and_the_next_call_waits_one_interval() {
        let mut routers = Routers::new(1, 60, 20);
        for _ in 0..20 {
            assert_eq!(routers.call(0, Duration::ZERO, Duration::ZERO), Ok(()));
        }
        assert_eq!(routers.call(0, Duration::ZERO, Duration::ZERO), Err(milliseconds(1000)));
        assert_eq!(routers.call(0, milliseconds(999), Duration::ZERO), Err(milliseconds(1)));
        assert_eq!(routers.call(0, milliseconds(1000), Duration::ZERO), Ok(()));
        assert!(routers.call(0, milliseconds(1000), Duration::ZERO).is_err());
    }

    #[test]
    fn an_hour_at_full_speed_passes_the_rate_and_one_burst_through_any_number_of_routers() {
        for count in [1, 2, 7] {
            for (per_minute, burst) in [(60, 20), (600, 100)] {
                let mut routers = Routers::new(count, per_minute, burst);
                let mut passed = 0;
                for tick in 0..72_000u64 {
                    let router = usize::try_from(tick).unwrap() % count;
                    passed += u32::from(routers.call(router, milliseconds(50) * u32::try_from(tick).unwrap(), Duration::ZERO).is_ok());
                }
                // The hour's last moment is not part of it. What routers hold at its end nobody gets.
                let (most, held) = (60 * per_minute + burst - 1, (count as u32 - 1) * routers.rate.lease_slots());
                assert!((most - held..=most).contains(&passed), "{passed} of {most} through {count} routers");
            }
        }
    }

    #[test]
    fn no_interleaving_of_routers_passes_more_than_the_limit() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let count = random.random_range(1..=6);
            let (per_minute, burst) = (random.random_range(1..=6000), random.random_range(1..=60));
            let mut routers = Routers::new(count, per_minute, burst);
            let interval_us = routers.rate.interval().as_micros() as u64;
            let mut at = Duration::ZERO;
            for _ in 0..400 {
                // Crowded moments, and now and then a long quiet time.
                let quiet = if random.random_ratio(1, 20) { u64::from(burst) * interval_us } else { interval_us };
                at += Duration::from_micros(random.random_range(0..=quiet));
                let router = random.random_range(0..count);
                // The store answers before the next call, as the fake has no calls side by side.
                let latency = Duration::from_micros(random.random_range(0..=20_000));
                let _ = routers.call(router, at, latency);
                at += latency * 2;
            }
            let most = routers.most_beyond_the_rate();
            assert!(most <= u128::from(burst), "seed {seed}: {most} beyond {per_minute} a minute, burst {burst}, {count} routers");
        }
    }

    #[test]
    fn what_a_router_holds_is_lost_within_a_second() {
        let mut routers = Routers::new(2, 1000, 200);
        assert_eq!(routers.call(0, Duration::ZERO, Duration::ZERO), Ok(()));
        // The first one dies. Of its lease of 16 the other lacks 15, and no more.
        let passed = (0..300).filter(|_| routers.call(1, Duration::ZERO, Duration::ZERO).is_ok()).count();
        assert_eq!(passed, 200 - 16);
        let passed = (0..300).filter(|_| routers.call(1, milliseconds(1000), Duration::ZERO).is_ok()).count();
        assert_eq!(passed, 16);
    }

    #[test]
    fn slots_whose_time_has_passed_are_void() {
        let mut routers = Routers::new(1, 600, 100);
        assert_eq!(routers.call(0, Duration::ZERO, Duration::ZERO), Ok(()));
        assert_eq!(routers.held[0].count, 9);
        assert!(routers.held[0].matters(routers.start + milliseconds(900)) && !routers.held[0].matters(routers.start + milliseconds(901)));
        assert_eq!(routers.held[0].spend(routers.start + milliseconds(450)), Spent::Slot);
        assert_eq!(routers.held[0].count, 4);
        assert_eq!(routers.held[0].spend(routers.start + milliseconds(901)), Spent::Nothing);
    }

    #[test]
    fn without_the_store_a_router_holds_the_limit_by_itself() {
        let mut routers = Routers::new(2, 60, 20);
        for _ in 0..5 {
            assert_eq!(routers.call(0, Duration::ZERO, Duration::ZERO), Ok(()));
        }
        let alone = |held: &mut Held| (0..100).filter(|_| held.take_alone(routers.start).is_ok()).count();
        assert_eq!(routers.held.iter_mut().map(alone).collect::<Vec<_>>(), [15, 20]);
    }
}
