use serde_json::json;

use crate::rendered::{refused, shared_stores, sound};

const ROUTER: &str = "emulsion-router";

#[test]
fn one_router_alone_keeps_a_volume_and_is_replaced_rather_than_doubled() {
    sound(&json!({}), |objects| {
        let deployment = objects.get("Deployment", ROUTER);
        assert_eq!(deployment["spec"]["replicas"], 1);
        assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
        assert_eq!(objects.volumes(ROUTER), ["data", "tmp"]);
        assert_eq!(objects.variable(ROUTER, "EMULSION_DATA_DIR"), Some(&json!("/data")));
        let claim = objects.get("PersistentVolumeClaim", ROUTER);
        assert_eq!(claim["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        // It would keep the only router on its node for ever.
        assert_eq!(objects.find("PodDisruptionBudget", ROUTER), None);
        for name in ["EMULSION_DATABASE_URL", "EMULSION_OUTPUTS", "AWS_ACCESS_KEY_ID"] {
            assert_eq!(objects.variable(ROUTER, name), None, "{name}");
        }
    });
    sound(&json!({"router": {"storage": {"existingClaim": "mine"}}}), |objects| {
        assert_eq!(objects.find("PersistentVolumeClaim", ROUTER), None);
        assert_eq!(objects.pod(ROUTER)["volumes"][0]["persistentVolumeClaim"]["claimName"], "mine");
    });
}

#[test]
fn several_routers_share_a_database_and_a_bucket_and_keep_no_volume() {
    sound(&shared_stores(3), |objects| {
        let deployment = objects.get("Deployment", ROUTER);
        assert_eq!(deployment["spec"]["replicas"], 3);
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        assert_eq!(deployment["spec"]["strategy"], rolling);
        assert_eq!(objects.volumes(ROUTER), ["tmp"]);
        assert_eq!(objects.variable(ROUTER, "EMULSION_DATA_DIR"), Some(&json!("/tmp/data")));
        assert_eq!(objects.find("PersistentVolumeClaim", ROUTER), None);
        let budget = objects.get("PodDisruptionBudget", ROUTER);
        assert_eq!(budget["spec"]["maxUnavailable"], 1);
        assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
        assert_eq!(objects.variable(ROUTER, "EMULSION_DATABASE_URL"), Some(&json!({"name": "database", "key": "url"})));
        assert_eq!(objects.variable(ROUTER, "EMULSION_OUTPUTS"), Some(&json!("s3://images/emulsion")));
        let key = |name: &str| json!({"name": "bucket", "key": name});
        assert_eq!(objects.variable(ROUTER, "AWS_SECRET_ACCESS_KEY"), Some(&key("AWS_SECRET_ACCESS_KEY")));
        let optional = objects.variable(ROUTER, "AWS_SESSION_TOKEN").unwrap();
        assert_eq!(optional["optional"], true);
        // Amazon's own store needs none of these.
        for name in ["EMULSION_S3_ENDPOINT", "EMULSION_S3_PUBLIC_ENDPOINT", "EMULSION_S3_REGION", "EMULSION_S3_PATH_STYLE"] {
            assert_eq!(objects.variable(ROUTER, name), None, "{name}");
        }
    });
}

#[test]
fn one_router_may_use_shared_stores_and_rolls_too() {
    sound(&shared_stores(1), |objects| {
        assert_eq!(objects.get("Deployment", ROUTER)["spec"]["strategy"]["type"], "RollingUpdate");
        assert_eq!(objects.volumes(ROUTER), ["tmp"]);
    });
}

#[test]
fn one_store_alone_leaves_the_rest_on_the_volume() {
    let database = json!({"router": {"database": {"existingSecret": "database", "key": "dsn", "caSecret": "authority"}}});
    sound(&database, |objects| {
        assert_eq!(objects.variable(ROUTER, "EMULSION_DATABASE_URL"), Some(&json!({"name": "database", "key": "dsn"})));
        assert_eq!(objects.volumes(ROUTER), ["data", "database-ca", "tmp"]);
        assert_eq!(objects.get("Deployment", ROUTER)["spec"]["strategy"]["type"], "Recreate");
    });
    let bucket = json!({"router": {"outputs": {
        "url": "s3://images", "existingSecret": "bucket", "endpoint": "http://minio.storage:9000", "publicEndpoint": "https://s3.example.com",
        "region": "eu-central-1", "pathStyle": true,
    }}});
    sound(&bucket, |objects| {
        for (name, value) in [
            ("EMULSION_S3_ENDPOINT", "http://minio.storage:9000"),
            ("EMULSION_S3_PUBLIC_ENDPOINT", "https://s3.example.com"),
            ("EMULSION_S3_REGION", "eu-central-1"),
            ("EMULSION_S3_PATH_STYLE", "true"),
        ] {
            assert_eq!(objects.variable(ROUTER, name), Some(&json!(value)), "{name}");
        }
        assert_eq!(objects.volumes(ROUTER), ["data", "tmp"]);
    });
}

#[test]
fn what_cannot_work_is_refused_and_says_why() {
    let router = |values: serde_json::Value| json!({"router": values});
    let several = "router.replicas is 2, but each router would keep accounts or images for itself: set router.database.existingSecret and \
                   router.outputs.url";
    refused(&router(json!({"replicas": 2})), several);
    refused(&router(json!({"replicas": 2, "database": {"existingSecret": "database"}})), several);
    refused(&router(json!({"replicas": 2, "outputs": {"url": "s3://images", "existingSecret": "bucket"}})), several);
    refused(&router(json!({"outputs": {"url": "s3://images"}})), "router.outputs.url needs router.outputs.existingSecret");
    refused(&router(json!({"outputs": {"existingSecret": "bucket"}})), "is set without router.outputs.url");
    // The schema's words.
    refused(&router(json!({"outputs": {"url": "https://images.s3.amazonaws.com"}})), "/router/outputs/url");
    refused(&router(json!({"replicas": -1})), "/router/replicas");
    refused(&router(json!({"database": {"url": "postgres://"}})), "/router/database");
}

#[test]
fn a_router_is_given_the_time_that_leaving_and_draining_take() {
    for (delay, drain, seconds) in [("10s", "90s", 115), ("0s", "1m30s", 105), ("500ms", "1h", 3616)] {
        sound(&json!({"router": {"shutdownDelay": delay, "drain": drain}}), |objects| {
            assert_eq!(objects.pod(ROUTER)["terminationGracePeriodSeconds"], seconds, "{delay} {drain}");
            assert_eq!(objects.variable(ROUTER, "EMULSION_SHUTDOWN_DELAY"), Some(&json!(delay)));
            assert_eq!(objects.variable(ROUTER, "EMULSION_DRAIN"), Some(&json!(drain)));
        });
    }
}

#[test]
fn pods_spread_over_zones_and_nodes_and_run_without_privileges() {
    sound(&shared_stores(2), |objects| {
        for name in [ROUTER, "emulsion-operator"] {
            let constraints = objects.pod(name)["topologySpreadConstraints"].as_array().unwrap();
            let keys: Vec<_> = constraints.iter().map(|constraint| constraint["topologyKey"].as_str().unwrap()).collect();
            assert_eq!(keys, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"], "{name}");
            for constraint in constraints {
                let selector = &objects.get("Deployment", name)["spec"]["selector"];
                assert_eq!(&constraint["labelSelector"], selector, "{name}");
            }
        }
        let mut pods = 0;
        for pod in objects.pods() {
            let (of_pod, of_container) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
            assert_eq!((&of_pod["runAsNonRoot"], &of_pod["seccompProfile"]["type"]), (&json!(true), &json!("RuntimeDefault")), "{pod}");
            assert_eq!(of_container["capabilities"]["drop"], json!(["ALL"]), "{pod}");
            let restricted = (&of_container["readOnlyRootFilesystem"], &of_container["allowPrivilegeEscalation"]);
            assert_eq!(restricted, (&json!(true), &json!(false)), "{pod}");
            pods += 1;
        }
        assert_eq!(pods, 3, "the operator, the router and the test");
    });
}
