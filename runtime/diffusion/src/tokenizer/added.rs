//! Tokens that stand beside the vocabulary and are split off before anything else touches the text.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// One token that is matched literally.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) content: String,
    /// Eats white space to its left.
    pub(super) strip_left: bool,
    /// Eats white space to its right.
    pub(super) strip_right: bool,
    /// Only counts between spaces.
    pub(super) single_word: bool,
}

/// All added tokens by their text, with their ids.
#[derive(Clone, Debug, Default)]
pub(super) struct AddedTokens {
    tokens: BTreeMap<String, (u32, AddedToken)>,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// An added token's id.
    Token(u32),
    /// Text without added tokens.
    Text(Cow<'a, str>),
}

impl AddedTokens {
    /// Adds a token; an earlier one of the same text is replaced. The empty text is no token.
    pub(super) fn insert(&mut self, id: u32, token: AddedToken) {
        if !token.content.is_empty() {
            self.tokens.insert(token.content.clone(), (id, token));
        }
    }

    pub(super) fn id(&self, content: &str) -> Option<u32> {
        self.tokens.get(content).map(|(id, _)| *id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.tokens.values().map(|(id, _)| *id)
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Splits a text at the added tokens: leftmost first, longest first among those that begin at one place.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        let parts = self.parts(text);
        let mut texts: Vec<Cow<'a, str>> = parts.iter().map(|part| Cow::Borrowed(*part)).collect();
        let mut ids: Vec<Option<u32>> = vec![None; parts.len()];
        // What a token does to its neighbours happens in the order of the text, as in the reference: a word that gives up
        // being a token joins its neighbour.
        for at in 0..parts.len() {
            let Some((id, token)) = self.tokens.get(texts[at].as_ref()) else { continue };
            ids[at] = Some(*id);
            if token.strip_right && at + 1 < parts.len() {
                texts[at + 1] = Cow::Owned(texts[at + 1].trim_start().to_owned());
            }
            // The reference looks at its neighbours as they were before any stripping.
            let left = if at > 0 { texts[at - 1].clone() } else { Cow::Borrowed("") };
            if token.strip_left && at > 0 {
                texts[at - 1] = Cow::Owned(left.trim_end().to_owned());
            }
            let right = parts.get(at + 1).copied().unwrap_or("");
            if token.single_word && !left.is_empty() && !left.ends_with(' ') {
                texts[at - 1] = Cow::Owned(format!("{}{}", texts[at - 1], parts[at]));
                (texts[at], ids[at]) = (Cow::Borrowed(""), None);
            } else if token.single_word && !right.is_empty() && !right.starts_with(' ') {
                texts[at + 1] = Cow::Owned(format!("{}{}", parts[at], texts[at + 1]));
                (texts[at], ids[at]) = (Cow::Borrowed(""), None);
            }
        }
        let pieces = texts.into_iter().zip(ids).filter(|(text, _)| !text.is_empty());
        pieces.map(|(text, id)| id.map_or(Piece::Text(text), Piece::Token)).collect()
    }

    fn parts<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut parts = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            match self.longest_at(&text[at..]) {
                Some(length) => {
                    if begin < at {
                        parts.push(&text[begin..at]);
                    }
                    parts.push(&text[at..at + length]);
                    at += length;
                    begin = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        if begin < text.len() {
            parts.push(&text[begin..]);
        }
        parts
    }

    /// Length of the longest token `text` begins with. Tokens are sorted, so those that can match begin with the same
    /// character and lie together.
    fn longest_at(&self, text: &str) -> Option<usize> {
        let first = text.chars().next()?;
        let from = self.tokens.range(first.to_string()..);
        let candidates = from.take_while(|(content, _)| content.starts_with(first));
        candidates.filter(|(content, _)| text.starts_with(content.as_str())).map(|(content, _)| content.len()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(all: &[(&str, bool, bool, bool)]) -> AddedTokens {
        let mut added = AddedTokens::default();
        for (id, (content, strip_left, strip_right, single_word)) in all.iter().enumerate() {
            let token = AddedToken {
                content: (*content).to_owned(),
                strip_left: *strip_left,
                strip_right: *strip_right,
                single_word: *single_word,
            };
            added.insert(id as u32, token);
        }
        added
    }

    fn text(text: &str) -> Piece<'_> {
        Piece::Text(Cow::Borrowed(text))
    }

    #[test]
    fn longest_token_counts() {
        let added = tokens(&[("<a>", false, false, false), ("<a>_1", false, false, false)]);
        assert_eq!(added.split("x<a>_1<a>y"), [text("x"), Piece::Token(1), Piece::Token(0), text("y")]);
        assert_eq!(added.split(""), []);
    }

    #[test]
    fn stripping_tokens_eat_the_spaces_beside_them() {
        let added = tokens(&[("<a>", true, true, false)]);
        assert_eq!(added.split("x  <a>  y <a> "), [text("x"), Piece::Token(0), text("y"), Piece::Token(0)]);
    }

    #[test]
    fn single_word_tokens_inside_of_words_are_text() {
        let added = tokens(&[("cat", false, false, true)]);
        assert_eq!(added.split("a cat sat"), [text("a "), Piece::Token(0), text(" sat")]);
        assert_eq!(added.split("cats"), [text("cats")]);
        assert_eq!(added.split("tomcat"), [text("tomcat")]);
    }
}
