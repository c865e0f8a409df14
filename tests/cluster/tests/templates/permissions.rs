use serde_json::json;

use crate::rendered::{shared_stores, sound};

#[test]
fn the_operator_may_change_what_it_makes_and_no_more() {
    sound(&shared_stores(2), |objects| {
        let rules = |kind: &str, name: &str| objects.get(kind, name)["rules"].as_array().unwrap().clone();
        for rule in rules("ClusterRole", "emulsion-emulsion-operator") {
            let resources: Vec<_> = rule["resources"].as_array().unwrap().iter().filter_map(|resource| resource.as_str()).collect();
            let verbs: Vec<_> = rule["verbs"].as_array().unwrap().iter().filter_map(|verb| verb.as_str()).collect();
            assert!(!resources.contains(&"*") && !verbs.contains(&"*"), "{rule}");
            // Secrets are written and never read.
            assert!(!resources.contains(&"secrets") || !verbs.iter().any(|verb| ["get", "list", "watch"].contains(verb)), "{rule}");
            // Pods are marked, and never made or deleted.
            assert!(!resources.contains(&"pods") || !verbs.iter().any(|verb| ["create", "delete", "update"].contains(verb)), "{rule}");
        }
        // Imports of sources that are declared no more end.
        let jobs = rules("ClusterRole", "emulsion-emulsion-operator-imports");
        let verbs = json!(["get", "list", "create", "patch", "delete"]);
        assert_eq!(jobs, [json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": verbs})]);
        for rule in rules("ClusterRole", "emulsion-emulsion-router") {
            assert_eq!(rule["verbs"], json!(["get", "list", "watch"]), "{rule}");
        }
    });
}
