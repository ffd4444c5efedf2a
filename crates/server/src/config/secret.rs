//! What is no signing key.

/// Why `value` is no signing key, for people; `None` when nothing speaks against it. A check for carelessness, not of
/// entropy: too short, few distinct characters, one piece repeated, or a placeholder left as it was.
pub(super) fn weakness(value: &str) -> Option<&'static str> {
    const PLACEHOLDERS: [&str; 9] = [
        "changeme",
        "change-me",
        "change_me",
        "change-this",
        "replace-me",
        "replace_me",
        "your-secret",
        "your_secret",
        "placeholder",
    ];
    let bytes = value.as_bytes();
    if bytes.len() < 32 {
        return Some("it has fewer than 32 bytes");
    }
    let lower = value.to_lowercase();
    if PLACEHOLDERS.iter().any(|word| lower.contains(word)) {
        return Some("it is a placeholder");
    }
    let mut seen = [false; 256];
    for byte in bytes {
        seen[usize::from(*byte)] = true;
    }
    if seen.iter().filter(|seen| **seen).count() < 8 {
        return Some("it has fewer than 8 distinct characters");
    }
    let repeats = |period: usize| {
        bytes
            .iter()
            .zip(&bytes[period..])
            .all(|(before, after)| before == after)
    };
    if (1..=bytes.len() / 2).any(repeats) {
        return Some("it repeats itself");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn careless_signing_keys_are_named_and_random_ones_pass() {
        let weak = [
            "short",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcababacbabacbabcabacbabcabababcabcbab",
            "please-ChangeMe-before-you-go-to-production",
            "Tr0ub4dor&3Tr0ub4dor&3Tr0ub4dor&3Tr0ub4dor&3",
        ];
        for value in weak {
            assert!(weakness(value).is_some(), "{value}");
        }
        assert_eq!(weakness("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"), None);
        assert_eq!(weakness("integration-secret-with-enough-bytes-0193"), None);
    }
}
