//! Any course of a conversation, against a model that counts messages: direct writes and replays, in any order.

use crate::chat_world::{Pair, World, block, mark, say};
use gravity_domain::chat::ChatStore;
use gravity_domain::id::{ChatMessageId, UserId};
use gravity_domain::page::PageLimit;
use gravity_domain::sync::{Operation, Refusal, Verdict};
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Debug, Clone)]
enum Step {
    Say {
        by: bool,
        name: u8,
    },
    /// A message, by its sender and name, sent already or not, or else the newest.
    Read {
        by: bool,
        of: Option<(bool, u8)>,
        up_to: u64,
    },
    Block {
        by: bool,
        is_blocked: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
    let step = prop_oneof![
        5 => (any::<bool>(), 0u8..12).prop_map(|(by, name)| Step::Say { by, name }),
        4 => (any::<bool>(), proptest::option::weighted(0.8, (any::<bool>(), 0u8..12)), 0u64..8)
            .prop_map(|(by, of, up_to)| Step::Read { by, of, up_to }),
        1 => (any::<bool>(), proptest::bool::weighted(0.3)).prop_map(|(by, is_blocked)| Step::Block { by, is_blocked }),
    ];
    proptest::collection::vec((step, any::<bool>()), 1..40)
}

/// What there should be, counted from first principles.
struct Model {
    pair: Pair,
    /// Senders of the messages, by place, and their names.
    messages: Vec<(bool, u8)>,
    read: [u64; 2],
    ahead: [Option<(bool, u8)>; 2],
    blocks: [bool; 2],
    clock: u64,
    names: u128,
}

impl Model {
    fn user(&self, by: bool) -> UserId {
        if by { self.pair.alice } else { self.pair.ben }
    }

    fn client_id(&self, name: u8) -> Uuid {
        Uuid::from_u128(self.names + u128::from(name))
    }

    fn operation(&mut self, step: &Step) -> Operation {
        self.clock += 1;
        match step {
            Step::Say { by, name } => say(self.user(*by), self.pair.id, self.client_id(*name), "text"),
            Step::Read { by, of, up_to } => {
                let message = of.map(|(by, name)| ChatMessageId::of(self.user(by), self.client_id(name)));
                mark(self.user(*by), self.pair.id, message, *up_to, self.clock)
            }
            Step::Block { by, is_blocked } => block(self.user(*by), self.user(!*by), *is_blocked, self.clock),
        }
    }

    fn place(&self, message: (bool, u8)) -> Option<u64> {
        let found = self.messages.iter().position(|stored| *stored == message);
        found.map(|index| index as u64 + 1)
    }

    fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    /// True when it is to be taken.
    fn take(&mut self, step: &Step, direct: bool) -> bool {
        match step {
            Step::Say { by, name } => {
                if self.place((*by, *name)).is_some() {
                    return true;
                }
                if self.blocks.contains(&true) {
                    return false;
                }
                self.messages.push((*by, *name));
                self.read[usize::from(*by)] = self.last();
                let other = usize::from(!*by);
                if self.ahead[other] == Some((*by, *name)) {
                    self.ahead[other] = None;
                    self.read[other] = self.last();
                }
                true
            }
            Step::Read { by, of, up_to } => {
                let place = of.map(|message| self.place(message));
                let mut target = match place {
                    Some(None) if direct => return false,
                    Some(None) => {
                        self.ahead[usize::from(*by)] = *of;
                        0
                    }
                    Some(Some(place)) => place,
                    None if direct => self.last(),
                    None => 0,
                };
                if !direct {
                    target = target.max((*up_to).min(self.last()));
                }
                let read = &mut self.read[usize::from(*by)];
                *read = target.max(*read);
                true
            }
            Step::Block { by, is_blocked } => {
                self.blocks[usize::from(*by)] = *is_blocked;
                true
            }
        }
    }

    fn unread(&self, by: bool) -> u64 {
        let read = usize::try_from(self.read[usize::from(by)]).unwrap();
        self.messages[read..]
            .iter()
            .filter(|(sender, _)| *sender != by)
            .count() as u64
    }
}

async fn case(world: &World, steps: Vec<(Step, bool)>) -> Result<(), TestCaseError> {
    let mut model = Model {
        pair: world.pair().await,
        messages: Vec::new(),
        read: [0, 0],
        ahead: [None, None],
        blocks: [false, false],
        clock: 0,
        names: Uuid::new_v4().as_u128() & !0xff,
    };
    for (step, direct) in steps {
        let operation = model.operation(&step);
        let verdict = if direct {
            world.apply(&operation).await
        } else {
            world.replay(&operation).await
        };
        let is_taken = model.take(&step, direct);
        let as_expected = match &verdict {
            Verdict::Applied(_) => is_taken,
            Verdict::Missing => !is_taken && matches!(step, Step::Read { .. }),
            Verdict::Refused(refused) => !is_taken && refused.refusal == Refusal::Blocked,
            _ => false,
        };
        prop_assert!(as_expected, "{step:?} {direct}: {verdict:?}");
        for by in [true, false] {
            let user = model.user(by);
            let seen = world.seen(user, model.pair.id).await;
            prop_assert_eq!(
                (seen.last_seq, seen.read_seq, seen.unread),
                (model.last(), model.read[usize::from(by)], model.unread(by)),
                "{:?} {}",
                step,
                by
            );
            let inbox = world.chat.inbox(user).await.unwrap();
            prop_assert_eq!(inbox.unread.total, seen.unread);
            prop_assert_eq!(inbox.unread.conversations, u64::from(seen.unread > 0));
            prop_assert_eq!(inbox.version, world.head(user).await);
            prop_assert_eq!(inbox.conversations, vec![seen]);
        }
    }
    let all = PageLimit::new(PageLimit::MAX).unwrap();
    let page = world
        .chat
        .messages_after(model.pair.alice, model.pair.id, 0, all)
        .await
        .unwrap()
        .unwrap();
    let stored: Vec<(bool, Uuid)> = page
        .messages
        .iter()
        .map(|message| (message.sender_id == model.pair.alice, message.client_message_id))
        .collect();
    let expected: Vec<(bool, Uuid)> = model
        .messages
        .iter()
        .map(|(by, name)| (*by, model.client_id(*name)))
        .collect();
    prop_assert_eq!(stored, expected);
    Ok(())
}

#[test]
fn counts_and_places_are_those_of_counting_whatever_happens() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in steps())| {
        runtime.block_on(case(&world, steps))?;
    });
}
