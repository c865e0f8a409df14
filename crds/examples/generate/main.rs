//! Writes what is made from the types: the custom resource definitions as YAML, beside the crate's Cargo.toml and into the chart, which ships the
//! same files, and their description for people: `cargo run -p crds --example generate`. The test `generated` fails while they are out of date.

use std::path::{Path, PathBuf};

mod reference;

/// Every file with the text it should have.
pub(crate) fn files() -> Vec<(PathBuf, String)> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for definition in crds::definitions() {
        let yaml = serde_yaml::to_string(definition).expect("a definition is plain data");
        let text = format!("# Made by `cargo run -p crds --example generate` from crds/src: change it there.\n{yaml}");
        let name = format!("{}.yaml", definition.spec.names.plural);
        for folder in [crate_folder.to_path_buf(), crate_folder.join("../charts/emulsion/crds")] {
            files.push((folder.join(&name), text.clone()));
        }
    }
    files.push((crate_folder.join("../docs/resources.md"), reference::page(crds::definitions())));
    files
}

#[cfg_attr(test, expect(dead_code, reason = "the test includes this file for `files` alone"))]
fn main() -> std::io::Result<()> {
    for (path, text) in files() {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}
