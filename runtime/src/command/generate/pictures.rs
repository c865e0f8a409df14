//! The options of `generate` for tasks that begin with pictures.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use runtime_api::{ImageRequest, Margins, Task};

use crate::atomic_file;
use crate::canvas::Pictures;
use crate::input::{self, DecodeError, MAX_INPUT_BYTES};

/// Which pictures the images begin with; together they say what the task is.
#[derive(Debug, Args)]
pub(super) struct PictureArguments {
    /// PNG, JPEG or WebP file to begin with; images get its size unless --width or --height say another.
    #[arg(long, env = "EMULSION_IMAGE")]
    image: Option<PathBuf>,
    /// Picture whose white parts are drawn anew; everything else stays as it is in --image.
    #[arg(long, env = "EMULSION_MASK_IMAGE", requires = "image", conflicts_with = "margins")]
    mask_image: Option<PathBuf>,
    /// How far --image is left behind: near 0 keeps it, 1 draws anew; as usual for the model's family if
    /// not given, and 1 with --margins.
    #[arg(long, requires = "image")]
    strength: Option<f64>,
    /// Pixels over which the mask's edge is softened; with --margins, over which the new fades into --image.
    #[arg(long, requires = "image")]
    mask_blur: Option<u32>,
    /// Pixels to draw around --image: one number for all sides, or LEFT,RIGHT,TOP,BOTTOM.
    #[arg(long, requires = "image", value_parser = margins)]
    margins: Option<Margins>,
}

impl PictureArguments {
    /// A request for that task, without prompt.
    pub(super) fn request(&self) -> ImageRequest {
        let task = match (&self.image, &self.mask_image, self.margins) {
            (None, ..) => Task::TextToImage,
            (_, Some(_), _) => Task::Inpaint,
            (_, _, Some(_)) => Task::Outpaint,
            _ => Task::ImageToImage,
        };
        ImageRequest {
            task,
            strength: self.strength,
            mask_blur: self.mask_blur,
            margins: self.margins,
            ..ImageRequest::text_to_image("", "")
        }
    }

    pub(super) fn read(&self) -> anyhow::Result<Pictures> {
        Ok(Pictures { image: read(self.image.as_deref(), input::image)?, mask: read(self.mask_image.as_deref(), input::mask)? })
    }
}

fn read<T>(path: Option<&Path>, decode: fn(&[u8]) -> Result<T, DecodeError>) -> anyhow::Result<Option<T>> {
    let Some(path) = path else { return Ok(None) };
    let picture = atomic_file::read_bounded(path, MAX_INPUT_BYTES as u64).map_err(anyhow::Error::from).and_then(|file| Ok(decode(&file)?));
    picture.map(Some).with_context(|| format!("read {}", path.display()))
}

fn margins(text: &str) -> Result<Margins, String> {
    let sides = text.split(',').map(|side| side.trim().parse()).collect::<Result<Vec<u32>, _>>();
    match sides.as_deref() {
        Ok(&[all]) => Ok(Margins { left: all, right: all, top: all, bottom: all }),
        Ok(&[left, right, top, bottom]) => Ok(Margins { left, right, top, bottom }),
        _ => Err("one number of pixels, or four: LEFT,RIGHT,TOP,BOTTOM".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_one_number_or_four() {
        assert_eq!(margins("8"), Ok(Margins { left: 8, right: 8, top: 8, bottom: 8 }));
        assert_eq!(margins("1, 2,3,4"), Ok(Margins { left: 1, right: 2, top: 3, bottom: 4 }));
        for text in ["", "1,2", "-1", "1,2,3,4,5", "x"] {
            assert!(margins(text).is_err(), "{text}");
        }
    }
}
