//! What clients say: one JSON object per text frame, `{"type", "id"?, "payload"}`; and the codes with which sockets end.
//!
//! A text that is no such object ends the socket. A payload that is not as it must be is answered, and the socket goes on.
//! Fields that are not known are ignored: a newer client may say more than this server understands.

use gravity_domain::chat::Content;
use gravity_domain::id::{ChatMessageId, ConversationId};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Why a socket ends. 41xx: come back now; 42xx: come back with backoff and jitter; 44xx: stop, or (4401) get a new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The client's own close is answered, or nothing is wrong.
    Normal,
    /// A frame is no WebSocket frame as RFC 6455 has it.
    Protocol,
    /// The server stops as planned.
    ShuttingDown,
    /// The place in the log is lost: the client resumes, and is told to begin anew.
    PositionLost,
    /// This node has as many sockets as it takes.
    Overloaded,
    /// The client reads too slowly.
    TooSlow,
    /// A ping was not answered.
    PingTimeout,
    /// The client says too much.
    TooManyRequests,
    /// No JSON object, or not text.
    BadFrame,
    /// No token, one that is not good, or one that has ended.
    Unauthenticated,
    /// Another user's token, or a suspended user.
    Forbidden,
    /// No `auth` in time.
    AuthTimeout,
    /// The user has too many sockets, and this is the oldest.
    TooManyConnections,
    /// A frame is too large.
    TooLarge,
}

impl CloseCode {
    /// The code on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::Protocol => 1002,
            Self::ShuttingDown => 4100,
            Self::PositionLost => 4102,
            Self::Overloaded => 4201,
            Self::TooSlow => 4202,
            Self::PingTimeout => 4203,
            Self::TooManyRequests => 4204,
            Self::BadFrame => 4400,
            Self::Unauthenticated => 4401,
            Self::Forbidden => 4403,
            Self::AuthTimeout => 4408,
            Self::TooManyConnections => 4409,
            Self::TooLarge => 4413,
        }
    }

    /// The reason on the wire, and the label of metrics is [`Self::number`].
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "",
            Self::Protocol => "protocol error",
            Self::ShuttingDown => "shutting down",
            Self::PositionLost => "position lost",
            Self::Overloaded => "overloaded",
            Self::TooSlow => "too slow",
            Self::PingTimeout => "ping timeout",
            Self::TooManyRequests => "too many requests",
            Self::BadFrame => "bad frame",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::AuthTimeout => "authentication timeout",
            Self::TooManyConnections => "too many connections",
            Self::TooLarge => "too large",
        }
    }

    /// The label of metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Normal => "1000",
            Self::Protocol => "1002",
            Self::ShuttingDown => "4100",
            Self::PositionLost => "4102",
            Self::Overloaded => "4201",
            Self::TooSlow => "4202",
            Self::PingTimeout => "4203",
            Self::TooManyRequests => "4204",
            Self::BadFrame => "4400",
            Self::Unauthenticated => "4401",
            Self::Forbidden => "4403",
            Self::AuthTimeout => "4408",
            Self::TooManyConnections => "4409",
            Self::TooLarge => "4413",
        }
    }
}

/// The client's id of a request: a string of at most 128 bytes, or a whole number. Echoed as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(Value);

impl RequestId {
    /// The longest, in bytes.
    pub(crate) const MAX: usize = 128;

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) if text.len() <= Self::MAX => Some(Self(value.clone())),
            Value::Number(number) if number.is_u64() || number.is_i64() => Some(Self(value.clone())),
            _ => None,
        }
    }

    /// As JSON.
    pub(crate) fn as_json(&self) -> &Value {
        &self.0
    }
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendFrame {
    /// Where to.
    pub conversation_id: ConversationId,
    /// The message's identity.
    pub client_message_id: Uuid,
    /// What it says.
    pub content: Content,
}

/// What a client wants.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// `auth`: the first frame of a socket that nobody has vouched for.
    Auth {
        /// An access token.
        token: String,
        /// A cursor to resume from.
        resume: Option<String>,
    },
    /// `auth.refresh`: a newer token of the same user.
    Refresh {
        /// An access token.
        token: String,
    },
    /// `resume`: as a first frame.
    Resume {
        /// Where from.
        cursor: String,
    },
    /// `message.send`.
    Send(SendFrame),
    /// `message.read`.
    Read {
        /// Where.
        conversation_id: ConversationId,
        /// Up to and including it; absent: the newest.
        message_id: Option<ChatMessageId>,
    },
    /// `typing`.
    Typing {
        /// Where.
        conversation_id: ConversationId,
    },
    /// `ping`.
    Ping,
    /// Anything else.
    Unknown,
}

impl Request {
    /// The label of metrics: from a bounded set.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Auth { .. } => "auth",
            Self::Refresh { .. } => "auth.refresh",
            Self::Resume { .. } => "resume",
            Self::Send(_) => "message.send",
            Self::Read { .. } => "message.read",
            Self::Typing { .. } => "typing",
            Self::Ping => "ping",
            Self::Unknown => "unknown",
        }
    }
}

/// A frame of a client.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Inbound {
    /// To be echoed.
    pub(crate) id: Option<RequestId>,
    /// What it wants, or what is wrong with it.
    pub(crate) request: Result<Request, Invalid>,
}

/// A payload that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// Which field.
    pub(crate) field: &'static str,
    /// What it must be.
    pub(crate) must: &'static str,
    /// For `message.send`: the id of the message, if that much can be read. It is then refused by name.
    pub(crate) client_message_id: Option<Uuid>,
}

impl Invalid {
    /// For people.
    pub(crate) fn message(&self) -> String {
        format!("`{}` {}", self.field, self.must)
    }
}

/// A text that is no frame of ours: the socket ends with 4400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoFrame;

/// Parses a text frame.
///
/// # Errors
/// [`NoFrame`]: not UTF-8, not one JSON object, no string in `type`, a `payload` that is no object, or an `id` that cannot be one.
pub(crate) fn parse(text: &[u8]) -> Result<Inbound, NoFrame> {
    let Ok(Value::Object(frame)) = serde_json::from_slice::<Value>(text) else {
        return Err(NoFrame);
    };
    let Some(Value::String(kind)) = frame.get("type") else {
        return Err(NoFrame);
    };
    let id = match frame.get("id") {
        None | Some(Value::Null) => None,
        Some(value) => Some(RequestId::of(value).ok_or(NoFrame)?),
    };
    let nothing = Map::new();
    let payload = match frame.get("payload") {
        None | Some(Value::Null) => &nothing,
        Some(Value::Object(payload)) => payload,
        Some(_) => return Err(NoFrame),
    };
    Ok(Inbound {
        id,
        request: request(kind, &Fields(payload)),
    })
}

fn request(kind: &str, fields: &Fields<'_>) -> Result<Request, Invalid> {
    match kind {
        "auth" => Ok(Request::Auth {
            token: fields.text("token")?.to_owned(),
            resume: fields.optional_text("resume")?.map(str::to_owned),
        }),
        "auth.refresh" => Ok(Request::Refresh {
            token: fields.text("token")?.to_owned(),
        }),
        "resume" => Ok(Request::Resume {
            cursor: fields.text("cursor")?.to_owned(),
        }),
        "message.send" => send(fields).map(Request::Send),
        "message.read" => Ok(Request::Read {
            conversation_id: ConversationId(fields.uuid("conversationId")?),
            message_id: fields.optional_uuid("messageId")?.map(ChatMessageId),
        }),
        "typing" => Ok(Request::Typing {
            conversation_id: ConversationId(fields.uuid("conversationId")?),
        }),
        "ping" => Ok(Request::Ping),
        _ => Ok(Request::Unknown),
    }
}

fn send(fields: &Fields<'_>) -> Result<SendFrame, Invalid> {
    let client_message_id = fields.uuid("clientMessageId")?;
    let named = |invalid: Invalid| Invalid {
        client_message_id: Some(client_message_id),
        ..invalid
    };
    let conversation_id = fields.uuid("conversationId").map_err(named)?;
    let content = fields.text("content").map_err(named)?;
    let content = Content::parse(content)
        .map_err(|_| invalid("content", "must be text of 1 to 4000 characters"))
        .map_err(named)?;
    Ok(SendFrame {
        conversation_id: ConversationId(conversation_id),
        client_message_id,
        content,
    })
}

fn invalid(field: &'static str, must: &'static str) -> Invalid {
    Invalid {
        field,
        must,
        client_message_id: None,
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn optional_text(&self, name: &'static str) -> Result<Option<&'a str>, Invalid> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(name, "must be a string")),
        }
    }

    fn text(&self, name: &'static str) -> Result<&'a str, Invalid> {
        self.optional_text(name)?
            .ok_or_else(|| invalid(name, "is required"))
    }

    fn optional_uuid(&self, name: &'static str) -> Result<Option<Uuid>, Invalid> {
        let parsed = self.optional_text(name)?.map(Uuid::parse_str).transpose();
        parsed.map_err(|_| invalid(name, "must be a UUID"))
    }

    fn uuid(&self, name: &'static str) -> Result<Uuid, Invalid> {
        self.optional_uuid(name)?
            .ok_or_else(|| invalid(name, "is required"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parsed(value: &Value) -> Inbound {
        parse(value.to_string().as_bytes()).unwrap_or_else(|_| panic!("{value} is no frame"))
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            let names = prop_oneof![
                Just("type".to_owned()),
                Just("id".to_owned()),
                Just("payload".to_owned()),
                Just("clientMessageId".to_owned()),
                "[a-z]{1,6}",
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((names, inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn json_is_a_frame_exactly_when_it_is_an_object_with_a_type_a_possible_id_and_an_object_for_payload(
            value in json_value()
        ) {
            let is_one = value.as_object().is_some_and(|frame| {
                frame.get("type").is_some_and(Value::is_string)
                    && frame.get("payload").is_none_or(|payload| payload.is_null() || payload.is_object())
                    && frame.get("id").is_none_or(|id| {
                        id.is_null() || id.is_number() || id.as_str().is_some_and(|text| text.len() <= 128)
                    })
            });
            prop_assert_eq!(parse(value.to_string().as_bytes()).is_ok(), is_one);
        }

        #[test]
        fn a_message_is_read_back_as_it_was_said(
            content in "[a-zA-Z0-9 äöü€😀.,!?\"\\\\]{1,200}", conversation in any::<u128>(), client in any::<u128>(), id in ".{0,30}"
        ) {
            let (conversation, client) = (Uuid::from_u128(conversation), Uuid::from_u128(client));
            let frame = json!({"type": "message.send", "id": id, "more": 1, "payload": {
                "conversationId": conversation, "clientMessageId": client, "content": content, "x": {}}});
            let inbound = parsed(&frame);
            let echoed = inbound.id.unwrap();
            prop_assert_eq!(echoed.as_json(), &json!(id));
            let Ok(Request::Send(send)) = inbound.request else { panic!("no message") };
            prop_assert_eq!(send.conversation_id.0, conversation);
            prop_assert_eq!(send.client_message_id, client);
            prop_assert_eq!(send.content, Content::parse(&content).unwrap());
        }

        #[test]
        fn every_kind_takes_any_payload_without_ending_the_socket(payload in json_value(), kind in prop_oneof![
            Just("auth"), Just("auth.refresh"), Just("resume"), Just("message.send"), Just("message.read"),
            Just("typing"), Just("ping"), Just("nonsense")
        ]) {
            if payload.is_object() {
                let inbound = parsed(&json!({"type": kind, "payload": payload}));
                prop_assert!(kind != "nonsense" || matches!(inbound.request, Ok(Request::Unknown)));
            }
        }
    }

    #[test]
    fn what_is_missing_or_of_another_type_is_named_and_a_message_is_refused_by_its_id() {
        let client = Uuid::now_v7();
        let wrong = |payload: Value| {
            let inbound = parsed(&json!({"type": "message.send", "payload": payload}));
            match inbound.request {
                Err(invalid) => (invalid.field, invalid.client_message_id),
                Ok(_) => panic!("it was taken"),
            }
        };
        assert_eq!(wrong(json!({})), ("clientMessageId", None));
        assert_eq!(wrong(json!({"clientMessageId": 7})), ("clientMessageId", None));
        assert_eq!(
            wrong(json!({"clientMessageId": client})),
            ("conversationId", Some(client))
        );
        let conversation = Uuid::now_v7();
        for content in [json!(""), json!(null), json!("x".repeat(4_001)), json!("a\u{0}")] {
            let payload =
                json!({"clientMessageId": client, "conversationId": conversation, "content": content});
            assert_eq!(wrong(payload), ("content", Some(client)));
        }
    }

    #[test]
    fn close_codes_say_on_the_wire_and_in_metrics_the_same() {
        use CloseCode as C;
        let all = [
            C::Normal,
            C::Protocol,
            C::ShuttingDown,
            C::PositionLost,
            C::Overloaded,
            C::TooSlow,
            C::PingTimeout,
            C::TooManyRequests,
            C::BadFrame,
            C::Unauthenticated,
            C::Forbidden,
            C::AuthTimeout,
            C::TooManyConnections,
            C::TooLarge,
        ];
        for code in all {
            assert_eq!(code.label(), code.number().to_string());
            assert!(code.reason().len() <= 123);
        }
    }
}
