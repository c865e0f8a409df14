//! What operator and router must agree on about replicas in a cluster: how their pods are marked, how they are called, where weights are.
//!
//! ```text
//!   operator ── builds pods with these labels, annotations, mounts and tokens ──► pod
//!   router ──── finds pods by the labels, calls them with the same token ────────► pod
//! ```
//! Tokens are made from the installation's own, one for each set of replicas, so that who can read one namespace's Secrets can call no
//! replica of another.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::model_deployment::{ModelDeploymentSpec, ModelKind};

/// The port that replicas serve.
pub const PORT: u16 = 8080;
/// Pods with this label and value are replicas, or routers: see the values below.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The component of a replica's pod.
pub const REPLICA: &str = "replica";
/// The component of a router's pod.
pub const ROUTER: &str = "router";
/// Whose objects they are: on every pod of an installation.
pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";
/// The value of [`PART_OF_LABEL`].
pub const EMULSION: &str = "emulsion";
/// On a pool's replicas: the RuntimePool's name.
pub const POOL_ANNOTATION: &str = "emulsion.dev/pool";
/// On a dedicated model's replicas: its model id.
pub const MODEL_ANNOTATION: &str = "emulsion.dev/model-id";
/// The port on which a router tells its demand; only the operator and monitoring call it.
pub const ROUTER_INTERNAL_PORT: u16 = 8081;
/// Where the models lie that come with the runtime's image.
pub const IMAGE_MODELS: &str = "/models";
/// Where a dedicated model's own volume is mounted.
pub const VOLUME_MODELS: &str = "/weights";
/// Where the volume with the safety checker's weights is mounted.
pub const VOLUME_SAFETY_CHECKER: &str = "/safety-checker";

/// The labels that select pods of a component, as `kubectl get --selector` takes them.
pub fn selector(component: &str) -> String {
    format!("{PART_OF_LABEL}={EMULSION},{COMPONENT_LABEL}={component}")
}

/// Which models a replica serves: those of a pool, or one of its own. Written as `pool/NAME` or `model/ID`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// By the RuntimePool's name.
    Pool(String),
    /// By the model id.
    Model(String),
}

impl fmt::Display for Set {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(name) => write!(formatter, "pool/{name}"),
            Self::Model(id) => write!(formatter, "model/{id}"),
        }
    }
}

/// What a router says to the replicas of `set` in `namespace`.
pub fn replica_token(installation: &str, namespace: &str, set: &Set) -> String {
    // A namespace holds no '/', so that no two sets write the same.
    derived(installation, &format!("replica/{namespace}/{set}"))
}

/// What the operator says to a router that it asks for its demand.
pub fn demand_token(installation: &str) -> String {
    derived(installation, "demand")
}

pub(crate) fn derived(installation: &str, purpose: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(installation.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(purpose.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// Where a replica finds a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The path in the replica's file system, percent-encoded as in the source.
    pub path: String,
    /// The folder of its configuration, for a single file that has one of its own; percent-encoded, too.
    pub config: Option<String>,
    /// The PersistentVolumeClaim to be mounted at [`VOLUME_MODELS`].
    pub claim: Option<String>,
}

/// Why no replica of a cluster can read a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Nothing serves this kind of model.
    Kind,
    /// `file://` outside of the image's models, or a source that is imported first.
    OutsideImage,
    /// `pvc://` whose path climbs out of the volume.
    OutsideVolume,
    /// Weights on one volume, and their configuration on another.
    TwoVolumes,
    /// An adapter on a volume, which replicas of the models that it is used with do not mount.
    VolumeOfAdapter,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind => formatter.write_str("models of this kind are not served: serve a checkpoint, a lora or an embedding"),
            Self::OutsideImage => write!(
                formatter,
                "on a cluster file:// names what comes with the runtime's image, below {IMAGE_MODELS}: put other weights on a volume and name them as pvc://claim/path"
            ),
            Self::OutsideVolume => {
                formatter.write_str("the path of a pvc:// source must not contain '..': name a folder within the volume")
            }
            Self::TwoVolumes => formatter
                .write_str("a replica mounts one volume of its model: put what source.uri and source.config name into the same one"),
            Self::VolumeOfAdapter => write!(
                formatter,
                "replicas mount no volumes of adapters: build it into the runtime's image and name it as file://{IMAGE_MODELS}/…"
            ),
        }
    }
}

/// Where replicas of a cluster find a model that is not imported.
///
/// # Errors
/// [`Unreadable`], if they cannot.
pub fn location(spec: &ModelDeploymentSpec) -> Result<Location, Unreadable> {
    if !matches!(spec.kind, ModelKind::Checkpoint | ModelKind::Lora | ModelKind::Embedding) {
        return Err(Unreadable::Kind);
    }
    let (path, mut claim) = place(&spec.source.uri)?;
    if claim.is_some() && spec.kind != ModelKind::Checkpoint {
        return Err(Unreadable::VolumeOfAdapter);
    }
    let mut config = None;
    // Adapters and embeddings need none.
    if let Some(uri) = spec.source.config.as_ref().filter(|_| spec.kind == ModelKind::Checkpoint) {
        let (folder, on_volume) = place(uri)?;
        if claim.is_some() && on_volume.is_some() && claim != on_volume {
            return Err(Unreadable::TwoVolumes);
        }
        claim = claim.or(on_volume);
        config = Some(folder);
    }
    Ok(Location { path, config, claim })
}

/// The path that a URI names in a replica's file system, and the claim that it is on.
fn place(uri: &str) -> Result<(String, Option<String>), Unreadable> {
    // Percent-encoded dots are seen to by the replica, which resolves the path.
    let climbs = |path: &str| path.split('/').any(|part| part == "..");
    if let Some(path) = uri.strip_prefix("file://") {
        let is_inside = path.strip_prefix(IMAGE_MODELS).is_some_and(|rest| rest.starts_with('/')) && !climbs(path);
        return if is_inside { Ok((path.to_owned(), None)) } else { Err(Unreadable::OutsideImage) };
    }
    if let Some(volume) = uri.strip_prefix("pvc://") {
        let (claim, path) = volume.split_once('/').unwrap_or((volume, ""));
        return if climbs(path) { Err(Unreadable::OutsideVolume) } else { Ok((format!("{VOLUME_MODELS}/{path}"), Some(claim.to_owned()))) };
    }
    Err(Unreadable::OutsideImage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(kind: &str, uri: &str) -> Result<Location, Unreadable> {
        location(&serde_json::from_value(serde_json::json!({"source": {"uri": uri}, "kind": kind})).unwrap())
    }

    #[test]
    fn the_images_models_and_volumes_are_found() {
        let place = |path: &str, claim: Option<&str>| Ok(Location { path: path.to_owned(), config: None, claim: claim.map(str::to_owned) });
        assert_eq!(located("checkpoint", "file:///models/demo"), place("/models/demo", None));
        assert_eq!(located("checkpoint", "pvc://weights/sdxl/base"), place("/weights/sdxl/base", Some("weights")));
        assert_eq!(located("checkpoint", "pvc://weights"), place("/weights/", Some("weights")));
    }

    #[test]
    fn a_single_file_brings_its_configuration_from_the_image_or_the_same_volume() {
        let located = |kind: &str, uri: &str, config: &str| {
            let spec = serde_json::json!({"source": {"uri": uri, "config": config}, "kind": kind});
            location(&serde_json::from_value(spec).unwrap()).map(|location| (location.config, location.claim))
        };
        let found = |config: &str, claim: Option<&str>| Ok((Some(config.to_owned()), claim.map(str::to_owned)));
        let file = "file:///models/one.safetensors";
        assert_eq!(located("checkpoint", file, "file:///models/demo"), found("/models/demo", None));
        assert_eq!(located("checkpoint", file, "pvc://weights/demo"), found("/weights/demo", Some("weights")));
        let on_volume = "pvc://weights/one.safetensors";
        assert_eq!(located("checkpoint", on_volume, "file:///models/demo"), found("/models/demo", Some("weights")));
        assert_eq!(located("checkpoint", on_volume, "pvc://weights/demo"), found("/weights/demo", Some("weights")));
        assert_eq!(located("checkpoint", on_volume, "pvc://others/demo"), Err(Unreadable::TwoVolumes));
        assert_eq!(located("checkpoint", file, "hf://owner/name"), Err(Unreadable::OutsideImage));
        assert_eq!(located("checkpoint", file, "file:///etc"), Err(Unreadable::OutsideImage));
        assert_eq!(located("lora", file, "file:///etc"), Ok((None, None)), "it is not read");
    }

    #[test]
    fn what_replicas_cannot_read_says_why() {
        for (kind, uri, why) in [
            ("checkpoint", "file:///models", Unreadable::OutsideImage),
            ("checkpoint", "file:///models-of-mine/x", Unreadable::OutsideImage),
            ("checkpoint", "file:///models/../etc", Unreadable::OutsideImage),
            ("checkpoint", "file://./demo", Unreadable::OutsideImage),
            ("checkpoint", "pvc://weights/../x", Unreadable::OutsideVolume),
            ("lora", "pvc://weights/x", Unreadable::VolumeOfAdapter),
            ("vae", "file:///models/demo", Unreadable::Kind),
        ] {
            assert_eq!(located(kind, uri), Err(why), "{kind} {uri}");
        }
    }

    #[test]
    fn every_set_has_a_token_of_its_own() {
        let set = |name: &str| Set::Pool(name.to_owned());
        let token = replica_token("secret", "a", &set("x"));
        assert_eq!(token, replica_token("secret", "a", &set("x")));
        for other in [
            replica_token("secret", "b", &set("x")),
            replica_token("secret", "a", &set("y")),
            replica_token("secret", "a", &Set::Model("x".to_owned())),
            replica_token("other", "a", &set("x")),
            demand_token("secret"),
        ] {
            assert_ne!(token, other);
        }
    }
}
