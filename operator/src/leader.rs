//! Which of several operators works: the one that holds a Lease. It holds it while it renews it; another takes it when it was not renewed
//! for [`LEASE_DURATION`], or at once when it was given back.
//!
//! Clocks of machines differ, so a holder's time is never read: what counts is how long the lease has been seen unchanged here.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};

/// A lease that is not renewed for so long belongs to nobody.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops before another begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two renewals.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at a lease that another holds.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// A Lease and who asks for it.
pub struct Leadership {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The lease as it was seen first in this form, and when.
    seen: Option<(Option<LeaseSpec>, Instant)>,
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Leadership").field("name", &self.name).field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What may be done with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It is ours, or nobody's.
    Take,
    /// Another holds it.
    Wait,
}

impl Leadership {
    /// `identity` must differ between processes.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), name: name.to_owned(), identity, seen: None }
    }

    /// Waits until the lease is ours. `looked` is called when the API server has answered.
    pub async fn acquire(&mut self, looked: impl Fn()) {
        loop {
            match self.try_hold().await {
                Ok(held) => {
                    looked();
                    if held {
                        tracing::info!("leading as {}", self.identity);
                        return;
                    }
                }
                Err(error) => tracing::warn!("the lease {} cannot be taken: {error}", self.name),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Renews the lease; ends when it is lost.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            tokio::time::sleep(RENEW_INTERVAL).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.try_hold()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!("the lease {} is not renewed: {error}", self.name),
                Err(_) => return,
            }
        }
    }

    /// Gives the lease back, so that another takes it at once.
    pub async fn release(&self) {
        let released = async {
            let mut lease = self.leases.get(&self.name).await?;
            if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity)) {
                spec.holder_identity = None;
                self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(RETRY_INTERVAL, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the lease {} is not given back: {error}", self.name),
            Err(_) => tracing::warn!("the lease {} is not given back in time", self.name),
        }
    }

    async fn try_hold(&mut self) -> Result<bool, kube::Error> {
        let found = self.leases.get_opt(&self.name).await?;
        let spec = found.as_ref().and_then(|lease| lease.spec.clone());
        let unchanged_since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => Instant::now(),
        };
        self.seen = Some((spec.clone(), unchanged_since));
        if claim(spec.as_ref(), &self.identity, unchanged_since.elapsed()) == Claim::Wait {
            return Ok(false);
        }
        let next = held(spec.as_ref(), &self.identity, Timestamp::now());
        // The version that was read goes with it: of two that write at once, one is refused.
        let written = match found {
            Some(lease) => self.leases.replace(&self.name, &PostParams::default(), &Lease { spec: Some(next), ..lease }).await,
            None => {
                let mut lease = Lease { spec: Some(next), ..Lease::default() };
                lease.metadata.name = Some(self.name.clone());
                self.leases.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn claim(lease: Option<&LeaseSpec>, identity: &str, unchanged_for: Duration) -> Claim {
    let holder = lease.and_then(|lease| lease.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    match holder {
        Some(holder) if holder != identity && unchanged_for < LEASE_DURATION => Claim::Wait,
        _ => Claim::Take,
    }
}

fn held(before: Option<&LeaseSpec>, identity: &str, now: Timestamp) -> LeaseSpec {
    let before = before.cloned().unwrap_or_default();
    let is_renewal = before.holder_identity.as_deref() == Some(identity);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        acquire_time: if is_renewal { before.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(!is_renewal)),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> LeaseSpec {
        held(None, holder, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_lease_is_taken_when_it_is_nobodys_ours_or_was_not_renewed() {
        let soon = Duration::from_secs(1);
        for (what, found, unchanged_for, expected) in [
            ("there is none", None, Duration::ZERO, Claim::Take),
            ("ours", Some(lease("a")), soon, Claim::Take),
            ("another's", Some(lease("b")), soon, Claim::Wait),
            ("another's, not renewed", Some(lease("b")), LEASE_DURATION, Claim::Take),
            ("given back", Some(LeaseSpec { holder_identity: None, ..lease("b") }), soon, Claim::Take),
            ("given back as other clients do", Some(LeaseSpec { holder_identity: Some(String::new()), ..lease("b") }), soon, Claim::Take),
        ] {
            assert_eq!(claim(found.as_ref(), "a", unchanged_for), expected, "{what}");
        }
    }

    #[test]
    fn a_renewal_keeps_when_it_was_acquired_and_a_change_is_counted() {
        let first = lease("a");
        let later = Timestamp::from_second(60).unwrap();
        let renewed = held(Some(&first), "a", later);
        assert_eq!((renewed.acquire_time.clone(), renewed.lease_transitions), (first.acquire_time.clone(), Some(1)));
        assert_ne!(renewed.renew_time, first.renew_time);
        let taken = held(Some(&renewed), "b", later);
        assert_eq!((taken.acquire_time, taken.lease_transitions), (Some(MicroTime(later)), Some(2)));
    }
}
