//! Which crate may know which: the arrows of the architecture as data, and the check that compares a workspace with them.

use std::collections::BTreeMap;

/// What one package may know.
#[derive(Debug)]
pub struct Room {
    /// The package.
    pub package: &'static str,
    /// Packages of ours that it may import.
    pub may_import: &'static [&'static str],
    /// Packages of others that must not be in it, however they would come; a trailing `*` stands for any ending.
    pub must_never_know: &'static [&'static str],
    /// If given, the only packages of others that it may import itself.
    pub may_only_use: Option<&'static [&'static str]>,
}

/// Every package of the workspace.
pub const ROOMS: &[Room] = &[
    Room {
        package: "crds",
        may_import: &[],
        must_never_know: &["tokio", "axum", "hyper", "reqwest", "kube-client", "kube-runtime", "candle*"],
        may_only_use: Some(&["hex", "hmac", "k8s-openapi", "kube", "schemars", "serde", "serde_json", "sha2"]),
    },
    Room { package: "operator", may_import: &["crds"], must_never_know: &["candle*", "sqlx*"], may_only_use: None },
    Room { package: "egress", may_import: &[], must_never_know: &["axum", "candle*", "kube*", "k8s-openapi", "sqlx*"], may_only_use: None },
    Room {
        package: "router",
        may_import: &["crds", "egress", "runtime-api"],
        must_never_know: &["candle*", "safetensors", "gemm*"],
        may_only_use: None,
    },
    Room { package: "runtime-api", may_import: &[], must_never_know: &[], may_only_use: Some(&["serde", "serde_json", "uuid"]) },
    Room {
        package: "kernels",
        may_import: &[],
        must_never_know: &["tokio", "axum", "hyper", "reqwest", "kube*", "k8s-openapi"],
        may_only_use: None,
    },
    Room {
        package: "diffusion",
        may_import: &["kernels"],
        must_never_know: &["tokio", "axum", "hyper", "reqwest", "kube*", "k8s-openapi"],
        may_only_use: None,
    },
    Room {
        package: "runtime",
        may_import: &["egress", "runtime-api", "diffusion"],
        must_never_know: &["kube*", "k8s-openapi", "sqlx*"],
        may_only_use: None,
    },
    // What it tests it reaches through the API server, but for the operator, which it also ends in its own process at each write.
    Room { package: "cluster", may_import: &["crds", "operator"], must_never_know: &["candle*", "sqlx*"], may_only_use: None },
    Room {
        package: "tests",
        may_import: &["crds", "operator", "router", "runtime", "runtime-api", "kernels", "diffusion"],
        must_never_know: &[],
        may_only_use: None,
    },
];

/// What a package's manifest and its resolved tree say.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// Packages that its code and its build use, by their own names.
    pub direct: Vec<String>,
    /// Packages that only its tests use.
    pub only_tests: Vec<String>,
    /// Everything in it when it is built alone, at any distance.
    pub tree: Vec<String>,
}

/// Every arrow that the workspace has and the rooms do not allow, one sentence each; empty if none.
pub fn forbidden_arrows(rooms: &[Room], workspace: &BTreeMap<String, Package>) -> Vec<String> {
    let mut found = Vec::new();
    for name in workspace.keys().filter(|name| !rooms.iter().any(|room| room.package == *name)) {
        found.push(format!("{name} has no place in the architecture: say in ROOMS what it may know"));
    }
    for room in rooms {
        let name = room.package;
        let Some(package) = workspace.get(name) else {
            found.push(format!("{name} is in the architecture but not in the workspace"));
            continue;
        };
        let is_ours = |other: &str| workspace.contains_key(other);
        for other in package.direct.iter().chain(&package.only_tests).filter(|other| is_ours(other)) {
            if !room.may_import.contains(&other.as_str()) {
                let allowed = if room.may_import.is_empty() { "none".to_owned() } else { room.may_import.join(", ") };
                found.push(format!("{name} imports {other}, but may import of ours only: {allowed}"));
            }
        }
        if let Some(allowed) = room.may_only_use {
            for other in package.direct.iter().filter(|other| !is_ours(other) && !allowed.contains(&other.as_str())) {
                found.push(format!("{name} uses {other}, but may use only: {}", allowed.join(", ")));
            }
        }
        for pattern in room.must_never_know {
            if let Some(other) = package.tree.iter().find(|other| matches(pattern, other)) {
                found.push(format!("{name} must never know {other}, yet it is in the tree of what {name} is built from"));
            }
        }
    }
    found
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}
