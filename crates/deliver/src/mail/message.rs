//! One e-mail: its headers and its parts.

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};

use super::templates::Rendered;

/// The longest subject, in characters.
const SUBJECT_CHARS_MAX: usize = 200;

/// What is to be sent.
pub(super) struct Letter<'a> {
    pub(super) to: Address,
    /// The event's id.
    pub(super) event: &'a str,
    /// The subscription's id.
    pub(super) subscription: &'a str,
    pub(super) language: &'a str,
    pub(super) rendered: Rendered,
}

impl Letter<'_> {
    /// The message. Its `Message-ID` is made of what is the same on every try, so that a repetition can be told.
    pub(super) fn message(self, from: &Mailbox) -> Result<Message, lettre::error::Error> {
        let id = format!(
            "<{}.{}@{}>",
            token(self.event),
            token(self.subscription),
            from.email.domain()
        );
        let builder = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, self.to))
            .subject(one_line(&self.rendered.subject))
            .message_id(Some(id));
        let plain = SinglePart::plain(self.rendered.text);
        let mut message = match self.rendered.html {
            Some(html) => builder.multipart(
                MultiPart::alternative()
                    .singlepart(plain)
                    .singlepart(SinglePart::html(html)),
            )?,
            None => builder.singlepart(plain)?,
        };
        // Nobody's holiday notice is to be sent in answer (RFC 3834).
        for (name, value) in [
            ("Auto-Submitted", "auto-generated"),
            ("Content-Language", self.language),
        ] {
            if let Ok(name) = HeaderName::new_from_ascii(name.to_owned()) {
                message
                    .headers_mut()
                    .insert_raw(HeaderValue::new(name, value.to_owned()));
            }
        }
        Ok(message)
    }
}

/// What may stand in a `Message-ID` (RFC 5322, dot-atom): all else becomes a dot.
fn token(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
            c
        } else {
            '.'
        }
    };
    text.chars().map(plain).collect()
}

/// A subject is one line: what an order's data would break it with is taken out.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(SUBJECT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(subject: &str) -> Letter<'_> {
        Letter {
            to: "ana@example.com".parse().unwrap(),
            event: "0190:4",
            subscription: "customer-notices",
            language: "es",
            rendered: Rendered {
                subject: subject.to_owned(),
                text: "hola".to_owned(),
                html: Some("<p>hola</p>".to_owned()),
            },
        }
    }

    #[test]
    fn a_subject_adds_no_header_and_the_id_is_the_same_on_every_try() {
        let from: Mailbox = "Shop <shop@example.com>".parse().unwrap();
        let sent = |subject: &str| {
            let bytes = letter(subject).message(&from).unwrap().formatted();
            String::from_utf8(bytes).unwrap()
        };
        let text = sent("order\r\nBcc: all@example.com\n\nbody");
        assert!(text.contains("Subject: order Bcc: all@example.com body\r\n"), "{text}");
        assert!(!text.contains("\nBcc:"), "{text}");
        let id = "Message-ID: <0190.4.customer-notices@example.com>\r\n";
        assert!(text.contains(id) && sent("other").contains(id), "{text}");
        assert!(text.contains("Auto-Submitted: auto-generated\r\n"), "{text}");
    }
}
