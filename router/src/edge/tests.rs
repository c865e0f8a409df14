//! The whole router behind real sockets, with a replica that draws one black picture: what clients send and get, call by call.

mod bad_input;
mod modelslab;
mod openai;
mod pictures;
mod safety;
mod stage;
