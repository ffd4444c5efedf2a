//! What is asked of chat in paths and queries.

use crate::error::{ApiError, ErrorCode};
use crate::extract::Query;
use crate::extract::query::invalid;
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use gravity_domain::auth::Username;
use gravity_domain::chat::MessageCursor;
use gravity_domain::id::{ConversationId, UserId};
use gravity_usecase::chat::Which;
use std::collections::HashSet;
use std::future::{Ready, ready};
use uuid::Uuid;

/// The parameters of the list of conversations.
pub(crate) const LIST_QUERY: &[&str] = &["cursor", "limit"];
/// The parameters of a conversation's messages.
pub(crate) const MESSAGES_QUERY: &[&str] = &["cursor", "limit", "afterSeq"];
/// The parameters of presence.
pub(crate) const PRESENCE_QUERY: &[&str] = &["userIds"];
/// How many people can be asked for at once.
const MAX_USERS: usize = 100;

/// The first parameter of the path: a username. One that nobody can have is 404, like one that nobody has.
#[derive(Debug, Clone)]
pub(crate) struct PathUsername(pub(crate) Username);

impl FromRequest for PathUsername {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let given = req.match_info().iter().next().map(|(_, text)| text);
        let name = given.and_then(|text| Username::parse(text).ok());
        ready(name.map(Self).ok_or_else(|| ApiError::new(ErrorCode::NotFound)))
    }
}

/// Which messages of the conversation the query asks for.
///
/// # Errors
/// `invalid_cursor`, `invalid_parameter`.
pub(crate) fn which(query: &Query, conversation: ConversationId) -> Result<Which, ApiError> {
    match (query.get("cursor"), query.number("afterSeq")?) {
        (Some(_), Some(_)) => Err(invalid("`cursor` and `afterSeq` cannot be there together.")),
        (None, Some(after)) => Ok(Which::After(after)),
        (None, None) => Ok(Which::Before(None)),
        (Some(cursor), None) => {
            let cursor = MessageCursor::decode(conversation, cursor);
            let cursor = cursor.map_err(|_| ApiError::new(ErrorCode::InvalidCursor))?;
            Ok(Which::Before(Some(cursor)))
        }
    }
}

/// The people that `userIds` names, each once, in the order given.
///
/// # Errors
/// `invalid_parameter`.
pub(crate) fn user_ids(query: &Query) -> Result<Vec<UserId>, ApiError> {
    let text = query.get("userIds").filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| invalid("`userIds` is required: UUIDs with commas between them."))?;
    let mut seen = HashSet::new();
    let mut ids = Vec::new();
    for part in text.split(',') {
        let id = Some(part).filter(|part| part.len() == 36);
        let id = id.and_then(|part| Uuid::try_parse(part).ok());
        let id = id.ok_or_else(|| invalid("`userIds` must be UUIDs with commas between them."))?;
        if seen.insert(id) {
            ids.push(UserId(id));
        }
        if ids.len() > MAX_USERS {
            return Err(invalid(format!("`userIds` can name at most {MAX_USERS} people.")));
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: ConversationId = ConversationId(Uuid::from_u128(1));

    /// The place, and whether what is wanted is before it.
    fn asked(raw: &str) -> Result<(bool, Option<u64>), ErrorCode> {
        let query = Query::parse(raw, MESSAGES_QUERY).unwrap();
        match which(&query, HERE) {
            Ok(Which::Before(cursor)) => Ok((true, cursor.map(|cursor| cursor.seq))),
            Ok(Which::After(seq)) => Ok((false, Some(seq))),
            Err(error) => Err(error.code()),
        }
    }

    fn people(raw: &str) -> Result<usize, ErrorCode> {
        let query = Query::parse(raw, PRESENCE_QUERY).unwrap();
        user_ids(&query)
            .map(|ids| ids.len())
            .map_err(|error| error.code())
    }

    #[test]
    fn messages_are_asked_for_by_a_cursor_of_this_conversation_or_after_a_place() {
        let cursor = |conversation_id| MessageCursor {
            conversation_id,
            seq: 7,
        };
        let own = cursor(HERE).encode();
        let anothers = cursor(ConversationId(Uuid::from_u128(2))).encode();
        assert_eq!(asked(""), Ok((true, None)));
        assert_eq!(asked(&format!("cursor={own}")), Ok((true, Some(7))));
        assert_eq!(asked("afterSeq=3"), Ok((false, Some(3))));
        assert_eq!(
            asked(&format!("cursor={anothers}")),
            Err(ErrorCode::InvalidCursor)
        );
        assert_eq!(asked("afterSeq=-1"), Err(ErrorCode::InvalidParameter));
        assert_eq!(
            asked(&format!("cursor={own}&afterSeq=3")),
            Err(ErrorCode::InvalidParameter)
        );
    }

    #[test]
    fn people_are_named_once_each_and_not_too_many() {
        let id = |n: u128| Uuid::from_u128(n).to_string();
        let many = |count: u128| (0..count).map(id).collect::<Vec<_>>().join(",");
        assert_eq!(people(&format!("userIds={},{}", id(1), id(1))), Ok(1));
        assert_eq!(people(&format!("userIds={}", many(100))), Ok(100));
        for raw in [
            String::new(),
            "userIds=".to_owned(),
            "userIds=x".to_owned(),
            format!("userIds={},", id(1)),
            format!("userIds={}", many(101)),
        ] {
            assert_eq!(people(&raw), Err(ErrorCode::InvalidParameter), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused_without_a_panic(raw in ".{0,60}") {
            let _ = asked(&format!("cursor={}", raw.replace(['&', '%'], "")));
            let _ = people(&format!("userIds={}", raw.replace(['&', '%'], "")));
        }
    }
}
