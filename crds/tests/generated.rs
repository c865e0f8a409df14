//! Proves what is generated current: the definitions of the crate and of the chart, and the page that describes them.

#[path = "../examples/generate/main.rs"]
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
    for (path, text) in generate::files().into_iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "yaml")) {
        for refused in ["format: uint", "nullable:", "oneOf:", "anyOf:", "uniqueItems:", "$ref"] {
            assert!(!text.contains(refused), "{} holds {refused}", path.display());
        }
    }
}

#[test]
fn every_field_is_described() {
    for (path, text) in generate::files().into_iter().filter(|(path, _)| path.ends_with("resources.md")) {
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(rows.len() > 50, "{} lists the fields", path.display());
        for row in rows {
            let description = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
            assert!(description.len() > 3, "no description: {row}");
        }
    }
}
