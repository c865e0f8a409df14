//! Condition types and reasons, in one place so that writers and readers cannot drift apart.
//!
//! The types follow Kubernetes' convention: `status` is `True`, `False` or `Unknown`, a reason is CamelCase.

/// It can be called: replicas take work, or start with the first call.
pub const READY: &str = "Ready";
/// The operator is still working towards what the spec asks for.
pub const PROGRESSING: &str = "Progressing";
/// It serves, but not as asked: fewer replicas than wanted, say.
pub const DEGRADED: &str = "Degraded";
/// Of a pool: every model that shall be in memory before anybody asks is in the memory of a replica.
pub const WARM_MODELS: &str = "WarmModels";

/// Everything asked for is in place.
pub const REASON_AVAILABLE: &str = "Available";
/// The spec breaks a rule; the message lists which.
pub const REASON_INVALID: &str = "Invalid";
/// An older ModelDeployment already has this `modelId`.
pub const REASON_CONFLICT: &str = "Conflict";
/// The weights are being imported.
pub const REASON_IMPORTING: &str = "Importing";
/// The weights could not be imported; the message says why, and it is tried again.
pub const REASON_IMPORT_FAILED: &str = "ImportFailed";
/// No replica can read the source where it is.
pub const REASON_SOURCE_UNUSABLE: &str = "SourceUnusable";
/// A VAE or an adapter that the model names does not exist, or is something else.
pub const REASON_COMPONENT_UNUSABLE: &str = "ComponentUnusable";
/// The RuntimePool that the model names does not exist.
pub const REASON_POOL_UNKNOWN: &str = "PoolUnknown";
/// The object is in a namespace where nobody serves it.
pub const REASON_WRONG_NAMESPACE: &str = "WrongNamespace";
/// No replica runs, because nobody calls; the first call starts one.
pub const REASON_ASLEEP: &str = "Asleep";
/// No replica runs, because whoever decides their number wants none.
pub const REASON_SCALED_TO_ZERO: &str = "ScaledToZero";
/// Replicas start and none takes work yet; calls wait for them.
pub const REASON_STARTING: &str = "Starting";
/// Pods of replicas cannot run; the message says why.
pub const REASON_REPLICAS_FAILING: &str = "ReplicasFailing";
/// Fewer replicas take work than are wanted.
pub const REASON_REPLICAS_MISSING: &str = "ReplicasMissing";
/// As many replicas take work as are wanted.
pub const REASON_REPLICAS_RUNNING: &str = "ReplicasRunning";
/// Replicas are being started or stopped.
pub const REASON_SCALING: &str = "Scaling";
/// Every warm model is in the memory of a replica.
pub const REASON_LOADED: &str = "Loaded";
/// Warm models are on their way into memory.
pub const REASON_LOADING: &str = "Loading";
/// Warm models cannot be brought into memory; the message says which and why, and it is tried again.
pub const REASON_NOT_LOADED: &str = "NotLoaded";
/// No replica takes work that could have anything in memory.
pub const REASON_NO_REPLICA: &str = "NoReplica";
/// Nothing is left to do for this generation.
pub const REASON_RECONCILED: &str = "Reconciled";

/// `status` of a condition that holds.
pub const TRUE: &str = "True";
/// `status` of a condition that does not hold.
pub const FALSE: &str = "False";
/// `status` of a condition nobody has found out yet.
pub const UNKNOWN: &str = "Unknown";
