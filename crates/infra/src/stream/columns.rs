//! A batch of told items as columns: the parameters of the statement that takes them in.

use crate::postgres::values::{At, Stamp};
use gravity_domain::id::{ItemId, MessageId, PersonId};
use gravity_domain::stream::{ItemKey, NewItem, NewMessage, NewPerson};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use tokio_postgres::types::{Json, ToSql};
use uuid::Uuid;

/// A batch as arrays, each item, person and message once.
#[derive(Default)]
pub(super) struct Batch<'a> {
    items: Items<'a>,
    people: People<'a>,
    seats: Seats,
    messages: Messages<'a>,
}

impl<'a> Batch<'a> {
    /// Of an item told twice the last counts.
    pub(super) fn of(items: &'a [NewItem]) -> Self {
        let ids: Vec<ItemId> = items.iter().map(|item| item.key.item_id()).collect();
        let last: HashMap<ItemId, usize> = ids.iter().copied().zip(0..).collect();
        let mut batch = Self::default();
        let mut people = HashMap::new();
        for (index, (item, id)) in items.iter().zip(ids).enumerate() {
            if last.get(&id) == Some(&index) {
                batch.items.push(id, item);
                batch.seats.push(id, item, &mut people);
                batch.messages.push(id, item);
            }
        }
        for (id, person) in people {
            batch.people.push(id, person);
        }
        batch
    }

    /// The owners of the items.
    pub(super) fn users(&self) -> &[Uuid] {
        &self.items.users
    }

    /// The length of the longest column.
    pub(super) fn rows(&self) -> usize {
        let rows = [
            self.items.ids.len(),
            self.seats.items.len(),
            self.messages.ids.len(),
        ];
        rows.into_iter().max().unwrap_or(0)
    }

    /// All columns, in the statement's order.
    pub(super) fn parameters(&'a self, stamp: &'a Stamp) -> Vec<&'a (dyn ToSql + Sync)> {
        let (items, people, seats, messages) = (&self.items, &self.people, &self.seats, &self.messages);
        vec![
            stamp,
            &items.ids,
            &items.users,
            &items.external_ids,
            &items.titles,
            &items.sources,
            &items.priorities,
            &items.snippets,
            &items.timestamps,
            &items.unread,
            &items.archived,
            &people.ids,
            &people.names,
            &people.avatars,
            &seats.items,
            &seats.people,
            &seats.positions,
            &messages.ids,
            &messages.items,
            &messages.sender_ids,
            &messages.sender_names,
            &messages.sender_types,
            &messages.content_types,
            &messages.contents,
            &messages.htmls,
            &messages.timestamps,
            &messages.events,
            &messages.socials,
            &messages.attachments,
            &messages.insights,
        ]
    }
}

#[derive(Default)]
struct Items<'a> {
    ids: Vec<Uuid>,
    users: Vec<Uuid>,
    external_ids: Vec<&'a str>,
    titles: Vec<&'a str>,
    sources: Vec<&'a str>,
    priorities: Vec<&'a str>,
    snippets: Vec<Option<&'a str>>,
    timestamps: Vec<At>,
    unread: Vec<Option<bool>>,
    archived: Vec<Option<bool>>,
}

impl<'a> Items<'a> {
    fn push(&mut self, id: ItemId, item: &'a NewItem) {
        self.ids.push(id.0);
        self.users.push(item.key.user_id.0);
        self.external_ids.push(item.key.external_id.as_str());
        self.titles.push(item.title.as_str());
        self.sources.push(item.key.source.as_str());
        self.priorities.push(item.priority.as_str());
        self.snippets
            .push(item.snippet.as_ref().map(|text| text.as_str()));
        self.timestamps.push(At(item.timestamp));
        self.unread.push(item.flags.is_unread);
        self.archived.push(item.flags.is_archived);
    }
}

/// The last name and the last picture told of each person.
type Known<'a> = HashMap<PersonId, (&'a str, Option<&'a str>)>;

#[derive(Default)]
struct People<'a> {
    ids: Vec<Uuid>,
    names: Vec<&'a str>,
    avatars: Vec<Option<&'a str>>,
}

impl<'a> People<'a> {
    fn push(&mut self, id: PersonId, (name, avatar): (&'a str, Option<&'a str>)) {
        self.ids.push(id.0);
        self.names.push(name);
        self.avatars.push(avatar);
    }
}

#[derive(Default)]
struct Seats {
    items: Vec<Uuid>,
    people: Vec<Uuid>,
    positions: Vec<i16>,
}

impl Seats {
    fn push<'a>(&mut self, id: ItemId, item: &'a NewItem, people: &mut Known<'a>) {
        let mut seated = HashSet::new();
        for person in &item.participants {
            let person_id = person_id(&item.key, person);
            let known = people.entry(person_id).or_insert(("", None));
            known.0 = person.name.as_str();
            known.1 = person.avatar_url.as_ref().map(|url| url.as_str()).or(known.1);
            if seated.insert(person_id) {
                self.items.push(id.0);
                self.people.push(person_id.0);
                self.positions
                    .push(i16::try_from(seated.len()).unwrap_or(i16::MAX));
            }
        }
    }
}

fn person_id(key: &ItemKey, person: &NewPerson) -> PersonId {
    match &person.external_id {
        Some(id) => PersonId::of(key.user_id, key.source.as_str(), id.as_str()),
        None => PersonId::of_name(key.user_id, key.source.as_str(), person.name.as_str()),
    }
}

/// As [`person_id`], so that a sender can be found among the participants.
fn sender_id(key: &ItemKey, message: &NewMessage) -> Option<PersonId> {
    let source = key.source.as_str();
    match (&message.sender_external_id, &message.sender_name) {
        (Some(id), _) => Some(PersonId::of(key.user_id, source, id.as_str())),
        (None, Some(name)) => Some(PersonId::of_name(key.user_id, source, name.as_str())),
        (None, None) => None,
    }
}

#[derive(Default)]
struct Messages<'a> {
    ids: Vec<Uuid>,
    items: Vec<Uuid>,
    sender_ids: Vec<Option<Uuid>>,
    sender_names: Vec<Option<&'a str>>,
    sender_types: Vec<&'a str>,
    content_types: Vec<&'a str>,
    contents: Vec<Option<&'a str>>,
    htmls: Vec<Option<&'a str>>,
    timestamps: Vec<At>,
    events: Vec<Option<Json<&'a Value>>>,
    socials: Vec<Option<Json<&'a Value>>>,
    attachments: Vec<Option<Json<&'a Value>>>,
    insights: Vec<Option<Json<&'a Value>>>,
}

impl<'a> Messages<'a> {
    fn push(&mut self, item: ItemId, told: &'a NewItem) {
        let mut seen = HashSet::new();
        for message in told.messages.iter().rev() {
            let id = MessageId::of(item, message.external_id.as_str());
            if !seen.insert(id) {
                continue;
            }
            self.ids.push(id.0);
            self.items.push(item.0);
            self.sender_ids.push(sender_id(&told.key, message).map(|id| id.0));
            self.sender_names
                .push(message.sender_name.as_ref().map(|name| name.as_str()));
            self.sender_types.push(message.sender_type.as_str());
            self.content_types.push(message.content_type.as_str());
            self.contents
                .push(message.content.as_ref().map(|text| text.as_str()));
            self.htmls.push(message.full_content_html.as_deref());
            self.timestamps.push(At(message.timestamp));
            self.events.push(message.event_details.as_ref().map(Json));
            self.socials.push(message.social_details.as_ref().map(Json));
            self.attachments.push(message.attachments.as_ref().map(Json));
            self.insights.push(message.ai_insights.as_ref().map(Json));
        }
    }
}
