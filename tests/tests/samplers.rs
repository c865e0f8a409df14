//! The samplers have one list, in three places that may not know each other: what the router lets through, what replicas serve, and what
//! the page tells.

use diffusion::sampler::{SAMPLER_NAMES, option_names};
use router::validation::SAMPLERS;

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/samplers.md")).unwrap()
}

#[test]
fn router_and_replicas_serve_the_same() {
    let sorted = |names: &[&'static str]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        names
    };
    assert_eq!(sorted(&SAMPLERS), sorted(SAMPLER_NAMES));
}

#[test]
fn page_tells_each_sampler_with_its_own_options() {
    let page = page();
    for name in SAMPLER_NAMES {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}`"))).unwrap_or_else(|| panic!("{name} is missing"));
        for option in option_names(name) {
            let option = format!("`{option}`");
            let of_many = || page.lines().any(|line| line.starts_with("- ") && line.contains(&option));
            assert!(row.contains(&option) || of_many(), "{name}: {option} is missing");
        }
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, SAMPLER_NAMES.len(), "the page tells of more than there is");
}
