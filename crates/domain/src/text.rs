//! Text as the API takes it: Unicode NFC first, then code points are counted.
//!
//! Single-line fields refuse every control character. Long text takes tab, LF and CR; CRLF becomes LF.

use crate::error::FieldError;
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// What is wrong with a text, before a field name is put to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Fewer code points than `min`.
    #[error("must have at least {min} character{}", if *min == 1 { "" } else { "s" })]
    TooShort {
        /// The smallest length allowed, in code points.
        min: usize,
    },
    /// More code points than `max`.
    #[error("must have at most {max} character{}", if *max == 1 { "" } else { "s" })]
    TooLong {
        /// The greatest length allowed, in code points.
        max: usize,
    },
    /// A control character that this kind of text refuses.
    #[error("must not contain control characters")]
    ControlCharacter,
    /// Not of the form the field demands.
    #[error("{0}")]
    Malformed(&'static str),
}

impl TextError {
    /// The stable code for `errors[].code`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooShort { min: 1 } => "required",
            Self::TooShort { .. } => "too_short",
            Self::TooLong { .. } => "too_long",
            Self::ControlCharacter => "invalid_character",
            Self::Malformed(_) => "invalid_format",
        }
    }

    /// The same as an error of `field`.
    pub fn at(self, field: &'static str) -> FieldError {
        FieldError::new(field, self.code(), self.to_string())
    }
}

fn nfc(raw: &str) -> String {
    if is_nfc(raw) {
        raw.to_owned()
    } else {
        raw.nfc().collect()
    }
}

fn counted(text: String, min: usize, max: usize) -> Result<String, TextError> {
    let length = text.chars().count();
    if length < min {
        return Err(TextError::TooShort { min });
    }
    if length > max {
        return Err(TextError::TooLong { max });
    }
    Ok(text)
}

/// Checks and normalises a single-line text of `min..=max` code points.
///
/// # Errors
/// Length out of bounds, or any control character (C0, DEL, C1).
pub fn single_line(raw: &str, min: usize, max: usize) -> Result<String, TextError> {
    let text = nfc(raw);
    if text.chars().any(char::is_control) {
        return Err(TextError::ControlCharacter);
    }
    counted(text, min, max)
}

/// Checks and normalises a long text of at most `max` code points.
///
/// # Errors
/// Too long, or a control character other than tab, LF and CR.
pub fn long_text(raw: &str, max: usize) -> Result<String, TextError> {
    let mut text = nfc(raw);
    if text.contains("\r\n") {
        text = text.replace("\r\n", "\n");
    }
    if text
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
    {
        return Err(TextError::ControlCharacter);
    }
    counted(text, 0, max)
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses and normalises.
            ///
            /// # Errors
            /// The first rule that the text breaks.
            pub fn parse(raw: &str) -> Result<Self, $crate::text::TextError> {
                let parse: fn(&str) -> Result<String, $crate::text::TextError> = $parse;
                parse(raw).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::text::TextError;
            fn try_from(raw: String) -> Result<Self, Self::Error> {
                Self::parse(&raw)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }
    };
}
pub(crate) use text_type;

/// Serde for a patch field with three states: absent (`None`), `null` (`Some(None)`), and a value.
pub mod patch_field {
    use serde::{Deserialize, Deserializer};

    /// Deserialises a present field, `null` included, to `Some`.
    ///
    /// # Errors
    /// Those of the inner type.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::<T>::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn length_counts_code_points_after_nfc() {
        assert_eq!(single_line("e\u{301}", 1, 1).unwrap(), "é");
        assert_eq!(single_line("", 1, 5), Err(TextError::TooShort { min: 1 }));
        assert_eq!(single_line("abcdef", 1, 5), Err(TextError::TooLong { max: 5 }));
    }

    #[test]
    fn control_characters_are_refused_but_tab_and_newlines_stay_in_long_text() {
        for c in ['\0', '\u{1b}', '\u{7f}', '\u{85}', '\u{9f}'] {
            assert_eq!(
                single_line(&format!("a{c}"), 1, 9),
                Err(TextError::ControlCharacter)
            );
            assert_eq!(long_text(&format!("a{c}"), 9), Err(TextError::ControlCharacter));
        }
        assert_eq!(single_line("a\tb", 1, 9), Err(TextError::ControlCharacter));
        assert_eq!(long_text("a\tb\r\nc\rd\n", 99).unwrap(), "a\tb\nc\rd\n");
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(raw in ".{0,40}") {
            if let Ok(once) = long_text(&raw, 80) {
                prop_assert_eq!(long_text(&once, 80).unwrap(), once);
            }
        }
    }
}
