//! Why a call is not served, in no dialect. Each dialect has one table from here to its own status and body.

use std::time::Duration;

/// Every way in which the house says no. The display text is for people and tells the way out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "API key required: send it as body field \"key\", as \"Authorization: Bearer KEY\", as header \"key\" or \"X-API-Key\", or as query parameter \"key\""
    )]
    KeyMissing,
    #[error("Invalid API key")]
    KeyInvalid,
    #[error("Model not found: {model}{}", nearest_clause(.nearest))]
    ModelUnknown { model: String, nearest: Option<String> },
    /// `wanted` is what it should have been: "LoRA".
    #[error("{wanted} not found: {model}{}", nearest_clause(.nearest))]
    AdapterUnknown { wanted: &'static str, model: String, nearest: Option<String> },
    /// It exists, and is something else: `is` and `wanted` are kinds with their articles.
    #[error("{model} is {is}, not {wanted}")]
    WrongKind { model: String, is: &'static str, wanted: &'static str },
    /// The model is declared, but cannot be served; `reason` says why.
    #[error("Model {model} cannot be served: {reason}")]
    ModelNotReady { model: String, reason: String },
    /// `message` names the field: "width must be divisible by 8".
    #[error("{message}")]
    Invalid { field: String, message: String },
    #[error("{feature} is not supported")]
    NotSupported { feature: String },
    #[error("no generation has the id {id}")]
    GenerationUnknown { id: String },
    /// The plan's requests per minute.
    #[error("Rate limit exceeded: the plan {plan} allows {per_minute} requests a minute (burst {burst}); try again in {} s", seconds(.retry_after))]
    RateLimited { plan: String, per_minute: u32, burst: u32, retry_after: Duration },
    /// The plan's calls per day or month. `window` is "day" or "month".
    #[error("the plan {plan} allows {calls} calls a {window} and they are used; the next window begins in {} s", seconds(.retry_after))]
    QuotaUsed { plan: String, calls: u64, window: &'static str, retry_after: Duration },
    /// The plan's own queue is full.
    #[error("Rate limit exceeded. Maximum {depth} queued requests allowed.")]
    TenantQueueFull { depth: u32, retry_after: Duration },
    /// The house has no room before the deadline: nobody's plan is at fault.
    #[error("no capacity for this request now; try again in {} s", seconds(.retry_after))]
    NoCapacity { retry_after: Duration },
    #[error("the request body is larger than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: usize },
    #[error("the request body did not arrive within {} s", seconds(.limit))]
    BodyTimeout { limit: Duration },
    /// The body is not what its type says, or not an object.
    #[error("{message}")]
    BodyMalformed { message: String },
    #[error("Internal server error. Please try again.")]
    Internal,
}

fn nearest_clause(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

/// Whole seconds, never 0, so that a caller who waits that long is past the limit.
pub fn seconds(duration: &Duration) -> u64 {
    duration.as_millis().div_ceil(1000).max(1) as u64
}
