//! Roughly the bytes that values of the stream take in memory, with what is rendered from them.

use gravity_domain::stream::{Item, ItemDetail, Message, Person, StreamPage, StreamQuery};
use serde::Serialize;

/// What a cache entry costs beside its value.
pub(super) const FIXED: u32 = 256;
/// What an allocation costs beside its bytes, on average.
const ALLOCATION: usize = 8;
/// An item, a person and a message as JSON, without their texts.
const ITEM_JSON: usize = 210;
const PERSON_JSON: usize = 72;
const MESSAGE_JSON: usize = 200;
/// How much larger a tree of JSON is than its text.
const TREE: usize = 4;

fn whole(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(FIXED)
}

fn held(text: &str) -> usize {
    text.len() + ALLOCATION
}

fn texts_of_person(person: &Person) -> usize {
    let avatar = person.avatar_url.as_ref().map_or("", |url| url.as_str());
    held(person.name.as_str()) + held(avatar)
}

fn texts_of_item(item: &Item) -> usize {
    let snippet = item.snippet.as_ref().map_or("", |snippet| snippet.as_str());
    let people: usize = item.participants.iter().map(texts_of_person).sum();
    held(item.title.as_str()) + held(item.source.as_str()) + held(snippet) + people
}

/// In memory.
fn bytes_of_item(item: &Item) -> usize {
    size_of::<Item>() + ALLOCATION + item.participants.len() * size_of::<Person>() + texts_of_item(item)
}

/// In memory, and rendered.
fn both_of_item(item: &Item) -> usize {
    bytes_of_item(item) + ITEM_JSON + item.participants.len() * PERSON_JSON + texts_of_item(item)
}

/// In memory, and rendered.
fn both_of_message(message: &Message) -> usize {
    let name = message.sender_name.as_ref().map_or("", |name| name.as_str());
    let content = message.content.as_ref().map_or("", |text| text.as_str());
    let html = message.full_content_html.as_deref().unwrap_or_default();
    let texts = held(name) + held(content) + held(html);
    let trees = [
        &message.event_details,
        &message.social_details,
        &message.attachments,
        &message.ai_insights,
    ];
    let trees: usize = trees.into_iter().flatten().map(json_length).sum();
    size_of::<Message>() + MESSAGE_JSON + 2 * texts + (TREE + 1) * trees
}

/// Of the last known of an item.
pub(super) fn weight_of_item(item: &Item) -> u32 {
    whole(bytes_of_item(item))
}

/// Of a page, by what it was asked for.
pub(super) fn weight_of_page(query: &StreamQuery, page: &StreamPage) -> u32 {
    let items: usize = page.items.iter().map(|item| both_of_item(item)).sum();
    let texts: usize = query
        .filter
        .sources
        .iter()
        .map(|source| held(source.as_str()))
        .sum();
    whole(size_of::<StreamQuery>() + size_of::<StreamPage>() + texts + items)
}

/// Of a detail.
pub(super) fn weight_of_detail(detail: &ItemDetail) -> u32 {
    let messages: usize = detail.messages.iter().map(both_of_message).sum();
    whole(size_of::<ItemDetail>() + both_of_item(&detail.item) + messages)
}

/// Counts what is written to it.
struct Scale(usize);

impl std::io::Write for Scale {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn json_length(value: &impl Serialize) -> usize {
    let mut scale = Scale(0);
    // Never fails: these values have string keys only, and the scale takes everything.
    let _ = serde_json::to_writer(&mut scale, value);
    scale.0
}
