//! What operator, router and an import agree on: which import it is, where it finds the router, and what it says there.
//!
//! An import parses what strangers made. Its token is good for the import of one generation of one ModelDeployment, so that one that was
//! taken over can spoil nothing but that.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model_deployment::{Family, ModelDeploymentSpec, ModelKind};
use crate::replica::derived;

/// Where a router takes what imports bring, on its internal port.
pub const IMPORTS_PATH: &str = "/internal/v1/imports";

/// The component of an import's pod, as [`crate::replica::COMPONENT_LABEL`] says it.
pub const IMPORT: &str = "import";

/// A source that must be imported: all that decides what an import brings.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct ImportSource {
    /// As `spec.source.uri` has it.
    pub uri: String,
    /// What the weights are.
    pub kind: ModelKind,
    /// The digest that they must have.
    pub sha256: Option<String>,
    /// Where the configuration of a single file is.
    pub config: Option<String>,
    /// The name of the Secret with its credentials.
    pub secret: Option<String>,
}

impl ImportSource {
    /// What is to be imported of a model, if it is of a kind that is served and replicas cannot read it where it is.
    pub fn of(spec: &ModelDeploymentSpec) -> Option<Self> {
        let source = &spec.source;
        let is_served = matches!(spec.kind, ModelKind::Checkpoint | ModelKind::Lora | ModelKind::Embedding | ModelKind::Vae);
        let is_elsewhere = !source.uri.starts_with("file://") && !source.uri.starts_with("pvc://");
        (is_served && is_elsewhere).then(|| Self {
            uri: source.uri.clone(),
            kind: spec.kind,
            sha256: source.sha256.clone(),
            config: source.config.clone(),
            secret: source.secret_ref.as_ref().map(|secret| secret.name.clone()),
        })
    }

    /// Names what becomes of this declaration, in hex: another one is imported anew.
    pub fn digest(&self) -> String {
        // Texts and a name: they always have a JSON form.
        hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }

    /// For people: without a query, which may hold a secret.
    pub fn shown(&self) -> &str {
        self.uri.split(['?', '#']).next().unwrap_or_default()
    }
}

impl fmt::Debug for ImportSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ImportSource").field("uri", &self.shown()).finish_non_exhaustive()
    }
}

/// What an import brought, as a model's status has it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// Which declaration of the source was imported: a digest of it.
    pub source: String,
    /// Under which digest the content store has it.
    pub content: String,
    /// The digest that `spec.source.sha256` may pin.
    pub sha256: String,
    /// The family that was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Bytes of all its files.
    pub bytes: i64,
}

/// One import: of one generation of one ModelDeployment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImportId {
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The object's uid: one of the same name that comes later is another.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

impl fmt::Display for ImportId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // None of them holds a '/', so that no two imports write the same.
        write!(formatter, "{}/{}/{}/{}", self.namespace, self.name, self.uid, self.generation)
    }
}

impl ImportId {
    /// What it says to a router.
    pub fn token(&self, installation: &str) -> String {
        derived(installation, &format!("import/{self}"))
    }

    /// Where it finds the router whose internal address is `router`.
    pub fn url(&self, router: &str) -> String {
        format!("{}{IMPORTS_PATH}/{self}", router.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replicas_read_where_it_is_is_not_imported() {
        let source = |kind: &str, uri: &str| {
            ImportSource::of(&serde_json::from_value(serde_json::json!({"kind": kind, "source": {"uri": uri}})).unwrap())
        };
        for uri in ["s3://bucket/x", "https://a.example/x", "hf://acme/x", "civitai:1"] {
            assert!(source("checkpoint", uri).is_some() && source("lora", uri).is_some() && source("vae", uri).is_some(), "{uri}");
            assert!(source("controlnet", uri).is_none(), "{uri}");
        }
        assert!(source("checkpoint", "file:///models/demo").is_none() && source("checkpoint", "pvc://claim/x").is_none());
        let secret = source("checkpoint", "https://a.example/x?key=secret").unwrap();
        assert!(!format!("{secret:?}").contains("secret"));
        assert_ne!(secret.digest(), source("checkpoint", "https://a.example/x?key=other").unwrap().digest());
        assert_ne!(secret.digest(), ImportSource { sha256: Some("a".repeat(64)), ..secret.clone() }.digest());
    }

    #[test]
    fn every_import_has_a_token_of_its_own() {
        let import = |namespace: &str, name: &str, uid: &str, generation| ImportId {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            generation,
        };
        let one = import("a", "m", "u", 1);
        let token = one.token("secret");
        assert_eq!(token, import("a", "m", "u", 1).token("secret"));
        for other in [import("b", "m", "u", 1), import("a", "n", "u", 1), import("a", "m", "v", 1), import("a", "m", "u", 2)] {
            assert_ne!(token, other.token("secret"), "{other}");
        }
        assert_ne!(token, one.token("other"));
        assert_eq!(one.url("http://router:8081/"), "http://router:8081/internal/v1/imports/a/m/u/1");
    }
}
