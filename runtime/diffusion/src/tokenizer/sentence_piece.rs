//! A unigram model as SentencePiece stores it, `spiece.model`: a protocol buffer, of which pieces, scores and the table of characters are read
//! and made into the form of a `tokenizer.json`, as transformers' `T5TokenizerFast` converts it.
//!
//! Fields by their numbers in `sentencepiece_model.proto`; all others are passed over.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// The largest file that is read; T5's has 0.8 MB.
pub(super) const MAX_FILE_BYTES: u64 = 4 << 20;

/// Kinds of pieces that are tokens as they stand, wherever they are in a text.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
/// The kind of model with a score for each piece.
const UNIGRAM: u64 = 1;

/// Why a file is not such a model.
const BROKEN: &str = "is no SentencePiece model, or is cut off; fetch it again";
const OTHER_MODEL: &str = "is a SentencePiece model of another kind than unigram, which is T5's";

#[derive(Default)]
struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// What a `tokenizer.json` would say: the file's pieces, after them `extra_ids` words that T5 has besides, and `special` words as tokens that
/// are found anywhere.
///
/// # Errors
/// What the file is instead.
pub(super) fn read(bytes: &[u8], extra_ids: usize, special: &[&str]) -> Result<Map<String, Value>, &'static str> {
    let (mut pieces, mut unknown, mut kind, mut characters) = (Vec::new(), 0, UNIGRAM, &[][..]);
    for field in Fields(bytes) {
        match field.ok_or(BROKEN)? {
            (1, Content::Bytes(bytes)) => pieces.push(piece(bytes)?),
            (2, Content::Bytes(training)) => {
                for field in Fields(training) {
                    match field.ok_or(BROKEN)? {
                        (3, Content::Number(value)) => kind = value,
                        (40, Content::Number(value)) => unknown = value,
                        _ => {}
                    }
                }
            }
            (3, Content::Bytes(normaliser)) => {
                for field in Fields(normaliser) {
                    if let (2, Content::Bytes(bytes)) = field.ok_or(BROKEN)? {
                        characters = bytes;
                    }
                }
            }
            _ => {}
        }
    }
    if pieces.is_empty() {
        return Err(BROKEN);
    }
    if kind != UNIGRAM {
        return Err(OTHER_MODEL);
    }
    let is_added = |piece: &Piece| matches!(piece.kind, CONTROL | USER_DEFINED) || special.contains(&piece.text.as_str());
    let added = pieces.iter().enumerate().filter(|(_, piece)| is_added(piece)).map(|(id, piece)| added_token(id, &piece.text));
    let extra: Vec<String> = (0..extra_ids).rev().map(|number| format!("<extra_id_{number}>")).collect();
    let added_extra = extra.iter().enumerate().map(|(at, word)| added_token(pieces.len() + at, word));
    let added: Vec<Value> = added.chain(added_extra).collect();
    let vocabulary = pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)]));
    let vocabulary: Vec<Value> = vocabulary.chain(extra.iter().map(|word| json!([word, 0.0]))).collect();
    let mut normalizers = vec![
        json!({"type": "Strip", "strip_left": false, "strip_right": true}),
        json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}),
    ];
    if !characters.is_empty() {
        normalizers.insert(0, json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(characters)}));
    }
    let entries = [
        ("version", json!("1.0")),
        ("added_tokens", Value::Array(added)),
        ("normalizer", json!({"type": "Sequence", "normalizers": normalizers})),
        ("pre_tokenizer", json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})),
        ("model", json!({"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": false})),
    ];
    Ok(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn added_token(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

fn piece(bytes: &[u8]) -> Result<Piece, &'static str> {
    let mut piece = Piece::default();
    for field in Fields(bytes) {
        match field.ok_or(BROKEN)? {
            (1, Content::Bytes(text)) => piece.text = str::from_utf8(text).map_err(|_| BROKEN)?.to_owned(),
            (2, Content::Word(bits)) => piece.score = f32::from_bits(bits),
            (3, Content::Number(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    if piece.score.is_finite() { Ok(piece) } else { Err(BROKEN) }
}

/// What a field holds.
enum Content<'a> {
    Number(u64),
    /// Of 32 bits.
    Word(u32),
    Bytes(&'a [u8]),
    /// Of 64 bits, which no field here has.
    Other,
}

/// The fields of a message, by number; `None` once where it is broken.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Content<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Content<'a>)> {
        let key = self.number()?;
        let content = match key & 7 {
            0 => Content::Number(self.number()?),
            1 => self.bytes(8).map(|_| Content::Other)?,
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Content::Bytes(self.bytes(length)?)
            }
            5 => Content::Word(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, content))
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Seven bits a byte, the lowest first; all but the last byte have the eighth bit.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.bytes(1)?[0];
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}
