//! Eight-bit pictures and masks, and what becomes of them before they are numbers.
//!
//! Follows diffusers' `VaeImageProcessor` given PIL images, whose sizes change by Lanczos resampling in fixed point and whose blur is
//! three box blurs: the same bytes come out. This module knows no tensors, no files and no request.

mod blur;
mod outpaint;
mod overlay;
mod resample;

pub use outpaint::{Margins, Outpainting, outpainting};
pub(crate) use overlay::Overlay;
use resample::Kernel;

/// Eight bits per channel, rows from the top, red green blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// width · height · 3 bytes.
    pub data: Vec<u8>,
}

/// Eight bits per pixel, rows from the top. As a mask: 255 is drawn anew, 0 is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrayImage {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// width · height bytes.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// The picture in another size, its sides scaled independently.
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let data = resample::resized::<3>(&self.data, [self.width, self.height], [width, height], Kernel::Lanczos);
        Self { width, height, data }
    }

    /// The same with PIL's `BILINEAR`, which is softer.
    pub fn resized_bilinear(&self, width: usize, height: usize) -> Self {
        let data = resample::resized::<3>(&self.data, [self.width, self.height], [width, height], Kernel::Bilinear);
        Self { width, height, data }
    }

    /// Blurred as PIL's `GaussianBlur`; a radius of 0 pixels changes nothing.
    pub fn blurred(&self, radius: u32) -> Self {
        let mut blurred = self.clone();
        for channel in 0..3 {
            let plane: Vec<u8> = self.data.iter().skip(channel).step_by(3).copied().collect();
            let plane = blur::gaussian(&plane, [self.width, self.height], radius);
            for (value, made) in blurred.data.iter_mut().skip(channel).step_by(3).zip(plane) {
                *value = made;
            }
        }
        blurred
    }

    /// Its brightness, as PIL's `convert("L")` (ITU-R 601).
    pub fn to_gray(&self) -> GrayImage {
        let luma = |pixel: &[u8; 3]| {
            let [red, green, blue] = pixel.map(u32::from);
            ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
        };
        GrayImage { width: self.width, height: self.height, data: self.data.as_chunks::<3>().0.iter().map(luma).collect() }
    }

    /// Whether there are as many bytes as the sides say.
    pub(crate) fn is_whole(&self) -> bool {
        self.width.checked_mul(self.height).and_then(|pixels| pixels.checked_mul(3)) == Some(self.data.len())
    }
}

impl GrayImage {
    /// The mask in another size, its sides scaled independently.
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let data = resample::resized::<1>(&self.data, [self.width, self.height], [width, height], Kernel::Lanczos);
        Self { width, height, data }
    }

    /// Blurred as PIL's `GaussianBlur`; a radius of 0 pixels changes nothing.
    pub fn blurred(&self, radius: u32) -> Self {
        Self { width: self.width, height: self.height, data: blur::gaussian(&self.data, [self.width, self.height], radius) }
    }

    /// Whether a pixel is drawn anew once the mask is made black and white: from one half on.
    pub fn is_white(&self, column: usize, row: usize) -> bool {
        self.data[row * self.width + column] >= 128
    }

    /// Whether there are as many bytes as the sides say.
    pub(crate) fn is_whole(&self) -> bool {
        self.width.checked_mul(self.height) == Some(self.data.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brightness_of_gray_is_itself_and_green_counts_most() {
        let image = RgbImage { width: 5, height: 1, data: vec![0, 0, 0, 77, 77, 77, 255, 0, 0, 0, 255, 0, 0, 0, 255] };
        assert_eq!(image.to_gray().data, [0, 77, 76, 150, 29]);
    }

    #[test]
    fn mask_is_white_from_one_half_on() {
        let mask = GrayImage { width: 2, height: 1, data: vec![127, 128] };
        assert!(!mask.is_white(0, 0) && mask.is_white(1, 0));
    }
}
