use serde_json::json;

use crate::rendered::{refused, sound};

const OPERATOR: &str = "emulsion-operator";

#[test]
fn imports_reach_the_routers_internal_port_and_callers_do_not() {
    sound(&json!({}), |objects| {
        let service = objects.get("Service", "emulsion-router-internal");
        assert_eq!(service["spec"]["type"], "ClusterIP");
        assert_eq!(service["spec"]["ports"][0]["port"], crds::replica::ROUTER_INTERNAL_PORT);
        let policy = objects.get("NetworkPolicy", "emulsion-router-imports");
        let [rule] = policy["spec"]["ingress"].as_array().unwrap().as_slice() else { panic!("{policy}") };
        assert_eq!(rule["ports"], json!([{"port": "internal"}]));
        let labels = &rule["from"][0]["podSelector"]["matchLabels"];
        assert_eq!(labels[crds::replica::COMPONENT_LABEL], crds::import::IMPORT);
        assert_eq!(labels[crds::replica::PART_OF_LABEL], crds::replica::EMULSION);
    });
    sound(&json!({"networkPolicies": false}), |objects| assert_eq!(objects.find("NetworkPolicy", "emulsion-router-imports"), None));
}

#[test]
fn the_operator_knows_where_imports_go_and_what_they_may_ask() {
    sound(&json!({}), |objects| {
        let url = objects.variable(OPERATOR, "EMULSION_ROUTER_INTERNAL_URL").and_then(|url| url.as_str()).unwrap();
        assert!(url.starts_with("http://emulsion-router-internal.") && url.ends_with(":8081"), "{url}");
        assert_eq!(objects.variable(OPERATOR, "EMULSION_IMPORT_ALLOW_NETWORK"), None);
    });
    let inside = json!({"imports": {"allowNetworks": ["10.0.0.0/8", "fd00::/8"], "allowHosts": ["mirror.example"]}});
    sound(&inside, |objects| {
        assert_eq!(objects.variable(OPERATOR, "EMULSION_IMPORT_ALLOW_NETWORK"), Some(&json!("10.0.0.0/8,fd00::/8")));
        assert_eq!(objects.variable(OPERATOR, "EMULSION_IMPORT_ALLOW_HOST"), Some(&json!("mirror.example")));
    });
    refused(&json!({"imports": {"allowNetworks": ["everything"]}}), "allowNetworks");
}

#[test]
fn routers_know_how_long_unused_weights_are_kept() {
    sound(&json!({"router": {"contentRetention": "48h"}}), |objects| {
        assert_eq!(objects.variable("emulsion-router", "EMULSION_CONTENT_RETENTION"), Some(&json!("48h")));
    });
    refused(&json!({"router": {"contentRetention": "soon"}}), "contentRetention");
}
