use cluster::{Needs, in_namespace};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::api::EvictParams;

use crate::shapes::{available, web};

#[test]
fn a_budget_holds_the_last_pods_and_lets_spare_ones_go() {
    in_namespace("eviction", Needs::Pods, async |space| {
        space.apply(&web("web", 2, "")).await?;
        let budget = "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web}, \
                      spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}}";
        space.apply(budget).await?;
        space.wait_for::<Deployment>("web", "available", available).await?;
        let counted = |allowed| {
            move |budget: &PodDisruptionBudget| {
                budget
                    .status
                    .as_ref()
                    .is_some_and(|status| status.current_healthy == Some(2) && status.disruptions_allowed == Some(allowed))
            }
        };
        space.wait_for::<PodDisruptionBudget>("web", "counted", counted(0)).await?;
        let name = space.pods("app=web").await?.remove(0).metadata.name.unwrap_or_default();
        let pods = space.api::<Pod>();
        match pods.evict(&name, &EvictParams::default()).await {
            Err(kube::Error::Api(status)) => assert_eq!(status.code, 429, "{status}"),
            other => panic!("an eviction that breaks the budget: {other:?}"),
        }
        space.apply(&budget.replace("minAvailable: 2", "minAvailable: 1")).await?;
        space.wait_for::<PodDisruptionBudget>("web", "counted anew", counted(1)).await?;
        pods.evict(&name, &EvictParams::default()).await?;
        space.wait_gone::<Pod>(&name).await
    });
}
