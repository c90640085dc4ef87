//! How bytes, ids and times are written for people and for scripts, and read back.
//!
//! - Base64 (standard alphabet) is for contexts and for values that are not UTF-8 in JSON and YAML:
//!   `{"utf8": "..."}` or `{"base64": "..."}`.
//! - Escapes (`\n \r \t \\ \xNN`) are for tables. Control characters are never sent to a terminal:
//!   a value must not be able to drive it.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// So many of something.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Bytes in a document: text where they are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(pub Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(1))?;
        match std::str::from_utf8(&self.0) {
            Ok(text) => map.serialize_entry("utf8", text)?,
            Err(_) => map.serialize_entry("base64", &base64(&self.0))?,
        }
        map.end()
    }
}

pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Padding may be left out.
pub fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text).map_err(|e| format!("{text:?} is not base64: {e}"))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        push_hex(&mut text, *byte);
        text
    })
}

pub fn from_hex(text: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .map(|d| d as u8)
            .ok_or_else(|| format!("{:?} is not a hex digit", char::from(c)))
    };
    if !text.len().is_multiple_of(2) {
        return Err(format!("hex comes in pairs of digits, and here are {}", text.len()));
    }
    text.chunks(2).map(|pair| Ok(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Bytes on one line. UTF-8 without control characters stands as it is; anything else is escaped,
/// and its backslashes doubled.
pub fn escape(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.utf8_chunks().fold(String::with_capacity(3 * bytes.len()), |mut out, chunk| {
            chunk.valid().chars().for_each(|c| escape_char(&mut out, c));
            chunk.invalid().iter().for_each(|byte| escape_byte(&mut out, *byte));
            out
        }),
    }
}

/// As `escape`, but text keeps its line ends and tabs.
pub fn escape_block(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => {
            text.to_owned()
        }
        _ => escape(bytes),
    }
}

/// Somebody else's words on one line.
pub fn line(words: &str) -> String {
    words.chars().fold(String::with_capacity(words.len()), |mut out, c| {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => escape_char(&mut out, c),
            c => out.push(c),
        }
        out
    })
}

/// A word as a shell takes it: as it stands, or in quotes.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn escape_char(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\\' => out.push_str("\\\\"),
        ' '..='~' => out.push(c),
        c if c.is_control() => {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| escape_byte(out, byte))
        }
        c => out.push(c),
    }
}

fn escape_byte(out: &mut String, byte: u8) {
    out.push_str("\\x");
    push_hex(out, byte);
}

fn push_hex(out: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        out.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC, to the second. The days are counted as in Howard
/// Hinnant's "chrono-Compatible Low-Level Date Algorithms".
pub fn when(ms: u64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms / 1000 % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// So many seconds, as people say it.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// When results are looked at in tests.
    pub const NOW_MS: u64 = 1_764_500_000_000;

    #[test]
    fn a_word_for_a_shell_is_quoted_where_it_has_to_be() {
        for (word, written) in
            [("a/b-1.tar", "a/b-1.tar"), ("", "''"), ("a b", "'a b'"), ("it's", "'it'\\''s'")]
        {
            assert_eq!(shell_word(word), written);
        }
    }

    #[test]
    fn text_stands_as_it_is_and_bytes_are_escaped() {
        for (bytes, shown) in [
            (&b"plain"[..], "plain"),
            ("größe \\ x".as_bytes(), "größe \\ x"),
            (b"a\0b\\", "a\\x00b\\\\"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"two\nlines", "two\\nlines"),
            (b"\x1b[31mred", "\\x1b[31mred"),
            ("\u{85}".as_bytes(), "\\xc2\\x85"),
        ] {
            assert_eq!(escape(bytes), shown);
        }
        assert_eq!(escape_block(b"{\n\t1\n}"), "{\n\t1\n}");
        assert_eq!(escape_block(b"{\n\x1b}"), "{\\n\\x1b}");
    }

    #[test]
    fn times_are_written_as_everyone_writes_them() {
        assert_eq!(when(0), "1970-01-01T00:00:00Z");
        assert_eq!(when(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(when(1_735_689_599_999), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_not_hex_or_base64_is_named() {
        assert_eq!(from_hex(b"0g").unwrap_err(), "'g' is not a hex digit");
        assert!(from_hex(b"abc").is_err());
        assert!(from_base64("a*").unwrap_err().contains("a*"));
        assert_eq!(from_base64("YQ").unwrap(), b"a");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes: Vec<u8>) {
            prop_assert_eq!(&from_hex(hex(&bytes).as_bytes()).unwrap(), &bytes);
            prop_assert_eq!(&from_base64(&base64(&bytes)).unwrap(), &bytes);
        }

        #[test]
        fn nothing_that_is_shown_on_a_line_can_drive_a_terminal(bytes: Vec<u8>) {
            prop_assert!(!escape(&bytes).chars().any(char::is_control));
        }
    }
}
