//! The replica's inside: a bounded queue, the thread that owns the device, the thread that reads weights, and the way out to storage.
//!
//! ```text
//! Replica::submit ──permit──► opening (async): what was imported comes to the disk
//!        │                   preparing (async): pictures fetched and decoded
//!        │                          ▼
//!        │                      device thread ──Open, Load──► loader thread
//!        │                      prepare · step · decode ◄──── Opened, Progress, Loaded
//!        ▼                          │
//!      Feed ◄── events ─────────────┴──► finishing (async): PNG, upload, Done
//! ```
//! Closing a [`Feed`] is how a generation is cancelled. This module knows no HTTP beyond the target an image is put to.

mod admission;
mod device;
mod feed;
mod finishing;
mod generation;
mod loader;
mod opening;
mod preparing;
mod previews;
mod refining;
mod replica;
mod running;
mod warm;

use std::time::Duration;

pub use feed::Feed;
pub use replica::{Replica, StartError, Stopped};

use crate::request;

/// How much one replica holds at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Generations that may wait.
    pub queue_limit: u32,
    /// Bytes of weights.
    pub resident_bytes: u64,
    /// Bytes of what is computed, besides the weights: one image, or one call of several.
    pub computing_bytes: u64,
    /// Bytes of adapters that requests name, besides the weights of models.
    pub adapter_bytes: u64,
    /// Images that are made or stored at the same time: bounds latents and pixels in memory.
    pub max_images: u32,
    /// Rows of one denoiser call.
    pub max_rows: u32,
    /// A warm model takes the place of another one only after nobody has used that for so long.
    pub warm_return: Duration,
    /// A device thread that is silent for longer hangs: one evaluation, encoding or decoding of a large image on a slow CPU takes a minute.
    pub stall: Duration,
    pub request: request::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_limit: 64,
            resident_bytes: 16 << 30,
            computing_bytes: 8 << 30,
            adapter_bytes: 4 << 30,
            max_images: 16,
            max_rows: 16,
            warm_return: Duration::from_secs(60),
            stall: Duration::from_secs(600),
            request: request::Limits::default(),
        }
    }
}

/// The longest a generation may take, whatever its router allows.
pub const MAX_DEADLINE: Duration = Duration::from_secs(3600);
/// The most previews of one image.
pub const MAX_PARTIAL_IMAGES: u32 = 16;
