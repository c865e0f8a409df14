//! Every package that is built in has a licence that deny.toml allows. `cargo deny check licenses` says the same where
//! that tool is installed; this needs nothing but cargo.

use std::{path::Path, process::Command};

use serde_json::Value;
use tests::licences::{allow_list, can_be_met};

#[test]
fn every_dependency_has_a_licence_on_the_allow_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let allowed = allow_list(&std::fs::read_to_string(root.join("deny.toml")).unwrap());
    assert!(allowed.len() > 3, "deny.toml has no list of licences any more: {allowed:?}");
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--offline"]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_allowed = |licence: &str| allowed.iter().any(|allowed| allowed == licence);
    for package in metadata["packages"].as_array().unwrap() {
        let name = &package["name"];
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence: see what its files say"));
        assert_eq!(can_be_met(licence, &is_allowed), Ok(true), "{name} is under {licence}, which deny.toml does not allow");
    }
}

#[test]
fn a_choice_needs_one_allowed_licence_and_a_sum_needs_all() {
    let only_mit = |licence: &str| licence == "MIT" || licence == "Apache-2.0 WITH LLVM-exception";
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND MIT", true),
        ("GPL-3.0 OR MIT AND GPL-3.0", false),
        ("Apache-2.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
    ] {
        assert_eq!(can_be_met(expression, &only_mit), Ok(met), "{expression}");
    }
    for broken in ["", "MIT OR", "(MIT", "MIT MIT", "AND MIT", "MIT WITH", ")"] {
        assert!(can_be_met(broken, &only_mit).is_err(), "{broken:?}");
    }
}
