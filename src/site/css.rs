//! References of style sheets, by the tokens of CSS Syntax Level 3.

use cssparser::{ParseError, Parser, ParserInput, Token};

use super::reference::Use;
use super::{Found, Kind};

/// Deepest nesting of blocks that is read. Style sheets that people write stay below ten.
const MAX_DEPTH: usize = 64;

/// Finds the references of `text`, which begins at byte `offset` of its file.
pub(super) fn read(text: &str, offset: usize, found: &mut Found) {
    let mut input = ParserInput::new(text);
    let mut parser = Parser::new(&mut input);
    block(&mut parser, Within::Rules, 0, offset, found);
}

/// Place of a token: strings are references in some places only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Rules, declarations, and functions that take no references.
    Rules,
    /// The argument of `url()` or `src()`.
    Url,
    /// The list of `image-set()` or `image()`.
    Images,
    /// The words after `@import`.
    Import,
    /// The words after `@namespace` or `@charset`: names that nothing is loaded from.
    Name,
}

impl Within {
    /// Word for messages when a string here is a reference.
    fn place(self) -> Option<&'static str> {
        match self {
            Self::Url => Some("url()"),
            Self::Images => Some("image-set()"),
            Self::Import => Some("@import"),
            Self::Rules | Self::Name => None,
        }
    }

    /// Place inside of a function called here.
    fn function(self, name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            _ if self == Self::Name => Self::Name,
            "url" | "src" => Self::Url,
            "image-set" | "-webkit-image-set" | "image" => Self::Images,
            _ => Self::Rules,
        }
    }
}

/// Reads tokens to the end of the current block.
fn block(
    parser: &mut Parser<'_, '_>,
    start: Within,
    depth: usize,
    offset: usize,
    found: &mut Found,
) {
    let mut within = start;
    loop {
        parser.skip_whitespace();
        let at = offset + parser.position().byte_index();
        let Ok(token) = parser.next_including_whitespace_and_comments() else {
            break;
        };
        let inner = match token {
            Token::UnquotedUrl(url) => {
                if within != Within::Name {
                    let place = if within == Within::Import {
                        "@import"
                    } else {
                        "url()"
                    };
                    found.reference(at, url.as_ref(), place, Use::Load);
                }
                None
            }
            Token::QuotedString(text) => {
                if let Some(place) = within.place() {
                    found.reference(at, text.as_ref(), place, Use::Load);
                    // The words that follow an import's reference are its conditions.
                    within = if within == Within::Import {
                        Within::Rules
                    } else {
                        within
                    };
                }
                None
            }
            Token::AtKeyword(name) => {
                within = match name.to_ascii_lowercase().as_str() {
                    "import" => Within::Import,
                    "namespace" | "charset" => Within::Name,
                    _ => start,
                };
                None
            }
            Token::Semicolon => {
                within = start;
                None
            }
            Token::Function(name) => Some(within.function(name)),
            Token::CurlyBracketBlock => {
                within = start;
                Some(Within::Rules)
            }
            Token::ParenthesisBlock | Token::SquareBracketBlock => Some(Within::Rules),
            _ => None,
        };
        let Some(inner) = inner else { continue };
        if depth >= MAX_DEPTH {
            found.fault(
                at,
                Kind::Unread,
                "blocks are nested too deeply here to be read",
            );
            // The parser skips a block that is not entered.
            continue;
        }
        let entered: Result<(), ParseError<'_, ()>> = parser.parse_nested_block(|parser| {
            block(parser, inner, depth + 1, offset, found);
            Ok(())
        });
        debug_assert!(entered.is_ok(), "a block is read to its end");
    }
}
