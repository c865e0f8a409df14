//! What a real Kubernetes does, shown on the cluster that tests bring up: so that a test of ours that fails on it means our code.
//! Each file proves one thing; `shapes.rs` holds the YAML they share.

mod shapes;

mod api_server; // its restart: watches resume
mod definitions; // a rule in a CRD refuses
mod devices; // GPUs that do not exist are counted and handed out
mod eviction; // a disruption budget holds a pod
mod helm; // install, upgrade, uninstall
mod images; // pulls, and pulls that fail
