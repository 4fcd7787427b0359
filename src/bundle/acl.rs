//! POSIX ACLs: the extended attributes that Linux keeps them in, and their text form.
//!
//! ```text
//! version (u32, 2) | entries: tag (u16), permissions (u16), id (u32), all little-endian
//! ```
//!
//! As in `linux/posix_acl_xattr.h`. Text as in `acl(5)`, with numbers in place of names: a name may
//! mean somebody else on another machine. Deliberately absent: making the attribute from text; only
//! the system and other programs do.

use std::fmt::Write as _;

/// Attribute with the ACL of the file itself.
pub(super) const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// Attribute with the ACL that new files in the directory inherit.
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;

/// The text of an ACL, one entry after the other with commas between. `None` for what is no ACL of
/// the known version.
pub(super) fn text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return None;
    }
    let mut text = String::new();
    for [tag_low, tag_high, bits_low, bits_high, id @ ..] in entries {
        let tag = match u16::from_le_bytes([*tag_low, *tag_high]) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{}", u32::from_le_bytes(*id)),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{}", u32::from_le_bytes(*id)),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let bits = u16::from_le_bytes([*bits_low, *bits_high]);
        let may = |bit: u16, letter: char| if bits & bit == 0 { '-' } else { letter };
        let comma = if text.is_empty() { "" } else { "," };
        let (read, write, execute) = (may(4, 'r'), may(2, 'w'), may(1, 'x'));
        let _ = write!(text, "{comma}{tag}:{read}{write}{execute}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that `setfacl -m u:7:r,g:9:rwx` gives for a file of mode 0640.
    const SAMPLE: [u8; 52] = [
        2, 0, 0, 0, //
        1, 0, 6, 0, 255, 255, 255, 255, //
        2, 0, 4, 0, 7, 0, 0, 0, //
        4, 0, 4, 0, 255, 255, 255, 255, //
        8, 0, 7, 0, 9, 0, 0, 0, //
        16, 0, 7, 0, 255, 255, 255, 255, //
        32, 0, 0, 0, 255, 255, 255, 255, //
    ];

    #[test]
    fn an_acl_as_text() {
        assert_eq!(
            text(&SAMPLE).as_deref(),
            Some("user::rw-,user:7:r--,group::r--,group:9:rwx,mask::rwx,other::---")
        );
        assert_eq!(text(&SAMPLE[..4]).as_deref(), Some(""));
    }

    #[test]
    fn what_is_no_acl_has_no_text() {
        for bad in [&b""[..], b"abc", &SAMPLE[..51], &SAMPLE[..5], &[1, 0, 0, 0]] {
            assert_eq!(text(bad), None);
        }
        let mut unknown = SAMPLE;
        unknown[4] = 3;
        assert_eq!(text(&unknown), None);
    }

    proptest! {
        #[test]
        fn any_value_gives_an_answer(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = text(&value);
        }
    }
}
