//! Who calls the server: two users with a row, and machine accounts for admin and service.

use std::sync::Arc;

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::builders::Claims;
use crate::calls::{Call, Target};

/// The secret that test servers sign and check tokens with.
pub const SECRET: &str = "k3P9vTq0Zb7Lx2Wm5Rj8Nc1Hs4Yd6FgA";
/// A user with a row in every test database.
pub const ALICE: Uuid = Uuid::from_u128(0x0199_a3c2_0000_7000_8000_0000_0000_000a);
/// Another one.
pub const BOB: Uuid = Uuid::from_u128(0x0199_a3c2_0000_7000_8000_0000_0000_000b);
/// A machine account: no row, role admin.
pub const ADMIN: Uuid = Uuid::from_u128(0x0199_a3c2_0000_7000_8000_0000_0000_000c);
/// A machine account: no row, role service.
pub const SERVICE: Uuid = Uuid::from_u128(0x0199_a3c2_0000_7000_8000_0000_0000_000d);

/// Makes the rows of [`ALICE`] and [`BOB`].
pub(crate) fn rows() -> String {
    format!(
        "INSERT INTO users (id, username, name, created_at, updated_at) VALUES \
         ('{ALICE}', 'alice', 'Alice', now(), now()), ('{BOB}', 'bob', NULL, now(), now())"
    )
}

/// Someone who calls a server, perhaps with a token. Cheap to clone; goes on working when the server is restarted.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The user id in the token.
    pub id: Uuid,
    token: Option<String>,
    target: Arc<Target>,
}

impl Actor {
    /// Someone without a token.
    pub(crate) fn nobody(target: Arc<Target>) -> Self {
        Self {
            id: Uuid::nil(),
            token: None,
            target,
        }
    }

    /// Someone with an own token for this id and role.
    pub(crate) fn own(target: Arc<Target>, id: Uuid, role: &str) -> Self {
        Self {
            id,
            token: Some(Claims::of(id).role(role).signed(SECRET)),
            target,
        }
    }

    /// The same, with another token.
    #[must_use]
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self {
            token: Some(token.into()),
            ..self.clone()
        }
    }

    /// The same towards another server.
    #[must_use]
    pub fn at(&self, other: &Self) -> Self {
        Self {
            target: Arc::clone(&other.target),
            ..self.clone()
        }
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Any call.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let call = self.target.call(method, path);
        match &self.token {
            Some(token) => call.header("authorization", &format!("Bearer {token}")),
            None => call,
        }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// POST with a JSON body.
    #[allow(clippy::needless_pass_by_value)] // callers write json!({…})
    pub fn post(&self, path: &str, body: Value) -> Call {
        self.call(Method::POST, path).json(&body)
    }

    /// PUT with a JSON body.
    #[allow(clippy::needless_pass_by_value)] // callers write json!({…})
    pub fn put(&self, path: &str, body: Value) -> Call {
        self.call(Method::PUT, path).json(&body)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }
}
