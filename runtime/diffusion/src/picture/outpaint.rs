//! A picture with room around it, as something to inpaint.

use super::{GrayImage, RgbImage};

/// Pixels on each side of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Margins {
    /// Before the first column.
    pub left: usize,
    /// Behind the last column.
    pub right: usize,
    /// Above the first row.
    pub top: usize,
    /// Below the last row.
    pub bottom: usize,
}

/// What [`outpainting`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outpainting {
    /// The picture in its place, its edge drawn out over the margins.
    pub image: RgbImage,
    /// White over the margins, black over the picture, and a ramp between them within the picture.
    pub mask: GrayImage,
}

/// `image` with `margins` around it. Along each side that has a margin, the mask fades from white to black over the `overlap` pixels
/// of the picture next to it, so that what is drawn can find its way into what is there; farther in, the picture is kept as it is.
pub fn outpainting(image: &RgbImage, margins: Margins, overlap: usize) -> Outpainting {
    let width = margins.left + image.width + margins.right;
    let height = margins.top + image.height + margins.bottom;
    let mut canvas = Vec::with_capacity(width * height * 3);
    let mut mask = Vec::with_capacity(width * height);
    let across = Side { before: margins.left, length: image.width, after: margins.right };
    let down = Side { before: margins.top, length: image.height, after: margins.bottom };
    for row in 0..height {
        let line = &image.data[down.nearest(row) * image.width * 3..][..image.width * 3];
        let below = down.share(row, overlap);
        for column in 0..width {
            canvas.extend_from_slice(&line[across.nearest(column) * 3..][..3]);
            mask.push(across.share(column, overlap).max(below));
        }
    }
    Outpainting { image: RgbImage { width, height, data: canvas }, mask: GrayImage { width, height, data: mask } }
}

/// One direction of the canvas.
struct Side {
    before: usize,
    length: usize,
    after: usize,
}

impl Side {
    /// The picture's nearest position.
    fn nearest(&self, at: usize) -> usize {
        at.saturating_sub(self.before).min(self.length - 1)
    }

    /// How much of a position is drawn anew, of 255, as far as this direction decides.
    fn share(&self, at: usize, overlap: usize) -> u8 {
        if at < self.before || at >= self.before + self.length {
            return 255;
        }
        let inside = at - self.before;
        let ramp = |has_margin: bool, depth: usize| match has_margin && depth < overlap {
            true => (255 * (overlap - depth) / (overlap + 1)) as u8,
            false => 0,
        };
        ramp(self.before > 0, inside).max(ramp(self.after > 0, self.length - 1 - inside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(width: usize, height: usize) -> RgbImage {
        RgbImage { width, height, data: (0..width * height).flat_map(|at| [at as u8; 3]).collect() }
    }

    #[test]
    fn edge_is_drawn_out_and_the_picture_keeps_its_place() {
        let made = outpainting(&numbered(2, 2), Margins { left: 1, right: 2, top: 0, bottom: 1 }, 0);
        assert_eq!((made.image.width, made.image.height), (5, 3));
        assert_eq!(made.image.to_gray().data, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 2, 2, 3, 3, 3]);
        assert_eq!(made.mask.data, [255, 0, 0, 255, 255, 255, 0, 0, 255, 255, 255, 255, 255, 255, 255]);
    }

    #[test]
    fn mask_fades_only_towards_sides_that_have_a_margin() {
        let made = outpainting(&numbered(6, 1), Margins { right: 2, ..Margins::default() }, 2);
        assert_eq!(made.mask.data, [0, 0, 0, 0, 85, 170, 255, 255]);
    }
}
