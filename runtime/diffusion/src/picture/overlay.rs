//! What of the original stands in the finished picture: everything outside of the mask, byte for byte.

use std::sync::Arc;

use super::{GrayImage, RgbImage};

/// An original and the mask of what replaces it; both of one size.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Overlay {
    pub(crate) original: Arc<RgbImage>,
    pub(crate) mask: Arc<GrayImage>,
}

impl Overlay {
    /// Puts the original back where the mask is black, and mixes where it is gray. Pictures of another size are left as they are.
    pub(crate) fn apply(&self, drawn: &mut RgbImage) {
        if (drawn.width, drawn.height) != (self.original.width, self.original.height) {
            return;
        }
        let originals = self.original.data.as_chunks::<3>().0;
        let pixels = drawn.data.as_chunks_mut::<3>().0;
        for ((pixel, original), share) in pixels.iter_mut().zip(originals).zip(&self.mask.data) {
            for (value, original) in pixel.iter_mut().zip(original) {
                *value = mixed(*original, *value, *share);
            }
        }
    }
}

/// `share` of 255 of `drawn`, the rest of `original`, rounded.
fn mixed(original: u8, drawn: u8, share: u8) -> u8 {
    let (original, drawn, share) = (u32::from(original), u32::from(drawn), u32::from(share));
    ((original * (255 - share) + drawn * share + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_keeps_the_original_white_the_drawing_and_gray_mixes() {
        let original = Arc::new(RgbImage { width: 3, height: 1, data: vec![10, 20, 30, 10, 20, 30, 10, 20, 31] });
        let mask = Arc::new(GrayImage { width: 3, height: 1, data: vec![0, 255, 128] });
        let mut drawn = RgbImage { width: 3, height: 1, data: vec![200; 9] };
        Overlay { original, mask }.apply(&mut drawn);
        assert_eq!(drawn.data, [10, 20, 30, 200, 200, 200, 105, 110, 116]);
    }

    #[test]
    fn every_byte_is_its_own_mixture() {
        for value in 0..=255 {
            assert!((0..=255).all(|share| mixed(value, value, share) == value));
            assert!((0..=255).all(|drawn| mixed(value, drawn, 0) == value && mixed(drawn, value, 255) == value));
        }
    }
}
