//! Whether a text of HTML is one that a parser can take: some become thousands of times as large.
//!
//! Each paragraph opens all formatting elements anew that were not closed before it, with their attributes, so that a small text
//! makes N x M elements; and what is nested deeply, or has very many attributes, takes the square of its length. So the text is
//! parsed once into nothing, in pieces, and what would be made is counted after each: the parser that cleans it makes the same.

use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::{StrTendril, TendrilSink as _};
use html5ever::{Attribute, ParseOpts, QualName, local_name, ns, parse_fragment};
use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

/// The deepest that elements may be nested.
pub(super) const MAX_DEPTH: u32 = 256;
/// What may be made of a short text.
const FREE: usize = 1_000;
/// Bytes of a piece; what is made of one before it is noticed is at most this times [`MAX_DEPTH`], roughly.
const PIECE: usize = 1_024;
/// The most that may separate attributes in one tag, as far as that is known before its end.
const MAX_SEPARATORS: usize = 10_000;

/// The most elements that a text of so many bytes may become, and the most bytes of attributes.
pub(super) fn limits(length: usize) -> (usize, usize) {
    (FREE + length / 3, 64 * FREE + 2 * length)
}

#[derive(Debug, Default)]
struct Made {
    elements: Cell<usize>,
    attributes: Cell<usize>,
    depth: Cell<u32>,
    /// Of the calls that tell that a tag or a comment has ended.
    calls: Cell<usize>,
}

fn raise(cell: &Cell<usize>, by: usize) {
    cell.set(cell.get() + by);
}

#[derive(Debug)]
struct Node {
    name: QualName,
    depth: Cell<u32>,
}

type Handle = Rc<Node>;

/// Keeps nothing.
struct Counter {
    made: Rc<Made>,
    document: Handle,
}

fn node(name: QualName) -> Handle {
    let depth = Cell::new(0);
    Rc::new(Node { name, depth })
}

fn nameless() -> Handle {
    node(QualName::new(None, ns!(), local_name!("")))
}

impl Counter {
    fn put(&self, depth: u32, child: &NodeOrText<Handle>) {
        raise(&self.made.calls, 1);
        if let NodeOrText::AppendNode(child) = child {
            child.depth.set(depth);
            self.made.depth.set(self.made.depth.get().max(depth));
        }
    }
}

impl TreeSink for Counter {
    type Handle = Handle;
    type Output = ();
    type ElemName<'a> = &'a QualName;

    fn finish(self) {}
    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> Handle {
        self.document.clone()
    }

    fn elem_name<'a>(&'a self, target: &'a Handle) -> &'a QualName {
        &target.name
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> Handle {
        raise(&self.made.calls, 1);
        raise(&self.made.elements, 1);
        let bytes = |attribute: &Attribute| attribute.name.local.len() + attribute.value.len();
        raise(&self.made.attributes, attributes.iter().map(bytes).sum());
        node(name)
    }

    fn create_comment(&self, _: StrTendril) -> Handle {
        nameless()
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> Handle {
        nameless()
    }

    fn append(&self, parent: &Handle, child: NodeOrText<Handle>) {
        self.put(parent.depth.get() + 1, &child);
    }

    fn append_based_on_parent_node(&self, element: &Handle, _: &Handle, child: NodeOrText<Handle>) {
        self.put(element.depth.get() + 1, &child);
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    fn get_template_contents(&self, target: &Handle) -> Handle {
        target.clone()
    }

    fn same_node(&self, one: &Handle, other: &Handle) -> bool {
        Rc::ptr_eq(one, other)
    }

    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &Handle, new: NodeOrText<Handle>) {
        self.put(sibling.depth.get(), &new);
    }

    fn add_attrs_if_missing(&self, _: &Handle, _: Vec<Attribute>) {}
    fn remove_from_parent(&self, _: &Handle) {}
    fn reparent_children(&self, _: &Handle, _: &Handle) {}
}

/// False for what grows beyond its [`limits`], or is nested deeper than [`MAX_DEPTH`].
pub(super) fn is_bounded(html: &str) -> bool {
    let made = Rc::<Made>::default();
    let sink = Counter {
        made: made.clone(),
        document: nameless(),
    };
    let context = QualName::new(None, ns!(html), local_name!("div"));
    let mut parser = parse_fragment(sink, ParseOpts::default(), context, Vec::new(), false);
    let (elements, attributes) = limits(html.len());
    let mut rest = html;
    let mut separators = 0;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
        rest = after;
        let calls = made.calls.get();
        parser.process(piece.into());
        if made.calls.get() > calls {
            separators = 0;
        }
        let is_separator = |byte: &u8| byte.is_ascii_whitespace() || b"/\"'".contains(byte);
        separators += piece.bytes().filter(is_separator).count();
        let is_good = made.elements.get() <= elements
            && made.attributes.get() <= attributes
            && made.depth.get() <= MAX_DEPTH
            && separators <= MAX_SEPARATORS;
        if !is_good {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn repeat(times: usize, one: impl Fn(usize) -> String) -> String {
        (0..times).fold(String::new(), |mut all, n| {
            let _ = write!(all, "{}", one(n));
            all
        })
    }

    #[test]
    fn long_mails_are_bounded() {
        for long in [
            repeat(5_000, |n| {
                format!("<p>One <b>two {n}</b> <a href=\"https://example.com/{n}\">three</a></p>\n")
            }),
            repeat(3_000, |n| {
                format!("<table><tr><td><font color=red>{n}</font></td></tr></table>")
            }),
            repeat(100_000, |_| "<p>".to_owned()),
            repeat(100, |_| "<div>".to_owned()),
            format!("<img src=\"data:image/png;base64,{}\">", "A".repeat(400_000)),
            "word ".repeat(100_000),
            format!("<style>{}</style>", "p { color: red }\n".repeat(10_000)),
        ] {
            assert!(is_bounded(&long), "{}", &long[..60]);
        }
    }

    #[test]
    fn what_would_grow_is_not() {
        let bold = repeat(10_000, |n| format!("<b id={n}>"));
        for bomb in [
            format!("{bold}{}", "<p>".repeat(10_000)),
            format!(
                "<p>{}{}",
                repeat(200, |n| format!("<b id={n}>")),
                "</p><p>a".repeat(20_000)
            ),
            format!(
                "<p><a href=\"https://example.com/{}\"></p>{}",
                "a".repeat(50_000),
                "<p>a</p><div>b</div>".repeat(10_000)
            ),
            "<div>".repeat(300),
            "<div>".repeat(100_000),
            format!("<a {}>", repeat(60_000, |n| format!("a{n} "))),
            format!("<a {}>", repeat(60_000, |n| format!("a{n}='>'"))),
        ] {
            assert!(!is_bounded(&bomb), "{}", &bomb[..60]);
        }
    }
}
