use serde_json::json;

use crate::rendered::sound;

const OPERATOR: &str = "emulsion-operator";
const ROUTER: &str = "emulsion-router";

#[test]
fn monitors_and_dashboard_come_when_they_are_asked_for() {
    sound(&json!({}), |objects| {
        for (kind, name) in [("ServiceMonitor", ROUTER), ("PodMonitor", "emulsion-replicas"), ("ConfigMap", "emulsion-dashboard")] {
            assert_eq!(objects.find(kind, name), None, "{kind}");
        }
        assert_eq!(objects.variable(OPERATOR, "EMULSION_MONITORING_NAMESPACE"), None);
    });
    let all =
        json!({"monitoring": {"monitors": true, "monitorLabels": {"release": "prometheus"}, "namespace": "monitoring", "dashboard": true}});
    sound(&all, |objects| {
        for name in [ROUTER, OPERATOR] {
            let monitor = objects.get("ServiceMonitor", name);
            assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
            // It finds the Service, whose port has this name.
            let service = objects.get("Service", name);
            let selected = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
            assert!(selected.iter().all(|(label, value)| service["metadata"]["labels"][label] == *value), "{name}");
            assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
            let pod = &objects.get("Deployment", name)["spec"]["template"]["metadata"]["labels"];
            assert!(service["spec"]["selector"].as_object().unwrap().iter().all(|(label, value)| pod[label] == *value), "{name}");
        }
        let pods = objects.get("PodMonitor", "emulsion-replicas");
        assert_eq!(pods["spec"]["namespaceSelector"], json!({"any": true}));
        assert_eq!(objects.variable(OPERATOR, "EMULSION_MONITORING_NAMESPACE"), Some(&json!("monitoring")));
        let map = objects.get("ConfigMap", "emulsion-dashboard");
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        let dashboard: serde_json::Value = serde_json::from_str(map["data"]["emulsion.json"].as_str().unwrap()).unwrap();
        assert_eq!(dashboard["title"], "Emulsion");
    });
    sound(&json!({"watchNamespace": "team", "monitoring": {"monitors": true}}), |objects| {
        let selector = &objects.get("PodMonitor", "emulsion-replicas")["spec"]["namespaceSelector"];
        assert_eq!(*selector, json!({"matchNames": ["emulsion", "team"]}));
    });
}
