//! The replica over HTTP, in process, with an engine that makes no pictures: queue, batching, cancelling, residency, storing, panics.

#[path = "replica/house.rs"]
mod house;
#[path = "replica/puppet.rs"]
mod puppet;
#[path = "replica/storage.rs"]
mod storage;

#[path = "replica/batching.rs"]
mod batching;
#[path = "replica/door.rs"]
mod door;
#[path = "replica/endings.rs"]
mod endings;
#[path = "replica/models.rs"]
mod models;
#[path = "replica/storing.rs"]
mod storing;
