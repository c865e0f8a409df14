//! The dashboard that the chart ships: every metric that it shows is one that the binaries export.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Names of ours in an expression.
fn named(expression: &str) -> impl Iterator<Item = &str> {
    expression.split(|character: char| !character.is_ascii_alphanumeric() && character != '_').filter(|word| word.starts_with("emulsion_"))
}

fn expressions() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/emulsion/dashboards/emulsion.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// What the three binaries write at /metrics. A metric with labels is there once something was counted.
fn exported() -> BTreeSet<String> {
    let router = router::metrics::Metrics::default();
    router.request_ended("openai", router::metrics::OutcomeLabel::Succeeded);
    router.replica_start_failed();
    let runtime = runtime::metrics::Metrics::new().unwrap();
    runtime.count_outcome(None);
    let operator = operator::metrics::Metrics::new().unwrap();
    operator.reconciliations.with_label_values(&["RuntimePool", "applied"]).inc();
    operator.requests.with_label_values(&["GET", "200"]).inc();
    let texts = [router.render(), runtime.render().unwrap(), String::from_utf8(operator.text().unwrap()).unwrap()];
    let of_text = |text: &String| {
        let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = lines.filter_map(|line| Some(line.split_once(' ')?.0.to_owned()));
        // What is known of any process has names of its own.
        names.filter(|name| name.starts_with("emulsion_")).collect::<Vec<_>>()
    };
    texts.iter().flat_map(of_text).collect()
}

#[test]
fn every_metric_on_the_dashboard_is_exported() {
    let (exported, expressions) = (exported(), expressions());
    let is_exported = |name: &str| {
        let of_histogram = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
        exported.contains(name) || of_histogram.is_some_and(|name| exported.contains(name))
    };
    let unknown: Vec<&str> = expressions.iter().flat_map(|expression| named(expression)).filter(|name| !is_exported(name)).collect();
    assert_eq!(unknown, Vec::<&str>::new(), "exported are {exported:?}");
    assert!(!is_exported("emulsion_router_nonsense"));
}

#[test]
fn the_dashboard_shows_all_that_a_cluster_counts() {
    // A router of a cluster starts no replicas: the operator does.
    let of_local_mode =
        ["emulsion_router_replica_start_seconds", "emulsion_router_replica_starts_total", "emulsion_router_replicas_starting"];
    let shown = expressions().concat();
    let hidden: Vec<String> = exported().into_iter().filter(|name| !shown.contains(name.as_str())).collect();
    assert_eq!(hidden, of_local_mode);
}
