//! The page to print and put away: the words, a code to scan, and what to do in an emergency.
//!
//! One self-contained HTML page: no scripts, nothing loaded from elsewhere, black on white. It is as secret as the words. It names
//! no machine and no place, as it must be of use when all of them are gone.

use std::fmt::Write as _;

use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use zeroize::Zeroizing;

use super::keys::OwnerId;
use super::words::Phrase;

const STYLE: &str = "
@page { size: auto; margin: 13mm; }
* { box-sizing: border-box; }
body { font: 10pt/1.35 'Helvetica Neue', Arial, sans-serif; color: #000; background: #fff; max-width: 182mm; margin: 8mm auto; }
h1 { font-size: 19pt; line-height: 1.15; margin: 0 0 1mm; }
h2 { font-size: 11.5pt; margin: 4mm 0 1mm; }
p, ol, ul { margin: 0 0 1.5mm; }
ol, ul { padding-left: 5.5mm; }
li { margin-bottom: 1mm; }
code { font-family: 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: 9pt; white-space: nowrap; }
.id { font-size: 8.5pt; overflow-wrap: anywhere; white-space: normal; }
.secret { display: flex; gap: 7mm; align-items: center; border: .6mm solid #000; border-radius: 2mm; padding: 4mm; margin: 4mm 0; }
.words { flex: 1; display: grid; grid-template-columns: repeat(3, 1fr); gap: 2.2mm; list-style: none; margin: 0; padding: 0; }
.words li { border-bottom: .25mm solid #888; margin: 0; padding: 1mm 0; font: bold 13pt/1.3 'DejaVu Sans Mono', Menlo, Consolas, monospace; }
.words span { display: inline-block; width: 9mm; font: 9pt Arial, sans-serif; color: #444; }
.code { flex: none; width: 40mm; }
.code svg { display: block; width: 40mm; height: 40mm; }
.line { border-bottom: .25mm solid #000; height: 7.5mm; }
section, .secret { break-inside: avoid; }
@media print { body { margin: 0; max-width: none; } }
";

const ADVICE: &str = "
<section>
<h2>In an emergency</h2>
<ol>
<li>Install libernet on any machine.</li>
<li>Give that machine your words: <code>libernet init --recover -</code> and type them. The first four letters of each word are
enough, and capitals don't matter. To take back files without making the machine yours, type them into
<code>libernet restore latest --phrase --target DIR</code> instead.</li>
<li>Connect it to the people who keep your backups: join your ring, or
<code>libernet config set bootstrap ADDRESS</code> with the address of a machine that is running, then <code>libernet up</code>.</li>
<li>Get your files: <code>libernet restore latest --target DIR</code>. It goes on where it was interrupted.</li>
</ol>
</section>
<section>
<h2>Keeping it</h2>
<ul>
<li>Print two, and keep them in two places that don't burn or flood together: at home, and with somebody you trust.</li>
<li>Don't photograph this page, and don't keep it in a computer: delete the file once it is printed.</li>
<li>Whoever has the words has the backups, and words can't be changed. If somebody else may have seen them, make a new owner
with new words and back up again.</li>
<li>Practise once a year: take one file back with these words alone, on a machine that is not yours.</li>
</ul>
</section>
<section>
<h2>Notes</h2>
<p>Addresses of friends' machines, name of the ring, where the other sheet is. Never a passphrase.</p>
<div class=\"line\"></div>
<div class=\"line\"></div>
<div class=\"line\"></div>
</section>
";

/// The page of this owner. `date` is printed as it is given.
pub fn html(phrase: &Phrase, owner: &OwnerId, date: &str) -> Zeroizing<String> {
    let code = code(phrase);
    // Never grows beyond this, so that no copies of the words stay behind.
    let mut page = Zeroizing::new(String::with_capacity(
        STYLE.len() + ADVICE.len() + code.len() + 6 * date.len() + 4096,
    ));
    page.push_str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"referrer\" content=\"no-referrer\">\n<title>libernet emergency sheet</title>\n<style>");
    page.push_str(STYLE);
    page.push_str("</style>\n</head>\n<body>\n<h1>Emergency sheet for my backups</h1>\n");
    page.push_str(
        "<p>These twelve words open everything that I back up with libernet, and nothing else does. With them all my files can be \
         brought back to any machine, even if all of mine are lost. Without them nobody can, so keep this page safe, and secret.</p>\n",
    );
    page.push_str("<div class=\"secret\">\n<ol class=\"words\">\n");
    for (at, word) in phrase.words().iter().enumerate() {
        // A number and a word are all that copying this gives, which can be read again.
        let _ = writeln!(page, "<li><span>{}.</span> {word}</li>", at + 1);
    }
    page.push_str("</ol>\n<div class=\"code\">");
    page.push_str(&code);
    page.push_str("</div>\n</div>\n<p>Owner: <code class=\"id\">");
    let _ = write!(page, "{owner}</code><br>Made: ");
    escape(date, &mut page);
    page.push_str(". The square holds the twelve words.</p>\n");
    page.push_str(ADVICE);
    page.push_str("</body>\n</html>\n");
    page
}

/// The words as a QR code in SVG.
fn code(phrase: &Phrase) -> Zeroizing<String> {
    let code = QrCode::with_error_correction_level(phrase.text().as_bytes(), EcLevel::M)
        .expect("twelve words of at most eight letters fit in a code");
    let image = code
        .render::<svg::Color>()
        .module_dimensions(1, 1)
        .quiet_zone(true)
        .build();
    let image = Zeroizing::new(image);
    // The declaration of an XML file has no place inside a page.
    let start = image.find("<svg").unwrap_or_default();
    Zeroizing::new(image[start..].to_owned())
}

fn escape(text: &str, page: &mut String) {
    for c in text.chars() {
        match c {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            c => page.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::owner::OwnerKeys;

    fn page(date: &str) -> (Phrase, OwnerId, Zeroizing<String>) {
        let phrase = Phrase::from_entropy([0x7f; 16]);
        let owner = OwnerKeys::derive(&phrase).id();
        let page = html(&phrase, &owner, date);
        (phrase, owner, page)
    }

    #[test]
    fn the_page_has_the_words_and_stands_alone() {
        let (phrase, owner, page) = page("2026-05-01");
        for (at, word) in phrase.words().iter().enumerate() {
            assert!(
                page.contains(&format!("<span>{}.</span> {word}</li>", at + 1)),
                "{word}"
            );
        }
        assert!(page.contains(&owner.to_string()) && page.contains("Made: 2026-05-01."));
        assert!(page.contains("<svg") && !page.contains("<?xml"));
        // A code of version 5 has 37 squares a side; four empty ones belong on each side (ISO/IEC 18004).
        assert!(page.contains("viewBox=\"0 0 45 45\""));
        for absent in ["<script", "src=", "href=", "url(", "@import", "://"] {
            let text = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(absent), "{absent}");
        }
    }

    #[test]
    fn the_words_copied_from_the_page_read_back() {
        let (phrase, _, page) = page("today");
        let list = page
            .split("<ol class=\"words\">")
            .nth(1)
            .and_then(|rest| rest.split("</ol>").next());
        let list = list.expect("a list");
        let text: String = list
            .replace("</li>", "\n")
            .replace("<li><span>", "")
            .replace("</span>", "");
        assert_eq!(Phrase::parse(&text), Ok(phrase));
    }

    #[test]
    fn a_date_is_text_only() {
        let (_, _, page) = page("<b a=\"1\" b='2'>&");
        assert!(page.contains("Made: &lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;."));
    }

    #[test]
    fn the_longest_words_fit_in_the_code() {
        // Places of words with eight letters.
        let list = bip39::Language::English.word_list();
        let long: Vec<&str> = list.iter().copied().filter(|w| w.len() == 8).collect();
        let text = long[..12].join(" ");
        assert!(QrCode::with_error_correction_level(text.as_bytes(), EcLevel::M).is_ok());
    }
}
