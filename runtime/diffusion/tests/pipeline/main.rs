//! Whole models, tiny and random, through the public interface.
//!
//! - `batching`: an image's bits do not depend on what shares its calls, and one image's failure is its own.
//! - `folder`: what is accepted as a model folder, and what is refused with which words.
//! - `requests`: which requests are refused, and that what they ask for matters.

mod batching;
mod folder;
mod requests;
mod tiny_model;
