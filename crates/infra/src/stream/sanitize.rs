//! HTML of messages, made safe by an allow-list.
//!
//! Elements and attributes that format text, links and pictures stay; scripts and style sheets go with what they hold,
//! all else is unwrapped. Links and pictures keep absolute addresses of a few schemes only, and links neither
//! tell where they were followed from nor hand over the window. Pictures that stay are loaded by who shows them.
//!
//! What a parser would make too much of (see `growth`) is shown as the text that it is.

use super::growth;
use ammonia::{Builder, UrlRelative};
use gravity_domain::stream::HtmlSanitizer;
use std::collections::HashSet;

const SCHEMES: [&str; 4] = ["http", "https", "mailto", "tel"];

/// The allow-list.
#[derive(Debug)]
pub struct AllowList {
    builder: Builder<'static>,
}

impl AllowList {
    /// The one that there is.
    pub fn new() -> Self {
        let mut builder = Builder::default();
        builder
            .url_schemes(HashSet::from(SCHEMES))
            .url_relative(UrlRelative::Deny)
            .link_rel(Some("noopener noreferrer nofollow"));
        Self { builder }
    }
}

impl Default for AllowList {
    fn default() -> Self {
        Self::new()
    }
}

impl HtmlSanitizer for AllowList {
    /// Postgres takes no NUL, so none is left; nor is a byte order mark, which parsers drop at the start of a text only.
    fn clean(&self, html: &str) -> String {
        let mut clean = if growth::is_bounded(html) {
            self.builder.clean(html).to_string()
        } else {
            metrics::counter!("gravity_stream_html_refused_total").increment(1);
            escaped(html)
        };
        clean.retain(|c| !matches!(c, '\0' | '\u{feff}'));
        clean
    }
}

fn escaped(html: &str) -> String {
    let mut text = String::with_capacity(html.len() + html.len() / 4);
    for c in html.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_grow_without_bounds_is_shown_as_text() {
        let bold: String = (0..300).map(|n| format!("<b id={n}>")).collect();
        let bomb = format!("{bold}{}&amp;", "<p>".repeat(10_000));
        let clean = clean(&bomb);
        assert!(clean.starts_with("&lt;b id=0&gt;") && clean.ends_with("&lt;p&gt;&amp;amp;"));
        assert!(clean.len() < 3 * bomb.len());
        assert_eq!(super::tests::clean(&clean), clean);
    }

    fn clean(html: &str) -> String {
        AllowList::new().clean(html)
    }

    #[test]
    fn formatting_links_and_pictures_stay() {
        let html = "<p>One <b>two</b> <em>three</em></p><ul><li>four</li></ul><table><tbody><tr><td>5</td></tr></tbody></table>";
        assert_eq!(clean(html), html);
        assert_eq!(
            clean(r#"<a href="https://example.com/a?b=1">x</a>"#),
            r#"<a href="https://example.com/a?b=1" rel="noopener noreferrer nofollow">x</a>"#
        );
        let picture = r#"<img src="https://example.com/a.png" alt="A">"#;
        assert_eq!(clean(picture), picture);
    }

    #[test]
    fn scripts_and_style_sheets_go_with_what_they_hold() {
        assert_eq!(clean("a<script>alert(1)</script>b"), "ab");
        assert_eq!(clean("a<ScRiPt src=//x.example.com/x.js></sCrIpT>b"), "ab");
        assert_eq!(
            clean("<style>@import 'https://x.example.com'; p{}</style><p>b</p>"),
            "<p>b</p>"
        );
        assert_eq!(clean("a<!-- <script>alert(1)</script> -->b"), "ab");
    }

    #[test]
    fn handlers_styles_and_names_are_taken_off() {
        let html = r#"<p onclick="x()" style="position:fixed" class="c" id="i">a</p>"#;
        assert_eq!(clean(html), "<p>a</p>");
        assert_eq!(
            clean(r#"<img src="https://example.com/a.png" onerror="alert(1)">"#),
            r#"<img src="https://example.com/a.png">"#
        );
        assert_eq!(clean("<svg onload=alert(1)><p>a</p></svg>"), "<p>a</p>");
    }

    #[test]
    fn addresses_that_run_or_smuggle_are_taken_off() {
        for address in [
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            "java\nscript:alert(1)",
            " &#106;avascript:alert(1)",
            "data:text/html;base64,PHNjcmlwdD4=",
            "vbscript:x",
            "file:///etc/passwd",
            "//example.com/x",
            "/relative",
        ] {
            let cleaned = clean(&format!(r#"<a href="{address}">a</a><img src="{address}">"#));
            assert!(!cleaned.contains("href") && !cleaned.contains("src"), "{cleaned}");
        }
    }

    #[test]
    fn frames_forms_and_objects_are_unwrapped() {
        let html = "<iframe src=https://x.example.com></iframe><form action=https://x.example.com><input name=p>a</form>\
            <object data=x></object><embed src=x><base href=https://x.example.com><meta http-equiv=refresh content=0>";
        assert_eq!(clean(html), "a");
    }

    proptest! {
        #[test]
        fn cleaning_twice_is_cleaning_once_and_leaves_no_nul(
            parts in prop::collection::vec(prop_oneof![
                prop::sample::select(vec!["<p>", "</p>", "<a href=\"https://example.com\">", "</a>", "<b", ">", "<script>",
                    "</script>", "<!--", "-->", "<svg>", "<math>", "<style>", "\0", "\u{feff}", "&lt;", "\"", "<img src=x onerror=y>"])
                    .prop_map(str::to_owned),
                ".{0,8}",
            ], 0..16)
        ) {
            let once = clean(&parts.concat());
            prop_assert!(!once.contains('\0'));
            prop_assert!(!once.contains("<script") && !once.contains("<style") && !once.contains("onerror=y>"));
            prop_assert_eq!(clean(&once), once);
        }
    }
}
