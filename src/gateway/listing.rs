//! Directories of bundles as pages: names, sizes and dates, sorted by links and without scripts.
//!
//! Names are a stranger's: they are text, never markup, and a link is relative to the page whatever
//! the name.

use std::cmp::Reverse;
use std::fmt::Write as _;

use axum::response::Html;

use super::page::{escape, page};
use crate::client::url::percent_encode;
use crate::node::api::Entry;
use crate::size::ByteSize;

/// Entries on one page.
pub(super) const PAGE_ENTRIES: u64 = 1000;
/// Most entries that are sorted by anything but their name: about 8 MiB.
pub(super) const MAX_SORTED: u64 = 20_000;

/// Key that entries are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Size,
    Date,
}

/// Order of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    by: Column,
    is_descending: bool,
}

impl Order {
    /// The order that a query asks for; that of names when it asks for none.
    pub(super) fn of(sort: Option<&str>, order: Option<&str>) -> Self {
        let by = match sort {
            Some("size") => Column::Size,
            Some("date") => Column::Date,
            _ => Column::Name,
        };
        Self {
            by,
            is_descending: order == Some("desc"),
        }
    }

    /// Whether directories have their entries in this order already.
    pub(super) const fn is_natural(self) -> bool {
        matches!(self.by, Column::Name) && !self.is_descending
    }

    /// Sorts entries that come ordered by name.
    pub(super) fn sort(self, entries: &mut [Entry]) {
        match (self.by, self.is_descending) {
            (Column::Name, false) => {}
            (Column::Name, true) => entries.reverse(),
            (Column::Size, false) => entries.sort_by_key(|entry| entry.bytes),
            (Column::Size, true) => entries.sort_by_key(|entry| Reverse(entry.bytes)),
            (Column::Date, false) => entries.sort_by_key(|entry| entry.mtime_s),
            (Column::Date, true) => entries.sort_by_key(|entry| Reverse(entry.mtime_s)),
        }
    }

    fn query(self) -> String {
        let sort = match self.by {
            Column::Name => "name",
            Column::Size => "size",
            Column::Date => "date",
        };
        let order = if self.is_descending { "desc" } else { "asc" };
        format!("sort={sort}&amp;order={order}")
    }

    /// The order that a click on the head of a column leads to.
    fn after_click(self, column: Column) -> Self {
        Self {
            by: column,
            is_descending: self.by == column && !self.is_descending,
        }
    }
}

/// The entries of one page.
pub(super) struct Page<'a> {
    pub entries: &'a [Entry],
    /// Entries left out at the start.
    pub skip: u64,
    /// Whether there are more behind them.
    pub more: bool,
    /// Whether the directory has more entries than were sorted.
    pub is_cut: bool,
}

impl<'a> Page<'a> {
    /// The page behind `skip` entries of all that were sorted.
    pub(super) fn of_sorted(all: &'a [Entry], skip: u64, is_cut: bool) -> Self {
        let start = usize::try_from(skip).unwrap_or(usize::MAX).min(all.len());
        let rest = all.get(start..).unwrap_or_default();
        let len = rest.len().min(PAGE_ENTRIES as usize);
        Self {
            entries: rest.get(..len).unwrap_or_default(),
            skip,
            more: rest.len() > len,
            is_cut,
        }
    }
}

/// A directory of a bundle; `title` is text.
pub(super) fn listing(title: &str, has_parent: bool, order: Order, shown: &Page) -> Html<String> {
    let mut body = String::from("<table>\n<thead><tr>");
    for (column, name) in [
        (Column::Name, "Name"),
        (Column::Size, "Size"),
        (Column::Date, "Date (UTC)"),
    ] {
        let sorted = match (order.by == column, order.is_descending) {
            (false, _) => "",
            (true, false) => " aria-sort=\"ascending\"",
            (true, true) => " aria-sort=\"descending\"",
        };
        let query = order.after_click(column).query();
        let _ = write!(
            body,
            "<th scope=\"col\"{sorted}><a href=\"?{query}\">{name}</a></th>"
        );
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    if has_parent {
        body.push_str("<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n");
    }
    for entry in shown.entries {
        body.push_str(&row(entry));
    }
    body.push_str("</tbody></table>\n");
    if shown.more {
        let next = shown.skip + shown.entries.len() as u64;
        let _ = writeln!(
            body,
            "<p><a href=\"?skip={next}&amp;{}\">more</a></p>",
            order.query()
        );
    } else if shown.is_cut {
        let _ = writeln!(
            body,
            "<p>There are more entries than the {MAX_SORTED} that are sorted: sorted by name all are listed.</p>"
        );
    }
    page(title, &body)
}

fn row(entry: &Entry) -> String {
    let name = escape(&entry.name);
    let href = percent_encode(entry.name_bytes());
    // A leading `./` keeps any name from being read as a scheme or as a path of its own.
    let (name, size) = match entry.kind.as_str() {
        "dir" => (format!("<a href=\"./{href}/\">{name}/</a>"), String::new()),
        "file" => (
            format!("<a href=\"./{href}\">{name}</a>"),
            ByteSize(entry.bytes).to_string(),
        ),
        "symlink" => (
            format!(
                "<a href=\"./{href}\">{name}</a> &rarr; {}",
                escape(entry.target.as_deref().unwrap_or(""))
            ),
            String::new(),
        ),
        kind => (name, escape(kind)),
    };
    format!(
        "<tr><td>{name}</td><td class=\"n\">{size}</td><td class=\"n\">{}</td></tr>\n",
        date(entry.mtime_s)
    )
}

/// A time as pages show it; nothing for a year that no calendar reaches.
fn date(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            name_hex: None,
            kind: kind.to_owned(),
            bytes: 2048,
            mode: 0o644,
            mtime_s: 0,
            target: Some("<t>".to_owned()),
        }
    }

    fn by(sort: &str, order: &str) -> Order {
        Order::of(Some(sort), Some(order))
    }

    fn text(title: &str, has_parent: bool, skip: u64, entries: &[Entry], more: bool) -> String {
        let page = Page {
            entries,
            skip,
            more,
            is_cut: false,
        };
        listing(title, has_parent, Order::of(None, None), &page).0
    }

    #[test]
    fn hostile_names_stay_text() {
        let hostile = "\"><script>alert(1)</script>&'";
        let entries: Vec<Entry> = ["dir", "file", "symlink", "<b>"]
            .map(|kind| entry(hostile, kind))
            .into();
        let shown = text(hostile, true, 5, &entries, true);
        assert!(
            !shown.contains("<script") && !shown.contains("<b>") && !shown.contains("<t>"),
            "{shown}"
        );
        assert!(shown.contains("href=\"?skip=9&amp;"), "{shown}");
        assert!(shown.contains("2 KiB"), "{shown}");
        assert!(shown.contains("1970-01-01 00:00"), "{shown}");
        // The link keeps the name as it is; what is read does not pretend to be another one.
        let reordered = [entry("a\u{202e}gpj.exe", "file")];
        let shown = text("\u{2066}t", false, 0, &reordered, false);
        assert!(shown.contains("href=\"./a%E2%80%AEgpj.exe\""), "{shown}");
        assert!(shown.contains(">a\\u{202e}gpj.exe</a>"), "{shown}");
        assert!(shown.contains("\\u{2066}t"), "{shown}");
        let strange = [
            entry("javascript:alert(1)", "file"),
            entry("..", "dir"),
            Entry {
                name_hex: Some("6ee4".to_owned()),
                mtime_s: i64::MAX,
                ..entry("n\\xe4", "file")
            },
        ];
        let shown = text("t", false, 0, &strange, false);
        assert!(
            shown.contains("href=\"./javascript%3Aalert%281%29\""),
            "{shown}"
        );
        assert!(shown.contains("href=\"./n%E4\">n\\xe4<"), "{shown}");
    }

    #[test]
    fn entries_are_sorted_by_what_is_asked_for() {
        let sized = |name: &str, bytes, mtime_s| Entry {
            bytes,
            mtime_s,
            ..entry(name, "file")
        };
        let all = [sized("a", 2, 1), sized("b", 1, 3), sized("c", 3, 2)];
        for (order, names) in [
            (by("name", "asc"), "abc"),
            (by("name", "desc"), "cba"),
            (by("size", "asc"), "bac"),
            (by("size", "desc"), "cab"),
            (by("date", "asc"), "acb"),
            (by("date", "desc"), "bca"),
            (by("<x>", "<y>"), "abc"),
        ] {
            let mut entries = all.clone();
            order.sort(&mut entries);
            let sorted: String = entries.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(sorted, names, "{order:?}");
        }
        let page = Page::of_sorted(&all, 0, false);
        let Html(shown) = listing("t", false, by("size", "asc"), &page);
        assert!(shown.contains(
            "<th scope=\"col\" aria-sort=\"ascending\"><a href=\"?sort=size&amp;order=desc\">Size"
        ));
        assert!(
            shown.contains("<a href=\"?sort=date&amp;order=asc\">"),
            "{shown}"
        );
    }

    #[test]
    fn pages_of_what_was_sorted_end() {
        let many: Vec<Entry> = (0..=PAGE_ENTRIES).map(|_| entry("x", "file")).collect();
        let first = Page::of_sorted(&many, 0, true);
        assert!(first.entries.len() as u64 == PAGE_ENTRIES && first.more);
        let last = Page::of_sorted(&many, PAGE_ENTRIES, true);
        assert!(last.entries.len() == 1 && !last.more);
        let Html(shown) = listing("t", false, by("size", "asc"), &last);
        assert!(shown.contains("There are more entries"), "{shown}");
        assert!(Page::of_sorted(&many, u64::MAX, false).entries.is_empty());
    }
}
