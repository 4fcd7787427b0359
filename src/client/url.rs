//! Names inside URLs: percent-encoding (RFC 3986, section 2.1).

/// Encodes everything but unreserved characters, the slash and the colon included.
pub fn percent_encode(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
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

/// Undoes [`percent_encode`]. `None` when a percent sign is not followed by two hex digits, or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            decoded.push(u8::try_from(high * 16 + low).expect("two hex digits are a byte"));
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
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
            Some("a+b/\u{e4}")
        );
        for wrong in ["%", "%2", "%zz", "%FF", "%+1"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "(?s).{0,40}") {
            let encoded = percent_encode(&text);
            prop_assert!(encoded.is_ascii() && !encoded.contains(['/', ':', '?', '#', '"', '<']));
            prop_assert_eq!(percent_decode(&encoded), Some(text.clone()));
            let _ = percent_decode(&text);
        }
    }
}
