//! The rate limit: how many requests a minute a tenant may send. Pure but for the table it keeps; the clock is an argument.
//!
//! GCRA (ITU-T I.371): each tenant has a theoretical arrival time; a request that comes more than `burst` intervals before it is early.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Tenants remembered at once. One that was quiet for its whole burst may be forgotten without effect.
const TENANTS_LIMIT: usize = 100_000;

/// Rate limits of all tenants of this router.
#[derive(Debug, Default)]
pub struct RateLimiter {
    /// When each tenant's next request is due if it kept exactly to its rate.
    due: Mutex<HashMap<Uuid, Instant>>,
}

impl RateLimiter {
    /// Counts one request of `tenant`, or says how long to wait; a refused request counts nothing.
    ///
    /// `per_minute` of 0 refuses everything for a minute; `burst` of 0 counts as 1.
    pub fn check(&self, tenant: Uuid, per_minute: u32, burst: u32, now: Instant) -> Result<(), Duration> {
        const MINUTE: Duration = Duration::from_secs(60);
        let Some(interval) = MINUTE.checked_div(per_minute) else { return Err(MINUTE) };
        let tolerance = interval * burst.max(1).saturating_sub(1);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() >= TENANTS_LIMIT && !due.contains_key(&tenant) {
            due.retain(|_, due| *due > now);
            // Everybody is busy: rather let one tenant pass uncounted than grow without bound.
            if due.len() >= TENANTS_LIMIT {
                return Ok(());
            }
        }
        let expected = due.get(&tenant).copied().unwrap_or(now).max(now);
        let early = expected - now;
        if early > tolerance {
            return Err(early - tolerance);
        }
        due.insert(tenant, expected + interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: Uuid = Uuid::from_u128(1);

    #[test]
    fn a_burst_passes_and_the_next_request_waits_one_interval() {
        let limiter = RateLimiter::default();
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(limiter.check(TENANT, 60, 20, start), Ok(()));
        }
        assert_eq!(limiter.check(TENANT, 60, 20, start), Err(Duration::from_secs(1)));
        assert_eq!(limiter.check(TENANT, 60, 20, start + Duration::from_secs(1)), Ok(()));
        assert!(limiter.check(TENANT, 60, 20, start + Duration::from_secs(1)).is_err());
    }

    #[test]
    fn an_hour_at_full_speed_passes_the_rate_and_one_burst() {
        let limiter = RateLimiter::default();
        let start = Instant::now();
        let passed =
            (0..36_000u32).filter(|tenth| limiter.check(TENANT, 60, 20, start + Duration::from_millis(100) * *tenth).is_ok()).count();
        assert_eq!(passed, 60 * 60 + 19);
    }

    #[test]
    fn tenants_do_not_share_a_limit() {
        let limiter = RateLimiter::default();
        let now = Instant::now();
        assert_eq!(limiter.check(TENANT, 1, 1, now), Ok(()));
        assert!(limiter.check(TENANT, 1, 1, now).is_err());
        assert_eq!(limiter.check(Uuid::from_u128(2), 1, 1, now), Ok(()));
    }

    #[test]
    fn a_rate_of_nothing_refuses_everything() {
        assert_eq!(RateLimiter::default().check(TENANT, 0, 5, Instant::now()), Err(Duration::from_secs(60)));
    }
}
