//! What an import is made of on a cluster: a Job in the model's namespace, where its Secret is, and the Secret with the import's token. Pure:
//! it takes no client and cannot fail.

use std::collections::BTreeMap;

use crds::{
    ImportId,
    import::{IMPORT, ImportSource},
    replica,
};
use k8s_openapi::{ByteString, api::batch::v1::Job, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Resource, ResourceExt};
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
/// The generation of the ModelDeployment that its token is for.
const GENERATION_ANNOTATION: &str = "emulsion.dev/import-generation";
/// The key of the token in its Secret.
const TOKEN_KEY: &str = "token";

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
    /// Inside networks that sources may be in.
    pub allow_networks: Vec<String>,
    /// Inside hosts that sources may be at.
    pub allow_hosts: Vec<String>,
}

/// The name of the Job and of its Secret: another source is another import.
pub fn object_name(owner: &str, source: &ImportSource) -> String {
    /// Digits of the source's digest.
    const DIGITS: usize = 8;
    let name = shortened(&format!("emulsion-import-{owner}"), owner, DIGITS + 1);
    format!("{name}-{}", &source.digest()[..DIGITS])
}

fn labels(instance: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "emulsion-import",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/managed-by": MANAGER,
        replica::PART_OF_LABEL: replica::EMULSION,
        replica::COMPONENT_LABEL: IMPORT,
    })
}

/// The import, held back: its pods need the Secret that it owns.
pub fn build(import: &ImportJob) -> Value {
    let name = object_name(&import.owner.name, &import.source);
    let labels = labels(&name);
    let annotations = json!({OWNER_ANNOTATION: import.owner.name, GENERATION_ANNOTATION: import.id.generation.to_string()});
    let metadata = json!({
        "name": name, "namespace": import.id.namespace, "labels": labels, "ownerReferences": [import.owner], "annotations": annotations,
    });
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
        "spec": {
            "suspend": true,
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
    })
}

/// Which import the Job of a ModelDeployment is, as its token says it.
pub fn id_of(job: &Job, owner: &OwnerReference) -> ImportId {
    let generation = job.annotations().get(GENERATION_ANNOTATION).and_then(|text| text.parse().ok());
    ImportId {
        namespace: job.namespace().unwrap_or_default(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        generation: generation.unwrap_or_default(),
    }
}

/// The token of a Job's import, which goes with the Job.
pub fn secret(job: &Job, token: &str) -> Value {
    let name = job.name_any();
    // Nobody waits for it when the Job is deleted.
    let owner = job.controller_owner_ref(&()).map(|owner| OwnerReference { block_owner_deletion: None, ..owner });
    let data = BTreeMap::from([(TOKEN_KEY, ByteString(token.as_bytes().to_vec()))]);
    let metadata = json!({
        "name": name, "namespace": job.namespace(), "labels": labels(&name), "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
        "annotations": {OWNER_ANNOTATION: job.annotations().get(OWNER_ANNOTATION)},
    });
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data})
}

/// Whether the Job waits for its Secret.
pub fn is_held_back(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true))
}

/// Lets a Job go that was held back. Its other fields stay as they are: those of its pods cannot be changed.
pub fn release() -> Value {
    json!({"spec": {"suspend": false}})
}

fn container(import: &ImportJob, secret: &str) -> Value {
    let ImportSource { uri, sha256, config, kind, secret: credentials } = &import.source;
    let mut environment = vec![
        json!({"name": "EMULSION_IMPORT_SOURCE", "value": uri}),
        json!({"name": "EMULSION_IMPORT_KIND", "value": kind}),
        json!({"name": "EMULSION_IMPORT_ROUTER", "value": import.id.url(&import.router_url)}),
        json!({"name": "EMULSION_IMPORT_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": TOKEN_KEY}}}),
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
        let job = build(&import(&source));
        assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "u");
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
        let open = build(&import(&json!({"uri": "hf://acme/sdxl"})));
        assert_eq!(open["spec"]["template"]["spec"]["containers"][0]["envFrom"], json!([]));
    }

    #[test]
    fn the_token_goes_with_the_job_that_needs_it() {
        let import = import(&json!({"uri": "hf://acme/sdxl"}));
        let mut made = build(&import);
        made["metadata"]["uid"] = json!("of-the-job");
        let job: Job = serde_json::from_value(made).unwrap();
        assert!(is_held_back(&job));
        let newer = OwnerReference { uid: import.id.uid.clone(), ..import.owner.clone() };
        assert_eq!(id_of(&job, &newer), import.id, "whatever the generation is by now");
        let secret = secret(&job, "the-token");
        assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "of-the-job");
        assert_eq!(secret["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
        let wanted = &variable(&serde_json::to_value(&job).unwrap(), "EMULSION_IMPORT_TOKEN").unwrap()["valueFrom"]["secretKeyRef"].clone();
        assert_eq!(
            (&wanted["name"], &secret["data"][wanted["key"].as_str().unwrap()]),
            (&secret["metadata"]["name"], &json!("dGhlLXRva2Vu"))
        );
    }

    #[test]
    fn an_import_keeps_to_the_restricted_level() {
        let job = build(&import(&json!({"uri": "civitai:1"})));
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
