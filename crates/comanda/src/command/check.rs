//! `comanda check`: every mistake of every order type at once.

use serde_json::json;

use crate::cli::Check;
use crate::config::Config;
use crate::failure::Failure;
use crate::output::Output;
use crate::types::{self, Checked, is_error};

pub(super) fn run(config: &Config, args: Check, output: &mut Output) -> Result<(), Failure> {
    let known = types::known(config, false);
    let bundles = if args.paths.is_empty() {
        comanda_order_type::read_directory(&config.order_types).map_err(types::TypesError::from)?
    } else {
        types::bundles(&args.paths)?
    };
    let files: Vec<Checked> = bundles.into_iter().map(|bundle| Checked::new(bundle, &known)).collect();
    let (mut errors, mut warnings) = (0, 0);
    for file in &files {
        let (file_errors, file_warnings) = file.counts();
        errors += file_errors;
        warnings += file_warnings;
        eprint!("{}", file.rendered());
    }
    // Names that clash show only when all are looked at together, as `serve` does.
    let mut clashes = Vec::new();
    if errors == 0 && args.paths.is_empty() {
        let (definitions, _) = types::load(&config.order_types, &known)?;
        clashes = types::queues_of_two_kinds(&definitions);
        warnings += clashes.len();
        for clash in &clashes {
            eprintln!("{clash}");
        }
    }
    if output.is_json() {
        let diagnostics = files.iter().flat_map(|file| &file.diagnostics).map(|diagnostic| {
            json!({
                "severity": if is_error(diagnostic) { "error" } else { "warning" },
                "code": diagnostic.code,
                "message": diagnostic.message,
                "path": diagnostic.path,
                "line": diagnostic.line,
                "column": diagnostic.column,
                "help": diagnostic.help,
            })
        });
        let clashes = clashes.iter().map(|clash| {
            json!({"severity": "warning", "code": types::CLASH, "message": clash.message, "help": clash.help,
                "path": null, "line": null, "column": null})
        });
        let diagnostics = diagnostics.chain(clashes);
        output.json(&json!({"files": files.len(), "errors": errors, "warnings": warnings,
            "diagnostics": diagnostics.collect::<Vec<_>>()}))?;
    } else if files.is_empty() {
        eprintln!(
            "There are no order types in {}. Make one: comanda new NAME",
            config.order_types.display()
        );
    } else {
        output.line(&format!(
            "{}: {}, {}",
            count(files.len(), "file"),
            count(errors, "error"),
            count(warnings, "warning")
        ))?;
    }
    if errors > 0 { Err(Failure::Reported) } else { Ok(()) }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
