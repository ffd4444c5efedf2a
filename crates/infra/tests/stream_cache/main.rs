//! The caches before the stream: alone, over Redis, and two nodes against a model.

mod acted;
mod fixture;
mod levels;
mod loads;
mod model;
