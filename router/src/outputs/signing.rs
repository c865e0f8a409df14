//! Names and signatures of outputs, as pure functions of the secret. A name is an HMAC over what it names, so it tells nothing and
//! cannot be guessed; a signature is an HMAC over a name and the time until which it may be written.

use std::time::SystemTime;

use hmac::Mac;
use runtime_api::OutputFormat;
use uuid::Uuid;

use super::Secret;
use crate::signature;

/// 160 bits of an HMAC: unguessable, and short enough for a URL that people paste.
const NAME_BYTES: usize = 20;

/// The name of one output. Only made here: from the secret, or from a caller's text that has exactly its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutputName {
    stem: [u8; NAME_BYTES],
    format: OutputFormat,
}

impl OutputName {
    pub(super) fn new(secret: &Secret, generation: Uuid, image: u32, format: OutputFormat) -> Self {
        let mut mac = signature::keyed(secret, NAMING);
        mac.update(generation.as_bytes());
        mac.update(&image.to_be_bytes());
        let mut stem = [0; NAME_BYTES];
        stem.copy_from_slice(&mac.finalize().into_bytes()[..NAME_BYTES]);
        Self { stem, format }
    }

    /// From a file name as it stands in a URL. Anything but lower-case hex of the right length and a format's ending is no name of ours, so
    /// that nothing a caller sends ever becomes a path.
    pub(super) fn parse(file_name: &str) -> Option<Self> {
        let (text, extension) = file_name.split_once('.')?;
        let format = OutputFormat::ALL.into_iter().find(|format| format.extension() == extension)?;
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let mut stem = [0; NAME_BYTES];
        hex::decode_to_slice(text, &mut stem).ok()?;
        Some(Self { stem, format })
    }

    pub(super) fn file_name(&self) -> String {
        format!("{}.{}", hex::encode(self.stem), self.format.extension())
    }

    pub(super) fn format(&self) -> OutputFormat {
        self.format
    }

    /// The subfolder it is kept in: 256 of them, so that no folder grows without end.
    pub(super) fn folder_name(&self) -> String {
        hex::encode(&self.stem[..1])
    }
}

/// Keeps the two uses of the secret here apart from each other and from all others.
const NAMING: &[u8] = b"output name\0";
const PUTTING: &[u8] = b"output put\0";

/// Query parameters `expires=…&signature=…` that allow one PUT of `name` until `expires`.
pub(super) fn put_query(secret: &Secret, name: &OutputName, expires: SystemTime) -> String {
    signature::query(secret, PUTTING, name.file_name().as_bytes(), expires)
}

/// Whether the parameters allow a PUT of `name` at `now`.
pub(super) fn allows_put(secret: &Secret, name: &OutputName, expires: u64, signature: &str, now: SystemTime) -> bool {
    signature::is_good(secret, PUTTING, name.file_name().as_bytes(), expires, signature, now)
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
        let new = |secret: &Secret, generation, image| OutputName::new(secret, generation, image, OutputFormat::Png);
        let name = new(&secret(), GENERATION, 0);
        assert_eq!(name, new(&secret(), GENERATION, 0));
        assert_ne!(name, new(&secret(), GENERATION, 1));
        assert_ne!(name, new(&secret(), Uuid::from_u128(2), 0));
        assert_ne!(name, new(&Secret::from_bytes([4; 32]), GENERATION, 0));
    }

    #[test]
    fn only_names_of_our_own_form_are_parsed() {
        for format in OutputFormat::ALL {
            let name = OutputName::new(&secret(), GENERATION, 0, format);
            assert_eq!(OutputName::parse(&name.file_name()), Some(name));
        }
        let name = OutputName::new(&secret(), GENERATION, 0, OutputFormat::Png);
        for hostile in [
            "",
            ".png",
            "..",
            "../../etc/passwd",
            "%2e%2e.png",
            "a.png",
            &name.file_name().to_uppercase(),
            &format!("{}x", name.file_name()),
            &name.file_name().replace(".png", ".jpeg"),
            &name.file_name().replace(".png", ".html"),
            &name.file_name().replace(".png", ".png.webp"),
        ] {
            assert_eq!(OutputName::parse(hostile), None, "{hostile}");
        }
        let upper = format!("{}.png", name.file_name().trim_end_matches(".png").to_uppercase());
        assert!(upper == name.file_name() || OutputName::parse(&upper).is_none());
    }
}
