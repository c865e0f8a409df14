//! The reader of weighted prompts under hostile input: no panic, every weight within its bounds, no character invented. Runs for a bounded
//! time under `cargo test`; `cargo bolero test` runs it on.

use bolero::check;
use diffusion::text::{MAX_WEIGHT, Piece, parse_weighted};

/// Runs of each harness under plain `cargo test`.
const ITERATIONS: usize = 20_000;
/// Longer prompts say nothing new.
const MAX_PROMPT_BYTES: usize = 512;

/// What random bytes would hardly ever spell.
const SPELLINGS: [&str; 20] = [
    "(",
    ")",
    "[",
    "]",
    "\\",
    ":",
    ":1.2)",
    ":0.5]",
    ": -3 )",
    ":.)",
    "|",
    "BREAK",
    " BREAK ",
    "a",
    "é",
    " ",
    ",",
    "<lora:x:1>",
    "AND",
    "(((",
];

/// What must hold for every prompt.
fn check_prompt(prompt: &str) {
    let Ok(pieces) = parse_weighted(prompt) else { return };
    let mut rest = prompt;
    let mut previous = None;
    for piece in &pieces {
        let text = match piece {
            Piece::Break => "BREAK",
            Piece::Text { text, weight } => {
                assert!((-MAX_WEIGHT..=MAX_WEIGHT).contains(weight) && !text.is_empty());
                text
            }
        };
        // What is read is what was written with things left out.
        for character in text.chars() {
            let at = rest.find(character).expect("a character of the prompt, in its order");
            rest = &rest[at + character.len_utf8()..];
        }
        let weight = if let Piece::Text { weight, .. } = piece { Some(*weight) } else { None };
        assert!(weight.is_none() || weight != previous, "neighbours of equal weight are one piece");
        previous = weight;
    }
}

#[test]
fn any_text_is_read_or_refused() {
    check!().with_max_len(MAX_PROMPT_BYTES).with_iterations(ITERATIONS).for_each(|bytes: &[u8]| {
        check_prompt(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn any_mixture_of_the_syntax_is_read_or_refused() {
    check!().with_type::<Vec<u8>>().with_iterations(ITERATIONS).for_each(|choices: &Vec<u8>| {
        let prompt: String =
            choices.iter().take(MAX_PROMPT_BYTES).map(|choice| SPELLINGS[usize::from(*choice) % SPELLINGS.len()]).collect();
        check_prompt(&prompt);
    });
}

#[test]
fn escaped_text_is_read_as_itself() {
    check!().with_max_len(MAX_PROMPT_BYTES).with_iterations(ITERATIONS).for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace("BREAK", "break");
        let escape = |character: char| if "()[]\\".contains(character) { format!("\\{character}") } else { character.to_string() };
        let escaped: String = text.chars().map(escape).collect();
        let expected = if text.is_empty() { vec![] } else { vec![Piece::Text { text: text.clone(), weight: 1.0 }] };
        assert_eq!(parse_weighted(&escaped).unwrap(), expected);
    });
}
