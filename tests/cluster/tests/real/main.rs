//! What a real Kubernetes does, shown on the cluster that tests bring up: so that a test of ours that fails on it means our code.
//! Each file proves one thing; `shapes.rs` holds the YAML they share,
//! `installation.rs` what those of our own chart do.

mod installation;
mod shapes;
mod stores; // a PostgreSQL and an S3 server that are there already

mod api_server; // its restart: watches resume
mod changes; // of plans and models are in force without a restart
mod definitions; // a rule in a CRD refuses
mod devices; // GPUs that do not exist are counted and handed out
mod eviction; // a disruption budget holds a pod
mod faults; // our operator, ended at each of its writes, and with lost writes and events
mod gpus; // our own replicas that ask for some, and those that do not
mod helm; // install, upgrade, uninstall
mod images; // pulls, and pulls that fail
mod imports; // of weights that are published elsewhere, by our own Jobs
mod kills; // of each part of our own chart under a steady load: no accepted call is lost
mod many; // models on one installation
mod memory; // a container over its limit is killed
mod metrics; // an autoscaler sees what pods use
mod network; // partitions and slow links
mod nodes; // one is lost, and comes back
mod pressure; // pooled models that take each other's place in memory
mod readme; // its commands for a cluster, word for word
mod restricted; // no root, seccomp, a read-only root
mod rollouts; // each of our Deployments, under load
mod services; // names, readiness, other nodes
mod serving; // our own chart: from kubectl apply to an image, and back to zero
mod shrinking; // which of our replicas are stopped
mod streams; // exec, logs, port-forward
mod upgrade; // from the parent commit's chart
mod volumes; // what one pod wrote another reads
mod weights; // of our models and of the safety checker, and what replicas fetch, on volumes
