//! Tasks.

mod merge;
mod model;
pub mod ports;

pub use model::{Description, NewTask, Task, TaskChange, TaskFilter, TaskPatch, TaskStatus, Title};
pub use ports::{KnownPage, TaskCache, TaskStore};
