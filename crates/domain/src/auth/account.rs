//! Accounts: what registration stores, and what authentication needs to know of them.

use super::{Role, UserStatus, Username};
use crate::clock::Hlc;
use crate::id::UserId;
use crate::profile::Name;
use crate::text::{TextError, single_line, text_type};

text_type!(
    /// An e-mail address of at most 254 characters: one `@`, a local part of 1..=64 without spaces, a dotted domain.
    Email,
    |raw| {
        let text = single_line(raw, 1, 254)?;
        if is_address(&text) {
            Ok(text)
        } else {
            Err(TextError::Malformed("must be an e-mail address"))
        }
    }
);

fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let local_ok = (1..=64).contains(&local.len())
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && !local.chars().any(|c| {
            c.is_whitespace()
                || matches!(
                    c,
                    '@' | '"' | '(' | ')' | ',' | ':' | ';' | '<' | '>' | '[' | '\\' | ']'
                )
        });
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c == '-' || (c.is_alphanumeric() && (!c.is_ascii() || c.is_ascii_alphanumeric())))
    };
    local_ok && domain.contains('.') && domain.split('.').all(label_ok)
}

/// A registration, ready to be stored in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// The new user.
    pub id: UserId,
    /// Must be free.
    pub username: Username,
    /// The display name.
    pub name: Option<Name>,
    /// Kept with the credentials.
    pub email: Option<Email>,
    /// A PHC string.
    pub password_hash: String,
    /// The stamp of every field; its wall time is when the user was created.
    pub stamp: Hlc,
}

/// What a login is checked against.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user_id: UserId,
    /// A PHC string.
    pub password_hash: String,
    /// What the user may do.
    pub role: Role,
    /// Whether the user may do anything.
    pub status: UserStatus,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user_id", &self.user_id)
            .field("role", &self.role)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// What the row of a user says about what the user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// What the user may do.
    pub role: Role,
    /// Whether the user may do anything.
    pub status: UserStatus,
}

/// A user of an outside provider, to be created on first sight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalUser {
    /// The user.
    pub id: UserId,
    /// Taken when free, else a derived one is.
    pub username: Option<Username>,
    /// The display name.
    pub name: Option<Name>,
    /// The stamp of every field; its wall time is when the user was created.
    pub stamp: Hlc,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_has_a_local_part_and_a_dotted_domain() {
        for good in ["a@b.co", "first.last+tag@sub.example.org", "ü@exämple.de"] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
        let long = format!("a@{}.co", "b".repeat(260));
        for bad in [
            "",
            "a",
            "@b.co",
            "a@",
            "a@b",
            "a b@c.de",
            "a@b..co",
            "a@-b.co",
            "a@b.co\0",
            "a@b.co\n",
            "a\u{7f}@b.co",
            " a@b.co",
            "a@b.co ",
            ".a@b.co",
            "a@@b.co",
            "a@b_c.de",
            "<a>@b.co",
            &long,
        ] {
            assert!(Email::parse(bad).is_err(), "{bad}");
        }
    }
}
