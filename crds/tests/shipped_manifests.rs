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

#[test]
fn the_catalog_declares_each_published_model_with_its_family_source_and_defaults() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/emulsion/catalog");
    let page = std::fs::read_to_string(folder.join("../../../docs/catalog.md")).unwrap();
    let mut ids = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let value: serde_json::Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let manifest = Manifest::from_value(value).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(manifest.name(), name);
        let Manifest::ModelDeployment(model) = manifest else { panic!("{name} is no model") };
        assert!(model.spec.source.uri.starts_with("hf://"), "{name}");
        let family = model.spec.family.unwrap();
        let defaults = &model.spec.defaults;
        let is_flow = defaults.sampler.as_ref().unwrap().starts_with("FlowMatch");
        assert_eq!(is_flow, family.size_multiple() == 16, "{name}");
        let (steps, guidance) = (defaults.steps.unwrap(), defaults.guidance_scale.unwrap());
        assert_eq!(defaults.width, defaults.height, "{name}");
        let row =
            format!("| `{name}.yaml` | `{}` | `{}` | {steps}, {guidance}, {} |", model.model_id(), family.name(), defaults.width.unwrap());
        assert!(page.contains(&row), "{row}");
        ids.insert(model.model_id(), family);
    }
    for id in ["sd-1.5", "sd-2.1", "sdxl", "sdxl-refiner", "sdxl-turbo", "sdxl-lightning", "sd-3", "sd-3.5", "flux"] {
        assert!(ids.contains_key(id), "{id}");
    }
    let families: std::collections::BTreeSet<Family> = ids.into_values().collect();
    assert_eq!(families.len(), 9, "a family has no published model");
}
