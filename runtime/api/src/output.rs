//! What files finished images become.

use serde::{Deserialize, Serialize};

/// A file format of finished images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    #[default]
    Png,
    Jpeg,
    /// Without loss.
    Webp,
}

impl OutputFormat {
    pub const ALL: [Self; 3] = [Self::Png, Self::Jpeg, Self::Webp];

    /// As requests and answers spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
        }
    }

    /// What its files' names end in, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }

    /// As `Content-Type` has it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

/// What an image that the safety checker finds not safe for work is replaced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SafetyStyle {
    /// Itself, blurred beyond recognition.
    Blur,
    /// Itself in few large squares.
    Pixelate,
    /// A black surface.
    Black,
    /// Itself, blurred and darkened, with the words "sensitive content".
    SensitiveContentText,
}

impl SafetyStyle {
    pub const ALL: [Self; 4] = [Self::Blur, Self::Pixelate, Self::Black, Self::SensitiveContentText];

    /// As requests and answers spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blur => "blur",
            Self::Pixelate => "pixelate",
            Self::Black => "black",
            Self::SensitiveContentText => "sensitive_content_text",
        }
    }
}
