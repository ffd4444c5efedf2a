//! Authentication: who a request is from, registration, login and sessions.

mod authenticate;
mod identities;
mod issue;
mod login;
mod logout;
mod refresh;
mod register;
mod sessions;

pub use authenticate::{Admitted, Authenticate};
pub use identities::{Identities, IdentitySettings, Known};
pub use issue::{TokenIssuer, TokenPair};
pub use login::{LoggedIn, Login, LoginQuotas, LoginRequest};
pub use logout::Logout;
pub use refresh::Refresh;
pub use register::{Register, RegisterRequest, Registered};
pub use sessions::{DeleteSession, ListSessions};

#[cfg(test)]
mod fixtures;
