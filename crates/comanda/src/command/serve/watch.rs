//! `serve --watch`: reads the order types again when their files change.
//!
//! The directory is looked at twice a second instead of asking the system to tell: that works on every file system,
//! network mounts and containers included, and costs a few `stat` calls.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use comanda_deliver::Deliveries;
use comanda_engine::{Service, TypeChange};
use comanda_order_type::Known;
use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::output::tell;
use crate::types;

/// How often the directory is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// More files than any directory of order types has; what is beyond is not watched.
const FILES_MAX: usize = 10_000;

/// What is looked at of each file.
type Look = Vec<(PathBuf, Option<SystemTime>, u64)>;

pub(super) async fn run(
    directory: PathBuf,
    known: Known,
    service: Service,
    deliveries: Deliveries,
    end: CancellationToken,
) {
    let mut loaded = look(&directory);
    let mut before = loaded.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = end.cancelled() => return,
        }
        let now = look(&directory);
        // Two equal looks: an editor that writes several files, or one in pieces, is given time to finish.
        let settled = now == before;
        before.clone_from(&now);
        if !settled || now == loaded {
            continue;
        }
        loaded = now;
        match types::load(&directory, &known) {
            Ok((definitions, warnings)) => {
                if !warnings.is_empty() {
                    tell(warnings.trim_end());
                }
                match service.registry().replace(definitions).await {
                    Ok(change) => {
                        tell(told(&change));
                        if let Err(error) = deliveries.notices().await {
                            tell(format_args!(
                                "Customers are not told what the new types have them told: {}",
                                chain(&error)
                            ));
                        }
                        if let Err(error) = deliveries.archive().await {
                            tell(format_args!(
                                "Failed orders of the new types are not archived: {}",
                                chain(&error)
                            ));
                        }
                    }
                    Err(error) => tell(format_args!("The order types stay as they were: {}", chain(&error))),
                }
            }
            Err(error) => tell(format_args!("{}\nThe order types stay as they were.", chain(&error))),
        }
    }
}

fn told(change: &TypeChange) -> String {
    let lists = [
        ("added", &change.added),
        ("changed", &change.changed),
        ("removed", &change.removed),
    ];
    let told: Vec<String> = lists
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    let told = if told.is_empty() {
        "nothing changed".to_owned()
    } else {
        told.join("; ")
    };
    format!("Order types read again: {told}. Orders accepted before go on with the version they have.")
}

fn look(directory: &Path) -> Look {
    let mut files = Vec::new();
    walk(directory, 0, &mut files);
    files.sort();
    files
}

fn walk(directory: &Path, depth: u32, files: &mut Look) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if files.len() >= FILES_MAX {
            return;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            // A schema may stand in a directory beside the types, and hardly deeper.
            if depth < 2 {
                walk(&entry.path(), depth + 1, files);
            }
        } else {
            files.push((entry.path(), metadata.modified().ok(), metadata.len()));
        }
    }
}
