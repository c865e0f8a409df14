//! AUTOMATIC1111's prompt syntax: which stretch of a prompt counts how much, and where chunks are forced to end.
//!
//! | written | means |
//! |---|---|
//! | `(a)` | weight × 1.1; `((a))` × 1.21, and so on |
//! | `[a]` | weight ÷ 1.1 |
//! | `(a:1.2)` | weight × 1.2 |
//! | `\(` `\)` `\[` `\]` `\\` | the character itself; any other `\` is dropped |
//! | `BREAK` | the next chunk begins here, inside brackets too |
//! | a bracket that is never closed | holds to the end of the prompt |
//! | `)` or `]` without its bracket, `:1.2)` without one | text |
//! | `[a:b:0.5]`, `[a:0.5]`, `[a\|b]` | prompt editing and alternation: refused |
//!
//! Round and square brackets are matched separately, so `([a)]` is well formed. Everything else is text, `AND` and `<lora:…>` among it.
//! Knows text and numbers, no tokens.

/// The largest weight, of either sign, after all brackets around a text are multiplied together.
pub const MAX_WEIGHT: f64 = 10.0;
/// Brackets that may be open at once.
pub const MAX_NESTING: usize = 64;

/// What `(…)` multiplies by, and `[…]` divides by.
const BRACKET_FACTOR: f64 = 1.1;
/// Characters of a refused weight that a message repeats.
const QUOTED_CHARACTERS: usize = 24;

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text that counts `weight` times as much as it would without brackets.
    Text {
        /// Without brackets and escapes; never empty.
        text: String,
        /// −[`MAX_WEIGHT`] to [`MAX_WEIGHT`].
        weight: f64,
    },
    /// `BREAK`.
    Break,
}

/// Why a weighted prompt cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PromptSyntaxError {
    /// Digits and dots that are no number.
    #[error("`{written}` is no weight; write a number as in (word:1.2), or \\( and \\) for brackets that are text")]
    Weight {
        /// The beginning of what was written.
        written: String,
    },
    /// More than any weight.
    #[error(
        "a text has the weight {weight}, all its brackets multiplied together; weights go from -{MAX_WEIGHT} to {MAX_WEIGHT}. Write \\( and \\) for brackets that are text"
    )]
    WeightRange {
        /// The product.
        weight: f64,
    },
    /// Too many open brackets.
    #[error("more than {MAX_NESTING} brackets are open at once; write \\( or \\[ for brackets that are text")]
    Nesting,
    /// `[from:to:when]`.
    #[error("prompt editing as in [from:to:0.5] is not served; write (word:0.5) for a weight, or \\[ and \\] for brackets that are text")]
    Editing,
    /// `[a|b]`.
    #[error("alternating words as in [a|b] are not served; write \\[ and \\] for brackets that are text")]
    Alternation,
}

/// Reads a prompt. Neighbours of equal weight are one piece, so a prompt without any of the syntax is one piece: itself.
///
/// # Errors
/// [`PromptSyntaxError`] for weights that are none, what is beyond the bounds, and what is not served.
pub fn parse_weighted(prompt: &str) -> Result<Vec<Piece>, PromptSyntaxError> {
    let mut parser = Parser::default();
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\\' => parser.escape(rest),
            '(' => parser.open(Bracket::Round)?,
            '[' => parser.open(Bracket::Square)?,
            ')' => parser.close(Bracket::Round, 1, BRACKET_FACTOR)?,
            ']' => parser.close(Bracket::Square, 1, 1.0 / BRACKET_FACTOR)?,
            ':' => parser.colon(rest)?,
            _ => parser.plain(rest),
        };
        if taken.is_text {
            parser.text(&rest[..taken.bytes]);
        }
        rest = &rest[taken.bytes..];
    }
    parser.finish()
}

#[derive(Clone, Copy)]
enum Bracket {
    Round,
    Square,
}

/// How much of the prompt was read, and whether it stands for itself.
struct Taken {
    bytes: usize,
    is_text: bool,
}

impl Taken {
    fn text(bytes: usize) -> Self {
        Self { bytes, is_text: true }
    }

    fn syntax(bytes: usize) -> Self {
        Self { bytes, is_text: false }
    }
}

/// A bracket that is open.
struct Open {
    /// The first piece inside it.
    first: usize,
    /// Counts all brackets: of two, the inner one has the larger number.
    number: usize,
    has_bar: bool,
}

#[derive(Default)]
struct Parser {
    pieces: Vec<Piece>,
    round: Vec<Open>,
    square: Vec<Open>,
    opened: usize,
}

impl Parser {
    fn escape(&mut self, rest: &str) -> Taken {
        match rest.as_bytes().get(1) {
            Some(b'(' | b')' | b'[' | b']' | b'\\') => {
                self.push(&rest[1..2]);
                Taken::syntax(2)
            }
            _ => Taken::syntax(1),
        }
    }

    fn open(&mut self, bracket: Bracket) -> Result<Taken, PromptSyntaxError> {
        if self.round.len() + self.square.len() >= MAX_NESTING {
            return Err(PromptSyntaxError::Nesting);
        }
        self.opened += 1;
        let open = Open { first: self.pieces.len(), number: self.opened, has_bar: false };
        match bracket {
            Bracket::Round => self.round.push(open),
            Bracket::Square => self.square.push(open),
        }
        Ok(Taken::syntax(1))
    }

    /// Closes the innermost bracket of its kind with what `bytes` of the prompt say; text if there is none.
    fn close(&mut self, bracket: Bracket, bytes: usize, factor: f64) -> Result<Taken, PromptSyntaxError> {
        let open = match bracket {
            Bracket::Round => self.round.pop(),
            Bracket::Square => self.square.pop(),
        };
        let Some(open) = open else { return Ok(Taken::text(bytes)) };
        if open.has_bar {
            return Err(PromptSyntaxError::Alternation);
        }
        self.multiply(open.first, factor);
        Ok(Taken::syntax(bytes))
    }

    /// A colon may begin the weight that closes a round bracket, or the moment of a prompt that is edited.
    fn colon(&mut self, rest: &str) -> Result<Taken, PromptSyntaxError> {
        let Some((number, closing, bytes)) = number_and_bracket(rest) else { return Ok(Taken::text(1)) };
        match closing {
            ')' if !self.round.is_empty() => {
                let refused = || PromptSyntaxError::Weight { written: number.chars().take(QUOTED_CHARACTERS).collect() };
                let factor = number.parse().map_err(|_| refused())?;
                self.close(Bracket::Round, bytes, factor)
            }
            ']' if !self.square.is_empty() => Err(PromptSyntaxError::Editing),
            // The bracket is read again, for itself.
            _ => Ok(Taken::text(1)),
        }
    }

    fn plain(&mut self, rest: &str) -> Taken {
        let bytes = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
        let is_innermost = |open: &Open| self.round.last().is_none_or(|round| round.number < open.number);
        if rest[..bytes].contains('|')
            && let Some(open) = self.square.last_mut().filter(|open| is_innermost(open))
        {
            open.has_bar = true;
        }
        Taken::text(bytes)
    }

    /// Text in which `BREAK` counts.
    fn text(&mut self, text: &str) {
        for (index, part) in between_breaks(text).into_iter().enumerate() {
            if index > 0 {
                self.pieces.push(Piece::Break);
            }
            self.push(part);
        }
    }

    fn push(&mut self, text: &str) {
        if !text.is_empty() {
            self.pieces.push(Piece::Text { text: text.to_owned(), weight: 1.0 });
        }
    }

    fn multiply(&mut self, first: usize, factor: f64) {
        for piece in &mut self.pieces[first..] {
            if let Piece::Text { weight, .. } = piece {
                *weight *= factor;
            }
        }
    }

    fn finish(mut self) -> Result<Vec<Piece>, PromptSyntaxError> {
        for open in std::mem::take(&mut self.round) {
            self.multiply(open.first, BRACKET_FACTOR);
        }
        for open in std::mem::take(&mut self.square) {
            self.multiply(open.first, 1.0 / BRACKET_FACTOR);
        }
        let mut merged: Vec<Piece> = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces {
            if let Piece::Text { weight, .. } = piece
                && !(-MAX_WEIGHT..=MAX_WEIGHT).contains(&weight)
            {
                return Err(PromptSyntaxError::WeightRange { weight });
            }
            match (merged.last_mut(), piece) {
                (Some(Piece::Text { text, weight }), Piece::Text { text: more, weight: same }) if *weight == same => text.push_str(&more),
                (_, piece) => merged.push(piece),
            }
        }
        Ok(merged)
    }
}

/// `: NUMBER )` or `: NUMBER ]` at the beginning of `rest`, with any white space: the digits as written, the bracket, and the bytes of it all.
fn number_and_bracket(rest: &str) -> Option<(&str, char, usize)> {
    let written = rest[1..].trim_start();
    let unsigned = written.strip_prefix(['+', '-']).unwrap_or(written);
    let behind = unsigned.trim_start_matches(|character: char| character.is_ascii_digit() || character == '.');
    let number = &written[..written.len() - behind.len()];
    let closing = behind.trim_start();
    let bracket = closing.chars().next().filter(|bracket| matches!(bracket, ')' | ']'))?;
    (behind.len() < unsigned.len()).then_some((number, bracket, rest.len() - closing.len() + 1))
}

/// What stands between the words `BREAK`, without the white space beside them.
fn between_breaks(text: &str) -> Vec<&str> {
    const WORD: &str = "BREAK";
    let belongs_to_word = |character: char| character.is_alphanumeric() || character == '_';
    let mut parts = Vec::new();
    let mut begin = 0;
    for (at, _) in text.match_indices(WORD) {
        let (before, behind) = (&text[begin..at], &text[at + WORD.len()..]);
        let is_word = !before.ends_with(belongs_to_word) && !behind.starts_with(belongs_to_word);
        if is_word {
            parts.push(if parts.is_empty() { before.trim_end() } else { before.trim() });
            begin = at + WORD.len();
        }
    }
    parts.push(if parts.is_empty() { text } else { text[begin..].trim_start() });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(prompt: &str) -> Vec<(String, f64)> {
        let piece = |piece| match piece {
            Piece::Text { text, weight } => (text, (weight * 1e6).round() / 1e6),
            Piece::Break => ("BREAK".to_owned(), f64::INFINITY),
        };
        parse_weighted(prompt).unwrap().into_iter().map(piece).collect()
    }

    fn pieces(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(text, weight)| ((*text).to_owned(), *weight)).collect()
    }

    #[test]
    fn brackets_weigh_what_is_in_them() {
        for (prompt, expected) in [
            ("a cat", &[("a cat", 1.0)][..]),
            ("", &[]),
            ("(a)", &[("a", 1.1)]),
            ("((a))", &[("a", 1.21)]),
            ("[a]", &[("a", 0.909091)]),
            ("[[a]]", &[("a", 0.826446)]),
            ("(a:1.2)", &[("a", 1.2)]),
            ("a (b : +1.5 ) c", &[("a ", 1.0), ("b ", 1.5), (" c", 1.0)]),
            ("(a:-.5)(b:0)(c:2.)", &[("a", -0.5), ("b", 0.0), ("c", 2.0)]),
            ("(a (b:2) c:3)", &[("a ", 3.0), ("b", 6.0), (" c", 3.0)]),
            ("([a)] b", &[("a b", 1.0)]),
            ("((a:20):0.1)", &[("a", 2.0)]),
            ("(house:1.1), (hill:1.1)", &[("house", 1.1), (", ", 1.0), ("hill", 1.1)]),
        ] {
            assert_eq!(parsed(prompt), pieces(expected), "{prompt}");
        }
    }

    #[test]
    fn unbalanced_brackets_hold_to_the_end_or_are_text() {
        for (prompt, expected) in [
            ("a (b", &[("a ", 1.0), ("b", 1.1)][..]),
            ("a [b (c", &[("a ", 1.0), ("b ", 0.909091), ("c", 1.0)]),
            ("a) b] c", &[("a) b] c", 1.0)]),
            ("a:1.2) b", &[("a:1.2) b", 1.0)]),
            ("[a:1.2) b", &[("a:1.2) b", 0.909091)]),
            ("(a:0.5] b", &[("a:0.5] b", 1.1)]),
            (":(((", &[(":", 1.0)]),
            ("a:b (c:d)", &[("a:b ", 1.0), ("c:d", 1.1)]),
            ("()", &[]),
            ("(:1.2)", &[]),
        ] {
            assert_eq!(parsed(prompt), pieces(expected), "{prompt}");
        }
    }

    #[test]
    fn escaped_characters_are_text_and_other_backslashes_are_dropped() {
        for (prompt, expected) in [
            (r"a \(b\) \[c\] \\", &[(r"a (b) [c] \", 1.0)][..]),
            (r"(a\):1.5)", &[("a)", 1.5)]),
            (r"a\b \", &[("ab ", 1.0)]),
            (r"[a\:0.5\]", &[("a:0.5]", 0.909091)]),
            (r"\\(a)", &[(r"\", 1.0), ("a", 1.1)]),
        ] {
            assert_eq!(parsed(prompt), pieces(expected), "{prompt}");
        }
    }

    #[test]
    fn breaks_are_words_of_their_own() {
        let stop = ("BREAK", f64::INFINITY);
        for (prompt, expected) in [
            ("a BREAK b", &[("a", 1.0), stop, ("b", 1.0)][..]),
            ("BREAK a BREAK  BREAK", &[stop, ("a", 1.0), stop, stop]),
            ("(a BREAK b:1.5)", &[("a", 1.5), stop, ("b", 1.5)]),
            ("a,BREAK,b", &[("a,", 1.0), stop, (",b", 1.0)]),
            ("BREAKFAST aBREAK BREAK_ ÄBREAK break", &[("BREAKFAST aBREAK BREAK_ ÄBREAK break", 1.0)]),
        ] {
            assert_eq!(parsed(prompt), pieces(expected), "{prompt}");
        }
    }

    #[test]
    fn what_is_not_served_or_out_of_bounds_says_so() {
        use PromptSyntaxError as E;
        for prompt in ["[a:b:0.5]", "[a:10]", "x [a::3 ] y", "[(a:1.2):0.5]"] {
            assert_eq!(parse_weighted(prompt), Err(E::Editing), "{prompt}");
        }
        assert_eq!(parse_weighted("a [b|c] d"), Err(E::Alternation));
        for prompt in ["a|b", "(a|b)", "[a (b|c)]", "[a|b", "[a:b]", "[ ] | [a]"] {
            assert!(parse_weighted(prompt).is_ok(), "{prompt}");
        }
        assert_eq!(parse_weighted("(a:1.2.3)"), Err(E::Weight { written: "1.2.3".to_owned() }));
        assert!(matches!(parse_weighted("(a:.)"), Err(E::Weight { .. })));
        assert_eq!(parse_weighted("(at 10:30)"), Err(E::WeightRange { weight: 30.0 }));
        assert!(matches!(parse_weighted(&format!("(a:{})", "9".repeat(9999))), Err(E::WeightRange { .. })));
        assert!(matches!(parse_weighted(&format!("{}a", "(".repeat(30))), Err(E::WeightRange { .. })));
        assert_eq!(parse_weighted(&"[".repeat(MAX_NESTING + 1)), Err(E::Nesting));
        assert!(parse_weighted(&format!("{}a", "[".repeat(MAX_NESTING))).is_ok());
    }
}
