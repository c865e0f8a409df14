//! The vocabulary of OpenAI's CLIP, which all CLIP text encoders of the families served were trained with, from a package that carries it.
//!
//! The package answers texts for tokens, not the table of merges that [`super::BytePairs`] works by. Both follow: a token's bytes from what
//! it reads as between other bytes, a merge from what the earlier merges make of a token's bytes.

use std::collections::HashMap;
use std::sync::OnceLock;

use instant_clip_tokenizer::{Token, Tokenizer};

use super::byte_pairs::{END_OF_WORD, byte_characters};
use super::{BEGIN_OF_TEXT, END_OF_TEXT};

/// Tokens of one byte, and of one byte that ends a word.
const BYTE_TOKENS: u16 = 512;
/// All tokens but those that begin and end a text.
const TOKENS: u16 = 49_406;
/// Bytes that complete a character which a token begins in the middle of, or leaves unfinished.
const BEFORE: [&[u8]; 7] = [&[], &[0xc3], &[0xe1], &[0xe1, 0x80], &[0xf1], &[0xf1, 0x80], &[0xf1, 0x80, 0x80]];
const AFTER: [&[u8]; 10] = [
    &[],
    &[0x80],
    &[0x90],
    &[0xa0],
    &[0x80, 0x80],
    &[0x90, 0x80],
    &[0xa0, 0x80],
    &[0x80, 0x80, 0x80],
    &[0x90, 0x80, 0x80],
    &[0xa0, 0x80, 0x80],
];

/// A vocabulary and its merges, in the symbols of CLIP's files.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) ids: HashMap<String, u32>,
    pub(super) merges: Vec<(String, String)>,
}

/// The vocabulary, made once.
pub(super) fn vocabulary() -> &'static Vocabulary {
    static VOCABULARY: OnceLock<Vocabulary> = OnceLock::new();
    VOCABULARY.get_or_init(make)
}

fn make() -> Vocabulary {
    let package = Tokenizer::new();
    let characters = byte_characters();
    // By id, as CLIP orders them: bytes that print first.
    let order: Vec<u8> = {
        let prints = |byte: &u8| characters[usize::from(*byte)] == char::from(*byte);
        (0..=u8::MAX).filter(prints).chain((0..=u8::MAX).filter(|byte| !prints(byte))).collect()
    };
    let of_byte = |byte: u8| order.iter().position(|known| *known == byte).and_then(|id| Token::from_u16(id as u16, &package));
    let of_bytes = |bytes: &[&[u8]]| bytes.iter().map(|bytes| bytes.iter().filter_map(|byte| of_byte(*byte)).collect()).collect();
    let (before, after): (Vec<Vec<Token>>, Vec<Vec<Token>>) = (of_bytes(&BEFORE), of_bytes(&AFTER));
    let symbol = |bytes: &[u8]| bytes.iter().map(|byte| characters[usize::from(*byte)]).collect::<String>();

    let bytes = order.iter().map(|byte| symbol(&[*byte]));
    let ends = order.iter().map(|byte| symbol(&[*byte]) + END_OF_WORD);
    let mut names: Vec<String> = bytes.chain(ends).collect();
    let (mut merges, mut ranks) = (Vec::new(), HashMap::new());
    for token in (BYTE_TOKENS..TOKENS).filter_map(|id| Token::from_u16(id, &package)) {
        let (bytes, ends) = spelled(&package, token, &before, &after);
        let mut pieces: Vec<String> = bytes.iter().map(|byte| symbol(&[*byte])).collect();
        if let Some(last) = pieces.last_mut().filter(|_| ends) {
            last.push_str(END_OF_WORD);
        }
        names.push(pieces.concat());
        if let Some(pair) = merged(pieces, &ranks) {
            ranks.insert(pair.clone(), merges.len());
            merges.push(pair);
        }
    }
    names.extend([BEGIN_OF_TEXT.to_owned(), END_OF_TEXT.to_owned()]);
    Vocabulary { ids: names.into_iter().zip(0..).collect(), merges }
}

/// A token's bytes, and whether it ends a word.
fn spelled(package: &Tokenizer, token: Token, before: &[Vec<Token>], after: &[Vec<Token>]) -> (Vec<u8>, bool) {
    let read = |before: &[Token], after: &[Token]| package.decode(before.iter().copied().chain([token]).chain(after.iter().copied()));
    let mut bytes = None;
    for (before, after) in before.iter().flat_map(|before| after.iter().map(move |after| (before, after))) {
        let text = read(before, after);
        if !text.contains(char::REPLACEMENT_CHARACTER) {
            bytes = text.as_bytes().get(before.len()..text.len() - after.len()).map(<[u8]>::to_vec);
            break;
        }
    }
    // What no neighbour completes is a replacement character itself.
    let mut bytes = bytes.unwrap_or_else(|| read(&[], &[]).into_bytes());
    // The package writes the end of a word as a space, and no token holds another.
    let ends = bytes.last() == Some(&b' ');
    bytes.truncate(bytes.len() - usize::from(ends));
    (bytes, ends)
}

/// The two pieces that are left when all earlier merges are done.
fn merged(mut pieces: Vec<String>, ranks: &HashMap<(String, String), usize>) -> Option<(String, String)> {
    while pieces.len() > 2 {
        let pairs = pieces.windows(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        let (_, (left, right)) = pairs.filter_map(|pair| Some((ranks.get(&pair)?, pair))).min()?;
        let mut at = 0;
        while at + 1 < pieces.len() {
            if pieces[at] == left && pieces[at + 1] == right {
                pieces[at].push_str(&right);
                pieces.remove(at + 1);
            }
            at += 1;
        }
    }
    let right = pieces.pop()?;
    Some((pieces.pop()?, right))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// The digest is that of CLIP's own list, lines joined by line feeds.
    #[test]
    fn merges_are_those_of_clip() {
        let Vocabulary { ids, merges } = vocabulary();
        assert_eq!((ids.len(), merges.len()), (49_408, 48_894));
        let lines: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        let digest: String = Sha256::digest(lines.join("\n")).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a");
        for (token, id) in [("!", 0), ("a", 64), ("!</w>", 256), ("a</w>", 320), ("in", 512), ("hello</w>", 3306), (END_OF_TEXT, 49_407)] {
            assert_eq!(ids.get(token), Some(&id), "{token}");
        }
    }
}
