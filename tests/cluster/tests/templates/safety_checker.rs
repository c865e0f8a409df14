use serde_json::json;

use crate::rendered::{refused, sound};

const OPERATOR: &str = "emulsion-operator";
const ROUTER: &str = "emulsion-router";

#[test]
fn replicas_check_images_once_their_weights_are_named() {
    sound(&json!({}), |objects| {
        assert_eq!(objects.variable(ROUTER, "EMULSION_HAS_SAFETY_CHECKER"), None);
        assert_eq!(objects.variable(OPERATOR, "EMULSION_SAFETY_CHECKER"), None);
    });
    sound(&json!({"safetyChecker": {"file": "/safety-checker/weights.safetensors"}}), |objects| {
        assert_eq!(objects.variable(ROUTER, "EMULSION_HAS_SAFETY_CHECKER"), Some(&json!("true")));
        assert_eq!(objects.variable(OPERATOR, "EMULSION_SAFETY_CHECKER"), Some(&json!("/safety-checker/weights.safetensors")));
        assert_eq!(objects.variable(OPERATOR, "EMULSION_SAFETY_CHECKER_CLAIM"), None);
    });
    sound(&json!({"safetyChecker": {"file": "weights.safetensors", "existingClaim": "checker"}}), |objects| {
        assert_eq!(objects.variable(OPERATOR, "EMULSION_SAFETY_CHECKER_CLAIM"), Some(&json!("checker")));
    });
    refused(&json!({"safetyChecker": {"existingClaim": "checker"}}), "say which file in the volume holds the weights");
    refused(&json!({"safetyChecker": {"file": "weights.safetensors"}}), "safetyChecker.file must begin with /");
}
