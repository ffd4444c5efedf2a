//! The streams of the demonstration: some forty items from five sources, the newest from this hour.
//!
//! Of every kind that there is: texts, events and published things, conversations longer than a page, files, what a machine
//! makes of it, read and archived items. Everything goes the way of an ingest, checks included.

use gravity_domain::clock::Timestamp;
use gravity_domain::error::FieldError;
use gravity_domain::id::UserId;
use gravity_domain::profile::AvatarUrl;
use gravity_domain::stream::{
    ContentType, ExternalId, Flags, HtmlSanitizer, ItemKey, ItemPriority, ItemTitle, MessageBody, NewItem,
    NewMessage, NewPerson, PersonName, SenderType, Snippet, Source, details,
};
use gravity_domain::text::TextError;
use serde_json::{Value, json};

/// How many items a stream has.
pub(super) const ITEMS: usize = 40;

const HOUR_MS: i64 = 3_600_000;
const SOURCES: [&str; 5] = ["email", "calendar", "social", "chat", "tasks"];
const PEOPLE: [&str; 6] = ["Ada", "Ben", "Chloé", "Дмитрий", "Emeka", "陽翔"];

/// Eight of each source.
const TITLES: [[&str; 8]; 5] = [
    [
        "Your ticket for the night train",
        "Minutes of Monday's meeting",
        "Invoice for October",
        "A question about the garden fence",
        "The photographs are ready",
        "Change of the delivery date",
        "Welcome to the choir",
        "Draft of the talk on hybrid clocks",
    ],
    [
        "Review of the alert rules",
        "Lunch with Chloé",
        "Dentist",
        "Planning for spring",
        "Rehearsal",
        "Parents' evening",
        "Restore drill",
        "Hike to the lake",
    ],
    [
        "Ada wrote about marmalade",
        "Ben liked your picture",
        "Emeka shared a recipe",
        "Three people follow you",
        "A comment on your bicycle",
        "The bakery has news",
        "The library is open on Sunday",
        "Chloé mentioned you",
    ],
    [
        "Where are the keys?",
        "Weekend plans",
        "The build is green again",
        "Coffee at four?",
        "Present for Ines",
        "Who takes the minutes?",
        "The window in the hall",
        "Eclipse glasses",
    ],
    [
        "Renew the passport is due tomorrow",
        "Back up the photographs is overdue",
        "Ben finished Order more coffee",
        "Fix the rear light was assigned to you",
        "Plan the hike is due on Friday",
        "Three tasks were completed",
        "Test the restore is due today",
        "Sort the tools was postponed",
    ],
];

/// Why the demonstration is no valid ingest; a mistake in this file.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// One of the details.
    #[error("{}: {}", .0.field, .0.message)]
    Detail(FieldError),
}

impl From<FieldError> for StreamError {
    fn from(error: FieldError) -> Self {
        Self::Detail(error)
    }
}

/// The stream of `user` as of `now`.
///
/// # Errors
/// None, unless this file says what may not be ingested.
pub(super) fn items(
    user: UserId,
    now: Timestamp,
    sanitizer: &dyn HtmlSanitizer,
) -> Result<Vec<NewItem>, StreamError> {
    let builder = Builder { user, now, sanitizer };
    (0..ITEMS).map(|number| builder.item(number)).collect()
}

struct Builder<'a> {
    user: UserId,
    now: Timestamp,
    sanitizer: &'a dyn HtmlSanitizer,
}

impl Builder<'_> {
    fn item(&self, number: usize) -> Result<NewItem, StreamError> {
        let (source, row) = (number % SOURCES.len(), number / SOURCES.len());
        let title = TITLES[source][row];
        let timestamp = self.hours_ago(number, 0);
        let messages = match SOURCES[source] {
            "email" => self.mail(number, title)?,
            "calendar" => vec![self.event(number, title)?],
            "social" => vec![self.post(number, title)?],
            "chat" => self.chat(number, title)?,
            _ => vec![self.notice(number, title)?],
        };
        let count = match SOURCES[source] {
            "tasks" => 0,
            "calendar" => 4,
            _ => 1 + row % 3,
        };
        Ok(NewItem {
            key: ItemKey {
                user_id: self.user,
                source: Source::parse(SOURCES[source])?,
                external_id: ExternalId::parse(&format!("seed-{number}"))?,
            },
            title: ItemTitle::parse(title)?,
            priority: ItemPriority::ALL[row % ItemPriority::ALL.len()],
            timestamp,
            flags: Flags {
                is_unread: number.is_multiple_of(4).then_some(false),
                is_archived: (number % 9 == 8).then_some(true),
            },
            snippet: Some(Snippet::parse(&format!("{title}. More of it inside."))?),
            participants: (number..number + count)
                .map(participant)
                .collect::<Result<_, _>>()?,
            messages,
        })
    }

    fn hours_ago(&self, hours: usize, minutes: usize) -> Timestamp {
        let hours = i64::try_from(hours).unwrap_or(0) * HOUR_MS;
        self.now
            .plus_millis(-hours - i64::try_from(minutes).unwrap_or(0) * 60_000)
    }

    /// A message of `person`, `minutes` before its item's time.
    fn message(
        &self,
        number: usize,
        minutes: usize,
        person: usize,
        text: &str,
    ) -> Result<NewMessage, StreamError> {
        Ok(NewMessage {
            external_id: ExternalId::parse(&format!("seed-{number}-{minutes}"))?,
            sender_external_id: Some(ExternalId::parse(&external_id(person))?),
            sender_name: Some(PersonName::parse(PEOPLE[person % PEOPLE.len()])?),
            sender_type: SenderType::Other,
            content_type: ContentType::Text,
            content: Some(MessageBody::parse(text)?),
            full_content_html: None,
            timestamp: self.hours_ago(number, minutes),
            event_details: None,
            social_details: None,
            attachments: None,
            ai_insights: None,
        })
    }

    fn mail(&self, number: usize, title: &str) -> Result<Vec<NewMessage>, StreamError> {
        let mut newest = self.message(
            number,
            0,
            number,
            &format!("{title}.\n\nSee the file for the rest."),
        )?;
        let html = format!(
            "<h1>{title}</h1><p>See the <a href=\"https://files.example.com/{number}\">file</a> for the rest.</p>"
        );
        newest.full_content_html = Some(self.sanitizer.clean(&html));
        newest.attachments = Some(details::attachments(&json!([{
            "name": "document.pdf", "url": format!("https://files.example.com/{number}/document.pdf"),
            "mimeType": "application/pdf", "sizeBytes": 48_213 + number,
            "thumbnailUrl": format!("https://files.example.com/{number}/document.png"),
        }]))?);
        newest.ai_insights = Some(self.insights(title)?);
        let mut older = self.message(
            number,
            30,
            number + 1,
            "I shall send you the file this afternoon.",
        )?;
        older.sender_type = SenderType::User;
        Ok(vec![newest, older])
    }

    fn insights(&self, title: &str) -> Result<Value, StreamError> {
        Ok(details::ai_insights(&json!([
            {"kind": "summary", "text": format!("{title}: there is a file to look at."), "confidence": 0.87},
            {"kind": "action", "text": "Answer before Friday."},
        ]))?)
    }

    fn event(&self, number: usize, title: &str) -> Result<NewMessage, StreamError> {
        let starts = self
            .now
            .plus_millis(HOUR_MS * i64::try_from(number + 1).unwrap_or(1));
        let mut message = self.message(number, 0, number, &format!("You are invited: {title}"))?;
        message.content_type = ContentType::Event;
        let attendees: Vec<Value> = ["accepted", "tentative", "declined"]
            .into_iter()
            .zip(number..)
            .map(|(status, person)| json!({"name": PEOPLE[person % PEOPLE.len()], "status": status}))
            .collect();
        message.event_details = Some(details::event_details(&json!({
            "startsAt": starts, "endsAt": starts.plus_millis(HOUR_MS), "allDay": false,
            "location": "Second floor, room 4", "organizer": PEOPLE[number % PEOPLE.len()],
            "attendees": attendees, "joinUrl": format!("https://meet.example.com/{number}"),
        }))?);
        Ok(message)
    }

    fn post(&self, number: usize, title: &str) -> Result<NewMessage, StreamError> {
        let mut message = self.message(number, 0, number, &format!("{title}. Have a look!"))?;
        message.content_type = ContentType::Social;
        let name = PEOPLE[number % PEOPLE.len()];
        message.social_details = Some(details::social_details(&json!({
            "platform": "forum", "url": format!("https://forum.example.com/posts/{number}"),
            "author": {"name": name, "handle": format!("@person{}", number % PEOPLE.len()), "avatarUrl": avatar(number)},
            "likes": number * 3, "shares": number / 5, "comments": number % 7,
        }))?);
        Ok(message)
    }

    /// Every fourth conversation is longer than a page.
    fn chat(&self, number: usize, title: &str) -> Result<Vec<NewMessage>, StreamError> {
        let length = if (number / SOURCES.len()).is_multiple_of(4) {
            60
        } else {
            6
        };
        let words = [
            "Fine with me.",
            "Let me ask.",
            "At four, then?",
            "I have one left.",
            "👍",
        ];
        (0..length)
            .map(|minutes| {
                let text = if minutes + 1 == length {
                    title
                } else {
                    words[minutes % words.len()]
                };
                let mut message = self.message(number, minutes, number + minutes % 2, text)?;
                if minutes % 3 == 1 {
                    message.sender_type = SenderType::User;
                }
                Ok(message)
            })
            .collect()
    }

    fn notice(&self, number: usize, title: &str) -> Result<NewMessage, StreamError> {
        let mut message = self.message(number, 0, number, title)?;
        message.sender_type = SenderType::System;
        message.sender_external_id = None;
        message.sender_name = None;
        Ok(message)
    }
}

fn external_id(person: usize) -> String {
    format!("person-{}", person % PEOPLE.len())
}

fn avatar(person: usize) -> String {
    format!("https://pictures.example.com/{}.png", person % PEOPLE.len())
}

fn participant(person: usize) -> Result<NewPerson, StreamError> {
    Ok(NewPerson {
        external_id: Some(ExternalId::parse(&external_id(person))?),
        name: PersonName::parse(PEOPLE[person % PEOPLE.len()])?,
        avatar_url: Some(AvatarUrl::parse(&avatar(person))?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_infra::stream::AllowList;
    use std::collections::HashSet;

    #[test]
    fn a_stream_has_every_source_priority_kind_and_detail() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let items = items(UserId::random(), now, &AllowList::new()).unwrap();
        let ids: HashSet<_> = items.iter().map(|item| item.key.item_id()).collect();
        assert_eq!((items.len(), ids.len()), (ITEMS, ITEMS));
        for source in SOURCES {
            for priority in ItemPriority::ALL {
                let fits = |item: &NewItem| item.key.source.as_str() == source && item.priority == priority;
                assert!(items.iter().any(fits), "{source} {priority:?}");
            }
        }
        assert!(
            items
                .iter()
                .all(|item| item.timestamp <= now && !item.messages.is_empty())
        );
        let messages: Vec<&NewMessage> = items.iter().flat_map(|item| &item.messages).collect();
        for kind in ContentType::ALL {
            assert!(
                messages.iter().any(|message| message.content_type == kind),
                "{kind:?}"
            );
        }
        let has = |what: fn(&NewMessage) -> bool| messages.iter().any(|message| what(message));
        assert!(has(
            |message| message.attachments.is_some() && message.ai_insights.is_some()
        ));
        assert!(has(|message| message
            .full_content_html
            .as_ref()
            .is_some_and(|html| html.contains("<h1>"))));
        assert!(items.iter().any(|item| item.messages.len() > 50));
        assert!(items.iter().any(|item| item.flags.is_archived == Some(true)));
    }
}
