//! Whether an SPDX licence expression can be satisfied with the licences we allow.

/// `MIT OR Apache-2.0` needs one of them, `A AND B` both. `Apache-2.0 WITH LLVM-exception` counts as itself if it is
/// allowed as such, else as `Apache-2.0`, since an exception only adds permissions. `/` is the old way to write `OR`.
pub(super) fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader {
        words: &words,
        at: 0,
        allowed,
    };
    reader.any() == Some(true) && reader.at == words.len()
}

struct Reader<'a> {
    words: &'a [&'a str],
    at: usize,
    allowed: &'a [&'a str],
}

impl<'a> Reader<'a> {
    fn any(&mut self) -> Option<bool> {
        let mut result = self.all()?;
        while self.take("OR") {
            result |= self.all()?;
        }
        Some(result)
    }

    fn all(&mut self) -> Option<bool> {
        let mut result = self.one()?;
        while self.take("AND") {
            result &= self.one()?;
        }
        Some(result)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let result = self.any()?;
            return self.take(")").then_some(result);
        }
        let name = self.next()?;
        if !self.take("WITH") {
            return Some(self.allows(name));
        }
        let exception = self.next()?;
        Some(self.allows(name) || self.allows(&format!("{name} WITH {exception}")))
    }

    fn allows(&self, name: &str) -> bool {
        self.allowed.contains(&name)
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn take(&mut self, word: &str) -> bool {
        let here = self
            .words
            .get(self.at)
            .is_some_and(|next| next.eq_ignore_ascii_case(word));
        self.at += usize::from(here);
        here
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn one_side_of_an_or_is_enough_and_both_sides_of_an_and_are_needed() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
        for good in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "GPL-3.0-only/MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT OR ISC) AND GPL-2.0",
            "",
            "MIT OR",
            "MIT MIT",
            "(MIT",
        ] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
