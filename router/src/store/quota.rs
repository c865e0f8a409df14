//! What a plan lets through, decided alike by every store: they count, this judges.

use std::time::Duration;

use super::{AdmitError, Allowance};

/// The quota windows that run now by the database's clock, and how long they still run.
pub(super) struct Windows {
    /// Such as "2026-11-22".
    pub(super) day: String,
    /// Such as "2026-11".
    pub(super) month: String,
    pub(super) day_left: Duration,
    pub(super) month_left: Duration,
}

/// One limit of calls in a window.
pub(super) struct CallLimit<'a> {
    calls: u64,
    /// The window's key in the table of usage.
    pub(super) period: &'a str,
    window: &'static str,
    left: Duration,
}

impl Windows {
    /// The limits that an allowance has.
    pub(super) fn limits(&self, allowance: &Allowance) -> impl Iterator<Item = CallLimit<'_>> {
        let limit = |calls: Option<u64>, period, window, left| calls.map(|calls| CallLimit { calls, period, window, left });
        [
            limit(allowance.calls_per_day, self.day.as_str(), "day", self.day_left),
            limit(allowance.calls_per_month, self.month.as_str(), "month", self.month_left),
        ]
        .into_iter()
        .flatten()
    }
}

impl CallLimit<'_> {
    /// Whether one more call fits beside those that are counted.
    pub(super) fn check(&self, used: Option<i64>) -> Result<(), AdmitError> {
        if u64::try_from(used.unwrap_or(0)).unwrap_or(0) >= self.calls {
            return Err(AdmitError::QuotaUsed { calls: self.calls, window: self.window, retry_after: self.left });
        }
        Ok(())
    }
}

impl Allowance {
    /// Whether one more request fits beside the unfinished ones.
    pub(super) fn check_queue(&self, unfinished: i64) -> Result<(), AdmitError> {
        let depth = self.queue_depth;
        if unfinished >= i64::from(depth) { Err(AdmitError::QueueFull { depth }) } else { Ok(()) }
    }
}
