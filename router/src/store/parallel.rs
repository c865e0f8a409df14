//! How many images of one tenant are made at once through all routers, decided alike by every store: they count, this judges. Pure.

use std::time::Duration;

/// A request that found no room goes before younger ones for this long after it asked. Its router asks again many times meanwhile, unless the
/// request waits for something else by then, or the router is dead.
pub(super) const ASK_COUNTS: Duration = Duration::from_secs(3);

/// Images of one tenant that may be made at once. A request with more images than that goes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParallelImages(pub u32);

/// What became of a request's claim to be worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageClaim {
    Granted,
    /// Its tenant has as many images made as its plan allows, or an older request of the tenant goes first.
    NoRoom,
    /// It has ended, or another router has it.
    Lost,
}

impl ImageClaim {
    /// Whether there was room, and how many rows of the request could say so.
    pub(super) fn of(fits: bool, rows: u64) -> Self {
        match (rows, fits) {
            (0, _) => Self::Lost,
            (_, true) => Self::Granted,
            (_, false) => Self::NoRoom,
        }
    }
}

impl ParallelImages {
    /// Whether a request of so many images may be worked on beside those that are, and those that go before it.
    pub(super) fn fits(self, images: i64, running: i64, ahead: i64) -> bool {
        let others = running.saturating_add(ahead);
        others == 0 || others.saturating_add(images) <= i64::from(self.0)
    }
}
