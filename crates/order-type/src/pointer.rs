//! JSON pointers (RFC 6901).

/// The unescaped tokens of a pointer.
pub(crate) fn tokens(pointer: &str) -> impl Iterator<Item = String> {
    pointer
        .split('/')
        .skip(1)
        .map(|token| token.replace("~1", "/").replace("~0", "~"))
}

/// One token, escaped, with its slash.
pub(crate) fn token(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Why a text is no pointer to something inside the data.
pub(crate) fn fault(text: &str) -> Option<&'static str> {
    if !text.starts_with('/') {
        return Some("a pointer begins with `/`, as in `/items`");
    }
    let mut rest = text;
    while let Some(at) = rest.find('~') {
        rest = &rest[at + 1..];
        if !rest.starts_with(['0', '1']) {
            return Some("in a pointer, `~` is written `~0` and `/` is written `~1`");
        }
    }
    None
}

/// A pointer as people name fields: `/items/0/quantity` is `items[0].quantity`.
pub(crate) fn field(pointer: &str) -> String {
    let mut field = String::new();
    for token in tokens(pointer) {
        if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit()) {
            field.push_str(&format!("[{token}]"));
        } else {
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(&token);
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_well() {
        assert_eq!(field("/items/0/quantity"), "items[0].quantity");
        assert_eq!(field("/a~1b"), "a/b");
        assert_eq!(field(""), "");
    }

    #[test]
    fn pointers_are_checked() {
        assert!(fault("/a~1b/c").is_none());
        assert!(fault("items").is_some());
        assert!(fault("/a~").is_some());
        assert!(fault("/a~2").is_some());
    }
}
