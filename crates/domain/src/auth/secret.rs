//! Values that must never be printed.

use crate::text::TextError;
use std::fmt;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// A text that does not print and is wiped when dropped: a key, a token, a URL with a password in it.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

impl Eq for Secret {}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// A password in NFC. Does not print, is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Secret);

impl Password {
    /// The fewest code points a new password has.
    pub const MIN: usize = 10;
    /// The most code points a new password has.
    pub const MAX: usize = 128;

    /// A password for a new account: 10..=128 code points after NFC, without control characters.
    ///
    /// # Errors
    /// Too short, too long, or with a control character.
    pub fn parse(raw: &str) -> Result<Self, TextError> {
        let password = Self::attempt(raw);
        let length = password.expose().chars().count();
        if length < Self::MIN {
            return Err(TextError::TooShort { min: Self::MIN });
        }
        if length > Self::MAX {
            return Err(TextError::TooLong { max: Self::MAX });
        }
        if password.expose().chars().any(char::is_control) {
            return Err(TextError::ControlCharacter);
        }
        Ok(password)
    }

    /// What somebody typed to log in: normalised, of any length. One that no account can have is still compared, so that
    /// it costs the same time as any other.
    pub fn attempt(raw: &str) -> Self {
        Self(Secret::new(raw.nfc().collect::<String>()))
    }

    /// The text, for hashing.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[password]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_passwords_do_not_print() {
        let printed = format!(
            "{:?} {:?}",
            Secret::new("hush-hush"),
            Password::attempt("hush-hush")
        );
        assert!(!printed.contains("hush"));
    }

    #[test]
    fn a_password_has_10_to_128_code_points_after_nfc() {
        assert_eq!(Password::parse("123456789"), Err(TextError::TooShort { min: 10 }));
        assert!(Password::parse("1234567890").is_ok());
        assert_eq!(
            Password::parse(&"e\u{301}".repeat(9)),
            Err(TextError::TooShort { min: 10 })
        );
        assert!(Password::parse(&"é".repeat(128)).is_ok());
        assert_eq!(
            Password::parse(&"é".repeat(129)),
            Err(TextError::TooLong { max: 128 })
        );
        assert_eq!(
            Password::parse("e\u{301}234567890").unwrap(),
            Password::attempt("é234567890")
        );
        for control in ['\0', '\t', '\n', '\u{1b}', '\u{7f}', '\u{85}'] {
            let raw = format!("123456789{control}");
            assert_eq!(Password::parse(&raw), Err(TextError::ControlCharacter));
            assert_eq!(Password::attempt(&raw).expose(), raw);
        }
    }
}
