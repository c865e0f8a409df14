//! Byte-pair encoding of one word: bytes as printable characters, then merges by rank.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Marks the last symbol of a word.
pub(super) const END_OF_WORD: &str = "</w>";

/// Vocabulary and merges as numbers.
pub(super) struct BytePairs {
    /// Symbol of each byte, and of each byte at the end of a word.
    bytes: [u32; 256],
    last_bytes: [u32; 256],
    /// Rank and result of merging two symbols.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Token id of each symbol, if it is a token.
    ids: Vec<Option<u32>>,
    /// Ids of words that are tokens as they stand.
    whole: HashMap<&'static str, u32>,
}

impl BytePairs {
    /// `added` overrides the vocabulary, as in the reference.
    pub(super) fn new(vocabulary: &HashMap<String, u32>, merges: &[(String, String)], added: impl Fn(&str) -> Option<u32>) -> Self {
        let mut symbols = Symbols::default();
        let characters = byte_characters();
        let bytes = std::array::from_fn(|byte| symbols.number(&characters[byte].to_string()));
        let last_bytes = std::array::from_fn(|byte| symbols.number(&format!("{}{END_OF_WORD}", characters[byte])));
        let mut ranked = HashMap::with_capacity(merges.len());
        for (rank, (left, right)) in merges.iter().enumerate() {
            let pair = (symbols.number(left), symbols.number(right));
            let merged = symbols.number(&format!("{left}{right}"));
            // Of a pair that is listed twice the later rank counts, as in the reference.
            ranked.insert(pair, (rank as u32, merged));
        }
        let id = |symbol: &String| added(symbol).or_else(|| vocabulary.get(symbol).copied());
        let ids = symbols.names.iter().map(id).collect();
        let whole = super::WHOLE_WORDS.into_iter().filter_map(|word| Some((word, *vocabulary.get(word)?))).collect();
        Self { bytes, last_bytes, merges: ranked, ids, whole }
    }

    /// The id of a word that is a token as it stands.
    pub(super) fn whole(&self, word: &str) -> Option<u32> {
        self.whole.get(word).copied()
    }

    /// Appends the ids of a word (not empty); symbols that are no tokens become `unknown`.
    pub(super) fn encode(&self, word: &str, unknown: u32, ids: &mut Vec<u32>) {
        let Some((last, others)) = word.as_bytes().split_last() else { return };
        let mut symbols: Vec<u32> = others.iter().map(|byte| self.bytes[usize::from(*byte)]).collect();
        symbols.push(self.last_bytes[usize::from(*last)]);
        ids.extend(self.merged(symbols).into_iter().map(|symbol| self.ids[symbol as usize].unwrap_or(unknown)));
    }

    /// Merges the pair of lowest rank everywhere, from left to right, until no pair can be merged. A heap instead of repeated
    /// scans keeps hostile words of thousands of letters at n·log n.
    fn merged(&self, symbols: Vec<u32>) -> Vec<u32> {
        let mut chain = Chain::new(symbols);
        let mut waiting: BinaryHeap<Reverse<(u32, usize)>> =
            (0..chain.symbols.len()).filter_map(|left| self.candidate(&chain, left)).collect();
        let mut batch = Vec::new();
        while let Some(Reverse((rank, left))) = waiting.pop() {
            // All places of this pair before anything that its merging brings about, even if that has a lower rank.
            batch.clear();
            batch.push(left);
            while let Some(Reverse((_, next))) = waiting.peek().copied().filter(|Reverse((next, _))| *next == rank) {
                waiting.pop();
                batch.push(next);
            }
            let mut touched = Vec::new();
            for left in batch.iter().copied() {
                // A place may have changed since it was noted; only what still has this rank counts.
                let Some(merge) = chain.pair(left).and_then(|pair| self.merges.get(&pair)).filter(|(now, _)| *now == rank) else {
                    continue;
                };
                chain.join(left, merge.1);
                touched.push(left);
            }
            for left in touched {
                waiting.extend(self.candidate(&chain, left));
                waiting.extend(chain.previous(left).and_then(|before| self.candidate(&chain, before)));
            }
        }
        chain.into_symbols()
    }

    fn candidate(&self, chain: &Chain, left: usize) -> Option<Reverse<(u32, usize)>> {
        self.merges.get(&chain.pair(left)?).map(|(rank, _)| Reverse((*rank, left)))
    }
}

/// Symbols of a word as a doubly linked list over their first places.
struct Chain {
    symbols: Vec<Option<u32>>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

/// No neighbour.
const NOWHERE: usize = usize::MAX;

impl Chain {
    fn new(symbols: Vec<u32>) -> Self {
        let count = symbols.len();
        let next = (1..=count).map(|at| if at == count { NOWHERE } else { at }).collect();
        let previous = (0..count).map(|at| at.checked_sub(1).unwrap_or(NOWHERE)).collect();
        Self { symbols: symbols.into_iter().map(Some).collect(), next, previous }
    }

    fn pair(&self, left: usize) -> Option<(u32, u32)> {
        let right = self.symbols.get(self.next[left])?;
        Some((self.symbols[left]?, (*right)?))
    }

    fn previous(&self, at: usize) -> Option<usize> {
        Some(self.previous[at]).filter(|before| *before != NOWHERE)
    }

    /// Puts `merged` in place of the pair at `left`.
    fn join(&mut self, left: usize, merged: u32) {
        let right = self.next[left];
        self.symbols[left] = Some(merged);
        self.symbols[right] = None;
        self.next[left] = self.next[right];
        if let Some(behind) = self.previous.get_mut(self.next[left]) {
            *behind = left;
        }
    }

    fn into_symbols(self) -> Vec<u32> {
        self.symbols.into_iter().flatten().collect()
    }
}

/// Numbers for symbols.
#[derive(Default)]
struct Symbols {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Symbols {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }
}

/// A printable character for each byte: itself where Latin-1 prints it, else the next free one from U+0100.
pub(super) fn byte_characters() -> [char; 256] {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut free = '\u{100}'..='\u{1ff}';
    std::array::from_fn(|index| {
        let byte = index as u8;
        if prints(byte) { char::from(byte) } else { free.next().unwrap_or('\u{100}') }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let pair = |line: &str| line.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()));
        text.split(',').filter_map(pair).collect()
    }

    /// The definition, word by word: scan for the best pair, merge it everywhere, begin again.
    fn by_scanning(word: &str, merges: &[(String, String)]) -> Vec<String> {
        let mut symbols: Vec<String> = word.chars().map(String::from).collect();
        symbols.last_mut().unwrap().push_str(END_OF_WORD);
        let rank = |left: &str, right: &str| merges.iter().rposition(|(l, r)| l == left && r == right);
        while let Some(best) = symbols.windows(2).filter_map(|pair| rank(&pair[0], &pair[1])).min() {
            let (left, right) = &merges[best];
            let mut merged = Vec::new();
            let mut at = 0;
            while at < symbols.len() {
                if at + 1 < symbols.len() && symbols[at] == *left && symbols[at + 1] == *right {
                    merged.push(format!("{left}{right}"));
                    at += 2;
                } else {
                    merged.push(symbols[at].clone());
                    at += 1;
                }
            }
            symbols = merged;
        }
        symbols
    }

    #[test]
    fn heap_gives_what_scanning_gives() {
        // Among them pairs whose result ranks below themselves, and overlapping ones.
        let merges = pairs("aa a,a a,b a,a b,ab ab,a a</w>,aa aa,ba b</w>,b b,bb a,abab a</w>,b b</w>");
        let mut vocabulary = HashMap::new();
        for left in
            ["a", "b", "aa", "aaa", "ba", "ab", "abab", "aa</w>", "aaaa", "bab</w>", "bb", "bba", "a</w>", "b</w>", "bb</w>", "ababa</w>"]
        {
            let id = vocabulary.len() as u32;
            vocabulary.insert(left.to_owned(), id);
        }
        let byte_pairs = BytePairs::new(&vocabulary, &merges, |_| None);
        for length in 1..=10_u32 {
            for bits in 0..1_u32 << length {
                let word: String = (0..length).map(|at| if bits >> at & 1 == 1 { 'a' } else { 'b' }).collect();
                let mut ids = Vec::new();
                byte_pairs.encode(&word, u32::MAX, &mut ids);
                let expected: Vec<u32> = by_scanning(&word, &merges).iter().map(|symbol| vocabulary[symbol]).collect();
                assert_eq!(ids, expected, "{word}");
            }
        }
    }

    #[test]
    fn every_byte_has_its_own_character() {
        let characters: std::collections::HashSet<char> = byte_characters().into_iter().collect();
        assert_eq!(characters.len(), 256);
        assert_eq!(byte_characters()[usize::from(b' ')], 'Ġ');
        assert!(characters.iter().all(|character| !character.is_whitespace()));
    }
}
