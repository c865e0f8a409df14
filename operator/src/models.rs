//! ModelDeployments: dereference → validate → build → apply → status. A pooled model has no objects; a dedicated one has replicas.

use std::{sync::Arc, time::Instant};

use crds::{
    ModelDeployment, ModelDeploymentStatus,
    import::{ImportSource, Imported},
    model_deployment::{Dedicated, Precision, ScalingMode},
    replica::{self, Set},
};
use k8s_openapi::{
    api::apps::v1::Deployment,
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{Api, Resource, ResourceExt, runtime::controller::Action};

use crate::{
    apply,
    autoscaler::{self, Bounds, Decision, Scale},
    condition::Facts,
    context::{Context, Guarded, REFUSED_RECHECK, RESYNC, ReconcileError, last_scale},
    demand::Seen,
    imports::{self, Standing},
    judgement::{Refusal, Served, judge_model},
    workload::{self, Workload},
};

/// Between two writes of when a model was last used.
const LAST_USED_INTERVAL_MS: u64 = 60_000;

/// Brings one ModelDeployment to what it asks for.
pub(crate) async fn reconcile(object: Arc<Guarded<ModelDeployment>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let model = match &object.0 {
        Ok(model) => model,
        Err(invalid) => return context.tell_unreadable(object.as_ref(), &invalid.error).await,
    };
    if model.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    context.know_all().await;
    let everybody = context.models.state();
    let others = everybody.iter().filter_map(|other| other.0.as_ref().ok());
    let judged = judge_model(model, others, |pool| has_pool(&context, pool));
    let weights = match ImportSource::of(&model.spec) {
        Some(source) if judged.is_ok() => imports::advance(&context, model, &source).await.map(|standing| Weights::of(standing, model)),
        Some(_) => Ok(Weights::before(model)),
        None => Ok(Weights::default()),
    };
    let outcome = match weights {
        Ok(weights) => serve_with(&context, model, judged, &weights).await.map(|outcome| (outcome, weights.imported)),
        Err(error) => Err(error),
    };
    let ((facts, replicas, selector, action), imported) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            context.count("ModelDeployment", "failed");
            // What the API server refuses is the declaration's fault, and people must see it there.
            let Some(refusal) = error.refusal() else { return Err(error.into()) };
            let imported = model.status.as_ref().and_then(|status| status.imported.clone());
            ((Facts::refused(crds::condition::REASON_REPLICAS_FAILING, refusal), 0, None, Action::requeue(RESYNC)), imported)
        }
    };
    let desired = status(model, &facts, replicas, selector, imported, context.board.seen(&model.model_id()));
    if model.status.as_ref() == Some(&desired) {
        context.count("ModelDeployment", "unchanged");
        return Ok(action);
    }
    let namespace = model.namespace().ok_or(ReconcileError::Incomplete("namespace"))?;
    let models: Api<ModelDeployment> = Api::namespaced(context.client.clone(), &namespace);
    apply::apply_status(&models, &model.name_any(), &desired).await?;
    context.count("ModelDeployment", "applied");
    if turned(model, &facts) {
        context.tell(&model.object_ref(&()), "Reconcile", &facts.ready).await;
    }
    Ok(action)
}

type Outcome = (Facts, i32, Option<String>, Action);

/// What there is of a model's weights in the content store; nothing of one that is not imported.
#[derive(Debug, Default)]
struct Weights {
    /// What serves it: of the declared source, or until that is in of the one before.
    imported: Option<Imported>,
    /// Of what is declared and not in: a message, and whether it failed.
    missing: Option<(String, bool)>,
}

impl Weights {
    /// What is in, whatever is declared now.
    fn before(model: &ModelDeployment) -> Self {
        Self { imported: model.status.as_ref().and_then(|status| status.imported.clone()), missing: None }
    }

    fn of(standing: Standing, model: &ModelDeployment) -> Self {
        match standing {
            Standing::In(imported) => Self { imported: Some(imported), missing: None },
            Standing::Coming { message } => Self { missing: Some((message, false)), ..Self::before(model) },
            Standing::Failed { message } => Self { missing: Some((message, true)), ..Self::before(model) },
        }
    }
}

/// Serves it with the weights that there are, and looks again soon where others come.
async fn serve_with(
    context: &Context,
    model: &ModelDeployment,
    judged: Result<Served<'_>, Refusal>,
    weights: &Weights,
) -> Result<Outcome, apply::ApplyError> {
    let Some((message, failed)) = &weights.missing else { return serve(context, model, judged).await };
    let look_again = if *failed { REFUSED_RECHECK } else { imports::LOOK_AGAIN };
    if weights.imported.is_none() {
        remove_own(context, model).await?;
        return Ok((Facts::importing(message, *failed), 0, None, Action::requeue(look_again)));
    }
    let (facts, replicas, selector, _) = serve(context, model, judged).await?;
    Ok((facts.while_importing(Some(message), *failed), replicas, selector, Action::requeue(look_again)))
}

async fn serve(context: &Context, model: &ModelDeployment, judged: Result<Served<'_>, Refusal>) -> Result<Outcome, apply::ApplyError> {
    match judged {
        Ok(Served::Dedicated(dedicated, claim)) => serve_dedicated(context, model, dedicated, claim).await,
        Ok(Served::Pooled(pool)) => {
            remove_own(context, model).await?;
            let message = format!("any replica of the RuntimePool {pool} loads it with the first call");
            Ok((Facts::served(message), 0, None, Action::requeue(RESYNC)))
        }
        Ok(Served::Together) => {
            remove_own(context, model).await?;
            Ok((Facts::served("checkpoints use it when calls name it"), 0, None, Action::requeue(RESYNC)))
        }
        Err(refusal) => {
            remove_own(context, model).await?;
            Ok((Facts::refused(refusal.reason, refusal.message), 0, None, Action::requeue(REFUSED_RECHECK)))
        }
    }
}

async fn serve_dedicated(
    context: &Context,
    model: &ModelDeployment,
    dedicated: &Dedicated,
    claim: Option<String>,
) -> Result<Outcome, apply::ApplyError> {
    let (Some(owner), Some(namespace)) = (model.controller_owner_ref(&()), model.namespace()) else {
        return Ok((Facts::served(""), 0, None, Action::await_change()));
    };
    let set = Set::Model(model.model_id());
    let name = workload::object_name(&owner.name, &set);
    let before = context.deployment(&namespace, &name, &owner.uid);
    let decision = decide(context, model, dedicated, before.as_deref());
    let workload = workload_of(context, model, dedicated, claim, owner, decision.scale);
    context.mark_for_deletion(before.as_deref(), decision.scale.replicas).await?;
    let applied = apply::apply(&context.client, &namespace, &workload::build(&workload)).await?;
    let starts_on_call = dedicated.mode == ScalingMode::Auto;
    let running = context.running(&applied, decision.scale.replicas, starts_on_call);
    let selector = format!("app.kubernetes.io/name=emulsion-runtime,app.kubernetes.io/instance={name}");
    Ok((Facts::of(&running), running.exist, Some(selector), Action::requeue(decision.look_again.unwrap_or(RESYNC).min(RESYNC))))
}

fn decide(context: &Context, model: &ModelDeployment, dedicated: &Dedicated, before: Option<&Deployment>) -> Decision {
    if dedicated.mode == ScalingMode::External {
        let replicas = dedicated.replicas.unwrap_or(dedicated.min_replicas).clamp(dedicated.min_replicas, dedicated.max_replicas);
        return Decision { scale: Scale { replicas, shrink: None }, look_again: None };
    }
    let bounds = Bounds {
        min: dedicated.min_replicas,
        max: dedicated.max_replicas,
        target_in_flight: dedicated.target_in_flight,
        idle_after: dedicated.idle_after.as_duration(),
    };
    let load = context.board.load_of_model(&model.model_id(), Instant::now());
    let ready = before.and_then(|before| before.status.as_ref()?.ready_replicas).unwrap_or_default();
    autoscaler::decide(&bounds, &load, last_scale(before), ready, now_ms())
}

fn workload_of(
    context: &Context,
    model: &ModelDeployment,
    dedicated: &Dedicated,
    claim: Option<String>,
    owner: OwnerReference,
    scale: Scale,
) -> Workload {
    let settings = &context.settings;
    let namespace = model.namespace().unwrap_or_default();
    let set = Set::Model(model.model_id());
    let gpu_image = settings.runtime_gpu_image.clone().filter(|_| workload::uses_gpu(dedicated.resources.as_ref()));
    Workload {
        token: replica::replica_token(&settings.installation_token, &namespace, &set),
        namespace,
        owner,
        set,
        image: gpu_image.unwrap_or_else(|| settings.runtime_image.clone()),
        resources: dedicated.resources.clone(),
        node_selector: dedicated.node_selector.clone(),
        tolerations: dedicated.tolerations.clone(),
        resident_bytes: None,
        disk: None,
        storage_class: None,
        claim,
        precision: model.spec.precision.map(precision),
        safety_checker: settings.safety_checker.clone(),
        router_namespace: settings.namespace.clone(),
        monitoring_namespace: settings.monitoring_namespace.clone(),
        scale,
    }
}

/// As the runtime spells it.
fn precision(precision: Precision) -> String {
    match precision {
        Precision::F32 => "f32".to_owned(),
        Precision::F16 => "f16".to_owned(),
        Precision::Bf16 => "bf16".to_owned(),
    }
}

/// A model that is dedicated no more has replicas left.
async fn remove_own(context: &Context, model: &ModelDeployment) -> Result<(), apply::ApplyError> {
    let (Some(namespace), Some(uid)) = (model.namespace(), model.uid()) else { return Ok(()) };
    let name = workload::object_name(&model.name_any(), &Set::Model(model.model_id()));
    match context.deployment(&namespace, &name, &uid) {
        Some(_) => apply::remove(&context.client, &namespace, &name).await,
        None => Ok(()),
    }
}

fn has_pool(context: &Context, pool: &str) -> bool {
    let key = kube::runtime::reflector::ObjectRef::new(pool).within(&context.settings.namespace);
    context.pools.get(&key).is_some_and(|found| found.0.is_ok())
}

/// Whether people should hear of it: the reason why it can or cannot be called is another one.
fn turned(model: &ModelDeployment, facts: &Facts) -> bool {
    let before = model.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == crds::condition::READY);
    before.is_none_or(|before| before.reason != facts.ready.reason)
}

fn status(
    model: &ModelDeployment,
    facts: &Facts,
    replicas: i32,
    selector: Option<String>,
    imported: Option<Imported>,
    seen: Seen,
) -> ModelDeploymentStatus {
    let previous = model.status.clone().unwrap_or_default();
    let now = Time(Timestamp::now());
    ModelDeploymentStatus {
        conditions: facts.conditions(&previous.conditions, model.metadata.generation, &now),
        observed_generation: model.metadata.generation,
        replicas: Some(replicas),
        selector,
        family: model.spec.family.or(imported.as_ref().and_then(|imported| imported.family)).or(seen.family).or(previous.family),
        bytes: imported.as_ref().map(|imported| imported.bytes),
        sha256: imported.as_ref().map(|imported| imported.sha256.clone()),
        imported,
        last_used: last_used(previous.last_used, seen.last_used_ms),
    }
}

/// Coarse, so that a busy model is not written for each of its calls.
fn last_used(before: Option<Time>, seen_ms: Option<u64>) -> Option<Time> {
    let Some(seen_ms) = seen_ms else { return before };
    let before_ms = before.as_ref().and_then(|time| u64::try_from(time.0.as_millisecond()).ok()).unwrap_or_default();
    if seen_ms < before_ms.saturating_add(LAST_USED_INTERVAL_MS) {
        return before;
    }
    // The API server keeps seconds.
    let seconds = i64::try_from(seen_ms / 1000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).ok().map(Time).or(before)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crds::model_deployment::Family;

    use super::*;

    fn time(second: i64) -> Option<Time> {
        Some(Time(Timestamp::from_second(second).unwrap()))
    }

    #[test]
    fn the_last_use_is_written_at_most_once_a_minute() {
        assert_eq!(last_used(None, None), None);
        assert_eq!(last_used(None, Some(1_000_500)), time(1000));
        assert_eq!(last_used(time(1000), Some(1_059_999)), time(1000));
        assert_eq!(last_used(time(1000), Some(1_060_000)), time(1060));
        assert_eq!(last_used(time(1000), None), time(1000), "a router that forgot changes nothing");
    }

    #[test]
    fn an_unchanged_model_has_an_unchanged_status() {
        let mut model: ModelDeployment = serde_json::from_value(serde_json::json!({
            "apiVersion": crds::API_VERSION, "kind": "ModelDeployment", "metadata": {"name": "a", "namespace": "n", "generation": 2},
            "spec": {"source": {"uri": "file:///models/demo"}, "family": "sd15"},
        }))
        .unwrap();
        let seen = |last_used_ms, family| Seen { last_used_ms: Some(last_used_ms), family };
        let first = status(&model, &Facts::served("fine"), 0, None, None, seen(5_000_000, Some(Family::Sdxl)));
        assert_eq!(first.family, Some(Family::Sd15), "what is declared goes before what was found");
        model.status = Some(first.clone());
        assert_eq!(status(&model, &Facts::served("fine"), 0, None, None, seen(5_030_000, None)), first);
        model.spec.family = None;
        assert_eq!(status(&model, &Facts::served("fine"), 0, None, None, seen(5_030_000, Some(Family::Sdxl))).family, Some(Family::Sdxl));
        assert!(!turned(&model, &Facts::served("otherwise said")));
        assert!(turned(&model, &Facts::refused("Conflict", "")));
    }
}
