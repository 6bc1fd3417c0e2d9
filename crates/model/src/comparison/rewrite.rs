//! Templates' comparisons as tests: `a > b` becomes `((a) is gt((b)))`.
//!
//! Of minijinja's grammar this knows only what bounds a comparison: brackets, and the words and signs that bind less.

use std::ops::Range;

/// A template's text with its comparisons as tests. `None` where `in` is a link of a chain of comparisons, as in `a == b in c`, and
/// where a tag does not end, which minijinja refuses too.
pub fn rewritten(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(begin) = text[at..].find("{").map(|found| at + found) {
        let opening = text.get(begin..begin + 2);
        let (closing, statement) = match opening {
            Some("{{") => ("}}", false),
            Some("{%") => ("%}", true),
            Some("{#") => {
                let end = text[begin + 2..].find("#}")? + begin + 4;
                out.push_str(&text[at..end]);
                at = end;
                continue;
            }
            _ => {
                out.push_str(&text[at..=begin]);
                at = begin + 1;
                continue;
            }
        };
        let mut inside = begin + 2;
        if text[inside..].starts_with(['-', '+']) {
            inside += 1;
        }
        out.push_str(&text[at..inside]);
        let tokens = tokens(text, inside, closing)?;
        let end = tokens.last().map_or(inside, |token| token.range.end).max(inside);
        // Up to the end of the tag, which is where the tokens end but for blanks and a mark that trims.
        let tag_end = end + text[end..].find(closing)? + closing.len();
        if statement && tokens.first().is_some_and(|first| first.is(text, "raw")) {
            let raw_end = text[tag_end..].match_indices("{%").map(|(found, _)| tag_end + found);
            let raw_end = raw_end.into_iter().find(|found| {
                text[found + 2..]
                    .trim_start_matches(['-', '+'])
                    .trim_start()
                    .starts_with("endraw")
            })?;
            out.push_str(&text[inside..raw_end]);
            at = raw_end;
            continue;
        }
        let skipped = usize::from(statement && !tokens.is_empty());
        out.push_str(&text[inside..tokens.get(skipped).map_or(end, |token| token.range.start)]);
        if let Some(tokens) = tokens.get(skipped..).filter(|tokens| !tokens.is_empty()) {
            rewrite(text, tokens, &mut out)?;
        }
        out.push_str(&text[end..tag_end]);
        at = tag_end;
    }
    out.push_str(&text[at..]);
    Some(out)
}

/// A piece of an expression: a word, a number, a string, an operator, or all that stands between two brackets, with them.
struct Token {
    range: Range<usize>,
    /// What stands between the brackets.
    within: Option<Vec<Token>>,
}

impl Token {
    fn text<'t>(&self, text: &'t str) -> &'t str {
        &text[self.range.clone()]
    }

    fn is(&self, text: &str, what: &str) -> bool {
        self.text(text) == what
    }
}

/// Splits an expression up to what closes its tag; `None` if nothing does.
fn tokens(text: &str, begin: usize, closing: &str) -> Option<Vec<Token>> {
    let mut open: Vec<(usize, Vec<Token>)> = Vec::new();
    let mut tokens = Vec::new();
    let mut at = begin;
    loop {
        let rest = &text[at..];
        let character = rest.chars().next()?;
        if open.is_empty() {
            let unmarked = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if unmarked.starts_with(closing) {
                return Some(tokens);
            }
        }
        let length = match character {
            _ if character.is_whitespace() => {
                at += character.len_utf8();
                continue;
            }
            '(' | '[' | '{' => {
                open.push((at, std::mem::take(&mut tokens)));
                at += 1;
                continue;
            }
            ')' | ']' | '}' => {
                let (start, before) = open.pop()?;
                let within = std::mem::replace(&mut tokens, before);
                at += 1;
                tokens.push(Token {
                    range: start..at,
                    within: Some(within),
                });
                continue;
            }
            '\'' | '"' => string_length(rest, character)?,
            _ if character.is_alphanumeric() || character == '_' => {
                // The point of a number is part of it; that of an attribute is an operator.
                let number = character.is_ascii_digit();
                let mut end = 0;
                let mut characters = rest.char_indices().peekable();
                while let Some((index, character)) = characters.next() {
                    let next_is_digit = characters.peek().is_some_and(|(_, next)| next.is_ascii_digit());
                    let goes_on = character.is_alphanumeric()
                        || character == '_'
                        || (number && character == '.' && next_is_digit);
                    if !goes_on {
                        break;
                    }
                    end = index + character.len_utf8();
                }
                end
            }
            _ if ["==", "!=", "<=", ">=", "//", "**"]
                .iter()
                .any(|operator| rest.starts_with(operator)) =>
            {
                2
            }
            _ => character.len_utf8(),
        };
        tokens.push(Token {
            range: at..at + length,
            within: None,
        });
        at += length;
    }
}

fn string_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return Some(index + 1),
            _ => {}
        }
    }
    None
}

/// What binds less than a comparison: nothing of one reaches over it.
const BOUNDARIES: [&str; 10] = ["and", "or", "not", "if", "elif", "else", "recursive", ",", ":", "="];

/// Writes tokens with their comparisons as tests.
fn rewrite(text: &str, tokens: &[Token], out: &mut String) -> Option<()> {
    // A word behind a point is an attribute's name; `is not` and `not in` are what they are together.
    let word = |index: usize, what: &str| is_word(text, tokens, index, what);
    let is_boundary = |index: usize| {
        let after_is = index.checked_sub(1).is_some_and(|before| word(before, "is"));
        let before_in = tokens.get(index + 1).is_some() && word(index + 1, "in");
        BOUNDARIES.iter().any(|boundary| word(index, boundary))
            && !(tokens[index].is(text, "not") && (after_is || before_in))
    };
    let mut from = 0;
    let mut end_before = tokens.first().map_or(0, |token| token.range.start);
    for index in 0..=tokens.len() {
        if index < tokens.len() && !is_boundary(index) {
            continue;
        }
        if let Some(first) = tokens.get(from).filter(|_| from < index) {
            out.push_str(&text[end_before..first.range.start]);
            write_comparisons(text, &tokens[from..index], out)?;
            end_before = tokens[index - 1].range.end;
        }
        if let Some(boundary) = tokens.get(index) {
            out.push_str(&text[end_before..boundary.range.end]);
            end_before = boundary.range.end;
        }
        from = index + 1;
    }
    Some(())
}

/// Whether a token is this word, and not the name of an attribute.
fn is_word(text: &str, tokens: &[Token], index: usize, what: &str) -> bool {
    let is_attribute = index.checked_sub(1).is_some_and(|before| tokens[before].is(text, "."));
    tokens[index].is(text, what) && !is_attribute
}

/// Writes what stands between two boundaries: an operand, or a chain of comparisons, `a < b <= c`, of which each must hold.
fn write_comparisons(text: &str, tokens: &[Token], out: &mut String) -> Option<()> {
    let mut operands = Vec::new();
    let mut operators = Vec::new();
    let mut from = 0;
    for (index, token) in tokens.iter().enumerate() {
        let test = match token.text(text) {
            "==" => "eq",
            "!=" => "ne",
            "<" => "lt",
            "<=" => "le",
            ">" => "gt",
            ">=" => "ge",
            _ => continue,
        };
        operands.push(&tokens[from..index]);
        operators.push(test);
        from = index + 1;
    }
    operands.push(&tokens[from..]);
    if operators.is_empty() {
        return write_operand(text, tokens, out);
    }
    // A link of the chain that is no comparison of ours.
    if (0..tokens.len()).any(|index| is_word(text, tokens, index, "in")) {
        return None;
    }
    let chain = operators.len() > 1;
    if chain {
        out.push('(');
    }
    for (index, test) in operators.iter().enumerate() {
        if index > 0 {
            out.push_str(" and ");
        }
        out.push_str("((");
        write_operand(text, operands[index], out)?;
        out.push_str(") is ");
        out.push_str(test);
        out.push_str("((");
        write_operand(text, operands[index + 1], out)?;
        out.push_str(")))");
    }
    if chain {
        out.push(')');
    }
    Some(())
}

/// Writes an operand, in whose brackets there may be further comparisons.
fn write_operand(text: &str, tokens: &[Token], out: &mut String) -> Option<()> {
    let mut end_before = tokens.first().map_or(0, |token| token.range.start);
    for token in tokens {
        out.push_str(&text[end_before..token.range.start]);
        let within = token.within.as_deref().unwrap_or_default();
        match (within.first(), within.last()) {
            (Some(first), Some(last)) => {
                out.push_str(&text[token.range.start..first.range.start]);
                rewrite(text, within, out)?;
                out.push_str(&text[last.range.end..token.range.end]);
            }
            _ => out.push_str(token.text(text)),
        }
        end_before = token.range.end;
    }
    Some(())
}
