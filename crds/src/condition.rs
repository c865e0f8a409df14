//! Condition types and reasons, in one place so that writers and readers cannot drift apart.
//!
//! The types follow Kubernetes' convention: `status` is `True`, `False` or `Unknown`, a reason is CamelCase.

/// The model can be called: imported, its header read, its family known.
pub const READY: &str = "Ready";
/// The operator is still working towards what the spec asks for.
pub const PROGRESSING: &str = "Progressing";
/// It serves, but not as asked: fewer replicas than wanted, say.
pub const DEGRADED: &str = "Degraded";

/// Everything asked for is in place.
pub const REASON_AVAILABLE: &str = "Available";
/// The spec breaks a rule; the message lists which.
pub const REASON_INVALID: &str = "Invalid";
/// An older ModelDeployment already has this `modelId`.
pub const REASON_CONFLICT: &str = "Conflict";
/// The weights are not in the store yet.
pub const REASON_NOT_IMPORTED: &str = "NotImported";
/// The source cannot be used on a cluster (`file://` is for local mode).
pub const REASON_SOURCE_UNUSABLE: &str = "SourceUnusable";
/// Nothing is left to do for this generation.
pub const REASON_RECONCILED: &str = "Reconciled";

/// `status` of a condition that holds.
pub const TRUE: &str = "True";
/// `status` of a condition that does not hold.
pub const FALSE: &str = "False";
/// `status` of a condition nobody has found out yet.
pub const UNKNOWN: &str = "Unknown";
