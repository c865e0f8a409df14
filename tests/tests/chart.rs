//! What can be said of the chart without helm: its static files are sound and agree with each other. The definitions in
//! its `crds/` are proven current by the tests of the crate `crds`.

use std::path::{Path, PathBuf};

use serde_json::Value;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/emulsion")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(chart().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_yaml::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Paths of `values` that `schema` does not describe.
fn undescribed(schema: &Value, values: &Value, path: &str, found: &mut Vec<String>) {
    let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object()) else {
        return;
    };
    for (name, value) in values {
        let path = format!("{path}.{name}");
        match properties.get(name) {
            Some(schema) => undescribed(schema, value, &path, found),
            None => found.push(path),
        }
    }
}

#[test]
fn the_chart_is_named_as_its_folder_and_versioned_as_the_workspace() {
    let description = yaml("Chart.yaml");
    assert_eq!(description["apiVersion"], "v2");
    assert_eq!(description["name"], "emulsion");
    assert_eq!(description["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_value_is_described_by_the_schema() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut found = Vec::new();
    undescribed(&schema, &yaml("values.yaml"), "", &mut found);
    assert_eq!(found, Vec::<String>::new());
    undescribed(&schema, &serde_json::json!({"operator": {"replica": 1}}), "", &mut found);
    assert_eq!(found, [".operator.replica"], "the check itself finds what is not described");
}

#[test]
fn every_value_a_template_reads_is_there() {
    let values = yaml("values.yaml");
    let mut read_values = 0;
    for entry in std::fs::read_dir(chart().join("templates")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for after in text.split(".Values.").skip(1) {
            let end = after.find(|character: char| !character.is_ascii_alphanumeric() && character != '.').unwrap_or(after.len());
            let pointer = format!("/{}", after[..end].replace('.', "/"));
            assert!(values.pointer(&pointer).is_some(), "{} reads {pointer}, which values.yaml does not have", path.display());
            read_values += 1;
        }
    }
    assert!(read_values > 5, "the templates read no values: is this test looking in the right place?");
}

#[test]
fn the_operators_pod_runs_without_privileges() {
    let deployment = read("templates/operator-deployment.yaml");
    for line in
        ["runAsNonRoot: true", "readOnlyRootFilesystem: true", "allowPrivilegeEscalation: false", "drop: [\"ALL\"]", "type: RuntimeDefault"]
    {
        assert!(deployment.contains(line), "the operator's Deployment lacks {line:?}");
    }
}

#[test]
fn the_chart_ships_a_definition_for_every_kind() {
    for definition in crds::definitions() {
        let shipped = yaml(&format!("crds/{}.yaml", definition.spec.names.plural));
        assert_eq!(shipped["spec"]["names"]["kind"], definition.spec.names.kind.as_str());
    }
}
