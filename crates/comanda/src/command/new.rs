//! `comanda new`: an order type with its schema, ready to edit.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::read_json;
use crate::cli::New;
use crate::config::Config;
use crate::failure::Failure;
use crate::output::Output;

pub(super) fn run(config: &Config, args: New, output: &mut Output) -> Result<(), Failure> {
    check_name(&args.name)?;
    let sample = args.from.as_deref().map(|path| read_json(Some(path))).transpose()?;
    let (toml, schema) = comanda_order_type::scaffold(&args.name, sample.as_ref());
    let directory = args.dir.unwrap_or_else(|| config.order_types.clone());
    std::fs::create_dir_all(&directory).map_err(|source| Failure::File {
        path: directory.clone(),
        act: "made",
        source,
    })?;
    let type_path = directory.join(format!("{}.toml", args.name));
    let schema_path = directory.join(format!("{}.schema.json", args.name));
    write_new(&type_path, &toml)?;
    write_new(&schema_path, &schema)?;
    output.line(&type_path.display().to_string())?;
    output.line(&schema_path.display().to_string())?;
    eprintln!(
        "Edit them, then: comanda check · comanda try {} · comanda serve --watch",
        args.name
    );
    Ok(())
}

fn check_name(name: &str) -> Result<(), Failure> {
    let words_are_right = name.split('-').all(|word| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    });
    if words_are_right && name.len() <= 64 && name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "`{name}` is no name for an order type: use kebab-case, such as repair or spare-part"
    )))
}

/// Writes a file that must not be there yet: nobody's work is overwritten.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |source| Failure::File {
        path: path.to_owned(),
        act: "written",
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
