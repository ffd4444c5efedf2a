//! What is found when everything is healed and drained: rows, applied operations, dead letters, metrics, views.

use std::collections::BTreeSet;
use std::sync::Arc;

use gravity_test_support::history::{
    AppliedRow, Event, Facts, Failure, Fields, Letter, Row, Seen, Shown, View,
};
use tokio_postgres::Client as Postgres;

use crate::client::{Client, Request, shown};
use crate::user::User;

/// The kind of what [`spread`] spreads.
const ACTION: &str = "stream_action";

type Found<T> = Result<T, crate::Failure>;

/// The profiles of these users, as they are now.
pub(crate) async fn profiles(postgres: &Postgres) -> Found<Vec<Row>> {
    let rows = postgres
        .query("SELECT id::text, name, version FROM users", &[])
        .await?;
    let row = |row: &tokio_postgres::Row| {
        let id: String = row.get(0);
        let version: i64 = row.get(2);
        Row {
            user: id.clone(),
            deleted: false,
            shown: Shown {
                entity: id,
                version: version.unsigned_abs(),
                fields: Fields::from([("name".to_owned(), row.get(1))]),
            },
        }
    };
    Ok(rows.iter().map(row).collect())
}

async fn tasks(postgres: &Postgres) -> Found<Vec<Row>> {
    let sql = "SELECT id::text, user_id::text, title, description, status, version, deleted_at IS NOT NULL FROM tasks";
    let rows = postgres.query(sql, &[]).await?;
    let row = |row: &tokio_postgres::Row| {
        let version: i64 = row.get(5);
        Row {
            user: row.get(1),
            deleted: row.get(6),
            shown: Shown {
                entity: row.get(0),
                version: version.unsigned_abs(),
                fields: Fields::from([
                    ("title".to_owned(), Some(row.get(2))),
                    ("description".to_owned(), row.get(3)),
                    ("status".to_owned(), Some(row.get(4))),
                ]),
            },
        }
    };
    Ok(rows.iter().map(row).collect())
}

/// The items of all streams, as they are now.
pub(crate) async fn items(postgres: &Postgres) -> Found<Vec<Row>> {
    let sql = "SELECT id::text, user_id::text, is_unread, is_archived, version FROM priority_items WHERE removed_at IS NULL";
    let rows = postgres.query(sql, &[]).await?;
    let row = |row: &tokio_postgres::Row| {
        let (unread, archived, version): (bool, bool, i64) = (row.get(2), row.get(3), row.get(4));
        Row {
            user: row.get(1),
            deleted: false,
            shown: Shown {
                entity: row.get(0),
                version: version.unsigned_abs(),
                fields: Fields::from([
                    ("unread".to_owned(), Some(unread.to_string())),
                    ("archived".to_owned(), Some(archived.to_string())),
                ]),
            },
        }
    };
    Ok(rows.iter().map(row).collect())
}

/// An action is one operation on several items: each of those that a user was told of has it as an update.
fn spread(applied: Vec<AppliedRow>, events: &[Event]) -> Vec<AppliedRow> {
    let mut spread = BTreeSet::new();
    for event in events {
        let Event::Write(write) = event else { continue };
        let Some(item) = &write.entity else { continue };
        for ack in write
            .attempts
            .iter()
            .filter_map(|attempt| attempt.outcome.as_ref().ok())
        {
            spread.insert((ack.operation.as_str(), item.as_str()));
        }
    }
    let on_items = |row: AppliedRow| {
        if row.kind != ACTION {
            return vec![row];
        }
        let items = spread.iter().filter(|(operation, _)| *operation == row.operation);
        items
            .map(|(operation, item)| AppliedRow {
                operation: (*operation).to_owned(),
                entity: (*item).to_owned(),
                kind: "update".into(),
                superseded: row.superseded,
            })
            .collect()
    };
    applied.into_iter().flat_map(on_items).collect()
}

async fn applied(postgres: &Postgres) -> Found<Vec<AppliedRow>> {
    let sql = "SELECT id::text, entity_id::text, CASE entity WHEN 'stream_action' THEN entity ELSE kind END, superseded
        FROM applied_operations WHERE entity IN ('profile', 'task', 'stream_action')";
    let rows = postgres.query(sql, &[]).await?;
    let row = |row: &tokio_postgres::Row| AppliedRow {
        operation: row.get(0),
        entity: row.get(1),
        kind: row.get(2),
        superseded: row.get(3),
    };
    Ok(rows.iter().map(row).collect())
}

/// Everything but what was there before; read twice by the caller when a late request may have come between.
pub(crate) async fn gather(
    postgres: &Postgres,
    admin: &Client,
    nodes: usize,
    users: &[Arc<User>],
    events: &[Event],
) -> Found<Facts> {
    let mut rows = tasks(postgres).await?;
    rows.extend(profiles(postgres).await?);
    rows.extend(items(postgres).await?);
    let mut facts = Facts {
        rows,
        applied: spread(applied(postgres).await?, events),
        ..Facts::default()
    };
    for node in 0..nodes {
        facts.letters.extend(letters(admin, node).await?);
        facts.announced |= announced(admin, node).await?;
        facts.views.extend(views(node, users, events, &facts.rows).await?);
    }
    Ok(facts)
}

async fn letters(admin: &Client, node: usize) -> Found<Vec<Letter>> {
    let mut letters = Vec::new();
    let mut path = "/api/v1/admin/dead-letters?limit=100".to_owned();
    loop {
        let answer = admin
            .send(node, &Request::get(path.as_str()), None)
            .await
            .map_err(|silence| format!("the dead letters cannot be listed: {silence:?}"))?;
        let body = answer.json();
        let Some(items) = body["data"].as_array() else {
            return Err(format!(
                "the dead letters cannot be listed: {} {}",
                answer.status, answer.text
            )
            .into());
        };
        letters.extend(items.iter().map(|item| Letter {
            operation: item["id"].as_str().unwrap_or_default().to_owned(),
            entity: item["entityId"].as_str().map(str::to_owned),
            reason: item["reason"].as_str().unwrap_or_default().to_owned(),
        }));
        match body["meta"]["nextCursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/admin/dead-letters?limit=100&cursor={cursor}"),
            None => return Ok(letters),
        }
    }
}

/// Whether the node's metrics tell of damage or of records lost.
async fn announced(admin: &Client, node: usize) -> Found<bool> {
    let answer = admin
        .send(node, &Request::get("/metrics"), None)
        .await
        .map_err(|silence| format!("no metrics: {silence:?}"))?;
    let tells = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_default();
        let name = name.split('{').next().unwrap_or_default();
        let counts = [
            "gravity_buffer_damaged_total",
            "gravity_buffer_records_lost_total",
        ]
        .contains(&name);
        counts && value.parse::<f64>().is_ok_and(|value| value > 0.0)
    };
    Ok(answer.text.lines().any(tells))
}

/// Every entity that a user knows, or that has a row, as this node shows it to its owner.
async fn views(node: usize, users: &[Arc<User>], events: &[Event], rows: &[Row]) -> Found<Vec<View>> {
    let mut asking = tokio::task::JoinSet::new();
    for user in users {
        let written = events.iter().filter_map(|event| match event {
            Event::Write(write) if write.user == user.id => write.entity.clone(),
            _ => None,
        });
        let stored = rows
            .iter()
            .filter(|row| row.user == user.id)
            .map(|row| row.shown.entity.clone());
        let ids: BTreeSet<String> = written.chain(stored).collect();
        let user = Arc::clone(user);
        asking.spawn(async move {
            let mut views = Vec::new();
            for entity in ids {
                let path = if entity == user.id {
                    "/api/v1/profile".to_owned()
                } else if user.items().contains(&entity) {
                    format!("/v2/stream/{entity}")
                } else {
                    format!("/api/v1/tasks/{entity}")
                };
                let seen = match user.client.send(node, &Request::get(path), None).await {
                    Err(silence) => Seen::Failed(Failure::Silent(silence)),
                    Ok(answer) if answer.status == 404 => Seen::Absent,
                    Ok(answer) => match shown(&answer.json()["data"]) {
                        Some(shown) => Seen::One(shown),
                        None => Seen::Failed(answer.failure()),
                    },
                };
                views.push(View { node, entity, seen });
            }
            views
        });
    }
    Ok(asking.join_all().await.into_iter().flatten().collect())
}
