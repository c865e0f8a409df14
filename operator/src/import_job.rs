//! What an import is made of on a cluster: a Job in the model's namespace, where its Secret is, and the Secret with the import's token. Pure:
//! it takes no client and cannot fail.

use std::collections::BTreeMap;

use crds::{
    ImportId,
    import::{IMPORT, ImportSource},
    replica,
};
use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::OwnerReference};
use serde_json::{Value, json};

use crate::workload::{MANAGER, OWNER_ANNOTATION, USER, shortened};

/// An import that takes longer is ended.
const DEADLINE_SECONDS: u32 = 6 * 3600;
/// Until the import itself gives up, a little before: its last words say more than a kill.
const OWN_DEADLINE_SECONDS: u32 = DEADLINE_SECONDS - 60;
/// Pods that are tried after the first; what cannot pass is not tried again.
const BACKOFF_LIMIT: u32 = 3;
/// After this a Job that has ended goes. One that failed is made anew then, for as long as the model asks for it.
const KEPT_SECONDS: u32 = 600;
/// The exit code of an import for which another attempt leads to the same end.
const PERMANENT_EXIT_CODE: i32 = 3;
/// The import's container.
pub const CONTAINER: &str = "import";

/// An import, as it shall be.
#[derive(Clone, Debug)]
pub struct ImportJob {
    /// The ModelDeployment.
    pub owner: OwnerReference,
    /// Which import it is.
    pub id: ImportId,
    /// What is imported.
    pub source: ImportSource,
    /// The runtime's image.
    pub image: String,
    /// The routers' internal address.
    pub router_url: String,
    /// What the import says to them.
    pub token: String,
    /// Inside networks that sources may be in.
    pub allow_networks: Vec<String>,
    /// Inside hosts that sources may be at.
    pub allow_hosts: Vec<String>,
}

/// The objects of an import, in the order in which they are made.
#[derive(Clone, Debug)]
pub struct Objects {
    /// The token.
    pub secret: Value,
    /// The import.
    pub job: Value,
}

/// The name of both: another source is another import.
pub fn object_name(owner: &str, source: &ImportSource) -> String {
    /// Digits of the source's digest.
    const DIGITS: usize = 8;
    let name = shortened(&format!("emulsion-import-{owner}"), owner, DIGITS + 1);
    format!("{name}-{}", &source.digest()[..DIGITS])
}

/// The objects of an import.
pub fn build(import: &ImportJob) -> Objects {
    let name = object_name(&import.owner.name, &import.source);
    let labels = json!({
        "app.kubernetes.io/name": "emulsion-import",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": MANAGER,
        replica::PART_OF_LABEL: replica::EMULSION,
        replica::COMPONENT_LABEL: IMPORT,
    });
    let metadata = json!({
        "name": name, "namespace": import.id.namespace, "labels": labels, "ownerReferences": [import.owner],
        "annotations": {OWNER_ANNOTATION: import.owner.name},
    });
    let data = BTreeMap::from([("token", ByteString(import.token.clone().into_bytes()))]);
    Objects {
        secret: json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}),
        job: json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
            "spec": {
                "backoffLimit": BACKOFF_LIMIT,
                "activeDeadlineSeconds": DEADLINE_SECONDS,
                "ttlSecondsAfterFinished": KEPT_SECONDS,
                "podFailurePolicy": {"rules": [{
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [PERMANENT_EXIT_CODE]},
                }]},
                "template": {
                    "metadata": {"labels": labels, "annotations": {OWNER_ANNOTATION: import.owner.name}},
                    "spec": {
                        "restartPolicy": "Never",
                        "automountServiceAccountToken": false,
                        "enableServiceLinks": false,
                        "securityContext": {
                            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [container(import, &name)],
                        "volumes": [{"name": "tmp", "emptyDir": {}}],
                    },
                },
            },
        }),
    }
}

fn container(import: &ImportJob, secret: &str) -> Value {
    let ImportSource { uri, sha256, config, kind, secret: credentials } = &import.source;
    let mut environment = vec![
        json!({"name": "EMULSION_IMPORT_SOURCE", "value": uri}),
        json!({"name": "EMULSION_IMPORT_KIND", "value": kind}),
        json!({"name": "EMULSION_IMPORT_ROUTER", "value": import.id.url(&import.router_url)}),
        json!({"name": "EMULSION_IMPORT_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}}),
        json!({"name": "EMULSION_IMPORT_RESULT", "value": "/dev/termination-log"}),
        json!({"name": "EMULSION_IMPORT_DEADLINE_SECONDS", "value": OWN_DEADLINE_SECONDS.to_string()}),
    ];
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            environment.push(json!({"name": name, "value": value}));
        }
    };
    let listed = |values: &[String]| (!values.is_empty()).then(|| values.join(","));
    set("EMULSION_IMPORT_SHA256", sha256.clone());
    set("EMULSION_IMPORT_CONFIG", config.clone());
    set("EMULSION_IMPORT_ALLOW_NETWORK", listed(&import.allow_networks));
    set("EMULSION_IMPORT_ALLOW_HOST", listed(&import.allow_hosts));
    json!({
        "name": CONTAINER,
        "image": import.image,
        "args": ["import"],
        // What stands in `env` goes before what the Secret of the source holds.
        "env": environment,
        "envFrom": credentials.iter().map(|name| json!({"secretRef": {"name": name}})).collect::<Vec<_>>(),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(source: &Value) -> ImportJob {
        let spec = serde_json::from_value(json!({"source": source})).unwrap();
        let owner = OwnerReference { name: "sdxl".to_owned(), uid: "u".to_owned(), controller: Some(true), ..OwnerReference::default() };
        ImportJob {
            owner,
            id: ImportId { namespace: "team".to_owned(), name: "sdxl".to_owned(), uid: "u".to_owned(), generation: 3 },
            source: ImportSource::of(&spec).unwrap(),
            image: "runtime:1".to_owned(),
            router_url: "http://router:8081".to_owned(),
            token: "token-of-this-import".to_owned(),
            allow_networks: vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()],
            allow_hosts: Vec::new(),
        }
    }

    fn variable<'a>(job: &'a Value, name: &str) -> Option<&'a Value> {
        let environment = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
        environment.iter().find(|variable| variable["name"] == name)
    }

    #[test]
    fn an_import_has_what_it_needs_and_no_more() {
        let source = json!({"uri": "hf://acme/sdxl", "sha256": "a".repeat(64), "secretRef": {"name": "hub"}});
        let Objects { secret, job } = build(&import(&source));
        assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(job["metadata"]["namespace"], "team");
        assert_eq!(variable(&job, "EMULSION_IMPORT_SOURCE").unwrap()["value"], "hf://acme/sdxl");
        assert_eq!(variable(&job, "EMULSION_IMPORT_KIND").unwrap()["value"], "checkpoint");
        assert_eq!(variable(&job, "EMULSION_IMPORT_SHA256").unwrap()["value"], "a".repeat(64));
        assert_eq!(variable(&job, "EMULSION_IMPORT_ALLOW_NETWORK").unwrap()["value"], "10.0.0.0/8,fd00::/8");
        assert_eq!(variable(&job, "EMULSION_IMPORT_ALLOW_HOST"), None);
        let router = &variable(&job, "EMULSION_IMPORT_ROUTER").unwrap()["value"];
        assert_eq!(router, "http://router:8081/internal/v1/imports/team/sdxl/u/3");
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["envFrom"], json!([{"secretRef": {"name": "hub"}}]));
        // The token comes by reference: who may read Jobs is not told it.
        assert!(!job.to_string().contains("token-of-this-import"));
        let open = build(&import(&json!({"uri": "hf://acme/sdxl"}))).job;
        assert_eq!(open["spec"]["template"]["spec"]["containers"][0]["envFrom"], json!([]));
    }

    #[test]
    fn an_import_keeps_to_the_restricted_level() {
        let job = build(&import(&json!({"uri": "civitai:1"}))).job;
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!((&container["allowPrivilegeEscalation"], &container["readOnlyRootFilesystem"]), (&json!(false), &json!(true)));
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    }

    #[test]
    fn another_source_is_another_import_and_names_fit_into_labels() {
        let of = |owner: &str, uri: &str| object_name(owner, &import(&json!({"uri": uri})).source);
        assert_ne!(of("sdxl", "hf://acme/a"), of("sdxl", "hf://acme/b"));
        assert_eq!(of("sdxl", "hf://acme/a"), of("sdxl", "hf://acme/a"));
        let long = "x".repeat(253);
        assert!(of(&long, "hf://acme/a").len() <= 52);
        assert_ne!(of(&long, "hf://acme/a"), of(&format!("{long}y"), "hf://acme/a"));
    }
}
