//! `safety-check`: what the safety checker says of pictures.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use crate::input;
use crate::picture::Pixels;
use crate::safety::{SafetyChecker, THRESHOLD};

/// Tell how probable it is that pictures are not safe for work. Exit code 1 if any reaches the threshold of 0.8.
#[derive(Debug, Args)]
pub(super) struct SafetyCheck {
    /// File with the safety checker's weights, as `make safety-checker` makes it.
    #[arg(long, env = "EMULSION_SAFETY_CHECKER")]
    safety_checker: PathBuf,
    /// PNG, JPEG or WebP files.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Print JSON for programs instead of text for people.
    #[arg(long, env = "EMULSION_JSON")]
    json: bool,
}

impl SafetyCheck {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let checker = SafetyChecker::open(&self.safety_checker)?;
        let mut found = Vec::new();
        for path in &self.images {
            let file = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let image = input::image(&file).with_context(|| format!("decode {}", path.display()))?;
            // Sides are bounded far below 32 bits by the decoder's own limits.
            let pixels = Pixels { width: image.width as u32, height: image.height as u32, rgb: image.data };
            found.push((path, checker.probability(&pixels)?));
        }
        let text = if self.json {
            let images: Vec<_> =
                found.iter().map(|(path, probability)| json!({ "image": path, "nsfw_probability": probability })).collect();
            serde_json::to_string_pretty(&json!({ "sha256": checker.digest(), "threshold": THRESHOLD, "images": images }))? + "\n"
        } else {
            found.iter().map(|(path, probability)| format!("{probability:.4}  {}\n", path.display())).collect()
        };
        // A reader that closes early, such as `head`, has seen what it wanted.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let is_safe = found.iter().all(|(_, probability)| *probability < THRESHOLD);
        Ok(if is_safe { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
