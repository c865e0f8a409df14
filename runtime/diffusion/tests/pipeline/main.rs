//! Whole models, tiny and random, through the public interface.
//!
//! - `adapters`: what they do to an image, and which files are refused.
//! - `batching`: an image's bits do not depend on what shares its calls, and one image's failure is its own.
//! - `embeddings`: vectors take their word's place, for one request alone, and files that hold none are refused.
//! - `flow`: models of flow matching, tiny and random: their rows' bits, families and configurations.
//! - `folder`: what is accepted as a model folder, and what is refused with which words.
//! - `loading_memory`: loading takes hardly more memory than what is kept.
//! - `computing_memory`: computing takes as much memory as was said before.
//! - `decoding_memory`: a large picture is decoded in hardly more memory than a tile of it.
//! - `precision`: what 16 bits make of each family and of adapters, and of an autoencoder that they are too few for.
//! - `prompts`: what the two syntaxes have in common, how long prompts are divided, and which are refused.
//! - `requests`: which requests are refused, and that what they ask for matters.
//! - `single_file`: how checkpoints that are one file are recognised, and what is said of files that are none.

mod adapter_files;
mod adapters;
mod batching;
mod computing_memory;
mod decoding_memory;
mod embeddings;
mod flow;
mod folder;
mod loading_memory;
mod precision;
mod prompts;
mod requests;
mod single_file;
mod tiny_model;
