//! API keys: how they are made, read and stored. Only a key's hash is ever kept; a key is shown once, when it is made.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::store::KeyHash;

/// Tells people and secret scanners what the text is.
const KEY_PREFIX: &str = "emk_";
/// 256 bits: guessing is hopeless, so that a plain sha256 may be stored.
const KEY_ENTROPY_BYTES: usize = 32;
/// Longer texts are not looked up.
const KEY_LENGTH_LIMIT: usize = 200;

/// The text of an API key. `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Self {
        let entropy: [u8; KEY_ENTROPY_BYTES] = rand::random();
        Self(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(entropy)))
    }

    /// Reads what a caller sent. `None` for blank texts, which count as no key at all, and for texts too long to be one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.len() <= KEY_LENGTH_LIMIT).then(|| Self(text.to_owned()))
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The text itself, for the one moment in which it is shown to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ApiKey(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_differ_and_are_read_back() {
        let (first, second) = (ApiKey::generate(), ApiKey::generate());
        assert_ne!(first, second);
        assert_ne!(first.hash(), second.hash());
        assert_eq!(ApiKey::parse(&format!(" {}\n", first.expose())), Some(first.clone()));
        // 32 bytes are 43 characters of unpadded base64.
        assert_eq!(first.expose().len(), KEY_PREFIX.len() + 43);
    }

    #[test]
    fn blank_and_endless_texts_are_no_keys() {
        assert_eq!(ApiKey::parse("  "), None);
        assert_eq!(ApiKey::parse(&"x".repeat(KEY_LENGTH_LIMIT + 1)), None);
    }

    #[test]
    fn debug_output_hides_the_key() {
        let key = ApiKey::parse("emk_secret").expect("a key");
        assert!(!format!("{key:?}").contains("secret"));
    }
}
