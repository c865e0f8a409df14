//! The arrows of the architecture, checked on what cargo says of the real workspace; and the checks themselves, shown a
//! workspace that breaks them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tests::architecture::{Package, ROOMS, Room, forbidden_arrows};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo speaks UTF-8")
}

fn workspace() -> BTreeMap<String, Package> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"])).unwrap();
    let mut workspace = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let mut described = Package::default();
        for dependency in package["dependencies"].as_array().unwrap() {
            let list = if dependency["kind"] == "dev" { &mut described.only_tests } else { &mut described.direct };
            list.push(dependency["name"].as_str().unwrap().to_owned());
        }
        // With `--package` features are resolved for it alone: another crate's wishes do not show up here.
        let tree = cargo(&["tree", "--offline", "--package", name, "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
        described.tree = tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        assert!(described.tree.iter().any(|other| other == name), "cargo tree does not show {name} in its own tree");
        workspace.insert(name.to_owned(), described);
    }
    workspace
}

#[test]
fn no_crate_knows_what_it_must_not() {
    let found = forbidden_arrows(ROOMS, &workspace());
    assert!(found.is_empty(), "forbidden arrows:\n{}", found.join("\n"));
}

#[test]
fn a_workspace_with_forbidden_arrows_is_told_each_of_them() {
    let rooms = [
        Room { package: "crds", may_import: &[], must_never_know: &["tokio"], may_only_use: Some(&["serde"]) },
        Room { package: "router", may_import: &["crds"], must_never_know: &["candle*"], may_only_use: None },
        Room { package: "gone", may_import: &[], must_never_know: &[], may_only_use: None },
    ];
    let package = |direct: &[&str], only_tests: &[&str], tree: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Package { direct: owned(direct), only_tests: owned(only_tests), tree: owned(tree) }
    };
    let workspace = BTreeMap::from([
        ("crds".to_owned(), package(&["serde", "anyhow"], &["router"], &["serde", "tokio"])),
        ("router".to_owned(), package(&["crds"], &[], &["crds", "candle-core"])),
        ("stranger".to_owned(), package(&[], &[], &[])),
    ]);
    assert_eq!(
        forbidden_arrows(&rooms, &workspace),
        [
            "stranger has no place in the architecture: say in ROOMS what it may know",
            "crds imports router, but may import of ours only: none",
            "crds uses anyhow, but may use only: serde",
            "crds must never know tokio, yet it is in the tree of what crds is built from",
            "router must never know candle-core, yet it is in the tree of what router is built from",
            "gone is in the architecture but not in the workspace",
        ]
    );
}

#[test]
fn a_workspace_that_keeps_the_arrows_is_let_be() {
    let rooms = [Room { package: "crds", may_import: &[], must_never_know: &["tokio"], may_only_use: Some(&["serde"]) }];
    let crds = Package { direct: vec!["serde".to_owned()], tree: vec!["serde".to_owned()], ..Package::default() };
    assert_eq!(forbidden_arrows(&rooms, &BTreeMap::from([("crds".to_owned(), crds)])), Vec::<String>::new());
}

/// Rust files below `folder`, sorted.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn only_the_family_files_of_the_engine_name_a_family() {
    let source = root().join("runtime/diffusion/src");
    let files = sources(&source);
    assert!(!files.is_empty(), "the engine has no source files");
    for file in files {
        let inside = file.strip_prefix(&source).unwrap();
        if inside == Path::new("family.rs") || inside.starts_with("family") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap().to_lowercase();
        // Tests at a file's end may say which model they mean.
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let line = product.lines().position(|line| line.contains("sdxl"));
        assert!(line.is_none(), "{}:{} says sdxl: only family/ may name a family", inside.display(), line.unwrap_or_default() + 1);
    }
}
