//! Which name was probably meant. Pure.

/// Letters wrong in ten, at most: beyond that a name is another name.
const MAX_DISTANCE_TENTHS: usize = 5;
/// Longer names are not compared: the distance takes time by the product of both lengths.
const LENGTH_LIMIT: usize = 128;

/// The candidate with the fewest letters to change, if that is a plausible slip.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    if name.is_empty() || name.len() > LENGTH_LIMIT {
        return None;
    }
    let name = name.to_lowercase();
    let distance = |candidate: &str| {
        let lower = candidate.to_lowercase();
        // Part of a name is a better hint than any number of letters: `demo` for `demo-v2`.
        if lower.contains(&name) || name.contains(&lower) { 1 } else { strsim::damerau_levenshtein(&name, &lower) }
    };
    let (found, candidate) = candidates.map(|candidate| (distance(candidate), candidate)).min()?;
    let longest = name.chars().count().max(candidate.chars().count());
    (found * 10 <= longest * MAX_DISTANCE_TENTHS).then(|| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["demo", "realistic-vision-51", "sdxl"];

    #[test]
    fn slips_are_recognised_and_other_names_are_not() {
        for (name, expected) in [
            ("dmeo", Some("demo")),
            ("Demo", Some("demo")),
            ("demo-v2", Some("demo")),
            ("realistic-vision", Some("realistic-vision-51")),
            ("sdxl-base", Some("sdxl")),
            ("midjourney", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, NAMES.into_iter()).as_deref(), expected, "{name}");
        }
        assert_eq!(nearest("demo", [].into_iter()), None);
        assert_eq!(nearest(&"x".repeat(1000), NAMES.into_iter()), None);
    }
}
