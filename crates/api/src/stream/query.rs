//! What is asked of a stream, as query parameters and as the `filter` of an action; and the tags of what is answered.
//!
//! The tag of a page is `"<version>-<hash of user and query>"`: it is known before the page is. A page with writes that
//! are still on their way has its body in the hash as well. The version in a tag also says what its sender has seen:
//! nothing older is answered to it. A bare version, as ingest and actions answer, says the same and is no page's tag.

use crate::error::ApiError;
use crate::extract::Query;
use crate::extract::conditional::{hash, opaque_none_match};
use crate::extract::object::Object;
use crate::extract::query::invalid;
use actix_web::http::header::HeaderMap;
use gravity_domain::clock::Timestamp;
use gravity_domain::error::FieldError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{ItemPriority, Source, StreamFilter, StreamQuery, View};
use gravity_domain::text::TextError;
use serde_json::Value;
use std::collections::BTreeSet;

/// The parameters of the list.
pub(crate) const LIST_QUERY: &[&str] = &[
    "minVersion",
    "filter",
    "source*",
    "priority*",
    "since",
    "until",
    "cursor",
    "limit",
];
/// The parameters of one item.
pub(crate) const ITEM_QUERY: &[&str] = &["minVersion"];
/// The parameters of an item's messages.
pub(crate) const MESSAGES_QUERY: &[&str] = &["cursor", "limit"];
/// The parameters of what has changed.
pub(crate) const CHANGES_QUERY: &[&str] = &["since"];
/// The fields of the `filter` of an action.
pub(crate) const FILTER_FIELDS: &[&str] = &["filter", "source", "priority", "since", "until"];
/// The most sources that can be asked for at once.
pub(crate) const MAX_SOURCES: usize = 20;
/// The most priorities that can be named: every one, and then some repeated.
const MAX_PRIORITIES: usize = 20;

/// A view by its name.
fn view(name: &str) -> Result<View, TextError> {
    View::parse(name).ok_or(TextError::Malformed("must be all, unread or archived"))
}

/// A priority by its name.
pub(crate) fn priority(name: &str) -> Result<ItemPriority, TextError> {
    ItemPriority::parse(name).ok_or(TextError::Malformed("must be high, medium or low"))
}

/// A time as RFC 3339.
pub(crate) fn time(text: &str) -> Result<Timestamp, TextError> {
    Timestamp::parse(text).ok_or(TextError::Malformed("must be an RFC 3339 time, from 1970 on"))
}

fn one<T>(
    query: &Query,
    name: &str,
    parse: impl Fn(&str) -> Result<T, TextError>,
) -> Result<Option<T>, ApiError> {
    let given = query.get(name).map(parse).transpose();
    given.map_err(|error| invalid(format!("`{name}` {error}.")))
}

fn several<T: Ord>(
    query: &Query,
    name: &str,
    max: usize,
    parse: impl Fn(&str) -> Result<T, TextError>,
) -> Result<BTreeSet<T>, ApiError> {
    let all = query
        .all(name)
        .map(parse)
        .collect::<Result<Vec<T>, _>>()
        .map_err(|error| invalid(format!("`{name}` {error}.")))?;
    if all.len() > max {
        return Err(invalid(format!("`{name}` can be there at most {max} times.")));
    }
    Ok(all.into_iter().collect())
}

/// The page that the query asks for.
///
/// # Errors
/// `invalid_parameter` or `invalid_cursor`.
pub(crate) fn page(query: &Query) -> Result<StreamQuery, ApiError> {
    Ok(StreamQuery {
        filter: StreamFilter {
            view: one(query, "filter", view)?.unwrap_or_default(),
            sources: several(query, "source", MAX_SOURCES, Source::parse)?,
            priorities: several(query, "priority", MAX_PRIORITIES, priority)?,
            since: one(query, "since", time)?,
            until: one(query, "until", time)?,
        },
        after: query.cursor()?,
        limit: query.limit()?,
    })
}

/// The items that the `filter` of an action finds.
///
/// # Errors
/// The first field that is wrong, named below `filter`.
pub(crate) fn filter(value: &Value) -> Result<StreamFilter, FieldError> {
    let object = Object::of(value, "filter".into(), FILTER_FIELDS)?;
    let sources = object.one_or_more("source", MAX_SOURCES, Source::parse)?;
    let priorities = object.one_or_more("priority", MAX_PRIORITIES, priority)?;
    Ok(StreamFilter {
        view: object.optional("filter", view)?.unwrap_or_default(),
        sources: sources.into_iter().collect(),
        priorities: priorities.into_iter().collect(),
        since: object.optional("since", time)?,
        until: object.optional("until", time)?,
    })
}

/// What names an answer of the stream, whatever version it is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject(Vec<u8>);

impl Subject {
    /// A page of `user`.
    pub(crate) fn page(user: UserId, query: &StreamQuery) -> Self {
        let mut name = Self::begun(user, "page");
        if let Ok(query) = serde_json::to_vec(query) {
            name.extend_from_slice(&query);
        }
        Self(name)
    }

    /// An item of `user`.
    pub(crate) fn item(user: UserId, id: ItemId) -> Self {
        let mut name = Self::begun(user, "item");
        name.extend_from_slice(id.0.as_bytes());
        Self(name)
    }

    /// What an answer looks like may change with the program.
    fn begun(user: UserId, kind: &str) -> Vec<u8> {
        let mut name = user.0.as_bytes().to_vec();
        name.extend_from_slice(kind.as_bytes());
        name.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
        name.push(0);
        name
    }

    /// The tag of its answer at `version`; `pending` is the body of one with writes that are on their way.
    pub(crate) fn tag(&self, version: u64, pending: Option<&[u8]>) -> String {
        let hash = match pending {
            None => hash(&[&self.0], 8),
            Some(body) => hash(&[&self.0, b"pending", body], 8),
        };
        format!("\"{version}-{hash}\"")
    }
}

/// The version that an answer must not be older than, by the tags the client has.
pub(crate) fn seen(headers: &HeaderMap) -> u64 {
    let tags = opaque_none_match(headers);
    tags.iter().filter_map(|tag| version(tag)).max().unwrap_or(0)
}

fn version(tag: &str) -> Option<u64> {
    let digits = match tag.split_once('-') {
        Some((digits, rest)) => {
            (rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)?
        }
        None => tag,
    };
    let version: u64 = digits.parse().ok()?;
    (digits.bytes().all(|b| b.is_ascii_digit()) && i64::try_from(version).is_ok()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderValue, IF_NONE_MATCH};
    use proptest::prelude::*;
    use uuid::Uuid;

    const USER: UserId = UserId(Uuid::from_u128(1));

    fn asked(raw: &str) -> Result<StreamQuery, ApiError> {
        page(&Query::parse(raw, LIST_QUERY).unwrap())
    }

    fn seen_in(line: &str) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, HeaderValue::from_str(line).unwrap());
        seen(&headers)
    }

    #[test]
    fn a_tag_names_version_user_query_and_what_is_pending() {
        let tag = |raw: &str| Subject::page(USER, &asked(raw).unwrap()).tag(7, None);
        assert_eq!(
            tag("source=a&source=b"),
            tag("source=b&source=a&source=a&limit=20")
        );
        let subject = Subject::page(USER, &asked("").unwrap());
        let tags = [
            tag(""),
            tag("limit=21"),
            tag("filter=unread"),
            tag("since=2023-11-14T22:13:20Z"),
            tag("until=2023-11-14T22:13:20Z"),
            Subject::page(UserId(Uuid::from_u128(2)), &asked("").unwrap()).tag(7, None),
            Subject::item(USER, ItemId(Uuid::from_u128(1))).tag(7, None),
            subject.tag(8, None),
            subject.tag(7, Some(b"{}")),
            subject.tag(7, Some(b"[]")),
        ];
        assert_eq!(tags.iter().collect::<BTreeSet<_>>().len(), tags.len());
        assert!(tags.iter().all(|tag| tag.len() == 1 + 1 + 1 + 16 + 1), "{tags:?}");
    }

    #[test]
    fn a_client_has_seen_the_newest_version_in_its_tags() {
        assert_eq!(seen_in("\"7\""), 7);
        assert_eq!(seen_in("W/\"7-0123456789abcdef\", \"9\""), 9);
        for line in [
            "*",
            "garbage",
            "\"v7-01-02\"",
            "\"7-x\"",
            "\"l-0123\"",
            "\"-1\"",
            "\"18446744073709551615\"",
        ] {
            assert_eq!(seen_in(line), 0, "{line}");
        }
        assert_eq!(seen(&HeaderMap::new()), 0);
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(line in "[ -~]{0,60}") {
            let _ = seen_in(&line);
        }

        #[test]
        fn any_query_is_read_or_refused_without_a_panic(raw in "(filter|source|priority|since|until|cursor|limit)=.{0,30}") {
            if let Ok(query) = Query::parse(&raw, LIST_QUERY) {
                let _ = page(&query);
            }
        }
    }
}
