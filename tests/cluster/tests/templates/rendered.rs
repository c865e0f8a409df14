//! The chart with some values, as helm renders it.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

/// The objects, or what helm says instead.
pub(crate) type Rendered = Result<Objects, String>;

/// What would be applied.
#[derive(Debug)]
pub(crate) struct Objects(Vec<Value>);

/// Renders the chart with `values` over what every installation must say; `None` where there is no helm.
pub(crate) fn render(values: &Value) -> Option<Rendered> {
    let Some(program) = std::env::var_os("EMULSION_CLUSTER") else {
        eprintln!("skipped: `make test-cluster` brings the helm that this needs");
        return None;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("values.json");
    std::fs::write(&file, values.to_string()).expect("it can be written");
    let images = "images.operator=example/operator,images.router=example/router,images.runtime=example/runtime";
    let output = Command::new(program)
        .args(["helm", "template", "emulsion"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/emulsion"))
        .args(["--namespace", "emulsion", "--set", images, "--values"])
        .arg(&file)
        // Not the user's.
        .env("HOME", folder.path())
        .env_remove("KUBECONFIG")
        .output()
        .expect("helm starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Some(Err(said(&output.stderr)));
    }
    let text = said(&output.stdout);
    let documents = serde_yaml::Deserializer::from_str(&text);
    let objects: Vec<Value> = documents.map(|document| serde::Deserialize::deserialize(document).expect("it is YAML")).collect();
    Some(Ok(Objects(objects.into_iter().filter(|object| !object.is_null()).collect())))
}

impl Objects {
    /// The object of this kind and name.
    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    /// The pod of a Deployment.
    pub(crate) fn pod(&self, deployment: &str) -> &Value {
        &self.get("Deployment", deployment)["spec"]["template"]["spec"]
    }

    /// The value of a variable of a Deployment's container, or where it is taken from.
    pub(crate) fn variable(&self, deployment: &str, name: &str) -> Option<&Value> {
        let variables = self.pod(deployment)["containers"][0]["env"].as_array().expect("it has variables");
        let variable = variables.iter().find(|variable| variable["name"] == name)?;
        Some(variable.get("value").unwrap_or(&variable["valueFrom"]["secretKeyRef"]))
    }

    /// The names of a pod's volumes.
    pub(crate) fn volumes(&self, deployment: &str) -> Vec<&str> {
        self.pod(deployment)["volumes"].as_array().into_iter().flatten().filter_map(|volume| volume["name"].as_str()).collect()
    }

    /// Every pod that the chart makes itself.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter_map(|object| match object["kind"].as_str()? {
            "Deployment" => Some(&object["spec"]["template"]["spec"]),
            "Pod" => Some(&object["spec"]),
            _ => None,
        })
    }
}

/// Renders what must be sound.
pub(crate) fn sound(values: &Value, judge: impl FnOnce(&Objects)) {
    if let Some(rendered) = render(values) {
        judge(&rendered.unwrap_or_else(|error| panic!("{values}: {error}")));
    }
}

/// Renders what must be refused in words that hold `expected`.
pub(crate) fn refused(values: &Value, expected: &str) {
    if let Some(rendered) = render(values) {
        let error = rendered.err().unwrap_or_else(|| panic!("{values} is taken"));
        assert!(error.contains(expected), "{values}: {error}");
    }
}

/// Values by which routers share everything.
pub(crate) fn shared_stores(replicas: u32) -> Value {
    json!({"router": {
        "replicas": replicas,
        "database": {"existingSecret": "database"},
        "outputs": {"url": "s3://images/emulsion", "existingSecret": "bucket"},
    }})
}
