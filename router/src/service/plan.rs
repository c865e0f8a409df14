//! What a caller's plan says about a request: which models, how many calls. Pure.

use std::sync::Arc;
use std::time::Duration;

use crds::TenantPlanSpec;
use crds::model_deployment::ModelKind;
use runtime_api::ImageRequest;

use crate::catalog::{Model, Snapshot, kind_name};
use crate::refusal::Refusal;
use crate::store::{AdmitError, Allowance, Caller};

pub(super) fn of_caller<'a>(catalog: &'a Snapshot, caller: &Caller) -> Result<&'a TenantPlanSpec, Refusal> {
    catalog.plans.get(&caller.plan).ok_or_else(|| {
        tracing::error!("the tenant {} has the plan {}, which no TenantPlan declares", caller.tenant_name, caller.plan);
        Refusal::NotSupported {
            feature: format!("the plan {} of this key is not declared any more, and calling without a plan", caller.plan),
        }
    })
}

/// The model by its id, if the caller may see it, the plan includes it, and it can be served.
pub(super) fn callable_model<'a>(
    catalog: &'a Snapshot,
    caller: &Caller,
    plan: &TenantPlanSpec,
    model_id: &str,
) -> Result<&'a Arc<Model>, Refusal> {
    let tenant = caller.tenant_name.as_str();
    let model = catalog.model(model_id, tenant).ok_or_else(|| Refusal::ModelUnknown {
        model: shortened(model_id),
        nearest: catalog.nearest(model_id, ModelKind::Checkpoint, tenant),
    })?;
    expect_kind(model, ModelKind::Checkpoint)?;
    let is_included = match model.family {
        Some(family) => plan.includes(family),
        // Which one it is cannot be told before the weights are read.
        None => plan.families.is_none(),
    };
    if !is_included {
        let unknown = if model.family.is_none() { ", whose family nobody has declared," } else { "" };
        return Err(Refusal::NotSupported { feature: format!("the model {model_id}{unknown} in the plan {}", caller.plan) });
    }
    let not_ready = |reason: String| Refusal::ModelNotReady { model: model_id.to_owned(), reason };
    model.weights.as_ref().map_err(|reason| not_ready(why_not_there(model, reason)))?;
    catalog.replica_set(model, plan.pool.as_deref()).map_err(not_ready)?;
    if let Some(vae) = catalog.declared_vae(model).map_err(not_ready)?
        && vae.weights.is_err()
    {
        return Err(not_ready(format!("the weights of its VAE {} are not there; the administrator's log says why", vae.model_id)));
    }
    let declared = catalog.declared_adapters(model).map_err(not_ready)?;
    if let Some((adapter, _)) = declared.into_iter().find(|(adapter, _)| adapter.weights.is_err()) {
        return Err(not_ready(format!("the weights of its adapter {} are not there; the administrator's log says why", adapter.model_id)));
    }
    Ok(model)
}

/// Where exactly weights were looked for on this machine is the administrator's business and stands in the log; how an import stands is not.
fn why_not_there(model: &Model, reason: &str) -> String {
    if model.import.is_some() { reason.to_owned() } else { "its weights are not there; the administrator's log says why".to_owned() }
}

/// Whether the caller may use the refiner that the request names, with this model.
pub(super) fn check_refiner(
    catalog: &Snapshot,
    caller: &Caller,
    plan: &TenantPlanSpec,
    model: &Model,
    request: &ImageRequest,
) -> Result<(), Refusal> {
    let Some(asked) = &request.refiner else { return Ok(()) };
    let refiner = callable_model(catalog, caller, plan, &asked.model)?;
    match (refiner.family, model.family) {
        (Some(own), Some(family)) if own.latents() != family.latents() => {
            let feature =
                format!("the refiner {}, which is {}, with {}, which is {}", refiner.model_id, own.name(), model.model_id, family.name());
            Err(Refusal::NotSupported { feature })
        }
        _ => Ok(()),
    }
}

/// Whether the caller may use every adapter and embedding that the request names, with this model.
pub(super) fn check_adapters(catalog: &Snapshot, caller: &Caller, model: &Model, request: &ImageRequest) -> Result<(), Refusal> {
    let loras = request.adapters.iter().map(|adapter| (&adapter.model, ModelKind::Lora, "LoRA"));
    let embeddings = request.embeddings.iter().map(|name| (name, ModelKind::Embedding, "Embedding"));
    for (name, kind, wanted) in loras.chain(embeddings) {
        let tenant = caller.tenant_name.as_str();
        let adapter = catalog.model(name, tenant).ok_or_else(|| Refusal::AdapterUnknown {
            wanted,
            model: shortened(name),
            nearest: catalog.nearest(name, kind, tenant),
        })?;
        expect_kind(adapter, kind)?;
        if adapter.weights.is_err() {
            let reason = adapter.weights.as_ref().err().map_or_else(String::new, |reason| why_not_there(adapter, reason));
            return Err(Refusal::ModelNotReady { model: name.clone(), reason });
        }
        if let (Some(own), Some(family)) = (adapter.family, model.family)
            && own != family
        {
            let feature = format!("{name}, which is for {}, with {}, which is {}", own.name(), model.model_id, family.name());
            return Err(Refusal::NotSupported { feature });
        }
    }
    Ok(())
}

fn expect_kind(model: &Model, wanted: ModelKind) -> Result<(), Refusal> {
    if model.kind == wanted {
        return Ok(());
    }
    Err(Refusal::WrongKind { model: model.model_id.clone(), is: kind_name(model.kind), wanted: kind_name(wanted) })
}

pub(super) fn allowance(plan: &TenantPlanSpec) -> Allowance {
    let calls = |limit: Option<i32>| limit.map(|limit| u64::from(limit.unsigned_abs()));
    Allowance {
        calls_per_day: calls(plan.calls_per_day),
        calls_per_month: calls(plan.calls_per_month),
        queue_depth: plan.queue_depth.unsigned_abs(),
    }
}

/// `usual` is how long requests take now: after that a place in the queue is free.
pub(super) fn refusal(error: AdmitError, plan: &str, usual: Duration) -> Refusal {
    match error {
        AdmitError::QuotaUsed { calls, window, retry_after } => Refusal::QuotaUsed { plan: plan.to_owned(), calls, window, retry_after },
        AdmitError::QueueFull { depth } => Refusal::TenantQueueFull { depth, retry_after: usual },
        AdmitError::Store(error) => super::internal(&error),
    }
}

/// A caller's text comes back in messages: not more of it than names a model.
fn shortened(text: &str) -> String {
    const LIMIT_CHARACTERS: usize = 128;
    text.chars().take(LIMIT_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use crds::model_deployment::Family;
    use runtime_api::{AdapterUse, RefinerUse};
    use uuid::Uuid;

    use super::*;
    use crate::catalog::tests::{lora, model, snapshot};

    fn caller(tenant_name: &str) -> Caller {
        Caller { tenant: Uuid::from_u128(1), tenant_name: tenant_name.to_owned(), plan: "free".to_owned() }
    }

    fn plan(families: &serde_json::Value) -> TenantPlanSpec {
        serde_json::from_value(serde_json::json!({
            "requestsPerMinute": 60, "burst": 20, "parallelImages": 1, "queueDepth": 10, "callsPerDay": 100, "families": families,
        }))
        .unwrap()
    }

    #[test]
    fn an_unknown_model_names_the_nearest_and_a_private_one_does_not_exist() {
        let catalog = snapshot([model("demo"), Model { tenants: Some(vec!["acme".to_owned()]), ..model("private") }]);
        let refused = |tenant: &str, id: &str| callable_model(&catalog, &caller(tenant), &plan(&serde_json::json!(null)), id).unwrap_err();
        assert_eq!(refused("acme", "dmeo"), Refusal::ModelUnknown { model: "dmeo".to_owned(), nearest: Some("demo".to_owned()) });
        assert_eq!(refused("other", "private"), Refusal::ModelUnknown { model: "private".to_owned(), nearest: None });
        assert!(callable_model(&catalog, &caller("acme"), &plan(&serde_json::json!(null)), "private").is_ok());
    }

    #[test]
    fn a_plan_without_the_family_and_a_model_without_weights_are_refused() {
        let catalog = snapshot([model("demo"), Model { weights: Err("/secret/path is missing".to_owned()), ..model("lost") }]);
        let call = |families, id: &str| callable_model(&catalog, &caller("acme"), &plan(&families), id);
        assert!(matches!(call(serde_json::json!(["sdxl"]), "demo"), Err(Refusal::NotSupported { .. })));
        let unread = snapshot([Model { family: None, ..model("unread") }]);
        let call_unread = |families| callable_model(&unread, &caller("acme"), &plan(&families), "unread").map(drop);
        assert!(call_unread(serde_json::json!(null)).is_ok());
        assert!(call_unread(serde_json::json!(["sdxl"])).is_err_and(|refusal| refusal.to_string().contains("nobody has declared")));
        let Err(Refusal::ModelNotReady { reason, .. }) = call(serde_json::json!(null), "lost") else { panic!("served") };
        assert!(!reason.contains("/secret"), "{reason}");
    }

    #[test]
    fn adapters_must_be_there_visible_of_their_kind_and_of_the_models_family() {
        let embedding = |id: &str| Model { kind: ModelKind::Embedding, ..lora(id) };
        let catalog = snapshot([
            model("demo"),
            lora("ink"),
            embedding("word"),
            Model { tenants: Some(vec!["acme".to_owned()]), ..lora("private") },
            Model { family: Some(crds::model_deployment::Family::Sdxl), ..lora("large") },
            Model { weights: Err("/secret/path is missing".to_owned()), ..lora("lost") },
        ]);
        let check = |tenant: &str, loras: &[&str], embeddings: &[&str]| {
            let request = ImageRequest {
                adapters: loras.iter().map(|name| AdapterUse { model: (*name).to_owned(), scale: 1.0 }).collect(),
                embeddings: embeddings.iter().map(|name| (*name).to_owned()).collect(),
                ..ImageRequest::text_to_image("demo", "a")
            };
            check_adapters(&catalog, &caller(tenant), &catalog.models["demo"], &request).map_err(|refusal| refusal.to_string())
        };
        let refused = |text: &str| Err(text.to_owned());
        assert_eq!(check("acme", &["ink", "private"], &["word"]), Ok(()));
        assert_eq!(check("other", &["private"], &[]), refused("LoRA not found: private"));
        assert_eq!(check("other", &["inc"], &[]), refused("LoRA not found: inc (did you mean ink?)"));
        assert_eq!(check("other", &[], &["words"]), refused("Embedding not found: words (did you mean word?)"));
        assert_eq!(check("other", &["demo"], &[]), refused("demo is a checkpoint, not a LoRA"));
        assert_eq!(check("other", &["word"], &[]), refused("word is an embedding, not a LoRA"));
        assert_eq!(check("other", &[], &["ink"]), refused("ink is a LoRA, not an embedding"));
        assert_eq!(check("other", &["large"], &[]), refused("large, which is for sdxl, with demo, which is sd15 is not supported"));
        assert!(check("other", &["lost"], &[]).is_err_and(|text| text.contains("administrator") && !text.contains("/secret")));
    }

    #[test]
    fn a_refiner_must_be_callable_and_of_the_models_latents() {
        let family = |id: &str, family| Model { family: Some(family), ..model(id) };
        let catalog = snapshot([
            family("base", Family::Sdxl),
            family("fine", Family::SdxlRefiner),
            family("other", Family::Sd15),
            lora("ink"),
            Model { tenants: Some(vec!["acme".to_owned()]), ..family("private", Family::SdxlRefiner) },
        ]);
        let check = |tenant: &str, refiner: &str, families| {
            let refiner = Some(RefinerUse { model: refiner.to_owned(), start: 0.8 });
            let request = ImageRequest { refiner, ..ImageRequest::text_to_image("base", "a") };
            let checked = check_refiner(&catalog, &caller(tenant), &plan(&families), &catalog.models["base"], &request);
            checked.map_err(|refusal| refusal.to_string())
        };
        let all = serde_json::json!(null);
        assert_eq!(check("acme", "fine", all.clone()), Ok(()));
        assert_eq!(check("acme", "private", all.clone()), Ok(()));
        assert!(check("other", "private", all.clone()).is_err_and(|text| text.contains("Model not found: private")));
        assert_eq!(check("acme", "ink", all.clone()).unwrap_err(), "ink is a LoRA, not a checkpoint");
        let refused = check("acme", "other", all).unwrap_err();
        assert!(refused.contains("the refiner other, which is sd15, with base, which is sdxl"), "{refused}");
        assert!(check("acme", "fine", serde_json::json!(["sdxl"])).is_err_and(|text| text.contains("in the plan free")));
    }

    #[test]
    fn what_makes_no_images_by_itself_is_no_model_to_call() {
        let adapters = vec![crds::model_deployment::Adapter { model: "lost".to_owned(), scale: 1.0 }];
        let lost = Model { weights: Err("no /secret/lost".to_owned()), ..lora("lost") };
        let catalog = snapshot([model("demo"), lora("ink"), lost, Model { adapters, ..model("merged") }]);
        let call = |id: &str| callable_model(&catalog, &caller("acme"), &plan(&serde_json::json!(null)), id).unwrap_err().to_string();
        assert_eq!(call("ink"), "ink is a LoRA, not a checkpoint");
        assert_eq!(call("demoo"), "Model not found: demoo (did you mean demo?)");
        let merged = call("merged");
        assert!(merged.contains("its adapter lost") && !merged.contains("/secret"), "{merged}");
    }

    #[test]
    fn what_the_plan_leaves_out_is_unlimited() {
        let allowance = allowance(&plan(&serde_json::json!(null)));
        assert_eq!(allowance, Allowance { calls_per_day: Some(100), calls_per_month: None, queue_depth: 10 });
    }
}
