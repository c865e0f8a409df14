//! Whether a custom resource can be served, and how: pure, from the object and its neighbours. What cannot be says why, and is looked at
//! again when the cause goes.

use std::cmp::Ordering;

use crds::{
    ModelDeployment, RuntimePool, Violation,
    condition::{
        REASON_COMPONENT_UNUSABLE, REASON_CONFLICT, REASON_INVALID, REASON_POOL_UNKNOWN, REASON_SOURCE_UNUSABLE, REASON_WRONG_NAMESPACE,
    },
    import::ImportSource,
    model_deployment::{Dedicated, ModelKind},
    replica,
};
use kube::ResourceExt;

/// How a model is served.
#[derive(Clone, Debug, PartialEq)]
pub enum Served<'a> {
    /// By any replica of the pool: it has no object of its own.
    Pooled(String),
    /// By replicas of its own, with this claim mounted.
    Dedicated(&'a Dedicated, Option<String>),
    /// It makes no images by itself: checkpoints use it.
    Together,
}

/// Why an object cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of the condition Ready.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Refusal {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// How `model` is served. `others` may hold any models, the same one among them; `has_pool` knows the pools of the installation.
///
/// # Errors
/// [`Refusal`].
pub fn judge_model<'a, 'b>(
    model: &'a ModelDeployment,
    others: impl IntoIterator<Item = &'b ModelDeployment>,
    has_pool: impl Fn(&str) -> bool,
) -> Result<Served<'a>, Refusal> {
    check(&model.validate())?;
    let others: Vec<&ModelDeployment> = others.into_iter().collect();
    let claim = match ImportSource::of(&model.spec) {
        // Replicas read it from the content store.
        Some(_) => None,
        None => {
            let unusable = |unreadable: replica::Unreadable| Refusal::new(REASON_SOURCE_UNUSABLE, unreadable.to_string());
            replica::location(&model.spec).map_err(unusable)?.claim
        }
    };
    let id = model.model_id();
    let holder = others
        .iter()
        .filter(|other| other.has_model_id(&id) && other.metadata.uid != model.metadata.uid)
        .min_by(|one, other| one.seniority().cmp(&other.seniority()));
    if let Some(holder) = holder.filter(|holder| holder.seniority().cmp(&model.seniority()) == Ordering::Less) {
        let (namespace, name) = (holder.namespace().unwrap_or_default(), holder.name_any());
        let message = format!("modelId {id:?} already belongs to {namespace}/{name}: choose another");
        return Err(Refusal::new(REASON_CONFLICT, message));
    }
    if model.spec.kind != ModelKind::Checkpoint {
        return Ok(Served::Together);
    }
    check_components(model, &others)?;
    if let Some(dedicated) = &model.spec.serving.dedicated {
        return Ok(Served::Dedicated(dedicated, claim));
    }
    let pool = model.spec.serving.pooled.clone().unwrap_or_default().pool;
    if has_pool(&pool) {
        return Ok(Served::Pooled(pool));
    }
    let message = format!("there is no RuntimePool {pool:?} in the installation's namespace: declare it, or name another");
    Err(Refusal::new(REASON_POOL_UNKNOWN, message))
}

/// Whether what the model is always used with is there and of its kind.
fn check_components(model: &ModelDeployment, others: &[&ModelDeployment]) -> Result<(), Refusal> {
    let components = &model.spec.components;
    let vae = components.vae.iter().map(|id| (id, ModelKind::Vae, "vae"));
    let adapters = components.adapters.iter().map(|adapter| (&adapter.model, ModelKind::Lora, "lora"));
    for (id, kind, name) in vae.chain(adapters) {
        let refuse = |message: String| Err(Refusal::new(REASON_COMPONENT_UNUSABLE, message));
        let named = others.iter().filter(|other| other.model_id() == *id);
        let Some(named) = named.min_by(|one, other| one.seniority().cmp(&other.seniority())) else {
            return refuse(format!("components names {id:?}, and no ModelDeployment has that modelId: declare it with kind {name}"));
        };
        if named.spec.kind != kind {
            return refuse(format!("components names {id:?} as a {name}, and its ModelDeployment has another kind"));
        }
        if let (ModelKind::Vae, Some(its), Some(own)) = (kind, named.spec.family, model.spec.family)
            && its.latents() != own.latents()
        {
            return refuse(format!("the VAE {id:?} is for {}, and this model is {}", its.name(), own.name()));
        }
    }
    Ok(())
}

/// Whether `pool` is served; `namespace` is the installation's.
///
/// # Errors
/// [`Refusal`].
pub fn judge_pool(pool: &RuntimePool, namespace: &str) -> Result<(), Refusal> {
    check(&pool.validate())?;
    if pool.namespace().as_deref() == Some(namespace) {
        return Ok(());
    }
    Err(Refusal::new(REASON_WRONG_NAMESPACE, format!("RuntimePools are served in the installation's namespace: declare it in {namespace}")))
}

fn check(violations: &[Violation]) -> Result<(), Refusal> {
    if violations.is_empty() {
        return Ok(());
    }
    let messages: Vec<String> = violations.iter().map(ToString::to_string).collect();
    Err(Refusal::new(REASON_INVALID, messages.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const DEMO: &str = "file:///models/demo";
    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-01-02T00:00:00Z";

    fn declared(name: &str, created: &str, spec: &Value) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": crds::API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": "models", "uid": name, "creationTimestamp": created, "generation": 3},
            "spec": spec,
        }))
        .unwrap()
    }

    fn model(name: &str, created: &str, source: &str) -> ModelDeployment {
        declared(name, created, &json!({"modelId": "shared", "source": {"uri": source}}))
    }

    fn reason(model: &ModelDeployment, others: &[&ModelDeployment]) -> &'static str {
        judge_model(model, others.iter().copied(), |pool| pool == "default").err().map_or("", |refusal| refusal.reason)
    }

    #[test]
    fn the_older_model_keeps_a_contested_id() {
        let (older, newer) = (model("b", OLD, DEMO), model("a", NEW, DEMO));
        assert_eq!(reason(&older, &[&older, &newer]), "");
        assert_eq!(reason(&newer, &[&older, &newer]), REASON_CONFLICT);
        assert_eq!(reason(&newer, &[&newer]), "", "the older one is gone");
        let refusal = judge_model(&newer, [&older], |_| true).unwrap_err();
        assert!(refusal.message.contains("models/b"), "{}", refusal.message);
    }

    #[test]
    fn models_of_one_second_agree_on_who_was_first() {
        let (a, b) = (model("a", OLD, DEMO), model("b", OLD, DEMO));
        assert_eq!((reason(&a, &[&a, &b]), reason(&b, &[&a, &b])), ("", REASON_CONFLICT));
    }

    #[test]
    fn a_spec_that_breaks_a_rule_is_invalid_with_the_rules_words() {
        let refusal = judge_model(&model("a", OLD, "ftp://host/model"), [], |_| true).unwrap_err();
        assert_eq!(refusal.reason, REASON_INVALID);
        assert!(refusal.message.contains(crds::rule::SOURCE_URI.message));
    }

    #[test]
    fn sources_that_replicas_cannot_read_say_so() {
        assert_eq!(reason(&model("a", OLD, "file://./demo"), &[]), REASON_SOURCE_UNUSABLE);
    }

    #[test]
    fn what_a_model_is_used_with_must_be_there_and_of_its_kind() {
        let using = |components: Value| declared("a", OLD, &json!({"source": {"uri": DEMO}, "family": "sd15", "components": components}));
        let of_kind =
            |name: &str, kind: &str, family: &str| declared(name, OLD, &json!({"source": {"uri": DEMO}, "kind": kind, "family": family}));
        let others = [of_kind("sharp", "vae", "sd21"), of_kind("ink", "lora", "sd15"), of_kind("large", "vae", "sdxl")];
        let judge = |components: Value| {
            judge_model(&using(components), &others, |_| true).map(drop).map_err(|refusal| (refusal.reason, refusal.message))
        };
        assert!(judge(json!({"vae": "sharp", "adapters": [{"model": "ink"}]})).is_ok());
        for (components, word) in [
            (json!({"vae": "blunt"}), "no ModelDeployment"),
            (json!({"vae": "ink"}), "another kind"),
            (json!({"vae": "large"}), "is for sdxl, and this model is sd15"),
            (json!({"adapters": [{"model": "sharp"}]}), "another kind"),
        ] {
            let (reason, message) = judge(components).unwrap_err();
            assert!(reason == REASON_COMPONENT_UNUSABLE && message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_pool_must_be_there() {
        let pooled = |pool: &str| declared("a", OLD, &json!({"source": {"uri": DEMO}, "serving": {"pooled": {"pool": pool}}}));
        assert_eq!(judge_model(&pooled("default"), [], |pool| pool == "default"), Ok(Served::Pooled("default".to_owned())));
        assert_eq!(reason(&pooled("gpu"), &[]), REASON_POOL_UNKNOWN);
    }

    #[test]
    fn dedicated_models_bring_their_volume_and_adapters_nothing() {
        let dedicated = declared("a", OLD, &json!({"source": {"uri": "pvc://weights/x"}, "serving": {"dedicated": {}}}));
        let served = judge_model(&dedicated, [], |_| false).unwrap();
        assert!(matches!(served, Served::Dedicated(_, Some(claim)) if claim == "weights"));
        let lora = declared("a", OLD, &json!({"source": {"uri": DEMO}, "kind": "lora"}));
        assert_eq!(judge_model(&lora, [], |_| false), Ok(Served::Together));
    }

    #[test]
    fn a_pool_elsewhere_says_where_it_belongs() {
        let pool = |namespace: &str| -> RuntimePool {
            serde_json::from_value(json!({
                "apiVersion": crds::API_VERSION, "kind": "RuntimePool", "metadata": {"name": "p", "namespace": namespace}, "spec": {},
            }))
            .unwrap()
        };
        assert_eq!(judge_pool(&pool("emulsion"), "emulsion"), Ok(()));
        assert_eq!(judge_pool(&pool("team"), "emulsion").unwrap_err().reason, REASON_WRONG_NAMESPACE);
    }
}
