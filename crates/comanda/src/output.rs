//! Printing: data to stdout as tables or JSON, everything else to stderr.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::cli::OutputFormat;

/// Stdout could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the output could not be written")]
pub struct OutputError(#[from] pub io::Error);

/// Tells a person something on stderr. Whoever reads it may be gone (`comanda serve 2>&1 | head`): then nobody is told, and the
/// program goes on.
pub fn tell(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Where a command prints its data.
pub struct Output {
    format: OutputFormat,
    stdout: BufWriter<io::Stdout>,
}

impl Output {
    /// Prints in this form.
    pub fn new(format: OutputFormat) -> Self {
        Self {
            format,
            stdout: BufWriter::new(io::stdout()),
        }
    }

    /// Whether data is printed for programs.
    pub fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints a line and sends it on its way, so that a reader sees each event as it happens.
    pub fn line(&mut self, line: &str) -> Result<(), OutputError> {
        writeln!(self.stdout, "{line}")?;
        Ok(self.stdout.flush()?)
    }

    /// Prints text that has its own line ends.
    pub fn text(&mut self, text: &str) -> Result<(), OutputError> {
        self.stdout.write_all(text.as_bytes())?;
        Ok(self.stdout.flush()?)
    }

    /// Prints a line without sending it on at once: for many lines.
    pub fn buffered_line(&mut self, line: &str) -> Result<(), OutputError> {
        Ok(writeln!(self.stdout, "{line}")?)
    }

    /// Prints bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        Ok(self.stdout.write_all(bytes)?)
    }

    /// Sends on what is buffered.
    pub fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.stdout.flush()?)
    }

    /// Prints a JSON value over several lines.
    pub fn json(&mut self, value: &Value) -> Result<(), OutputError> {
        serde_json::to_writer_pretty(&mut self.stdout, value).map_err(io::Error::from)?;
        self.line("")
    }

    /// Prints a table.
    pub fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), OutputError> {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(header.iter().map(|name| name.to_uppercase()));
        if io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        table.add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.buffered_line(line.trim_end())?;
        }
        self.flush()
    }
}

/// A progress bar on stderr, where that is a terminal; otherwise nothing is drawn. `length` 0 is one of unknown length.
pub fn progress(length: u64, what: &'static str) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target((length > 0).then_some(length), target);
    let template = if length > 0 {
        "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}"
    } else {
        "{msg} {spinner} {human_pos} {per_sec}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A JSON scalar as it stands in a table; what is not there is a dash.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    }
}

/// Text without the control characters with which a stored text could play tricks on a terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_text_cannot_steer_a_terminal() {
        assert_eq!(cell(&Value::from("a\u{1b}[2Jb\nc")), "a [2Jb c");
        assert_eq!(cell(&Value::Null), "-");
    }
}
