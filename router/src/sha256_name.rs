//! What is named by its sha256. Pure.

use sha2::{Digest, Sha256};

/// Only made of bytes, or of a text that has exactly its form, so that nothing a stranger sends becomes a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Name([u8; 32]);

impl Sha256Name {
    /// No bytes are known that have this sha256. A text of another form names it, and so nothing.
    pub(crate) const NOTHING: Self = Self([0; 32]);

    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From 64 hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut name = [0; 32];
        hex::decode_to_slice(text, &mut name).ok()?;
        (hex::encode(name) == text).then_some(Self(name))
    }

    pub fn text(&self) -> String {
        hex::encode(self.0)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_form_are_parsed() {
        let name = Sha256Name::of(b"abc");
        assert_eq!(Sha256Name::parse(&name.text()), Some(name));
        for hostile in ["", "..", "../../etc/passwd", "ba7816bf", &name.text().to_uppercase(), &format!("{}00", name.text())] {
            assert_eq!(Sha256Name::parse(hostile), None, "{hostile}");
        }
    }
}
