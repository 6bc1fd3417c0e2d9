//! What is wrong with an order-type file, where, and how to mend it.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::bundle::Bundle;
use crate::tree::Span;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The type cannot be used.
    Error,
    /// The type can be used, but probably not as it was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of mistake: `type/unknown-status`. `docs/order-types.md` lists them all.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub message: String,
    /// The file: the TOML file or its schema.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, counted in characters.
    pub column: usize,
    /// How to mend it.
    pub help: Option<String>,
    /// The place, in bytes from the beginning of the file.
    pub span: Span,
}

/// Collects what is wrong while a file is read.
pub(crate) struct Report<'b> {
    bundle: &'b Bundle,
    diagnostics: Vec<Diagnostic>,
}

impl<'b> Report<'b> {
    pub fn new(bundle: &'b Bundle) -> Self {
        Self {
            bundle,
            diagnostics: Vec::new(),
        }
    }

    /// Something that makes the type unusable.
    pub fn error(&mut self, code: &'static str, span: &Span, message: impl Into<String>, help: Option<String>) {
        self.add(Severity::Error, code, span, message.into(), help);
    }

    /// Something that is probably a mistake.
    pub fn warning(&mut self, code: &'static str, span: &Span, message: impl Into<String>, help: Option<String>) {
        self.add(Severity::Warning, code, span, message.into(), help);
    }

    /// Something in the schema file.
    pub fn schema_error(&mut self, code: &'static str, span: &Span, message: String, help: Option<String>) {
        let Some((path, text)) = &self.bundle.schema else {
            return self.error(code, &(0..0), message, help);
        };
        self.diagnostics
            .push(diagnostic(Severity::Error, code, path, text, span, message, help));
    }

    /// The place of a part of the text that stands at `span`, where it can be found there as it is.
    pub fn narrow(&self, span: &Span, part: &str) -> Span {
        let within = self.bundle.text.get(span.clone()).unwrap_or_default();
        match within.find(part) {
            Some(at) if !part.is_empty() => span.start + at..span.start + at + part.len(),
            _ => span.clone(),
        }
    }

    fn add(&mut self, severity: Severity, code: &'static str, span: &Span, message: String, help: Option<String>) {
        let made = diagnostic(
            severity,
            code,
            &self.bundle.path,
            &self.bundle.text,
            span,
            message,
            help,
        );
        // Two checks may find the same mistake from two sides.
        if !self.diagnostics.contains(&made) {
            self.diagnostics.push(made);
        }
    }

    /// Whether anything so far makes the type unusable.
    pub fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// All that is wrong, in the order of the file; what is wrong with the schema file comes last.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        let path = &self.bundle.path;
        self.diagnostics
            .sort_by_key(|diagnostic| (diagnostic.path != *path, diagnostic.span.start));
        self.diagnostics
    }
}

fn diagnostic(
    severity: Severity,
    code: &'static str,
    path: &str,
    text: &str,
    span: &Span,
    message: String,
    help: Option<String>,
) -> Diagnostic {
    let span = within(text, span);
    let before = &text[..span.start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Diagnostic {
        severity,
        code,
        message,
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: text[line_start..span.start].chars().count() + 1,
        help,
        span,
    }
}

/// A span that lies within the text, on whole characters, and does not run over the end of its line: a caret under a
/// whole section shows nothing.
fn within(text: &str, span: &Span) -> Span {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    let line_end = text[start..end].find(['\n', '\r']).map_or(end, |at| start + at);
    start..line_end
}

/// The nearest of some names to one that is not among them, if any is near enough to be what was meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&candidate.to_lowercase(), &lower),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.chars().count().min(name.chars().count()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean "DONE"?`, or what there is to choose from.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(name, known.clone()) {
        return Some(format!("did you mean \"{near}\"?"));
    }
    let known: Vec<&str> = known.into_iter().collect();
    match known.len() {
        0 => None,
        1..=12 => Some(format!("known: {}", known.join(", "))),
        _ => None,
    }
}

/// The diagnostics of one bundle as text for people: message, file, line, column, the line itself with a caret, and how
/// to mend it. With `color`, ANSI escapes.
pub fn render(diagnostics: &[Diagnostic], bundle: &Bundle, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
    let mut text = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let source = match &bundle.schema {
            Some((path, source)) if *path == diagnostic.path => source,
            _ => &bundle.text,
        };
        let span = within(source, &diagnostic.span);
        let group = level.primary_title(&diagnostic.message).id(diagnostic.code).element(
            Snippet::source(source.as_str())
                .path(diagnostic.path.as_str())
                .annotation(AnnotationKind::Primary.span(span).label(diagnostic.help.as_deref())),
        );
        text.push_str(&renderer.render(&[group]));
        text.push_str("\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let known = ["RECEIVED", "DONE", "en proceso"];
        assert_eq!(nearest("DONEE", known), Some("DONE"));
        assert_eq!(nearest("done", known), Some("DONE"));
        assert_eq!(nearest("en_proceso", known), Some("en proceso"));
        assert_eq!(nearest("SHIPPED", known), None);
    }

    #[test]
    fn rendering_never_leaves_the_text() {
        let bundle = Bundle {
            path: "a.toml".to_owned(),
            text: "ñ = 1\n".to_owned(),
            schema: None,
        };
        let mut report = Report::new(&bundle);
        for span in [0..1, 1..2, 5..90, 90..91, 6..6, 0..7] {
            report.error("type/syntax", &span, "x", None);
        }
        assert!(render(&report.finish(), &bundle, true).contains("a.toml:1:1"));
    }
}
