//! The replica over HTTP, in process: queue, batching, cancelling, residency, storing and panics with an engine that makes no pictures, and
//! the pictures themselves with the real one.

#[path = "replica/house.rs"]
mod house;
#[path = "replica/puppet.rs"]
mod puppet;
#[path = "replica/storage.rs"]
mod storage;
#[path = "replica/tiny_flux.rs"]
mod tiny_flux;
#[path = "replica/tiny_model.rs"]
mod tiny_model;

#[path = "replica/adapters.rs"]
mod adapters;
#[path = "replica/batching.rs"]
mod batching;
#[path = "replica/components.rs"]
mod components;
#[path = "replica/contents.rs"]
mod contents;
#[path = "replica/door.rs"]
mod door;
#[path = "replica/endings.rs"]
mod endings;
#[path = "replica/families.rs"]
mod families;
#[path = "replica/images.rs"]
mod images;
#[path = "replica/inputs.rs"]
mod inputs;
#[path = "replica/models.rs"]
mod models;
#[path = "replica/refining.rs"]
mod refining;
#[path = "replica/safety.rs"]
mod safety;
#[path = "replica/storing.rs"]
mod storing;
#[path = "replica/warm.rs"]
mod warm;
