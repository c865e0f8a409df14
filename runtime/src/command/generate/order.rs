//! Which images are asked for and where each goes.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{bail, ensure};
use serde::Deserialize;

use crate::atomic_file;

/// The most bytes of a list of prompts.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// The most prompts of a list.
const MAX_PROMPTS: usize = 100_000;

/// One image that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) prompt: String,
    pub(super) negative_prompt: Option<String>,
    pub(super) seed: u64,
    pub(super) file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    prompt: String,
    negative_prompt: Option<String>,
    seed: Option<u64>,
    file: Option<String>,
}

/// One prompt goes to the file `output`; several into the folder of that name.
pub(super) fn of_prompts(prompts: &[String], output: &Path, seed: u64) -> Vec<Order> {
    let file = |index: usize| if prompts.len() == 1 { output.to_owned() } else { output.join(numbered(index)) };
    let order = |(index, prompt): (usize, &String)| Order {
        prompt: prompt.clone(),
        negative_prompt: None,
        seed: seed.wrapping_add(index as u64),
        file: file(index),
    };
    prompts.iter().enumerate().map(order).collect()
}

/// A list in a JSON file, each image below `folder`.
pub(super) fn read(path: &Path, folder: &Path, seed: u64) -> anyhow::Result<Vec<Order>> {
    of_entries(serde_json::from_slice(&atomic_file::read_bounded(path, MAX_LIST_BYTES)?)?, folder, seed)
}

fn of_entries(entries: Vec<Entry>, folder: &Path, seed: u64) -> anyhow::Result<Vec<Order>> {
    ensure!(entries.len() <= MAX_PROMPTS, "{} prompts are too many; at most {MAX_PROMPTS}", entries.len());
    let mut taken = HashSet::new();
    let mut orders = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let name = entry.file.unwrap_or_else(|| numbered(index));
        let is_plain = matches!(Path::new(&name).components().collect::<Vec<_>>().as_slice(), [Component::Normal(_)]);
        if !is_plain {
            bail!("file `{name}` is not a plain file name; images are written into the output folder alone");
        }
        ensure!(taken.insert(name.clone()), "file `{name}` is named twice");
        orders.push(Order {
            prompt: entry.prompt,
            negative_prompt: entry.negative_prompt,
            seed: entry.seed.unwrap_or(seed.wrapping_add(index as u64)),
            file: folder.join(name),
        });
    }
    Ok(orders)
}

fn numbered(index: usize) -> String {
    format!("image-{:04}.png", index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(json: &str) -> anyhow::Result<Vec<Order>> {
        of_entries(serde_json::from_str(json)?, Path::new("out"), 5)
    }

    #[test]
    fn one_prompt_goes_to_the_named_file_and_several_into_a_folder() {
        let one = of_prompts(&["a".to_owned()], Path::new("x.png"), 1);
        assert_eq!(one[0].file, Path::new("x.png"));
        let two = of_prompts(&["a".to_owned(), "b".to_owned()], Path::new("x"), u64::MAX);
        assert_eq!((two[0].seed, two[1].seed), (u64::MAX, 0));
        assert_eq!(two[1].file, Path::new("x/image-0002.png"));
    }

    #[test]
    fn list_names_prompts_seeds_and_files() {
        let orders = listed(r#"[{"prompt": "a", "seed": 9, "file": "one.png"}, {"prompt": "b"}]"#).unwrap();
        assert_eq!((orders[0].seed, orders[1].seed), (9, 6));
        assert_eq!(orders[0].file, Path::new("out/one.png"));
        assert_eq!(orders[1].file, Path::new("out/image-0002.png"));
    }

    #[test]
    fn files_outside_the_folder_or_named_twice_are_refused() {
        for file in ["../a.png", "/a.png", "b/a.png", "", ".", ".."] {
            assert!(listed(&format!(r#"[{{"prompt": "a", "file": "{file}"}}]"#)).is_err(), "{file}");
        }
        assert!(listed(r#"[{"prompt": "a", "file": "x"}, {"prompt": "b", "file": "x"}]"#).is_err());
        assert!(listed(r#"[{"prompt": "a", "filename": "x"}]"#).is_err());
    }
}
