//! Tasks: one file per use case.

mod create;
mod delete;
mod get;
mod list;
#[cfg(test)]
mod list_tests;
mod update;
mod warm;

pub use create::CreateTask;
pub use delete::DeleteTask;
pub use get::GetTask;
pub use list::{ListTasks, Listed};
pub use update::UpdateTask;
pub use warm::TaskLoader;
