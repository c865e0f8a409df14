//! Proves the committed definitions current: the crate's own and the chart's.

#[path = "../examples/generate.rs"]
mod generate;

#[test]
fn committed_definitions_are_current() {
    for (path, text) in generate::files() {
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "{} is out of date: run `cargo run -p crds --example generate`", path.display());
    }
}

#[test]
fn definitions_use_only_what_every_api_server_accepts() {
    for (path, text) in generate::files() {
        for refused in ["format: uint", "nullable:", "oneOf:", "anyOf:", "uniqueItems:", "$ref"] {
            assert!(!text.contains(refused), "{} holds {refused}", path.display());
        }
    }
}
