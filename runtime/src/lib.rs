//! The replica: a process that holds models in memory and makes images with them, for a router over HTTP or for a person on the command line.
//!
//! ```text
//! http ──► door (token, bounds, queue permit) ──► input (GET of signed URLs, decode) ─┐
//!   ▲                                              worker: one thread owns the device ◄┘──► upload (PUT to a signed URL)
//!   ▲                                              │ ▲                                      │
//!   └───────── events, per step ───────────────────┘ └── loader: one thread reads weights   │
//!   └───────── done or failed ◄────────────────────────────────────────────────────────────┘
//! ```
//! What an image is made of is known by the crate `diffusion` alone, reached through [`engine`]. This crate knows no Kubernetes and no
//! tenant; a router tells it everything it needs for one generation in one [`runtime_api::Dispatch`].

pub mod adapters;
pub mod atomic_file;
pub mod canvas;
pub mod command;
pub mod content;
pub mod embeddings;
pub mod engine;
pub mod http;
pub mod import;
pub mod infotext;
pub mod input;
pub mod machine;
pub mod metrics;
pub mod picture;
pub mod request;
pub mod residency;
pub mod safety;
mod signed_url;
pub mod source;
pub mod upload;
pub mod worker;
