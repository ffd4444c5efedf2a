//! The buffer from inside: an engine that fails on demand, and the codec.

mod codec;
#[macro_use]
mod faulty;
mod broken;
mod salvage;
mod wide;

use gravity_domain::clock::{Hlc, NodeId};
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::{Change, Operation};
use gravity_domain::task::{TaskChange, TaskPatch, Title};
use uuid::Uuid;

fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(0xAA00 + n))
}

fn operation(n: u64, title: &str) -> Operation {
    let patch = TaskPatch {
        title: Some(Title::parse(title).unwrap()),
        ..TaskPatch::default()
    };
    Operation {
        precondition: Some(n),
        ..Operation::new(
            OperationId(Uuid::from_u128(0xCC00 + u128::from(n))),
            user(u128::from(n) % 3),
            Change::Task {
                id: TaskId(Uuid::from_u128(0xBB00)),
                change: TaskChange::Update(patch),
            },
            Hlc {
                wall_ms: 1_000 + n,
                counter: 3,
                node: NodeId(7),
            },
        )
    }
}
