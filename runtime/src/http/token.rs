//! The token that lets a router in.

use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

/// Kept as its digest: comparing digests tells nothing about the token by the time it takes.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Whether `Authorization: Bearer` carries it.
    pub(super) fn is_borne_by(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, token)) = value.and_then(|value| value.split_once(' ')) else { return false };
        scheme.eq_ignore_ascii_case("bearer") && Self::new(token.trim()) == *self
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_the_same_token_as_bearer_is_let_in() {
        let token = Token::new("secret");
        for good in ["Bearer secret", "bearer secret"] {
            assert!(token.is_borne_by(&headers(good)), "{good}");
        }
        for bad in ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "secret", "Basic secret"] {
            assert!(!token.is_borne_by(&headers(bad)), "{bad}");
        }
        assert!(!token.is_borne_by(&HeaderMap::new()));
        assert!(!format!("{token:?}").contains("secret"));
    }
}
