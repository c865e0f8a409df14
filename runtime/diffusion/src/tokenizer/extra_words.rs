//! Words that one request brings along.

use std::collections::BTreeMap;

use super::added::{AddedToken, AddedTokens};

/// Texts that stand for ids beyond the model's vocabulary, beside the tokenizer's own added tokens and found like them: anywhere in a text,
/// letter by letter, leftmost first, longest first.
#[derive(Clone, Debug)]
pub struct ExtraWords {
    pub(super) added: AddedTokens,
    /// How many ids a word stands for, by the first of them.
    counts: BTreeMap<u32, u32>,
}

impl ExtraWords {
    pub(super) fn beside(added: AddedTokens) -> Self {
        Self { added, counts: BTreeMap::new() }
    }

    /// Whether `text` is a word already, the tokenizer's own added tokens included.
    pub(crate) fn has(&self, text: &str) -> bool {
        self.added.id(text).is_some()
    }

    /// Lets `word` stand for the ids `first`, `first + 1`, …, and `word_1`, `word_2`, … for one of them each: diffusers' names for the
    /// vectors of one embedding.
    pub(crate) fn insert(&mut self, word: &str, first: u32, count: u32) {
        for at in 0..count {
            let content = if at == 0 { word.to_owned() } else { format!("{word}_{at}") };
            self.added.insert(first + at, AddedToken { content, ..AddedToken::default() });
        }
        self.counts.insert(first, count);
    }

    /// How many ids follow each other from `id` on where a word stands for it.
    pub(crate) fn count(&self, id: u32) -> usize {
        self.counts.get(&id).map_or(1, |count| *count as usize)
    }
}
