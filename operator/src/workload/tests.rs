//! The objects of two sets, compared with the YAML beside this file, and what must hold for any.

use super::*;

fn owner(kind: &str, name: &str) -> OwnerReference {
    OwnerReference {
        api_version: crds::API_VERSION.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: "0f0e".to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn pool() -> Workload {
    Workload {
        namespace: "emulsion".to_owned(),
        owner: owner("RuntimePool", "default"),
        set: Set::Pool("default".to_owned()),
        image: "registry.example/emulsion-runtime:1".to_owned(),
        resources: Some(serde_json::from_value(json!({"limits": {"memory": "4Gi"}})).unwrap()),
        node_selector: BTreeMap::new(),
        tolerations: Vec::new(),
        resident_bytes: None,
        disk: Some("20Gi".to_owned()),
        storage_class: Some("fast".to_owned()),
        claim: None,
        safety_checker: Some(SafetyChecker { file: "/safety-checker/open_nsfw.safetensors".to_owned(), claim: None }),
        precision: None,
        token: "t".to_owned(),
        router_namespace: "emulsion".to_owned(),
        monitoring_namespace: None,
        scale: Scale { replicas: 2, shrink: None },
    }
}

fn dedicated() -> Workload {
    Workload {
        namespace: "team".to_owned(),
        owner: owner("ModelDeployment", "sdxl"),
        set: Set::Model("stabilityai/sdxl".to_owned()),
        resources: Some(serde_json::from_value(json!({"limits": {"nvidia.com/gpu": "1", "memory": "32Gi"}})).unwrap()),
        node_selector: BTreeMap::from([("gpu".to_owned(), "h100".to_owned())]),
        tolerations: vec![serde_json::from_value(json!({"key": "gpu", "operator": "Exists"})).unwrap()],
        disk: Some("100Gi".to_owned()),
        storage_class: None,
        claim: Some("weights".to_owned()),
        safety_checker: Some(SafetyChecker { file: "open_nsfw.safetensors".to_owned(), claim: Some("checker".to_owned()) }),
        precision: Some("bf16".to_owned()),
        monitoring_namespace: Some("monitoring".to_owned()),
        scale: Scale { replicas: 1, shrink: Some(crate::autoscaler::Shrink { since_ms: 7, to: 0 }) },
        ..pool()
    }
}

fn yaml(objects: &Objects) -> String {
    let objects = [&objects.deployment, &objects.network_policy, &objects.disruption_budget, &objects.secret];
    objects.map(|object| format!("---\n{}", serde_yaml::to_string(object).unwrap())).concat()
}

fn compare(workload: &Workload, file: &str) {
    let made = yaml(&build(workload));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/workload").join(file);
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(made == expected, "{file} is another; if that is meant, it must say:\n{made}");
}

#[test]
fn a_pools_objects() {
    compare(&pool(), "pool.yaml");
}

#[test]
fn a_dedicated_models_objects() {
    compare(&dedicated(), "dedicated.yaml");
}

#[test]
fn what_is_built_is_what_the_api_server_takes() {
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret, networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget};
    for workload in [pool(), dedicated()] {
        let objects = build(&workload);
        let deployment: Deployment = serde_json::from_value(objects.deployment.clone()).unwrap();
        // Nothing was lost in reading: every field is one that the type knows.
        assert_eq!(
            serde_json::to_value(&deployment).unwrap()["spec"]["template"]["spec"]["containers"],
            objects.deployment["spec"]["template"]["spec"]["containers"]
        );
        serde_json::from_value::<Secret>(objects.secret).unwrap();
        serde_json::from_value::<NetworkPolicy>(objects.network_policy).unwrap();
        serde_json::from_value::<PodDisruptionBudget>(objects.disruption_budget).unwrap();
    }
}

#[test]
fn long_names_are_shortened_and_still_differ() {
    let named = |name: &str| object_name(name, &Set::Model(String::new()));
    assert_eq!(named("sdxl"), "emulsion-model-sdxl");
    let (one, other) = (named(&format!("{}.a", "x".repeat(100))), named(&format!("{}.b", "x".repeat(100))));
    assert!(one != other && one.len() <= MAX_NAME_LENGTH && one.starts_with("emulsion-model-xxx"), "{one}");
    assert!(!named(&format!("{}.{}", "y".repeat(27), "z".repeat(100))).contains(".-"));
}
