//! Any course of two conversations that one of their users shares, against a model that counts messages: direct writes, replays
//! and batches, in any order.

use crate::chat_world::{Pair, World, block, mark, say};
use gravity_domain::chat::{ChatStore, EventKind, UserEvent};
use gravity_domain::id::{ChatMessageId, UserId};
use gravity_domain::page::PageLimit;
use gravity_domain::sync::ports::ReplayStore as _;
use gravity_domain::sync::{EntityState, Operation, Refusal, Verdict};
use proptest::prelude::*;
use serde_json::Value;
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

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Direct,
    Replay,
    /// In one batch with the next step.
    WithTheNext,
}

/// What happens, in which of the two conversations, and how it gets there.
type Course = Vec<(Step, usize, Way)>;

fn steps() -> impl Strategy<Value = Course> {
    let step = prop_oneof![
        7 => (any::<bool>(), 0u8..12).prop_map(|(by, name)| Step::Say { by, name }),
        4 => (any::<bool>(), proptest::option::weighted(0.8, (any::<bool>(), 0u8..12)), 0u64..8)
            .prop_map(|(by, of, up_to)| Step::Read { by, of, up_to }),
        1 => (any::<bool>(), proptest::bool::weighted(0.3)).prop_map(|(by, is_blocked)| Step::Block { by, is_blocked }),
    ];
    let way = prop_oneof![1 => Just(Way::Direct), 1 => Just(Way::Replay), 4 => Just(Way::WithTheNext)];
    proptest::collection::vec((step, 0usize..2, way), 1..40)
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

/// Whether the verdict is the one expected of a step.
fn is_expected(step: &Step, is_taken: bool, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Applied(_) => is_taken,
        Verdict::Missing => !is_taken && matches!(step, Step::Read { .. }),
        Verdict::Refused(refused) => !is_taken && refused.refusal == Refusal::Blocked,
        _ => false,
    }
}

fn told_by(verdict: &Verdict) -> &[UserEvent] {
    match verdict {
        Verdict::Applied(applied) => match &applied.state {
            EntityState::Message(message) => &message.events,
            EntityState::ReadMarker(marker) => &marker.events,
            EntityState::Block(state) => &state.events,
            other => panic!("{other:?}"),
        },
        Verdict::Refused(refused) => &refused.events,
        _ => &[],
    }
}

/// The counts that a message's events tell to both, its sender first.
fn counts_told(verdict: &Verdict) -> Vec<(UserId, [u64; 4])> {
    let counts = told_by(verdict)
        .iter()
        .filter(|event| event.kind == EventKind::ConversationUpdated);
    counts
        .map(|event| {
            let payload: Value = serde_json::from_str(&event.payload).unwrap();
            let names = ["unread", "lastSeq", "readSeq", "asOfSeq"];
            (event.user_id, names.map(|name| payload[name].as_u64().unwrap()))
        })
        .collect()
}

struct Case<'a> {
    world: &'a World,
    models: [Model; 2],
    waiting: Vec<(Step, usize, Operation)>,
    /// All that was told, in order.
    told: Vec<UserEvent>,
}

impl<'a> Case<'a> {
    async fn new(world: &'a World) -> Self {
        let first = world.pair().await;
        let cara = world.user().await;
        let opened = world.chat.open(first.alice, cara).await.unwrap();
        let second = Pair {
            ben: cara,
            id: opened.conversation.id,
            ..first
        };
        let model = |pair| Model {
            pair,
            messages: Vec::new(),
            read: [0, 0],
            ahead: [None, None],
            blocks: [false, false],
            clock: 0,
            names: Uuid::new_v4().as_u128() & !0xff,
        };
        Self {
            world,
            models: [first, second].map(model),
            waiting: Vec::new(),
            told: Vec::new(),
        }
    }

    async fn run(&mut self, course: Course) -> Result<(), TestCaseError> {
        for (step, conversation, way) in course {
            if way == Way::Direct {
                self.settle().await?;
            }
            let operation = self.models[conversation].operation(&step);
            if way == Way::Direct {
                let verdict = self.world.apply(&operation).await;
                self.judge(&step, conversation, true, &verdict)?;
                self.counts_agree().await?;
                continue;
            }
            self.waiting.push((step, conversation, operation));
            if way == Way::Replay {
                self.settle().await?;
            }
        }
        self.settle().await?;
        self.ends_agree().await
    }

    /// Replays what waits, together.
    async fn settle(&mut self) -> Result<(), TestCaseError> {
        let waiting = std::mem::take(&mut self.waiting);
        let batch: Vec<Operation> = waiting.iter().map(|(.., operation)| operation.clone()).collect();
        let verdicts = self.world.fixture.operations.replay(&batch).await.unwrap();
        for ((step, conversation, _), verdict) in waiting.iter().zip(&verdicts) {
            self.judge(step, *conversation, false, verdict)?;
        }
        self.counts_agree().await
    }

    fn judge(
        &mut self,
        step: &Step,
        conversation: usize,
        direct: bool,
        verdict: &Verdict,
    ) -> Result<(), TestCaseError> {
        let model = &mut self.models[conversation];
        let before = model.last();
        let is_taken = model.take(step, direct);
        prop_assert!(
            is_expected(step, is_taken, verdict),
            "{step:?} {direct}: {verdict:?}"
        );
        if let Step::Say { by, .. } = step {
            let is_new = model.last() > before;
            let counts = |by: bool| {
                let read = model.read[usize::from(by)];
                (
                    model.user(by),
                    [model.unread(by), model.last(), read, model.last()],
                )
            };
            let expected = if is_new {
                vec![counts(*by), counts(!*by)]
            } else {
                vec![]
            };
            prop_assert_eq!(counts_told(verdict), expected, "{:?}", step);
        }
        self.told.extend_from_slice(told_by(verdict));
        Ok(())
    }

    async fn counts_agree(&self) -> Result<(), TestCaseError> {
        for by in [true, false] {
            for models in [&self.models[..1], &self.models[1..]] {
                // Only one of them is in both.
                let models = if by { &self.models[..] } else { models };
                let user = models[0].user(by);
                let mut expected = Vec::new();
                for model in models {
                    let seen = self.world.seen(user, model.pair.id).await;
                    prop_assert_eq!(
                        (seen.last_seq, seen.read_seq, seen.unread),
                        (model.last(), model.read[usize::from(by)], model.unread(by)),
                        "{}",
                        by
                    );
                    expected.push(seen);
                }
                let inbox = self.world.chat.inbox(user).await.unwrap();
                let unread = expected.iter().map(|seen| seen.unread);
                prop_assert_eq!(inbox.unread.total, unread.clone().sum::<u64>());
                prop_assert_eq!(
                    inbox.unread.conversations,
                    unread.filter(|unread| *unread > 0).count() as u64
                );
                prop_assert_eq!(inbox.version, self.world.head(user).await);
                expected.sort_by_key(|seen| std::cmp::Reverse(seen.key()));
                prop_assert_eq!(inbox.conversations, expected);
            }
        }
        Ok(())
    }

    /// Messages lie where the model has them, and the logs say what was told.
    async fn ends_agree(&self) -> Result<(), TestCaseError> {
        let all = PageLimit::new(PageLimit::MAX).unwrap();
        for model in &self.models {
            let Pair { alice, ben, id } = model.pair;
            let page = self.world.chat.messages_after(alice, id, 0, all).await;
            let messages = page.unwrap().unwrap().messages;
            let stored = messages
                .iter()
                .map(|message| (message.sender_id == alice, message.client_message_id));
            let expected = model
                .messages
                .iter()
                .map(|(by, name)| (*by, model.client_id(*name)));
            prop_assert!(stored.eq(expected));
            for user in [alice, ben] {
                let own = self.told.iter().filter(|event| event.user_id == user);
                let opened = if user == alice { 2 } else { 1 };
                let events = self.world.events(user).await;
                prop_assert!(events[opened..].iter().eq(own), "{events:?}");
            }
        }
        Ok(())
    }
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
        runtime.block_on(async { Case::new(&world).await.run(steps).await })?;
    });
}
