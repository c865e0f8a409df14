//! Names and signatures of outputs, as pure functions of the secret. A name is an HMAC over what it names, so it tells nothing and
//! cannot be guessed; a signature is an HMAC over a name and the time until which it may be written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use super::Secret;

/// 160 bits of an HMAC: unguessable, and short enough for a URL that people paste.
const NAME_BYTES: usize = 20;

/// The name of one output. Only made here: from the secret, or from a caller's text that has exactly its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutputName([u8; NAME_BYTES]);

impl OutputName {
    pub(super) fn new(secret: &Secret, generation: Uuid, image: u32) -> Self {
        let mut mac = keyed(secret, b"output name\0");
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

/// Query parameters `expires=…&signature=…` that allow one PUT of `name` until `expires`.
pub(super) fn put_query(secret: &Secret, name: &OutputName, expires: SystemTime) -> String {
    // Rounded up: a URL is good for at least as long as it was asked to be.
    let since = expires.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let expires = since.as_millis().div_ceil(1000) as u64;
    let signature = put_mac(secret, name, expires).finalize().into_bytes();
    format!("expires={expires}&signature={}", hex::encode(signature))
}

/// Whether the parameters allow a PUT of `name` at `now`. Compared in constant time.
pub(super) fn allows_put(secret: &Secret, name: &OutputName, expires: u64, signature: &str, now: SystemTime) -> bool {
    let mut given = [0; 32];
    if hex::decode_to_slice(signature, &mut given).is_err() || put_mac(secret, name, expires).verify_slice(&given).is_err() {
        return false;
    }
    now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO) <= Duration::from_secs(expires)
}

fn put_mac(secret: &Secret, name: &OutputName, expires: u64) -> Hmac<Sha256> {
    let mut mac = keyed(secret, b"output put\0");
    mac.update(&name.0);
    mac.update(&expires.to_be_bytes());
    mac
}

/// `purpose` keeps the two uses of one secret apart.
fn keyed(secret: &Secret, purpose: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).expect("HMAC takes a key of any length");
    mac.update(purpose);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATION: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

    fn secret() -> Secret {
        Secret::from_bytes([3; 32])
    }

    fn query_parts(query: &str) -> (u64, String) {
        let (expires, signature) = query.split_once('&').unwrap();
        (expires.strip_prefix("expires=").unwrap().parse().unwrap(), signature.strip_prefix("signature=").unwrap().to_owned())
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

    #[test]
    fn signature_is_good_for_its_name_until_it_expires() {
        let name = OutputName::new(&secret(), GENERATION, 0);
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (expires, signature) = query_parts(&put_query(&secret(), &name, now + Duration::from_millis(1500)));
        assert_eq!(expires, 1_000_002);
        assert!(allows_put(&secret(), &name, expires, &signature, now));
        assert!(allows_put(&secret(), &name, expires, &signature, now + Duration::from_secs(2)));
        assert!(!allows_put(&secret(), &name, expires, &signature, now + Duration::from_secs(3)), "expired");
        assert!(!allows_put(&secret(), &name, expires + 60, &signature, now), "prolonged by hand");
        assert!(!allows_put(&secret(), &OutputName::new(&secret(), GENERATION, 1), expires, &signature, now), "another image");
        assert!(!allows_put(&Secret::from_bytes([4; 32]), &name, expires, &signature, now), "another secret");
        let mut tampered = signature.clone().into_bytes();
        tampered[0] = if tampered[0] == b'0' { b'1' } else { b'0' };
        assert!(!allows_put(&secret(), &name, expires, &String::from_utf8(tampered).unwrap(), now));
        assert!(!allows_put(&secret(), &name, expires, "", now));
    }
}
