//! The pages in docs/: every picture that is shown is there, and every one that is there is shown.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn documents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Paths below docs/ that pages show as pictures.
fn shown() -> BTreeSet<String> {
    let pages = fs::read_dir(documents()).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let text: String = pages.map(|page| fs::read_to_string(page).unwrap()).collect();
    text.split("![](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

fn drawn() -> BTreeSet<String> {
    let folders = fs::read_dir(documents().join("pictures")).unwrap().map(|entry| entry.unwrap());
    let folders = folders.filter(|entry| entry.file_type().unwrap().is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap()).map(|entry| entry.unwrap().path());
    files.map(|file| file.strip_prefix(documents()).unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn pages_show_every_picture_that_is_drawn_and_no_other() {
    assert_eq!(shown(), drawn());
}
