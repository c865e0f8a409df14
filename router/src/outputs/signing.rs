//! Names and signatures of outputs, as pure functions of the secret. A name is an HMAC over what it names, so it tells nothing and
//! cannot be guessed; a signature is an HMAC over a name and the time until which it may be written.

use std::time::SystemTime;

use hmac::Mac;
use uuid::Uuid;

use super::Secret;
use crate::signature;

/// 160 bits of an HMAC: unguessable, and short enough for a URL that people paste.
const NAME_BYTES: usize = 20;

/// The name of one output. Only made here: from the secret, or from a caller's text that has exactly its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutputName([u8; NAME_BYTES]);

impl OutputName {
    pub(super) fn new(secret: &Secret, generation: Uuid, image: u32) -> Self {
        let mut mac = signature::keyed(secret, NAMING);
        mac.update(generation.as_bytes());
        mac.update(&image.to_be_bytes());
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&mac.finalize().into_bytes()[..NAME_BYTES]);
        Self(name)
    }

    /// From a file name as it stands in a URL. Anything but lower-case hex of the right length and `.png` is no name of ours, so that
    /// nothing a caller sends ever becomes a path.
    pub(super) fn parse(file_name: &str) -> Option<Self> {
        let text = file_name.strip_suffix(".png")?;
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let mut name = [0; NAME_BYTES];
        hex::decode_to_slice(text, &mut name).ok()?;
        Some(Self(name))
    }

    pub(super) fn file_name(&self) -> String {
        format!("{}.png", hex::encode(self.0))
    }

    /// The subfolder it is kept in: 256 of them, so that no folder grows without end.
    pub(super) fn folder_name(&self) -> String {
        hex::encode(&self.0[..1])
    }
}

/// Keeps the two uses of the secret here apart from each other and from all others.
const NAMING: &[u8] = b"output name\0";
const PUTTING: &[u8] = b"output put\0";

/// Query parameters `expires=…&signature=…` that allow one PUT of `name` until `expires`.
pub(super) fn put_query(secret: &Secret, name: &OutputName, expires: SystemTime) -> String {
    signature::query(secret, PUTTING, &name.0, expires)
}

/// Whether the parameters allow a PUT of `name` at `now`.
pub(super) fn allows_put(secret: &Secret, name: &OutputName, expires: u64, signature: &str, now: SystemTime) -> bool {
    signature::is_good(secret, PUTTING, &name.0, expires, signature, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATION: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

    fn secret() -> Secret {
        Secret::from_bytes([3; 32])
    }

    #[test]
    fn names_differ_by_image_generation_and_secret_but_not_by_call() {
        let name = OutputName::new(&secret(), GENERATION, 0);
        assert_eq!(name, OutputName::new(&secret(), GENERATION, 0));
        assert_ne!(name, OutputName::new(&secret(), GENERATION, 1));
        assert_ne!(name, OutputName::new(&secret(), Uuid::from_u128(2), 0));
        assert_ne!(name, OutputName::new(&Secret::from_bytes([4; 32]), GENERATION, 0));
    }

    #[test]
    fn only_names_of_our_own_form_are_parsed() {
        let name = OutputName::new(&secret(), GENERATION, 0);
        assert_eq!(OutputName::parse(&name.file_name()), Some(name));
        for hostile in [
            "",
            ".png",
            "..",
            "../../etc/passwd",
            "%2e%2e.png",
            "a.png",
            &name.file_name().to_uppercase(),
            &format!("{}x", name.file_name()),
        ] {
            assert_eq!(OutputName::parse(hostile), None, "{hostile}");
        }
        let upper = format!("{}.png", name.file_name().trim_end_matches(".png").to_uppercase());
        assert!(upper == name.file_name() || OutputName::parse(&upper).is_none());
    }
}
