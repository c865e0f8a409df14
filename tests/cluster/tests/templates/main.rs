//! What helm makes of our chart's values: each combination that people install, rendered. No cluster runs for it, only the helm that
//! `emulsion-cluster` holds.

mod catalog; // published models
mod imports; // how weights come in
mod monitoring; // what Prometheus and Grafana are given
mod permissions; // who may do what
mod rendered;
mod safety_checker; // where its weights are
mod stores; // one router on a volume, several on a database and a bucket
