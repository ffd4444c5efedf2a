//! Entity tags and the conditions on them.
//!
//! The tag of a single resource is `"v<version>-<whose>-<what>"`: its version (a pending resource's is the one it will
//! have), a hash of user and entity, and a hash of the representation. `If-Match` asks for the version of that entity of
//! that user, so a resource that went from pending to committed still matches; `If-None-Match` compares the whole, so a
//! cached answer that still says `"sync": "pending"` does not. The tag of a list is a hash of user and body.

use crate::error::{ApiError, ErrorCode};
use actix_web::http::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use aws_lc_rs::digest::{Context, SHA256};
use gravity_domain::id::UserId;
use std::fmt::Write as _;
use uuid::Uuid;

/// The tag of one version of an entity, shown as `body`.
pub(crate) fn entity_tag(user: UserId, entity: Uuid, version: u64, body: &[u8]) -> String {
    format!("\"v{version}-{}-{}\"", whose(user, entity), hash(&[body], 6))
}

/// The tag of a list, shown as `body`.
pub(crate) fn list_tag(user: UserId, body: &[u8]) -> String {
    format!("\"l-{}\"", hash(&[user.0.as_bytes(), body], 12))
}

fn whose(user: UserId, entity: Uuid) -> String {
    hash(&[user.0.as_bytes(), entity.as_bytes()], 4)
}

/// The first `bytes` of the SHA-256 of `parts`, in hex.
pub(crate) fn hash(parts: &[&[u8]], bytes: usize) -> String {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let digest = context.finish();
    digest
        .as_ref()
        .iter()
        .take(bytes)
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A tag that a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    weak: bool,
    opaque: String,
}

/// What a header of tags says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    Any,
    These(Vec<Tag>),
}

/// `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfMatch(Option<Tags>);

/// What `If-Match` asks of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Nothing, or only that it exists.
    Anything,
    /// This version. 0, which no entity has, when none of the tags can be of this entity.
    Version(u64),
    /// One of these, at least two.
    OneOf(Vec<u64>),
}

impl IfMatch {
    /// Reads the header.
    ///
    /// # Errors
    /// `invalid_header` when it is neither `*` nor a list of tags.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        match tags(headers, &IF_MATCH) {
            None => Ok(Self(None)),
            Some(Some(tags)) => Ok(Self(Some(tags))),
            Some(None) => Err(ApiError::detailed(
                ErrorCode::InvalidHeader,
                "`If-Match` must be `*` or a list of entity tags.",
            )),
        }
    }

    /// What it asks of `entity` of `user`. Weak tags never match; a bare version (`"3"`) is taken as one.
    pub(crate) fn expected(&self, user: UserId, entity: Uuid) -> Expected {
        let Some(Tags::These(tags)) = &self.0 else {
            return Expected::Anything;
        };
        let whose = whose(user, entity);
        let mut versions: Vec<u64> = tags.iter().filter_map(|tag| version(tag, &whose)).collect();
        versions.dedup();
        match versions.as_slice() {
            [] => Expected::Version(0),
            [only] => Expected::Version(*only),
            _ => Expected::OneOf(versions),
        }
    }
}

fn version(tag: &Tag, whose: &str) -> Option<u64> {
    if tag.weak {
        return None;
    }
    let digits = match tag.opaque.strip_prefix('v') {
        Some(rest) => {
            let (digits, rest) = rest.split_once('-')?;
            let of = rest.split_once('-').map_or(rest, |(of, _)| of);
            (of == whose).then_some(digits)?
        }
        None => tag.opaque.as_str(),
    };
    let version: u64 = digits.parse().ok()?;
    (version > 0 && version <= i64::MAX.unsigned_abs() && digits.bytes().all(|b| b.is_ascii_digit()))
        .then_some(version)
}

/// True when `If-None-Match` names `tag` (weak comparison), or anything. A header that cannot be read names nothing.
pub(crate) fn none_match(headers: &HeaderMap, tag: &str) -> bool {
    match tags(headers, &IF_NONE_MATCH).flatten() {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::These(tags)) => tags.iter().any(|given| given.opaque == tag.trim_matches('"')),
    }
}

/// What is between the quotes of each tag in `If-None-Match`; none when it is `*` or cannot be read.
pub(crate) fn opaque_none_match(headers: &HeaderMap) -> Vec<String> {
    match tags(headers, &IF_NONE_MATCH).flatten() {
        Some(Tags::These(tags)) => tags.into_iter().map(|tag| tag.opaque).collect(),
        Some(Tags::Any) | None => Vec::new(),
    }
}

/// `None`: no header. `Some(None)`: one that cannot be read.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Option<Tags>> {
    let mut all = Vec::new();
    let mut any = false;
    let mut lines = 0;
    for line in headers.get_all(name) {
        lines += 1;
        let Ok(text) = line.to_str() else {
            return Some(None);
        };
        if text.trim() == "*" {
            any = true;
        } else {
            match list(text) {
                Some(tags) => all.extend(tags),
                None => return Some(None),
            }
        }
    }
    match (lines, any) {
        (0, _) => None,
        (1, true) => Some(Some(Tags::Any)),
        (_, true) => Some(None),
        _ if all.is_empty() => Some(None),
        _ => Some(Some(Tags::These(all))),
    }
}

/// A comma-separated list of tags; a comma may be inside one.
fn list(text: &str) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
        if !opaque.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        tags.push(Tag {
            weak,
            opaque: opaque.to_owned(),
        });
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;
    use proptest::prelude::*;

    const USER: UserId = UserId(Uuid::from_u128(1));
    const ENTITY: Uuid = Uuid::from_u128(2);

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn expected(lines: &[&str]) -> Result<Expected, ErrorCode> {
        IfMatch::of(&headers(&IF_MATCH, lines))
            .map(|given| given.expected(USER, ENTITY))
            .map_err(|error| error.code())
    }

    #[test]
    fn if_match_asks_for_the_version_in_the_tag_of_this_entity_and_user() {
        let own = entity_tag(USER, ENTITY, 3, b"{}");
        assert_eq!(expected(&[&own]), Ok(Expected::Version(3)));
        assert_eq!(
            expected(&[&entity_tag(USER, ENTITY, 3, b"other body")]),
            Ok(Expected::Version(3))
        );
        assert_eq!(expected(&["\"3\""]), Ok(Expected::Version(3)));
        assert_eq!(expected(&[]), Ok(Expected::Anything));
        assert_eq!(expected(&["*"]), Ok(Expected::Anything));
        let anothers = entity_tag(UserId(ENTITY), ENTITY, 3, b"{}");
        for tag in [
            anothers,
            format!("W/{own}"),
            "\"x\"".to_owned(),
            "\"0\"".to_owned(),
            "\"+3\"".to_owned(),
        ] {
            assert_eq!(expected(&[&tag]), Ok(Expected::Version(0)), "{tag}");
        }
        assert_eq!(expected(&["\"18446744073709551615\""]), Ok(Expected::Version(0)));
    }

    #[test]
    fn if_match_takes_lists_in_one_line_or_several() {
        let two = format!(
            "{} , \"a,b\",{}",
            entity_tag(USER, ENTITY, 3, b""),
            entity_tag(USER, ENTITY, 4, b"")
        );
        assert_eq!(expected(&[&two]), Ok(Expected::OneOf(vec![3, 4])));
        assert_eq!(expected(&["\"3\"", "\"4\""]), Ok(Expected::OneOf(vec![3, 4])));
    }

    #[test]
    fn a_malformed_if_match_is_refused() {
        for line in [
            "",
            "3",
            "\"3",
            "\"3\"\"4\"",
            "w/\"3\"",
            "*, \"3\"",
            "\"a b\"",
            ",",
        ] {
            assert_eq!(expected(&[line]), Err(ErrorCode::InvalidHeader), "{line}");
        }
        assert_eq!(expected(&["*", "\"3\""]), Err(ErrorCode::InvalidHeader));
    }

    #[test]
    fn if_none_match_compares_the_whole_tag_weakly() {
        let tag = entity_tag(USER, ENTITY, 3, b"{}");
        let named = |line: &str| none_match(&headers(&IF_NONE_MATCH, &[line]), &tag);
        assert!(named(&tag) && named(&format!("W/{tag}")) && named("*") && named(&format!("\"x\", {tag}")));
        assert!(!named("\"3\"") && !named("garbage") && !named(&entity_tag(USER, ENTITY, 3, b"other")));
        assert!(!none_match(&HeaderMap::new(), &tag));
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused_without_a_panic(line in "[ -~]{0,60}") {
            let _ = expected(&[&line]);
            let _ = none_match(&headers(&IF_NONE_MATCH, &[&line]), "\"x\"");
        }
    }
}
