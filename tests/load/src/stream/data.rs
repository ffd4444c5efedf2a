//! What the stream's load is measured on: streams as ingests leave them, and who is asked for.

use super::Outcome;
use crate::bench::connect;
use std::time::Instant;
use uuid::Uuid;

pub(super) fn user(n: usize) -> Uuid {
    Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + n as u128)
}

pub(super) fn first_item(n: usize) -> Uuid {
    Uuid::from_u128(0x0200_0000_0000_7000_8000_0000_0000_0000 + n as u128 * 1_000)
}

/// Indexes are made after the rows, as the migrations say.
const UNINDEXED: &str = "CREATE TEMP TABLE indexes AS SELECT indexname, indexdef FROM pg_indexes
        WHERE tablename LIKE 'priority_item%' AND indexname NOT LIKE '%pkey';
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT indexname FROM indexes LOOP EXECUTE 'DROP INDEX ' || name; END LOOP;
    END $$";
const REINDEXED: &str = "DO $$ DECLARE definition text; BEGIN
        FOR definition IN SELECT indexdef FROM indexes LOOP EXECUTE definition; END LOOP;
    END $$";

/// `users` streams of 100 items, each with two participants and a message, in the way that ingests leave them.
pub(super) async fn fill(database: &str, users: usize) -> Outcome {
    let begun = Instant::now();
    let client = connect(database).await?;
    let (user_base, item_base) = (user(0).as_u128(), first_item(0).as_u128());
    let high = |base: u128| format!("{:016x}", base >> 64);
    let low = |base: u128| format!("x'{:016x}'::bigint", base & u128::from(u64::MAX));
    let id = |base: u128, n: &str| {
        format!(
            "('{}' || lpad(to_hex({} + {n}), 16, '0'))::uuid",
            high(base),
            low(base)
        )
    };
    let of_user = id(user_base, "u");
    let of_item = id(item_base, "u * 1000 + i");
    let message = id(0x0400_0000_0000_7000_8000_0000_0000_0000, "u * 1000 + i");
    let people = id(0x0300_0000_0000_7000_8000_0000_0000_0000, "p");
    let statements = [
        // What is filled in fits together: the references need not be looked up row by row.
        "SET session_replication_role = replica".to_owned(),
        UNINDEXED.to_owned(),
        format!(
            "INSERT INTO users (id, username, created_at, updated_at)
             SELECT {of_user}, 'reader_' || u, now(), now() FROM generate_series(0::bigint, {users} - 1) AS u"
        ),
        format!(
            "INSERT INTO stream_versions (user_id, version, changed_at)
             SELECT {of_user}, 1, now() FROM generate_series(0::bigint, {users} - 1) AS u"
        ),
        format!(
            "INSERT INTO people (id, name, avatar_url) SELECT {people}, 'Person ' || p, 'https://example.com/' || p || '.png'
             FROM generate_series(0::bigint, 99) AS p"
        ),
        format!(
            "INSERT INTO priority_items (id, user_id, external_id, title, source, priority, is_unread, is_archived, snippet,
                item_timestamp, arrived_at, version, unread_stamp, archived_stamp)
             SELECT {of_item}, {of_user}, i::text, 'Something to look at, number ' || i,
                (ARRAY['email', 'calendar', 'social', 'chat', 'tasks'])[1 + i % 5], (ARRAY['high', 'medium', 'low'])[1 + i % 3],
                i % 3 = 0, i % 10 = 9, 'The first words of number ' || i || ', as the source has them',
                now() - i * interval '1 hour', now(), 1, decode(repeat('00', 16), 'hex'), decode(repeat('00', 16), 'hex')
             FROM generate_series(0::bigint, {users} - 1) AS u, generate_series(0, 99) AS i"
        ),
        format!(
            "INSERT INTO priority_item_participants (item_id, person_id, position)
             SELECT {of_item}, {people}, p % 2
             FROM generate_series(0::bigint, {users} - 1) AS u, generate_series(0, 99) AS i,
                LATERAL (VALUES (i / 2 * 2), (i / 2 * 2 + 1)) AS both_of (p)"
        ),
        format!(
            "INSERT INTO priority_item_messages (id, item_id, sender_name, sender_type, content_type, content, message_timestamp)
             SELECT {message}, {of_item}, 'Grace', 'other', 'text', 'What it says, in a sentence or two.', now()
             FROM generate_series(0::bigint, {users} - 1) AS u, generate_series(0, 99) AS i"
        ),
        REINDEXED.to_owned(),
        // So that neither happens while something is measured.
        "VACUUM (ANALYZE)".to_owned(),
        "CHECKPOINT".to_owned(),
    ];
    for statement in statements {
        client.batch_execute(&statement).await?;
    }
    eprintln!(
        "==> {users} streams of 100 items after {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Zipf's law with exponent 1: the first is picked most, the second half as often.
pub(super) struct Zipf(Vec<f64>);

impl Zipf {
    #[allow(clippy::cast_precision_loss, reason = "a probability")]
    pub(super) fn over(users: usize) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=users).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        let mut all: Vec<f64> = cumulated.collect();
        all.iter_mut().for_each(|share| *share /= sum);
        Self(all)
    }

    #[allow(clippy::cast_precision_loss, reason = "a probability")]
    pub(super) fn pick(&self, dice: u64) -> usize {
        let share = (dice >> 11) as f64 / (1_u64 << 53) as f64;
        self.0
            .partition_point(|bound| *bound < share)
            .min(self.0.len() - 1)
    }
}

/// Splitmix64: a number's own dice.
pub(super) fn scramble(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
