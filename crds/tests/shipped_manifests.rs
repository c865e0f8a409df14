//! The manifests that local mode serves from `models/` are objects a cluster would accept, and say what they should.

use std::{collections::BTreeMap, path::Path};

use crds::{Manifest, TenantPlanSpec, model_deployment::Family};
use serde::Deserialize;

fn shipped() -> Vec<Manifest> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut manifests = Vec::new();
    for name in ["demo.yaml", "pool.yaml", "plans.yaml"] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value = serde_json::Value::deserialize(document).unwrap();
            manifests.push(Manifest::from_value(value).unwrap_or_else(|error| panic!("{name}: {error}")));
        }
    }
    manifests
}

#[test]
fn the_demo_model_sleeps_in_a_pool_that_is_there() {
    let manifests = shipped();
    let model = manifests.iter().find_map(|manifest| match manifest {
        Manifest::ModelDeployment(model) => Some(model),
        _ => None,
    });
    let model = model.unwrap();
    assert_eq!(model.model_id(), "demo");
    let defaults = model.spec.defaults.effective(model.spec.family, &model.spec.limits);
    assert_eq!((defaults.width, defaults.height, defaults.steps), (Some(64), Some(64), Some(20)));
    let pool_name = &model.spec.serving.pooled.as_ref().unwrap().pool;
    let pool = manifests.iter().find_map(|manifest| match manifest {
        Manifest::RuntimePool(pool) if manifest.name() == pool_name => Some(pool),
        _ => None,
    });
    assert_eq!(pool.unwrap().spec.min_replicas, 0);
}

#[test]
fn the_six_plans_are_those_that_are_sold() {
    let plans: BTreeMap<String, TenantPlanSpec> = shipped()
        .into_iter()
        .filter_map(|manifest| match manifest {
            Manifest::TenantPlan(plan) => Some((plan.metadata.name.clone().unwrap(), plan.spec)),
            _ => None,
        })
        .collect();
    let row = |name: &str| {
        let plan = &plans[name];
        let price = plan.price.to_string();
        (price, plan.requests_per_minute, plan.burst, plan.parallel_images, plan.queue_depth, plan.weight)
    };
    assert_eq!(plans.len(), 6);
    assert_eq!(row("free"), ("0".to_owned(), 60, 20, 1, 10, 1));
    assert_eq!(row("pay-as-you-go"), ("0".to_owned(), 1_000, 200, 5, 100, 4));
    assert_eq!(row("standard"), ("47".to_owned(), 1_000, 200, 10, 100, 4));
    assert_eq!(row("unlimited"), ("29".to_owned(), 2_000, 200, 15, 200, 4));
    assert_eq!(row("premium"), ("199".to_owned(), 5_000, 500, 15, 300, 8));
    assert_eq!(row("enterprise"), ("299".to_owned(), 10_000, 1_000, 15, 500, 16));
    let calls = |name: &str| (plans[name].calls_per_day, plans[name].calls_per_month);
    assert_eq!(calls("free"), (Some(100), None));
    assert_eq!(calls("standard"), (None, Some(10_000)));
    assert_eq!(calls("unlimited"), (None, None));
}

#[test]
fn an_image_is_priced_by_its_family() {
    let plan = shipped().into_iter().find_map(|manifest| match manifest {
        Manifest::TenantPlan(plan) if plan.metadata.name.as_deref() == Some("pay-as-you-go") => Some(plan.spec),
        _ => None,
    });
    let plan = plan.unwrap();
    assert_eq!(plan.image_price(Family::Sd15).micro_dollars(), 2_000);
    assert_eq!(plan.image_price(Family::Sdxl).micro_dollars(), 4_000);
}
