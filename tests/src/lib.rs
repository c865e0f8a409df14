//! What the tests across crates share: pure checks that read a description of the workspace and name what is wrong,
//! so that each check can itself be shown a workspace that breaks it.

pub mod architecture;
pub mod licences;
