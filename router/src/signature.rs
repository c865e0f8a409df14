//! Signatures that make a URL good for one thing until a time: an HMAC over what it is good for, what it names and when it ends. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::outputs::Secret;

/// Query parameters `expires=…&signature=…` that are good for `name` and this `purpose` until `expires`.
pub(crate) fn query(secret: &Secret, purpose: &[u8], name: &[u8], expires: SystemTime) -> String {
    // Rounded up: a URL is good for at least as long as it was asked to be.
    let since = expires.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let expires = since.as_millis().div_ceil(1000) as u64;
    format!("expires={expires}&signature={}", hex::encode(mac(secret, purpose, name, expires).finalize().into_bytes()))
}

/// Whether the parameters are good at `now`. Compared in constant time.
pub(crate) fn is_good(secret: &Secret, purpose: &[u8], name: &[u8], expires: u64, signature: &str, now: SystemTime) -> bool {
    let mut given = [0; 32];
    if hex::decode_to_slice(signature, &mut given).is_err() || mac(secret, purpose, name, expires).verify_slice(&given).is_err() {
        return false;
    }
    now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO) <= Duration::from_secs(expires)
}

/// An HMAC under the secret. `purpose` keeps the uses of one secret apart; none is the beginning of another.
pub(crate) fn keyed(secret: &Secret, purpose: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).expect("HMAC takes a key of any length");
    mac.update(purpose);
    mac
}

fn mac(secret: &Secret, purpose: &[u8], name: &[u8], expires: u64) -> Hmac<Sha256> {
    let mut mac = keyed(secret, purpose);
    mac.update(name);
    mac.update(&expires.to_be_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(query: &str) -> (u64, &str) {
        let (expires, signature) = query.split_once('&').unwrap();
        (expires.strip_prefix("expires=").unwrap().parse().unwrap(), signature.strip_prefix("signature=").unwrap())
    }

    #[test]
    fn signature_is_good_for_one_name_and_purpose_until_it_expires() {
        let secret = Secret::from_bytes([3; 32]);
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let query = query(&secret, b"read\0", b"name", now + Duration::from_millis(1500));
        let (expires, signature) = parts(&query);
        assert_eq!(expires, 1_000_002);
        let good = |purpose: &[u8], name: &[u8], expires, signature: &str, now| is_good(&secret, purpose, name, expires, signature, now);
        assert!(good(b"read\0", b"name", expires, signature, now));
        assert!(good(b"read\0", b"name", expires, signature, now + Duration::from_secs(2)));
        assert!(!good(b"read\0", b"name", expires, signature, now + Duration::from_secs(3)), "expired");
        assert!(!good(b"read\0", b"name", expires + 60, signature, now), "prolonged by hand");
        assert!(!good(b"read\0", b"eman", expires, signature, now), "another name");
        assert!(!good(b"write\0", b"name", expires, signature, now), "another purpose");
        assert!(!is_good(&Secret::from_bytes([4; 32]), b"read\0", b"name", expires, signature, now), "another secret");
        let tampered = signature.replacen(&signature[..1], if signature.starts_with('0') { "1" } else { "0" }, 1);
        assert!(!good(b"read\0", b"name", expires, &tampered, now));
        assert!(!good(b"read\0", b"name", expires, "", now));
    }
}
