//! Names inside URLs: percent-encoding (RFC 3986, section 2.1).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Encodes everything but unreserved characters, the slash and the colon included. What is encoded
/// need not be text.
pub fn percent_encode(name: impl AsRef<[u8]>) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let name = name.as_ref();
    let mut encoded = String::with_capacity(name.len());
    for &byte in name {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    encoded
}

/// A path as the end of a URL: each name encoded, with slashes between.
pub fn percent_encode_path(path: &Path) -> String {
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let names: Vec<String> = names.map(percent_encode).collect();
    names.join("/")
}

/// Undoes [`percent_encode`]. `None` when a percent sign is not followed by two hex digits.
pub fn percent_decode(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let text = text.as_ref();
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            decoded.push(u8::try_from(high * 16 + low).expect("two hex digits are a byte"));
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_texts() {
        assert_eq!(percent_encode("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(
            percent_encode("a b/\u{e4}&=%:"),
            "a%20b%2F%C3%A4%26%3D%25%3A"
        );
        assert_eq!(
            percent_decode("a+b%2f%C3%A4").as_deref(),
            Some("a+b/\u{e4}".as_bytes())
        );
        assert_eq!(percent_encode_path(Path::new("a b/c?")), "a%20b/c%3F");
        assert_eq!(percent_encode_path(Path::new("")), "");
        for wrong in ["%", "%2", "%zz", "%+1"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_name_reads_back(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let encoded = percent_encode(&name);
            prop_assert!(encoded.is_ascii() && !encoded.contains(['/', ':', '?', '#', '"', '<']));
            let _ = percent_decode(&name);
            prop_assert_eq!(percent_decode(&encoded), Some(name));
        }
    }
}
