use serde_json::json;

use crate::rendered::{refused, sound};

#[test]
fn published_models_are_declared_by_their_names_in_the_catalog() {
    sound(&json!({}), |objects| assert!(objects.find("ModelDeployment", "sdxl").is_none(), "nobody asked for gigabytes"));
    sound(&json!({"catalog": ["sdxl", "flux"]}), |objects| {
        let flux = objects.get("ModelDeployment", "flux");
        assert_eq!(flux["metadata"]["namespace"], "emulsion");
        assert_eq!(flux["spec"]["modelId"], "flux");
        assert_eq!(flux["spec"]["source"]["secretRef"]["name"], "hugging-face");
        assert_eq!(objects.get("ModelDeployment", "sdxl")["spec"]["source"]["uri"], "hf://stabilityai/stable-diffusion-xl-base-1.0");
        assert!(objects.find("ModelDeployment", "demo").is_some(), "it stands beside what `models` declares");
        assert!(objects.find("ModelDeployment", "sd-1-5").is_none());
    });
    refused(&json!({"catalog": ["sd-9"]}), "catalog has no sd-9; it has flux, flux-schnell, sd-1-5");
}
