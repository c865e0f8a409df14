//! Whether a licence expression (SPDX, or the older `MIT/Apache-2.0`) can be met with licences from an allow list.

/// Whether some choice the expression leaves needs only licences that `is_allowed`.
///
/// # Errors
/// With a sentence, if the expression cannot be read.
pub fn can_be_met(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any_of(&mut words, is_allowed)?;
    match words.next() {
        None => Ok(met),
        Some(word) => Err(format!("unexpected {word:?} in the licence expression {expression:?}")),
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, is_allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut met = all_of(words, is_allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, is_allowed)?;
    }
    Ok(met)
}

fn all_of(words: &mut Words<'_>, is_allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut met = one(words, is_allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, is_allowed)?;
    }
    Ok(met)
}

fn one(words: &mut Words<'_>, is_allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    match words.next() {
        Some("(") => {
            let met = any_of(words, is_allowed)?;
            words.next_if_eq(&")").map(|_| met).ok_or_else(|| "a parenthesis is not closed".to_owned())
        }
        None | Some("OR" | "AND" | "WITH" | ")") => Err("a licence is missing".to_owned()),
        Some(licence) => {
            if words.next_if_eq(&"WITH").is_none() {
                return Ok(is_allowed(licence));
            }
            let exception = words.next().ok_or("an exception is missing after WITH")?;
            Ok(is_allowed(&format!("{licence} WITH {exception}")))
        }
    }
}

/// The strings of `allow = […]` below `[licenses]` in a deny.toml.
pub fn allow_list(deny_toml: &str) -> Vec<String> {
    let licences = deny_toml.split_once("\n[licenses]").map_or("", |(_, after)| after);
    let list = licences.split_once("\nallow = [").map_or("", |(_, after)| after);
    let list = list.split_once("\n]").map_or("", |(inside, _)| inside);
    list.lines()
        .filter_map(|line| line.trim().strip_prefix('"'))
        .filter_map(|line| line.split_once('"'))
        .map(|(licence, _)| licence.to_owned())
        .collect()
}
