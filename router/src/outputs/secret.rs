//! The secret behind the names of outputs and the signed URLs of outputs and inputs: 32 random bytes that the routers of one store share.

use std::fmt;

const SECRET_BYTES: usize = 32;

/// Never printed: whoever has it can read and write every picture.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_secret() {
        assert_eq!(format!("{:?}", Secret::from_bytes([7; SECRET_BYTES])), "Secret(<redacted>)");
    }
}
