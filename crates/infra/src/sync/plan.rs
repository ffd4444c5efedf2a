//! Which statement applies which operation of a batch.
//!
//! A statement costs far more than the rows it changes, so creates of tasks share one, so do updates of different tasks, and
//! messages that follow each other. Nobody sees a difference: the batch is one transaction,
//! operations on one entity stay in their order, and so does all of chat, whose events have places in logs.

use super::postgres::call;
use super::statement::{Answer, Call};
use crate::postgres::QueryError;
use crate::{chat, task};
use gravity_domain::chat::NewMessage;
use gravity_domain::sync::{Change, EntityKind, Operation};
use gravity_domain::task::TaskChange;
use std::collections::{HashMap, HashSet};
use tokio_postgres::Row;
use uuid::Uuid;

/// The most messages of a statement, which joins each with each.
const MESSAGES: usize = 64;

/// The statements of a batch, in their order.
pub(super) struct Plan<'a> {
    pub(super) calls: Vec<Call<'a>>,
    /// For each call, the operations that its rows are about.
    about: Vec<Vec<usize>>,
}

impl<'a> Plan<'a> {
    /// As few statements as can be.
    pub(super) fn together(operations: &'a [Operation], direct: bool) -> Self {
        let ids: HashSet<_> = operations.iter().map(|operation| operation.id).collect();
        if ids.len() < operations.len() {
            // Which of the two comes first decides what becomes of the other.
            return Self::apart(operations, direct);
        }
        let mut plan = Self::apart(&[], direct);
        let rest = plan.change_tasks(operations, direct);
        let (chat, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|nth| is_chat(&operations[*nth]));
        for nth in others {
            plan.add(call(&operations[nth], direct), vec![nth]);
        }
        let mut messages = Messages::default();
        for nth in chat {
            let Change::Message { message, .. } = &operations[nth].change else {
                plan.send(&mut messages, direct);
                plan.add(call(&operations[nth], direct), vec![nth]);
                continue;
            };
            if !messages.take(nth, &operations[nth], message) {
                plan.send(&mut messages, direct);
                messages.take(nth, &operations[nth], message);
            }
        }
        plan.send(&mut messages, direct);
        plan
    }

    /// One statement for each.
    pub(super) fn apart(operations: &'a [Operation], direct: bool) -> Self {
        Self {
            calls: operations
                .iter()
                .map(|operation| call(operation, direct))
                .collect(),
            about: (0..operations.len()).map(|nth| vec![nth]).collect(),
        }
    }

    /// True when a failed statement does not tell which operation is at fault.
    pub(super) fn shares(&self) -> bool {
        self.about.iter().any(|about| about.len() > 1)
    }

    fn add(&mut self, call: Call<'a>, about: Vec<usize>) {
        self.calls.push(call);
        self.about.push(about);
    }

    /// Plans what is about tasks, the first operations about each of them before the second ones, and gives the others.
    fn change_tasks(&mut self, operations: &'a [Operation], direct: bool) -> Vec<usize> {
        let (mut turns, mut rest) = (Vec::<Vec<usize>>::new(), Vec::new());
        let mut so_far = HashMap::new();
        for (nth, operation) in operations.iter().enumerate() {
            if operation.entity() != EntityKind::Task {
                rest.push(nth);
                continue;
            }
            let turn: &mut usize = so_far.entry(operation.entity_id()).or_default();
            if turns.len() == *turn {
                turns.push(Vec::new());
            }
            turns[*turn].push(nth);
            *turn += 1;
        }
        for mut turn in turns {
            // So that sessions seldom wait for each other in a circle.
            turn.sort_by_key(|nth| operations[*nth].entity_id());
            self.change_each(operations, &turn, direct);
        }
        rest
    }

    /// Plans operations of which each is about another task.
    fn change_each(&mut self, operations: &'a [Operation], each: &[usize], direct: bool) {
        let (mut creates, mut created) = (Vec::new(), Vec::new());
        let (mut updates, mut updated) = (Vec::new(), Vec::new());
        let mut others = Vec::new();
        for nth in each {
            let operation = &operations[*nth];
            match &operation.change {
                Change::Task {
                    change: TaskChange::Create(new),
                    ..
                } => {
                    creates.push((operation, new));
                    created.push(*nth);
                }
                Change::Task {
                    change: TaskChange::Update(patch),
                    ..
                } => {
                    updates.push((operation, patch));
                    updated.push(*nth);
                }
                _ => others.push(*nth),
            }
        }
        if !creates.is_empty() {
            self.add(task::postgres::create_all(&creates, direct), created);
        }
        if !updates.is_empty() {
            self.add(task::postgres::update_all(&updates, direct), updated);
        }
        for nth in others {
            self.add(call(&operations[nth], direct), vec![nth]);
        }
    }

    fn send(&mut self, messages: &mut Messages<'a>, direct: bool) {
        let Messages { messages, about, .. } = std::mem::take(messages);
        if !messages.is_empty() {
            self.add(chat::statement::send(&messages, direct), about);
        }
    }

    /// The operation to blame for what a statement failed with.
    pub(super) fn blamed(&self, call: usize) -> usize {
        self.about
            .get(call)
            .and_then(|about| about.first())
            .copied()
            .unwrap_or(0)
    }

    /// The answers that these rows are, in the order of the operations.
    pub(super) fn read(&self, rows: &[Vec<Row>]) -> Result<Vec<Answer>, (usize, QueryError)> {
        let mut answers = Vec::new();
        for ((call, about), rows) in self.calls.iter().zip(&self.about).zip(rows) {
            for (nth, operation) in about.iter().enumerate() {
                let answer = call
                    .read(nth, rows.get(nth))
                    .map_err(|error| (*operation, error))?;
                answers.push((*operation, answer));
            }
        }
        answers.sort_by_key(|(operation, _)| *operation);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }
}

/// Messages that can share a statement: it does not see which messages it stores.
#[derive(Default)]
struct Messages<'a> {
    messages: Vec<(&'a Operation, &'a NewMessage)>,
    about: Vec<usize>,
    ids: HashSet<Uuid>,
}

impl<'a> Messages<'a> {
    /// False when it has to wait for the next statement.
    fn take(&mut self, nth: usize, operation: &'a Operation, message: &'a NewMessage) -> bool {
        if self.messages.len() >= MESSAGES || !self.ids.insert(operation.entity_id()) {
            return false;
        }
        self.messages.push((operation, message));
        self.about.push(nth);
        true
    }
}

fn is_chat(operation: &Operation) -> bool {
    match operation.change {
        Change::Message { .. } | Change::ReadMark(_) | Change::Block(_) => true,
        Change::Profile(_) | Change::Task { .. } | Change::StreamAction(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::chat::{Content, ReadMark};
    use gravity_domain::clock::{Hlc, NodeId};
    use gravity_domain::id::{ChatMessageId, ConversationId, OperationId, TaskId, UserId};

    use gravity_domain::task::{NewTask, TaskPatch, TaskStatus, Title};

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    /// Operations that number their ids.
    fn operations(changes: Vec<Change>) -> Vec<Operation> {
        let operation = |(n, change)| {
            Operation::new(
                OperationId(id(1_000 + n)),
                UserId(id(1)),
                change,
                Hlc {
                    wall_ms: 1,
                    counter: 0,
                    node: NodeId(7),
                },
            )
        };
        (0u128..).zip(changes).map(operation).collect()
    }

    fn create(task: u128) -> Change {
        let new = NewTask {
            title: Title::parse("title").unwrap(),
            description: None,
            status: TaskStatus::Pending,
        };
        Change::Task {
            id: TaskId(id(task)),
            change: TaskChange::Create(new),
        }
    }

    fn delete(task: u128) -> Change {
        Change::Task {
            id: TaskId(id(task)),
            change: TaskChange::Delete,
        }
    }

    fn update(task: u128) -> Change {
        Change::Task {
            id: TaskId(id(task)),
            change: TaskChange::Update(TaskPatch::default()),
        }
    }

    fn say(conversation: u128, client: u128) -> Change {
        Change::Message {
            id: ChatMessageId(id(client)),
            message: NewMessage {
                conversation_id: ConversationId(id(conversation)),
                client_message_id: id(client),
                content: Content::parse("hello").unwrap(),
                recipient: None,
            },
        }
    }

    fn read(conversation: u128) -> Change {
        Change::ReadMark(ReadMark {
            conversation_id: ConversationId(id(conversation)),
            message_id: None,
            up_to: 1,
        })
    }

    /// The operations of each statement.
    fn statements(changes: Vec<Change>) -> Vec<(&'static str, Vec<usize>)> {
        let operations = operations(changes);
        let plan = Plan::together(&operations, false);
        let names = plan.calls.iter().map(|call| call.name);
        names.zip(plan.about.clone()).collect()
    }

    #[test]
    fn creates_share_a_statement_and_so_do_updates_of_different_tasks() {
        let changes = vec![create(1), update(9), update(8), create(2), delete(7)];
        let expected = [
            ("tasks_create", vec![0, 3]),
            ("tasks_update", vec![2, 1]),
            ("task_delete", vec![4]),
        ];
        assert_eq!(statements(changes), expected);
    }

    #[test]
    fn operations_on_one_task_stay_in_their_order() {
        let changes = vec![
            update(1),
            create(1),
            create(2),
            update(2),
            delete(2),
            update(1),
            create(2),
        ];
        let expected = [
            ("tasks_create", vec![2]),
            ("tasks_update", vec![0]),
            ("tasks_create", vec![1]),
            ("tasks_update", vec![3]),
            ("tasks_update", vec![5]),
            ("task_delete", vec![4]),
            ("tasks_create", vec![6]),
        ];
        assert_eq!(statements(changes), expected);
    }

    #[test]
    fn messages_share_a_statement_up_to_the_next_of_the_same_id_or_what_is_no_message() {
        let changes = vec![say(1, 1), say(2, 2), say(1, 3), say(3, 3), read(1), say(2, 4)];
        let expected = [
            ("chat_messages_send", vec![0, 1, 2]),
            ("chat_messages_send", vec![3]),
            ("chat_read", vec![4]),
            ("chat_messages_send", vec![5]),
        ];
        assert_eq!(statements(changes), expected);
    }

    #[test]
    fn a_statement_has_so_many_messages_at_most() {
        let changes = (0..200).map(|n| say(n, n)).collect();
        let sizes: Vec<_> = statements(changes).iter().map(|(_, about)| about.len()).collect();
        assert_eq!(sizes, [64, 64, 64, 8]);
    }

    #[test]
    fn two_operations_of_one_id_keep_their_places_among_all() {
        let mut operations = operations(vec![create(1), create(2), delete(3)]);
        operations[2].id = operations[0].id;
        let plan = Plan::together(&operations, false);
        assert_eq!(plan.about, [[0], [1], [2]]);
        assert!(!plan.shares());
    }
}
