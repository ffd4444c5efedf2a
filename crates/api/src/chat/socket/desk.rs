//! The requests of one socket that take their time: answered one after the other, in the order they came. There is a task only
//! while there is something to do.

use super::following::IsRepeat;
use super::frames::{self, Acked};
use super::hub::{Hub, Sending};
use super::open_socket::Socket;
use super::protocol::{RequestId, SendFrame};
use crate::error::Class;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What is to be done.
pub(super) enum Task {
    Send(SendFrame),
    Read(ConversationId, Option<ChatMessageId>),
    Typing(ConversationId),
}

/// Too many wait.
pub(super) struct TooMany(pub(super) Task);

type Waiting = (Option<RequestId>, Task);

/// See the module.
pub(super) struct Desk {
    hub: Arc<Hub>,
    socket: Arc<Socket>,
    user: UserId,
    waiting: RefCell<VecDeque<Waiting>>,
    is_busy: Cell<bool>,
}

impl Desk {
    pub(super) fn new(hub: &Arc<Hub>, socket: &Arc<Socket>, user: UserId) -> Rc<Self> {
        Rc::new(Self {
            hub: Arc::clone(hub),
            socket: Arc::clone(socket),
            user,
            waiting: RefCell::default(),
            is_busy: Cell::new(false),
        })
    }

    /// Takes a request, or gives it back.
    pub(super) fn take(self: &Rc<Self>, id: Option<RequestId>, task: Task) -> Result<(), TooMany> {
        if self.socket.unanswered.load(Relaxed) >= self.hub.settings.max_unanswered {
            return Err(TooMany(task));
        }
        self.socket.unanswered.fetch_add(1, Relaxed);
        self.waiting.borrow_mut().push_back((id, task));
        if !self.is_busy.replace(true) {
            let desk = Rc::clone(self);
            actix_web::rt::spawn(async move { desk.work().await });
        }
        Ok(())
    }

    async fn work(&self) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some((id, task)) = next else { break };
            self.do_one(id.as_ref(), task).await;
            self.socket.unanswered.fetch_sub(1, Relaxed);
        }
        *self.waiting.borrow_mut() = VecDeque::new();
        self.is_busy.set(false);
    }

    async fn do_one(&self, id: Option<&RequestId>, task: Task) {
        let Some(ports) = self.hub.ports() else { return };
        let failed = match task {
            Task::Send(message) => return self.send(id, message).await,
            Task::Read(conversation, up_to) => {
                let read = self
                    .hub
                    .within(ports.calls.read(self.user, conversation, up_to))
                    .await;
                match (read, id) {
                    (Ok(read_seq), Some(id)) => {
                        let frame = frames::read_done(id, conversation, self.user, read_seq);
                        return self.hub.answer(&self.socket, frame);
                    }
                    (read, _) => read.err(),
                }
            }
            Task::Typing(conversation) => self
                .hub
                .within(ports.calls.typing(self.user, conversation))
                .await
                .err(),
        };
        if let Some(error) = failed {
            let frame = frames::error(id, &frames::trouble_of(&error));
            self.hub.answer(&self.socket, frame);
        }
    }

    async fn send(&self, id: Option<&RequestId>, message: SendFrame) {
        let Some(ports) = self.hub.ports() else { return };
        let client_message_id = message.client_message_id;
        let sending = Sending {
            id,
            is_registered: self.hub.sending(&self.socket, client_message_id, id),
        };
        match self.hub.within(ports.calls.send(self.user, message)).await {
            Ok(taken) => {
                let stored = taken.is_stored.then_some(IsRepeat(taken.is_repeat));
                self.hub
                    .taken(&self.socket, &Acked::from(&taken.message), stored, sending);
            }
            // Nobody knows what becomes of it: that is no refusal. If it is stored after all, the ack still comes.
            Err(error) if error.code().class() == Class::Unavailable => {
                let mut trouble = frames::trouble_of(&error);
                trouble["clientMessageId"] = json!(client_message_id);
                self.hub.answer(&self.socket, frames::error(id, &trouble));
            }
            Err(error) => {
                self.hub.refused(&self.socket, client_message_id);
                let trouble = frames::trouble_of(&error);
                let message_id = ChatMessageId::of(self.user, client_message_id);
                let frame = frames::rejected(Some(client_message_id), Some(message_id), &trouble, id);
                self.hub.answer(&self.socket, frame);
            }
        }
    }
}
