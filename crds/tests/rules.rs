//! Each rule is broken once, alone, and answers with its own message at the field where a cluster would report it.

use std::collections::BTreeSet;

use crds::{
    Manifest, ManifestError, ModelDeployment, Violation,
    rule::{self, Rule},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
use serde_json::{Value, json};

const MODEL: &str = "ModelDeployment";
const POOL: &str = "RuntimePool";
const PLAN: &str = "TenantPlan";

/// An object that breaks no rule, with `change` put over its spec.
fn document(kind: &str, change: &Value) -> Value {
    let mut spec = match kind {
        MODEL => json!({"source": {"uri": "hf://owner/name"}}),
        PLAN => json!({"requestsPerMinute": 60, "burst": 20, "parallelImages": 1, "queueDepth": 10}),
        _ => json!({}),
    };
    merge(&mut spec, change);
    json!({"apiVersion": "emulsion.dev/v1alpha1", "kind": kind, "metadata": {"name": "some"}, "spec": spec})
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

fn violations(kind: &str, change: &Value) -> Vec<Violation> {
    match Manifest::from_value(document(kind, change)) {
        Ok(_) => Vec::new(),
        Err(ManifestError::Invalid { violations, .. }) => violations,
        Err(error) => panic!("{error}"),
    }
}

/// (kind, what is put over a valid spec, the field that is wrong, the rule that says so)
fn broken_rules() -> Vec<(&'static str, Value, &'static str, &'static Rule)> {
    let dedicated = |dedicated: Value| json!({"serving": {"dedicated": dedicated}});
    vec![
        (MODEL, json!({"modelId": "a/b/c"}), "spec.modelId", &rule::MODEL_ID),
        (MODEL, json!({"modelId": "-a"}), "spec.modelId", &rule::MODEL_ID),
        (MODEL, json!({"modelId": "a/../b"}), "spec.modelId", &rule::MODEL_ID),
        (MODEL, json!({"components": {"vae": "ä"}}), "spec.components.vae", &rule::MODEL_ID),
        (MODEL, json!({"components": {"adapters": [{"model": "a b"}]}}), "spec.components.adapters[0].model", &rule::MODEL_ID),
        (POOL, json!({"warmModels": ["a", "/b"]}), "spec.warmModels[1]", &rule::MODEL_ID),
        (MODEL, json!({"source": {"uri": "http://host/model"}}), "spec.source.uri", &rule::SOURCE_URI),
        (MODEL, json!({"source": {"uri": "file://demo"}}), "spec.source.uri", &rule::SOURCE_URI),
        (MODEL, json!({"source": {"uri": "file://./"}}), "spec.source.uri", &rule::SOURCE_URI),
        (MODEL, json!({"source": {"uri": "https://a b"}}), "spec.source.uri", &rule::SOURCE_URI),
        (MODEL, json!({"source": {"config": "/etc"}}), "spec.source.config", &rule::SOURCE_URI),
        (MODEL, json!({"source": {"sha256": "A".repeat(64)}}), "spec.source.sha256", &rule::SHA256),
        (MODEL, json!({"defaults": {"sampler": "euler"}}), "spec.defaults.sampler", &rule::SAMPLER),
        (MODEL, json!({"source": {"uri": "pvc://claim/model"}}), "spec", &rule::VOLUME_NEEDS_DEDICATED),
        (MODEL, json!({"source": {"uri": "https://a/b", "config": "pvc://claim/model"}}), "spec", &rule::VOLUME_NEEDS_DEDICATED),
        (MODEL, json!({"serving": {}}), "spec.serving", &rule::SERVING_ONE_WAY),
        (MODEL, json!({"serving": {"pooled": {}, "dedicated": {}}}), "spec.serving", &rule::SERVING_ONE_WAY),
        (MODEL, dedicated(json!({"minReplicas": 3, "maxReplicas": 2})), "spec.serving.dedicated", &rule::REPLICA_RANGE),
        (POOL, json!({"minReplicas": 2}), "spec", &rule::REPLICA_RANGE),
        (MODEL, dedicated(json!({"replicas": 2})), "spec.serving.dedicated", &rule::REPLICAS_WITHIN_RANGE),
        (
            MODEL,
            dedicated(json!({"minReplicas": 1, "maxReplicas": 3, "replicas": 0})),
            "spec.serving.dedicated",
            &rule::REPLICAS_WITHIN_RANGE,
        ),
        (MODEL, dedicated(json!({"idleAfter": "5 minutes"})), "spec.serving.dedicated.idleAfter", &rule::TIMESPAN),
        (PLAN, json!({"retention": "9000h"}), "spec.retention", &rule::TIMESPAN),
        (MODEL, json!({"limits": {"minWidth": 512, "maxWidth": 256}}), "spec.limits", &rule::SIZE_RANGE),
        (MODEL, json!({"limits": {"maxHeight": 1000, "sizeMultipleOf": 16}}), "spec.limits", &rule::SIZE_MULTIPLE),
        (MODEL, json!({"defaults": {"width": 60}}), "spec", &rule::DEFAULT_WIDTH),
        (MODEL, json!({"defaults": {"width": 68}}), "spec", &rule::DEFAULT_WIDTH),
        (MODEL, json!({"defaults": {"height": 4096}}), "spec", &rule::DEFAULT_HEIGHT),
        (MODEL, json!({"defaults": {"steps": 50}, "limits": {"maxSteps": 20}}), "spec", &rule::DEFAULT_STEPS),
        (MODEL, json!({"pricing": {"image": "0,004"}}), "spec.pricing.image", &rule::PRICE),
        (PLAN, json!({"price": "$47"}), "spec.price", &rule::PRICE),
        (PLAN, json!({"burst": 61}), "spec", &rule::BURST),
        (POOL, json!({"cache": {"storageClass": "fast"}}), "spec.cache", &rule::CACHE_CLASS_NEEDS_DISK),
        (POOL, json!({"cache": {"host": "lots"}}), "spec.cache.host", &rule::BYTES),
        (POOL, json!({"cache": {"host": "1ki"}}), "spec.cache.host", &rule::BYTES),
        (POOL, json!({"cache": {"host": "1K"}}), "spec.cache.host", &rule::BYTES),
        (POOL, json!({"cache": {"host": "1Gii"}}), "spec.cache.host", &rule::BYTES),
        (POOL, json!({"cache": {"host": "1."}}), "spec.cache.host", &rule::BYTES),
        (POOL, json!({"cache": {"disk": "-1"}}), "spec.cache.disk", &rule::BYTES),
        (POOL, json!({"cache": {"disk": -1}}), "spec.cache.disk", &rule::BYTES),
    ]
}

#[test]
fn a_broken_rule_answers_with_its_own_message_at_its_own_field() {
    for (kind, change, path, rule) in broken_rules() {
        let expected = Violation { path: path.to_owned(), message: rule.message.to_owned() };
        assert_eq!(violations(kind, &change), [expected], "{kind} {change}");
    }
}

#[test]
fn every_rule_is_broken_by_a_case() {
    let mut broken: BTreeSet<&str> = broken_rules().iter().map(|(.., rule)| rule.expression).collect();
    broken.insert(rule::MODEL_ID_FIXED.expression); // a change: see a_model_keeps_its_id
    for rule in rule::ALL {
        assert!(broken.contains(rule.expression), "no case breaks: {}", rule.message);
    }
}

#[test]
fn every_rule_of_a_cluster_has_its_mirror_with_the_same_message() {
    fn visit(schema: &JSONSchemaProps, seen: &mut BTreeSet<String>) {
        for validation in schema.x_kubernetes_validations.iter().flatten() {
            let mirror = Rule::find(&validation.rule);
            assert_eq!(mirror.map(|rule| rule.message), validation.message.as_deref(), "{}", validation.rule);
            seen.insert(validation.rule.clone());
        }
        schema.properties.iter().flat_map(|all| all.values()).for_each(|property| visit(property, seen));
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            visit(items, seen);
        }
    }
    let mut seen = BTreeSet::new();
    for kind in [MODEL, POOL, PLAN] {
        visit(crds::schema::of_kind(kind).unwrap(), &mut seen);
    }
    assert_eq!(seen.len(), rule::ALL.len(), "each rule stands in a schema, and no expression twice");
}

#[test]
fn what_keeps_every_rule_is_accepted() {
    for (kind, change) in [
        (MODEL, json!({})),
        (MODEL, json!({"modelId": "stabilityai/sdxl-turbo", "family": "sdxl", "precision": "bf16"})),
        (MODEL, json!({"source": {"uri": "civitai:128713"}, "kind": "lora"})),
        (MODEL, json!({"source": {"uri": "file:///models/demo"}})),
        (MODEL, json!({"source": {"uri": "pvc://claim"}, "serving": {"dedicated": {"maxReplicas": 4, "replicas": 4, "mode": "External"}}})),
        (MODEL, json!({"serving": {"dedicated": {"idleAfter": "1h30m", "resources": {"limits": {"nvidia.com/gpu": 1}}}}})),
        (MODEL, json!({"visibility": {"tenants": ["acme"]}, "pricing": {"image": "0.004"}})),
        (POOL, json!({"idleAfter": "500ms", "cache": {"host": "32Gi", "disk": 1000}, "warmModels": ["demo"]})),
        (POOL, json!({"cache": {"disk": "200Gi", "storageClass": "fast"}})),
        (POOL, json!({"cache": {"host": "1.5Gi", "disk": "500k"}})),
        (POOL, json!({"cache": {"host": "1Ki", "disk": "0"}})),
        (PLAN, json!({"families": ["sd15"], "imagePrices": {"default": "0", "families": [{"family": "sdxl", "price": "1"}]}})),
        // Null is the same as absent, as in a cluster.
        (MODEL, json!({"modelId": null, "serving": {"pooled": null, "dedicated": {}}})),
    ] {
        assert_eq!(violations(kind, &change), [], "{kind} {change}");
    }
}

#[test]
fn bounds_types_and_typing_mistakes_are_told_apart() {
    for (kind, change, expected) in [
        (MODEL, json!({"sorce": {}}), "spec.sorce: unknown field"),
        (MODEL, json!({"serving": {"dedicated": {"idleafter": "1s"}}}), "spec.serving.dedicated.idleafter: unknown field"),
        (MODEL, json!({"source": {"uri": ""}}), "spec.source.uri: must have at least 1 characters"),
        (MODEL, json!({"source": null}), "spec.source: is required"),
        (MODEL, json!({"family": "sd16"}), "spec.family: must be one of \"sd15\""),
        (MODEL, json!({"limits": {"maxSamples": 17}}), "spec.limits.maxSamples: must be at most 16"),
        (MODEL, json!({"limits": {"maxSamples": "4"}}), "spec.limits.maxSamples: must be of type integer"),
        (MODEL, json!({"limits": {"maxSteps": 1e10}}), "spec.limits.maxSteps: must be of type integer"),
        (MODEL, json!({"limits": {"maxSteps": 3_000_000_000_i64}}), "spec.limits.maxSteps: must be of type integer"),
        (MODEL, json!({"limits": {"sizeMultipleOf": 0}}), "spec.limits.sizeMultipleOf: must be at least 8"),
        (MODEL, json!({"visibility": {"tenants": []}}), "spec.visibility.tenants: must have at least 1 items"),
        (PLAN, json!({"price": 47}), "spec.price: must be of type string"),
        (PLAN, json!({"callsPerDay": 0}), "spec.callsPerDay: must be at least 1"),
        (
            PLAN,
            json!({"imagePrices": {"default": "0", "families": [{"family": "sdxl", "price": "1"}, {"family": "sdxl", "price": "2"}]}}),
            "spec.imagePrices.families[1]: stands in the list twice",
        ),
        (POOL, json!({"warmModels": ["a", "a"]}), "spec.warmModels[1]: stands in the list twice"),
    ] {
        let found = violations(kind, &change);
        assert!(found.len() == 1 && found[0].to_string().starts_with(expected), "{kind} {change}: {found:?}");
    }
}

#[test]
fn what_is_absent_gets_its_default() {
    let Ok(Manifest::ModelDeployment(model)) = Manifest::from_value(document(MODEL, &json!({}))) else { panic!() };
    assert_eq!(model.model_id(), "some");
    assert_eq!(model.spec.serving.pooled.as_ref().map(|pooled| pooled.pool.as_str()), Some("default"));
    assert_eq!(model.spec.limits.max_samples, 4);
    let Ok(Manifest::RuntimePool(pool)) = Manifest::from_value(document(POOL, &json!({}))) else { panic!() };
    assert_eq!((pool.spec.min_replicas, pool.spec.max_replicas), (0, 1));
}

#[test]
fn a_model_keeps_its_id() {
    let model = |change: Value| -> ModelDeployment { serde_json::from_value(document(MODEL, &change)).unwrap() };
    let (named, renamed, unnamed) = (model(json!({"modelId": "a"})), model(json!({"modelId": "b"})), model(json!({})));
    let fixed = [Violation { path: "spec".to_owned(), message: rule::MODEL_ID_FIXED.message.to_owned() }];
    assert_eq!(renamed.validate_update(&named), fixed);
    assert_eq!(unnamed.validate_update(&named), fixed);
    assert_eq!(named.validate_update(&named), []);
    assert_eq!(renamed.validate(), [], "a new object has no id to keep");
}

#[test]
fn a_typed_object_is_held_to_the_same_rules() {
    let mut model: ModelDeployment = serde_json::from_value(document(MODEL, &json!({}))).unwrap();
    model.spec.serving.pooled = None;
    let messages: Vec<String> = model.validate().into_iter().map(|violation| violation.message).collect();
    assert_eq!(messages, [rule::SERVING_ONE_WAY.message]);
}

#[test]
fn a_document_that_is_no_object_of_ours_is_named_as_such() {
    for document in [json!(null), json!([]), json!("text"), json!({"kind": MODEL}), json!({"apiVersion": "v1", "kind": "Secret"})] {
        assert!(matches!(Manifest::from_value(document.clone()), Err(ManifestError::Foreign { .. })), "{document}");
    }
    for (api_version, kind) in [("emulsion.dev/v1", MODEL), ("emulsion.dev/v1alpha1", "Modeldeployment"), ("emulsion.dev", MODEL)] {
        let found = Manifest::from_value(json!({"apiVersion": api_version, "kind": kind}));
        assert!(matches!(found, Err(ManifestError::UnknownKind { .. })), "{api_version} {kind}");
    }
}

#[test]
fn an_object_without_a_proper_name_is_refused() {
    for name in [json!(null), json!(""), json!("Demo"), json!("a_b"), json!("-a"), json!("a..b"), json!("a".repeat(254)), json!(7)] {
        let mut document = document(MODEL, &json!({}));
        document["metadata"]["name"] = name.clone();
        let error = Manifest::from_value(document).unwrap_err().to_string();
        assert!(error.contains("metadata.name: must be"), "{name}: {error}");
    }
}
