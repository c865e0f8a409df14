//! How large the images will be, and where an outpainting's picture stands in them. Pure.

use crds::model_deployment::Limits;
use runtime_api::{ImageRequest, Margins, Task};

use super::{invalid, positive};
use crate::inputs::Size;
use crate::refusal::Refusal;

/// Pixels that are drawn along an edge where an outpainting would leave no room at all, at least.
const EDGE_MIN_PIXELS: u32 = 8;
/// Over which an outpainting fades into its picture where nobody says.
const DEFAULT_OVERLAP_PIXELS: u32 = 16;
/// Of the picture's shorter side: a wider overlap, as clients send it by default, would leave little of a small picture.
const OVERLAP_LIMIT_FRACTION: u32 = 4;

/// Of the images that will be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Canvas {
    pub(super) size: Size,
    pub(super) margins: Option<Margins>,
    /// Of an outpainting: pixels of the picture over which the new fades into it; of anything else what the request says.
    pub(super) mask_blur: Option<u32>,
}

/// The sides that the request names.
pub(super) fn check(request: &ImageRequest, limits: &Limits) -> Result<(), Refusal> {
    for (field, pixels, range) in sides(request, limits) {
        if let Some(pixels) = pixels {
            range.check(field, pixels)?;
        }
    }
    Ok(())
}

/// The sides that the request names, else those of its image, brought into the limits, else `default`.
pub(super) fn canvas(request: &ImageRequest, limits: &Limits, image: Option<Size>, default: Size) -> Result<Canvas, Refusal> {
    let own = match image {
        Some(image) if request.task == Task::Outpaint => within(around(image, request.margins), limits),
        Some(image) => within(image, limits),
        None => default,
    };
    let [(_, width, across), (_, height, down)] = sides(request, limits);
    let size =
        Size { width: across.check("width", width.unwrap_or(own.width))?, height: down.check("height", height.unwrap_or(own.height))? };
    let margins = match (request.task, image) {
        (Task::Outpaint, Some(image)) => Some(match request.margins {
            Some(margins) => checked(margins, size)?,
            None => centred(image, size, request.mask_blur.unwrap_or(0)),
        }),
        _ => None,
    };
    let mask_blur = margins.map_or(request.mask_blur, |margins| {
        let across = size.width - margins.left - margins.right;
        let down = size.height - margins.top - margins.bottom;
        Some(request.mask_blur.unwrap_or(DEFAULT_OVERLAP_PIXELS).min(across.min(down) / OVERLAP_LIMIT_FRACTION))
    });
    Ok(Canvas { size, margins, mask_blur })
}

/// What a side may be.
struct Range {
    min: u32,
    max: u32,
    multiple_of: u32,
}

impl Range {
    fn check(&self, field: &str, pixels: u32) -> Result<u32, Refusal> {
        if !(self.min..=self.max).contains(&pixels) {
            return Err(invalid(field, format!("{field} must be between {} and {}", self.min, self.max)));
        }
        if !pixels.is_multiple_of(self.multiple_of) {
            return Err(invalid(field, format!("{field} must be divisible by {}", self.multiple_of)));
        }
        Ok(pixels)
    }

    /// The nearest that is allowed and not larger, if there is one; else the smallest.
    fn fit(&self, pixels: f64) -> u32 {
        let smallest = self.min.next_multiple_of(self.multiple_of);
        let largest = self.max / self.multiple_of * self.multiple_of;
        // `as` moves to the nearest end of the range; half a pixel makes up for what division lost.
        let pixels = (pixels + 0.5) as u32 / self.multiple_of * self.multiple_of;
        pixels.min(largest).max(smallest)
    }
}

fn range(min: i32, max: i32, multiple_of: i32) -> Range {
    Range { min: positive(min), max: positive(max), multiple_of: positive(multiple_of).max(1) }
}

fn sides(request: &ImageRequest, limits: &Limits) -> [(&'static str, Option<u32>, Range); 2] {
    [
        ("width", request.width, range(limits.min_width, limits.max_width, limits.size_multiple_of)),
        ("height", request.height, range(limits.min_height, limits.max_height, limits.size_multiple_of)),
    ]
}

/// `size` brought into the limits: made smaller or larger in its own proportions, then rounded down.
fn within(size: Size, limits: &Limits) -> Size {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let shrink = (f64::from(limits.max_width) / width).min(f64::from(limits.max_height) / height).min(1.0);
    let grow = (f64::from(limits.min_width) / width).max(f64::from(limits.min_height) / height).max(1.0);
    let scale = if shrink < 1.0 { shrink } else { grow };
    Size {
        width: range(limits.min_width, limits.max_width, limits.size_multiple_of).fit(width * scale),
        height: range(limits.min_height, limits.max_height, limits.size_multiple_of).fit(height * scale),
    }
}

/// An outpainting's size where nobody says: the image with its margins, or half as long again on each side.
fn around(image: Size, margins: Option<Margins>) -> Size {
    match margins {
        Some(margins) => Size {
            width: image.width.saturating_add(margins.left).saturating_add(margins.right),
            height: image.height.saturating_add(margins.top).saturating_add(margins.bottom),
        },
        None => Size { width: image.width.saturating_add(image.width / 2), height: image.height.saturating_add(image.height / 2) },
    }
}

/// Margins that were named must leave something of the picture.
fn checked(margins: Margins, size: Size) -> Result<Margins, Refusal> {
    for (before, after, side, name) in
        [(margins.left, margins.right, size.width, "width"), (margins.top, margins.bottom, size.height, "height")]
    {
        if u64::from(before) + u64::from(after) + u64::from(EDGE_MIN_PIXELS) > u64::from(side) {
            return Err(invalid("margins", format!("margins must leave at least {EDGE_MIN_PIXELS} pixels of the {name} of {side}")));
        }
    }
    if margins == Margins::default() {
        return Err(invalid("margins", "margins must not all be 0".to_owned()));
    }
    Ok(margins)
}

/// The picture in the middle, scaled down until it fits, and never up. Where that leaves no room on any side, as when a picture is to be
/// drawn out to its own size, it is scaled down until every side has `edge` pixels, since an outpainting was asked for.
fn centred(image: Size, canvas: Size, edge: u32) -> Margins {
    let mut inner = fitted(image, canvas);
    if inner == canvas {
        let edge = edge.max(EDGE_MIN_PIXELS).min(canvas.width.min(canvas.height) / 4);
        inner = fitted(image, Size { width: canvas.width - 2 * edge, height: canvas.height - 2 * edge });
    }
    let (across, down) = (canvas.width - inner.width, canvas.height - inner.height);
    Margins { left: across / 2, right: across - across / 2, top: down / 2, bottom: down - down / 2 }
}

fn fitted(image: Size, room: Size) -> Size {
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let scale = (f64::from(room.width) / width).min(f64::from(room.height) / height).min(1.0);
    let side = |pixels: f64, room: u32| ((pixels * scale).round() as u32).clamp(1, room);
    Size { width: side(width, room.width), height: side(height, room.height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Size = Size { width: 64, height: 64 };

    fn limits() -> Limits {
        Limits { min_width: 32, max_width: 256, min_height: 32, max_height: 128, ..Limits::default() }
    }

    fn request(task: Task, width: Option<u32>, height: Option<u32>) -> ImageRequest {
        ImageRequest { task, width, height, ..ImageRequest::text_to_image("demo", "a red circle") }
    }

    fn made(request: &ImageRequest, width: u32, height: u32) -> (u32, u32, Option<[u32; 4]>) {
        let canvas = canvas(request, &limits(), Some(Size { width, height }), DEFAULT).unwrap();
        let margins = canvas.margins.map(|margins| [margins.left, margins.right, margins.top, margins.bottom]);
        (canvas.size.width, canvas.size.height, margins)
    }

    #[test]
    fn images_are_as_large_as_the_picture_within_the_limits() {
        let open = request(Task::ImageToImage, None, None);
        for (own, expected) in [
            ((64, 96), (64, 96)),
            ((67, 101), (64, 96)),
            ((256, 128), (256, 128)),
            ((512, 256), (256, 128)),
            // In its own proportions, as far as both sides allow.
            ((1000, 250), (256, 64)),
            ((300, 600), (64, 128)),
            ((16, 24), (32, 48)),
            ((1, 1), (32, 32)),
            ((16_384, 1), (256, 32)),
        ] {
            let (width, height, margins) = made(&open, own.0, own.1);
            assert_eq!(((width, height), margins), (expected, None), "{own:?}");
        }
        assert_eq!(made(&request(Task::Inpaint, Some(128), None), 67, 101), (128, 96, None));
    }

    #[test]
    fn without_a_picture_the_models_own_size_counts() {
        let canvas = canvas(&request(Task::TextToImage, None, Some(96)), &limits(), None, DEFAULT).unwrap();
        assert_eq!((canvas.size.width, canvas.size.height), (64, 96));
    }

    #[test]
    fn an_outpaintings_picture_stands_in_the_middle_and_is_never_enlarged() {
        let outpaint = |width, height| request(Task::Outpaint, Some(width), Some(height));
        assert_eq!(made(&outpaint(128, 64), 64, 64), (128, 64, Some([32, 32, 0, 0])));
        assert_eq!(made(&outpaint(128, 96), 64, 33), (128, 96, Some([32, 32, 31, 32])));
        assert_eq!(made(&outpaint(128, 64), 640, 640), (128, 64, Some([32, 32, 0, 0])), "scaled down to fit");
        assert_eq!(made(&outpaint(128, 128), 1000, 1), (128, 128, Some([0, 0, 63, 64])));
    }

    #[test]
    fn an_outpainting_without_room_makes_some() {
        let square = ImageRequest { mask_blur: Some(16), ..request(Task::Outpaint, Some(64), Some(64)) };
        assert_eq!(made(&square, 64, 64), (64, 64, Some([16, 16, 16, 16])));
        assert_eq!(
            made(&ImageRequest { mask_blur: Some(64), ..square.clone() }, 512, 512),
            (64, 64, Some([16, 16, 16, 16])),
            "at most a quarter"
        );
        assert_eq!(made(&ImageRequest { mask_blur: None, ..square }, 64, 64), (64, 64, Some([8, 8, 8, 8])));
    }

    #[test]
    fn an_outpaintings_overlap_leaves_most_of_its_picture() {
        let overlap = |asked, width, height| {
            let request = ImageRequest { mask_blur: asked, ..request(Task::Outpaint, Some(128), Some(128)) };
            canvas(&request, &limits(), Some(Size { width, height }), DEFAULT).unwrap().mask_blur
        };
        assert_eq!(overlap(Some(10), 64, 64), Some(10));
        assert_eq!(overlap(Some(64), 64, 96), Some(16));
        assert_eq!(overlap(Some(64), 512, 256), Some(16), "as it stands, scaled down to 128×64");
        assert_eq!(overlap(None, 100, 100), Some(16));
        assert_eq!(overlap(None, 2, 2), Some(0));
        let inpaint = ImageRequest { mask_blur: Some(200), ..request(Task::Inpaint, None, None) };
        assert_eq!(canvas(&inpaint, &limits(), Some(DEFAULT), DEFAULT).unwrap().mask_blur, Some(200));
    }

    #[test]
    fn an_outpainting_of_no_size_is_half_as_long_again() {
        assert_eq!(made(&request(Task::Outpaint, None, None), 64, 32), (96, 48, Some([16, 16, 8, 8])));
        assert_eq!(made(&request(Task::Outpaint, None, None), 256, 128), (256, 128, Some([16, 16, 8, 8])), "no larger than the model");
    }

    #[test]
    fn margins_that_were_named_are_kept_or_refused() {
        let asked = |margins| ImageRequest { margins: Some(margins), ..request(Task::Outpaint, None, None) };
        let margins = Margins { left: 8, top: 3, ..Margins::default() };
        assert_eq!(made(&asked(margins), 64, 64), (72, 64, Some([8, 0, 3, 0])));
        let refused = |margins| {
            let image = Some(Size { width: 64, height: 64 });
            canvas(&asked(margins), &limits(), image, DEFAULT).unwrap_err().to_string()
        };
        assert_eq!(refused(Margins::default()), "margins must not all be 0");
        assert_eq!(
            refused(Margins { left: u32::MAX, right: u32::MAX, ..margins }),
            "margins must leave at least 8 pixels of the width of 256"
        );
    }

    #[test]
    fn sides_that_were_named_are_checked_before_any_picture_is_there() {
        let refused = |width, height| check(&request(Task::ImageToImage, width, height), &limits()).unwrap_err().to_string();
        assert_eq!(refused(Some(264), None), "width must be between 32 and 256");
        assert_eq!(refused(None, Some(100)), "height must be divisible by 8");
        assert_eq!(check(&request(Task::ImageToImage, None, Some(96)), &limits()), Ok(()));
    }
}
