//! The samplers have one list, in three places that may not know each other: what the router lets through, what replicas serve, and what
//! the page tells.

use diffusion::sampler::{SAMPLER_NAMES, is_flow, option_names};
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
        // The demo model, which draws the pictures, was not trained by flow matching.
        assert!(is_flow(name) || row.contains(&format!("![](pictures/samplers/{name}.png)")), "{name} has no picture");
        for option in option_names(name) {
            let option = format!("`{option}`");
            let of_many = || page.lines().any(|line| line.starts_with("- ") && line.contains(&option));
            assert!(row.contains(&option) || of_many(), "{name}: {option} is missing");
        }
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, SAMPLER_NAMES.len(), "the page tells of more than there is");
}

/// No choice of a request: they tell how a model was trained, or have one value that is served.
const WITHOUT_CHOICE: [&str; 6] = ["num_train_timesteps", "beta_start", "beta_end", "trained_betas", "prediction_type", "solver_p"];

#[test]
fn page_shows_each_option_at_work() {
    let page = page();
    let (_, switched_off) = page.split_once("Known, and served only switched off").unwrap();
    let (switched_off, _) = switched_off.split_once("Single values").unwrap();
    let shown: Vec<&str> = page.lines().filter(|line| line.starts_with("| ![](pictures/options/")).collect();
    let drawn = SAMPLER_NAMES.iter().filter(|name| !is_flow(name));
    for option in drawn.flat_map(|name| option_names(name)).filter(|option| !WITHOUT_CHOICE.contains(option)) {
        if switched_off.contains(&format!("`{option}`")) {
            continue;
        }
        assert!(shown.iter().any(|row| row.contains(&format!("`{option}`"))), "{option} has no picture");
    }
}
