//! RuntimePools: dereference → validate → build → apply → status.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{
    RuntimePool, RuntimePoolStatus,
    condition::{READY, REASON_REPLICAS_FAILING, WARM_MODELS},
    replica::{self, Set},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, Resource, ResourceExt, runtime::controller::Action};

use crate::{
    apply,
    autoscaler::{self, Bounds},
    condition::{Fact, Facts, Running},
    context::{Context, Guarded, REFUSED_RECHECK, RESYNC, ReconcileError, last_scale},
    judgement::judge_pool,
    models::now_ms,
    quantity, warm_models,
    workload::{self, Workload},
};

/// Images that one replica of a pool shall have in flight.
const TARGET_IN_FLIGHT: i32 = 4;

/// Brings one RuntimePool to what it asks for.
pub(crate) async fn reconcile(object: Arc<Guarded<RuntimePool>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let pool = match &object.0 {
        Ok(pool) => pool,
        Err(invalid) => return context.tell_unreadable(object.as_ref(), &invalid.error).await,
    };
    if pool.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    context.know_all().await;
    let namespace = pool.namespace().ok_or(ReconcileError::Incomplete("namespace"))?;
    let (facts, running, look_again) = match judge_pool(pool, &context.settings.namespace) {
        Err(refusal) => (Facts::refused(refusal.reason, refusal.message), Running::default(), REFUSED_RECHECK),
        Ok(()) => match serve(&context, pool, &namespace).await {
            Ok((running, look_again)) => (Facts::of(&running), running, look_again),
            Err(error) => {
                context.count("RuntimePool", "failed");
                // What the API server refuses is the declaration's fault, and people must see it there.
                let Some(refusal) = error.refusal() else { return Err(error.into()) };
                (Facts::refused(REASON_REPLICAS_FAILING, refusal), Running::default(), RESYNC)
            }
        },
    };
    let told = context.board.warm_models(&pool.name_any());
    let warm = warm_models::fact(&pool.spec.warm_models, &told, running.ready);
    let desired = status(pool, &facts, warm.as_ref(), &running);
    if pool.status.as_ref() == Some(&desired) {
        context.count("RuntimePool", "unchanged");
        return Ok(Action::requeue(look_again));
    }
    let pools: Api<RuntimePool> = Api::namespaced(context.client.clone(), &namespace);
    apply::apply_status(&pools, &pool.name_any(), &desired).await?;
    context.count("RuntimePool", "applied");
    for (kind, fact) in [(READY, Some(&facts.ready)), (WARM_MODELS, warm.as_ref())] {
        let before = pool.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == kind);
        if let Some(fact) = fact.filter(|fact| before.is_none_or(|before| before.reason != fact.reason)) {
            context.tell(&pool.object_ref(&()), "Reconcile", fact).await;
        }
    }
    Ok(Action::requeue(look_again))
}

async fn serve(context: &Context, pool: &RuntimePool, namespace: &str) -> Result<(Running, Duration), apply::ApplyError> {
    let Some(owner) = pool.controller_owner_ref(&()) else { return Ok((Running::default(), RESYNC)) };
    let (spec, settings) = (&pool.spec, &context.settings);
    let set = Set::Pool(pool.name_any());
    let before = context.deployment(namespace, &workload::object_name(&owner.name, &set), &owner.uid);
    let bounds = Bounds {
        min: spec.min_replicas,
        max: spec.max_replicas,
        target_in_flight: TARGET_IN_FLIGHT,
        idle_after: spec.idle_after.as_duration(),
    };
    let load = context.board.load_of_pool(&pool.name_any(), Instant::now());
    let ready = before.as_ref().and_then(|before| before.status.as_ref()?.ready_replicas).unwrap_or_default();
    let decision = autoscaler::decide(&bounds, &load, last_scale(before.as_deref()), ready, now_ms());
    let gpu_image = settings.runtime_gpu_image.clone().filter(|_| workload::uses_gpu(spec.resources.as_ref()));
    let workload = Workload {
        namespace: namespace.to_owned(),
        token: replica::replica_token(&settings.installation_token, namespace, &set),
        owner,
        set,
        image: spec.image.clone().or(gpu_image).unwrap_or_else(|| settings.runtime_image.clone()),
        resources: spec.resources.clone(),
        node_selector: spec.node_selector.clone(),
        tolerations: spec.tolerations.clone(),
        resident_bytes: spec.cache.host.as_ref().and_then(quantity::bytes),
        disk: spec.cache.disk.as_ref().map(|disk| disk.0.clone()),
        storage_class: spec.cache.storage_class.clone(),
        claim: None,
        precision: None,
        safety_checker: settings.safety_checker.clone(),
        router_namespace: settings.namespace.clone(),
        monitoring_namespace: settings.monitoring_namespace.clone(),
        scale: decision.scale,
    };
    context.mark_for_deletion(before.as_deref(), decision.scale.replicas).await?;
    let applied = apply::apply(&context.client, namespace, &workload::build(&workload)).await?;
    let running = context.running(&applied, decision.scale.replicas, true);
    Ok((running, decision.look_again.unwrap_or(RESYNC).min(RESYNC)))
}

fn status(pool: &RuntimePool, facts: &Facts, warm: Option<&Fact>, running: &Running) -> RuntimePoolStatus {
    let previous = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let (generation, now) = (pool.metadata.generation, Time(Timestamp::now()));
    let mut conditions = facts.conditions(previous, generation, &now);
    conditions.extend(warm.map(|warm| warm.condition(WARM_MODELS, previous, generation, &now)));
    RuntimePoolStatus {
        conditions,
        observed_generation: pool.metadata.generation,
        replicas: Some(running.exist),
        ready_replicas: Some(running.ready),
    }
}
