//! References of HTML, XHTML and SVG.

use std::cell::RefCell;

use lol_html::html_content::{Attribute, Element, TextChunk};
use lol_html::{HtmlRewriter, Settings, element, text};

use super::reference::Use;
use super::{Found, Kind, css};

/// Attributes whose value is one reference, loaded by the browser.
const LOADED: [&str; 7] = [
    "src",
    "poster",
    "background",
    "data",
    "manifest",
    "xlink:href",
    "ping",
];
/// Attributes of SVG whose value may hold `url()`.
const PAINTED: [&str; 8] = [
    "fill",
    "stroke",
    "filter",
    "mask",
    "clip-path",
    "marker-start",
    "marker-mid",
    "marker-end",
];
/// Relations of `link` elements that lead a person somewhere, and load nothing.
const FOLLOWED_RELATIONS: [&str; 12] = [
    "alternate",
    "author",
    "bookmark",
    "canonical",
    "help",
    "license",
    "me",
    "next",
    "prev",
    "privacy-policy",
    "search",
    "terms-of-service",
];
/// Deepest nesting of documents in `srcdoc` attributes that is read.
const MAX_DOCUMENTS: usize = 3;

/// Finds the references of a document.
pub(super) fn read(bytes: &[u8], found: &mut Found) {
    document(bytes, None, 0, found);
}

/// Finds the references of a document. With `at`, all of them are said to be there: the document
/// is an attribute's value.
fn document(bytes: &[u8], at: Option<usize>, depth: usize, found: &mut Found) {
    let reader = RefCell::new(Reader {
        found,
        at,
        depth,
        style: String::new(),
        style_at: None,
    });
    let settings = Settings::new()
        .with_strict(false)
        .append_element_content_handler(element!("*", |element| {
            reader.borrow_mut().element(element);
            Ok(())
        }))
        .append_element_content_handler(text!("style", |chunk| {
            reader.borrow_mut().style(chunk);
            Ok(())
        }));
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    let done = rewriter.write(bytes).and_then(|()| rewriter.end());
    if let Err(error) = done {
        let text = format!("the document was not read to its end: {error}");
        found.fault(at.unwrap_or(0), Kind::Unread, text);
    }
}

/// Reader of one document.
struct Reader<'a> {
    found: &'a mut Found,
    at: Option<usize>,
    depth: usize,
    /// Text of the style element that is being read.
    style: String,
    style_at: Option<usize>,
}

impl Reader<'_> {
    /// Collects the text of a style element, which comes in pieces, and reads it when it is whole.
    fn style(&mut self, chunk: &TextChunk<'_>) {
        let at = self.at.unwrap_or(chunk.source_location().bytes().start);
        let start = *self.style_at.get_or_insert(at);
        self.style.push_str(chunk.as_str());
        if chunk.last_in_text_node() {
            let style = std::mem::take(&mut self.style);
            self.style_at = None;
            css::read(&style, start, self.found);
        }
    }

    fn element(&mut self, element: &Element<'_, '_>) {
        let tag = element.tag_name();
        let start = self.at.unwrap_or(element.source_location().bytes().start);
        for attribute in element.attributes() {
            let value = attribute.value();
            let value = html_escape::decode_html_entities(&value);
            let at = self.offset(attribute, start);
            self.attribute(&tag, &attribute.name(), &value, at, element);
        }
        if tag == "base" && element.has_attribute("href") {
            let text = "base href: a base address changes what every relative reference means; \
                        leave it out";
            self.found.fault(start, Kind::Base, text);
        }
    }

    /// Offset of an attribute's value in the file.
    fn offset(&self, attribute: &Attribute<'_>, start: usize) -> usize {
        self.at.unwrap_or_else(|| {
            let location = attribute.value_source_location();
            location.map_or(start, |location| location.bytes().start)
        })
    }

    fn attribute(
        &mut self,
        tag: &str,
        name: &str,
        value: &str,
        at: usize,
        element: &Element<'_, '_>,
    ) {
        let place = format!("{tag} {name}");
        match name {
            "href" if tag == "base" => {}
            "href" | "action" | "formaction" => {
                let usage = usage(tag, name, element);
                if !value.trim().is_empty() {
                    self.found.reference(at, value, &place, usage);
                }
            }
            "srcset" | "imagesrcset" => {
                for candidate in candidates(value) {
                    self.found.reference(at, candidate, &place, Use::Load);
                }
            }
            "style" => css::read(value, at, self.found),
            "srcdoc" if self.depth < MAX_DOCUMENTS => {
                document(value.as_bytes(), Some(at), self.depth + 1, self.found);
            }
            "srcdoc" => self
                .found
                .fault(at, Kind::Unread, "documents are nested too deeply here"),
            "content" if tag == "meta" && is_refresh(element) => {
                if let Some(target) = refresh_target(value) {
                    self.found.reference(at, target, "meta refresh", Use::Load);
                }
            }
            // The value of `data` is a reference in an object only, and forms send no ping.
            "data" if tag != "object" => {}
            "ping" => {
                for target in value.split_ascii_whitespace() {
                    self.found.reference(at, target, &place, Use::Load);
                }
            }
            _ if LOADED.contains(&name) && !value.trim().is_empty() => {
                let usage = if tag == "a" { Use::Follow } else { Use::Load };
                self.found.reference(at, value, &place, usage);
            }
            _ if PAINTED.contains(&name) => css::read(value, at, self.found),
            _ => {}
        }
    }
}

/// Use of an `href`, `action` or `formaction`.
fn usage(tag: &str, name: &str, element: &Element<'_, '_>) -> Use {
    if name != "href" {
        return Use::Load;
    }
    match tag {
        "a" | "area" => Use::Follow,
        "link" => {
            let relations = element
                .get_attribute("rel")
                .unwrap_or_default()
                .to_ascii_lowercase();
            let mut relations = relations.split_ascii_whitespace().peekable();
            // `alternate stylesheet` is loaded when a person picks it.
            let is_followed = relations.peek().is_some()
                && relations.all(|relation| FOLLOWED_RELATIONS.contains(&relation));
            if is_followed { Use::Follow } else { Use::Load }
        }
        _ => Use::Load,
    }
}

fn is_refresh(element: &Element<'_, '_>) -> bool {
    let header = element.get_attribute("http-equiv").unwrap_or_default();
    header.trim().eq_ignore_ascii_case("refresh")
}

/// Target of `<meta http-equiv=refresh content="5; url=next.html">`; none when the page reloads
/// itself (HTML Standard, shared declarative refresh steps).
fn refresh_target(content: &str) -> Option<&str> {
    let rest = content
        .trim_start()
        .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let rest = rest
        .trim_start()
        .trim_start_matches([';', ','])
        .trim_start();
    let rest = match rest.get(..3) {
        Some(word) if word.eq_ignore_ascii_case("url") => {
            let after = rest.get(3..).unwrap_or_default().trim_start();
            after.strip_prefix('=').map_or(rest, str::trim_start)
        }
        _ => rest,
    };
    let target = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest.get(1..)?.split(quote).next()?,
        _ => rest,
    };
    let target = target.trim();
    (!target.is_empty()).then_some(target)
}

/// References of a `srcset`: candidates end at a comma that follows white space or a descriptor
/// (HTML Standard, parsing a srcset attribute). A comma within a reference belongs to it.
fn candidates(value: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        if rest.is_empty() {
            return found;
        }
        let end = rest
            .find(|c: char| c.is_ascii_whitespace())
            .unwrap_or(rest.len());
        let (reference, after) = rest.split_at(end);
        let bare = reference.trim_end_matches(',');
        found.push(bare);
        // A comma right after the reference ends the candidate; else its descriptors come first.
        rest = match bare.len() == reference.len() {
            true => after.split_once(',').map_or("", |(_, next)| next),
            false => after,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_srcset_is_cut_into_candidates() {
        assert_eq!(candidates("a.png 1x, b.png 2x"), ["a.png", "b.png"]);
        assert_eq!(
            candidates(" a,b.png ,c.png, d.png 100w"),
            ["a,b.png", "c.png", "d.png"]
        );
        assert_eq!(
            candidates("data:image/png;base64,AA== 1x, b.png"),
            ["data:image/png;base64,AA==", "b.png"]
        );
        assert_eq!(candidates(" , "), [""; 0]);
    }

    #[test]
    fn a_refresh_names_its_target_in_many_ways() {
        for content in [
            "5; url=next.html",
            "0;URL='next.html'",
            "5,next.html",
            "5 ; url = \"next.html\" x",
        ] {
            assert_eq!(refresh_target(content), Some("next.html"), "{content}");
        }
        for content in ["5", "", "5;", "5; url="] {
            assert_eq!(refresh_target(content), None, "{content}");
        }
    }
}
