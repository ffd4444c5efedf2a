//! Tasks: one file per use case.

mod create;
mod delete;
mod get;
mod list;
mod update;
mod warm;

pub use create::CreateTask;
pub use delete::DeleteTask;
pub use get::GetTask;
pub use list::ListTasks;
pub use update::UpdateTask;
pub use warm::TaskLoader;
