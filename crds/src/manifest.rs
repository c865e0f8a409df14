//! One object of a manifest, as a folder of YAML holds it: read strictly, so that a typing mistake is seen.
//!
//! The caller reads files and splits YAML documents; here one document becomes a typed object or a clear refusal, the
//! same that a cluster would give.
//!
//! ```
//! # use crds::Manifest;
//! let document = serde_json::json!({
//!     "apiVersion": "emulsion.dev/v1alpha1",
//!     "kind": "ModelDeployment",
//!     "metadata": {"name": "demo"},
//!     "spec": {"source": {"uri": "file://./demo"}},
//! });
//! let Manifest::ModelDeployment(model) = Manifest::from_value(document)? else { panic!("another kind") };
//! assert_eq!(model.model_id(), "demo");
//! # Ok::<(), crds::ManifestError>(())
//! ```

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{API_VERSION, ModelDeployment, RuntimePool, TenantPlan, Violation, schema};

/// Longest name of an object, as in a cluster.
const MAX_NAME_LENGTH: usize = 253;

/// An object of one of our kinds that breaks no rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    /// A model.
    ModelDeployment(Box<ModelDeployment>),
    /// A pool of replicas.
    RuntimePool(Box<RuntimePool>),
    /// A plan.
    TenantPlan(Box<TenantPlan>),
}

/// Why a document is no valid object of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// It is of another API group; a folder may hold such objects too.
    Foreign {
        /// Its `apiVersion`, empty if it has none.
        api_version: String,
        /// Its `kind`, empty if it has none.
        kind: String,
    },
    /// Our group, but a version or kind that this program does not know.
    UnknownKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// It breaks rules; a cluster would refuse it for the same.
    Invalid {
        /// Its `kind`.
        kind: String,
        /// Its name, empty if it has none.
        name: String,
        /// All that is wrong with it; never empty.
        violations: Vec<Violation>,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { api_version, kind } => {
                write!(formatter, "not an object of {API_VERSION}: apiVersion {api_version:?}, kind {kind:?}")
            }
            Self::UnknownKind { api_version, kind } => write!(
                formatter,
                "unknown apiVersion {api_version:?} or kind {kind:?}: known are ModelDeployment, RuntimePool and TenantPlan of {API_VERSION}"
            ),
            Self::Invalid { kind, name, violations } => {
                write!(formatter, "{kind} {name:?} is invalid")?;
                for (index, violation) in violations.iter().enumerate() {
                    let separator = if index == 0 { ": " } else { "; " };
                    write!(formatter, "{separator}{violation}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads one document.
    ///
    /// Unlike a cluster, which drops a field it does not know, this refuses it.
    ///
    /// # Errors
    /// If it is not of our group, of an unknown kind, or breaks a rule of its schema.
    pub fn from_value(mut document: Value) -> Result<Self, ManifestError> {
        let field = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (field("apiVersion"), field("kind"));
        if api_version.split('/').next() != Some(crate::GROUP) {
            return Err(ManifestError::Foreign { api_version, kind });
        }
        let Some(schema) = schema::of_kind(&kind).filter(|_| api_version == API_VERSION) else {
            return Err(ManifestError::UnknownKind { api_version, kind });
        };
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();

        schema::drop_nulls(&mut document);
        let mut violations = check_envelope(&document, &name);
        for part in ["spec", "status"] {
            let properties = schema.properties.as_ref();
            if let Some(part_schema) = properties.and_then(|properties| properties.get(part))
                && let Some(value) = document.get(part)
            {
                violations.extend(schema::unknown_fields(part_schema, value, part));
            }
        }
        schema::apply_defaults(schema, &mut document);
        violations.extend(schema::check(schema, &document, None));
        if violations.is_empty() {
            match typed(&kind, document) {
                Ok(manifest) => return Ok(manifest),
                Err(error) => violations.push(Violation { path: String::new(), message: error.to_string() }),
            }
        }
        Err(ManifestError::Invalid { kind, name, violations })
    }

    /// The object's kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ModelDeployment(_) => "ModelDeployment",
            Self::RuntimePool(_) => "RuntimePool",
            Self::TenantPlan(_) => "TenantPlan",
        }
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        let metadata = match self {
            Self::ModelDeployment(object) => &object.metadata,
            Self::RuntimePool(object) => &object.metadata,
            Self::TenantPlan(object) => &object.metadata,
        };
        metadata.name.as_deref().unwrap_or_default()
    }
}

fn typed(kind: &str, document: Value) -> Result<Manifest, serde_json::Error> {
    fn read<T: DeserializeOwned>(document: Value) -> Result<Box<T>, serde_json::Error> {
        serde_json::from_value(document).map(Box::new)
    }
    Ok(match kind {
        "ModelDeployment" => Manifest::ModelDeployment(read(document)?),
        "RuntimePool" => Manifest::RuntimePool(read(document)?),
        _ => Manifest::TenantPlan(read(document)?),
    })
}

/// What stands around spec and status. A cluster checks this for every kind alike.
fn check_envelope(document: &Value, name: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut report = |path: &str, message: &str| {
        violations.push(Violation { path: path.to_owned(), message: message.to_owned() });
    };
    for field in document.as_object().into_iter().flat_map(|all| all.keys()) {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&field.as_str()) {
            report(field, "unknown field; known here: apiVersion, kind, metadata, spec, status");
        }
    }
    if !is_dns_subdomain(name) {
        report(
            "metadata.name",
            "must be lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit, at most 253 characters",
        );
    }
    violations
}

/// A name as RFC 1123 allows it for a subdomain: what Kubernetes asks of most objects.
fn is_dns_subdomain(name: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.len() <= MAX_NAME_LENGTH
        && name.split('.').all(|label| {
            let label = label.as_bytes();
            is_edge(label.first()) && is_edge(label.last()) && label.iter().all(|&byte| is_edge(Some(&byte)) || byte == b'-')
        })
}
