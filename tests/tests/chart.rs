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
    let in_folder = |name: &str| std::fs::read_dir(chart().join(name)).unwrap().map(|entry| entry.unwrap().path());
    for path in in_folder("templates").chain(in_folder("templates/tests")).filter(|path| path.is_file()) {
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
fn every_pod_runs_without_privileges() {
    let helpers = read("templates/_helpers.tpl");
    for line in
        ["runAsNonRoot: true", "readOnlyRootFilesystem: true", "allowPrivilegeEscalation: false", "drop: [\"ALL\"]", "type: RuntimeDefault"]
    {
        assert!(helpers.contains(line), "the security contexts lack {line:?}");
    }
    for name in ["templates/operator.yaml", "templates/router.yaml", "templates/tests/ready.yaml"] {
        let template = read(name);
        for context in ["emulsion.podSecurity", "emulsion.containerSecurity"] {
            assert!(template.contains(context), "{name} does not use {context}");
        }
    }
}

#[test]
fn plans_are_those_of_local_mode() {
    let values = yaml("values.yaml");
    let manifests = std::fs::read_to_string(chart().join("../../models/plans.yaml")).unwrap();
    let mut names = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&manifests) {
        let plan: Value = serde::Deserialize::deserialize(document).unwrap();
        let name = plan["metadata"]["name"].as_str().unwrap().to_owned();
        assert_eq!(values["plans"][&name], plan["spec"], "{name}");
        names.push(name);
    }
    assert_eq!(values["plans"].as_object().unwrap().len(), names.len());
}

#[test]
fn what_the_chart_declares_breaks_no_rule() {
    let values = yaml("values.yaml");
    for (kind, section) in [("TenantPlan", "plans"), ("RuntimePool", "pools"), ("ModelDeployment", "models")] {
        for (name, spec) in values[section].as_object().unwrap() {
            let object = serde_json::json!({"apiVersion": crds::API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec});
            crds::Manifest::from_value(object).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn the_chart_ships_a_definition_for_every_kind() {
    for definition in crds::definitions() {
        let shipped = yaml(&format!("crds/{}.yaml", definition.spec.names.plural));
        assert_eq!(shipped["spec"]["names"]["kind"], definition.spec.names.kind.as_str());
    }
}
