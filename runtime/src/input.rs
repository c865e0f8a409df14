//! Pictures that come in: fetched from where the router says, or read from files, and decoded. Their bytes are hostile.

mod decode;
mod fetch;

pub use decode::{DecodeError, MAX_INPUT_BYTES, image, mask};
pub use fetch::{FetchError, Fetcher};
