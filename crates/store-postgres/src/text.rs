//! Texts in columns: PostgreSQL keeps every character but one, U+0000, so that one is written as two others.
//!
//! JSON needs none of this: in its text U+0000 can only stand escaped.

use std::borrow::Cow;

/// Begins the replacement of U+0000, and of itself. It is private use: nobody's text is likely to hold it.
const MARK: char = '\u{F8F0}';

/// The text as it is stored.
pub(crate) fn to_column(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', MARK]) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => stored.extend([MARK, '0']),
            MARK => stored.extend([MARK, '1']),
            other => stored.push(other),
        }
    }
    Cow::Owned(stored)
}

/// The text as it was before it was stored.
pub(crate) fn from_column(stored: String) -> String {
    if !stored.contains(MARK) {
        return stored;
    }
    let mut text = String::with_capacity(stored.len());
    let mut characters = stored.chars();
    while let Some(character) = characters.next() {
        if character == MARK {
            text.push(if characters.next() == Some('0') { '\0' } else { MARK });
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_and_none_holds_what_cannot_be_stored() {
        for text in ["", "plain", "\0", "a\0b\u{F8F0}0\u{F8F0}\u{F8F0}\0", "Zoë\u{F8F0}"] {
            let stored = to_column(text).into_owned();
            assert!(!stored.contains('\0'));
            assert_eq!(from_column(stored), text);
        }
    }
}
