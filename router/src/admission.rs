//! The rate limit: how many calls a minute a tenant may send, through all routers of one store together.
//!
//! ```text
//! call ─► slots held here? ─ yes ─► passes          (no store)
//!              │ no
//!              ├ told to wait, and that is not over ─► refused   (no store)
//!              └ lease of slots from the store ─► passes, the rest is held; or refused until a slot is free
//! ```
//! A slot is good until its time, by the database's clock, of which only durations are used: the clocks of routers need not agree.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::store::{Rate, RateLease, Store, StoreError};

mod held;

use held::{Held, Spent};

/// Tenants remembered at once. Who forgets one loses what is held for it: less than the rate gives in a second.
const TENANTS_LIMIT: usize = 100_000;
/// How long a call waits for the store to count it. After that this router counts it by itself.
const STORE_WAIT: Duration = Duration::from_secs(1);
/// What a rate of nothing tells callers to wait.
const MINUTE: Duration = Duration::from_secs(60);

/// Rate limits of all tenants, as far as this router has to do with them.
#[derive(Debug)]
pub struct RateLimiter {
    tenants: Mutex<HashMap<Uuid, Tenant>>,
    store_wait: Duration,
}

#[derive(Debug)]
struct Tenant {
    held: Held,
    /// Only one call asks the store; the others find what it brought.
    asks: Arc<tokio::sync::Mutex<()>>,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self { tenants: Mutex::default(), store_wait: STORE_WAIT }
    }
}

impl RateLimiter {
    /// Counts one call of `tenant`, or says how long to wait; a refused call counts nothing. `None` refuses everything for a minute.
    pub async fn check(&self, store: &dyn Store, tenant: Uuid, rate: Option<Rate>) -> Result<(), Duration> {
        let Some(rate) = rate else { return Err(MINUTE) };
        match tokio::time::timeout(self.store_wait, self.ask(store, tenant, &rate)).await {
            Ok(Ok(verdict)) => return verdict,
            Ok(Err(error)) => tracing::warn!("a call is counted by this router alone: {error}"),
            Err(_) => tracing::warn!("a call is counted by this router alone: the store did not answer within {:?}", self.store_wait),
        }
        let now = Instant::now();
        self.held(tenant, &rate, now, |tenant| tenant.held.take_alone(now))
    }

    async fn ask(&self, store: &dyn Store, tenant: Uuid, rate: &Rate) -> Result<Result<(), Duration>, StoreError> {
        let spend = || {
            let now = Instant::now();
            self.held(tenant, rate, now, |tenant| (tenant.held.spend(now), Arc::clone(&tenant.asks)))
        };
        let asks = match spend() {
            (Spent::Slot, _) => return Ok(Ok(())),
            (Spent::Refused(wait), _) => return Ok(Err(wait)),
            (Spent::Nothing, asks) => asks,
        };
        let _asks = asks.lock().await;
        match spend().0 {
            Spent::Slot => return Ok(Ok(())),
            Spent::Refused(wait) => return Ok(Err(wait)),
            Spent::Nothing => {}
        }
        let sent = Instant::now();
        let lease: RateLease = store.lease_rate(tenant, rate).await?;
        let received = Instant::now();
        Ok(self.held(tenant, rate, received, |tenant| tenant.held.keep(lease, sent, received)))
    }

    /// What is held for the tenant, made when it is lacking or belongs to another rate.
    fn held<T>(&self, tenant: Uuid, rate: &Rate, now: Instant, use_it: impl FnOnce(&mut Tenant) -> T) -> T {
        let mut tenants: MutexGuard<'_, HashMap<Uuid, Tenant>> = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() >= TENANTS_LIMIT && !tenants.contains_key(&tenant) {
            tenants.retain(|_, tenant| tenant.held.matters(now));
            if tenants.len() >= TENANTS_LIMIT {
                tenants.clear();
            }
        }
        let entry = tenants.entry(tenant).or_insert_with(|| Tenant { held: Held::nothing(*rate, now), asks: Arc::default() });
        if entry.held.rate() != *rate {
            entry.held = Held::nothing(*rate, now);
        }
        use_it(entry)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::SqlitePool;

    use super::*;
    use crate::store::KeyHash;
    use crate::store::sqlite::SqliteStore;

    #[tokio::test]
    async fn calls_that_come_together_share_leases_and_pass_the_burst() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.sqlite")).await.unwrap();
        let [one, other] = tenants(&store).await;
        let routers = [RateLimiter::default(), RateLimiter::default()];
        // A call a minute: no slot comes back while the test runs.
        let rate = Rate::new(1, 20);
        let calls = (0..60).map(|call| routers[call % 2].check(&store, one, rate));
        let verdicts = futures::future::join_all(calls).await;
        assert_eq!(verdicts.iter().filter(|verdict| verdict.is_ok()).count(), 20);
        assert!(verdicts.iter().flat_map(|verdict| verdict.as_ref().err()).all(|wait| *wait > Duration::ZERO && *wait <= MINUTE));
        assert_eq!(routers[0].check(&store, other, rate).await, Ok(()), "tenants do not share a limit");
        assert_eq!(routers[0].check(&store, other, None).await, Err(MINUTE), "a rate of nothing refuses everything");
        // A plan that changed counts from its own rate.
        let faster = routers[0].check(&store, one, Rate::new(60_000_000, 20)).await;
        assert!(faster.is_ok() || faster == Err(Duration::from_micros(1)), "{faster:?}");
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_holds_no_call_up_and_the_limit_stays_this_routers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.sqlite");
        let store = SqliteStore::open(&file).await.unwrap();
        let [tenant, _] = tenants(&store).await;
        let mut limiter = RateLimiter::default();
        let rate = Rate::new(1, 3);
        assert_eq!(limiter.check(&store, tenant, rate).await, Ok(()));
        let blocker = SqlitePool::connect(&format!("sqlite://{}", file.display())).await.unwrap();
        let _writes = blocker.begin_with("begin immediate").await.unwrap();
        limiter.store_wait = Duration::from_millis(1);
        assert_eq!(limiter.check(&store, tenant, rate).await, Ok(()));
        assert_eq!(limiter.check(&store, tenant, rate).await, Ok(()));
        assert!(limiter.check(&store, tenant, rate).await.is_err_and(|wait| wait <= MINUTE));
    }

    async fn tenants(store: &SqliteStore) -> [Uuid; 2] {
        let mut made = Vec::new();
        for (name, key) in [("acme", KeyHash([1; 32])), ("other", KeyHash([2; 32]))] {
            store.add_key(name, "free", key).await.unwrap();
            made.push(store.find_caller(key).await.unwrap().unwrap().tenant);
        }
        [made[0], made[1]]
    }
}
