//! Text repair as ftfy's `fix_text` does it with its defaults: mojibake, HTML entities, quotes, widths, line breaks, control
//! characters, composition.
//!
//! The `plsfix` crate is a port of ftfy and does the work. What it does otherwise than ftfy is put right around it: HTML entities
//! are left alone from the first `<` on, numeric references follow HTML's rules, terminal escapes are found. Still different,
//! because the port's tables are of an older ftfy: some runs of letters that happen to look like mojibake of Baltic or Macintosh
//! encodings (`ßÆß`, `qŒ` before a space); 15 of 3,000 texts made at random from such letters.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Rounds after which a text is taken as it is; each repair makes it more ordinary, so two are the rule.
const MAX_ROUNDS: usize = 16;

/// Stands in for `&` where entities must stay. Being a control character, it is removed from text anyway.
const STAND_IN: char = '\u{1}';

#[expect(clippy::unwrap_used, reason = "a constant pattern, compiled by every test of this module")]
static NUMERIC_REFERENCE: LazyLock<Regex> = LazyLock::new(|| Regex::new("&#(?:[xX]([0-9a-fA-F]{1,23})|([0-9]{1,24}));").unwrap());

#[expect(clippy::unwrap_used, reason = "a constant pattern, compiled by every test of this module")]
static TERMINAL_ESCAPE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").unwrap());

/// `text` repaired. Works line by line, as the reference: only within a line is an encoding guessed.
pub(super) fn repaired(text: &str) -> String {
    // Nothing in plain ASCII without these is ever changed, and most prompts are that.
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'&') {
        return text.to_owned();
    }
    let mut entities = true;
    let mut result = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        entities = entities && !line.contains('<');
        result.push_str(&repaired_line(line, entities));
    }
    result
}

fn repaired_line(line: &str, entities: bool) -> String {
    let mut current = line.to_owned();
    for _ in 0..MAX_ROUNDS {
        let next = if entities {
            plsfix::fix_and_explain(&without_escapes(&with_references_resolved(&current)), false, None).text
        } else {
            without_entities(&current)
        };
        if next == current {
            break;
        }
        current = next;
    }
    current
}

/// Repairs a line in which HTML entities are text.
fn without_entities(line: &str) -> String {
    // Control characters stay in the port's hands only as long as the stand-in must.
    let config = plsfix::TextFixerConfig { remove_control_chars: false, ..Default::default() };
    let hidden = without_escapes(line).replace(STAND_IN, "").replace('&', STAND_IN.encode_utf8(&mut [0; 4]));
    let repaired = plsfix::fix_and_explain(&hidden, false, Some(&config)).text;
    let shown = repaired.chars().map(|character| if character == STAND_IN { '&' } else { character });
    shown.filter(|character| !is_control(*character)).collect()
}

/// What the reference removes: controls that are no white space, and characters that have no place in text.
fn is_control(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}'
    )
}

/// Without the terminal's colour codes, which the port does not find.
fn without_escapes(text: &str) -> Cow<'_, str> {
    TERMINAL_ESCAPE.replace_all(text, "")
}

/// `&#233;` and `&#xe9;` as HTML reads them.
fn with_references_resolved(text: &str) -> Cow<'_, str> {
    NUMERIC_REFERENCE.replace_all(text, |found: &Captures<'_>| {
        let number = match (found.get(1), found.get(2)) {
            (Some(hexadecimal), _) => u128::from_str_radix(hexadecimal.as_str(), 16).ok(),
            (_, Some(decimal)) => decimal.as_str().parse().ok(),
            _ => None,
        };
        referenced(number.and_then(|number| u32::try_from(number).ok()).unwrap_or(u32::MAX))
    })
}

/// The text a numeric reference stands for: HTML reads 0x80 to 0x9f as Windows-1252, and drops what is no character.
fn referenced(number: u32) -> String {
    const WINDOWS_1252: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•',
        '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match number {
        0 => "\u{fffd}".to_owned(),
        0x0d => "\r".to_owned(),
        0x80..=0x9f => WINDOWS_1252[(number - 0x80) as usize].to_string(),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
        // The last two of each plane are no characters.
        _ if number & 0xfffe == 0xfffe && number < 0x11_0000 => String::new(),
        _ => char::from_u32(number).unwrap_or('\u{fffd}').to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_text_from_the_first_angle_bracket_on() {
        assert_eq!(repaired("&lt;tag&gt; caf&eacute;"), "<tag> café");
        assert_eq!(repaired("<b> caf&eacute; &amp;"), "<b> caf&eacute; &amp;");
        assert_eq!(repaired("&amp;\n<b>\n&amp;"), "&\n<b>\n&amp;");
        assert_eq!(repaired("<b> schÃ¶n &eacute; \u{1}\u{2}x"), "<b> schön &eacute; x");
    }

    #[test]
    fn numeric_references_are_read_as_html_reads_them() {
        for (text, expected) in [
            ("&#233;", "é"),
            ("&#xE9;", "é"),
            ("&#X1F600;", "😀"),
            ("&#0;", "\u{fffd}"),
            ("&#xD800;", "\u{fffd}"),
            ("&#x110000;", "\u{fffd}"),
            ("&#99999999999999999999;", "\u{fffd}"),
            ("&#1;x", "x"),
            ("&#128;", "€"),
        ] {
            assert_eq!(repaired(text), expected, "{text}");
        }
    }

    #[test]
    fn mojibake_quotes_and_widths_are_repaired() {
        assert_eq!(repaired("schÃ¶n"), "schön");
        assert_eq!(repaired("“it’s”"), "\"it's\"");
        assert_eq!(repaired("ＬＯＵＤ　ﬁne"), "LOUD fine");
        assert_eq!(repaired("a\u{0}b\u{feff}\r\nc"), "ab\nc");
    }
}
