//! The audit log: who changed what that is not an order, when, and how it stood before and after.
//!
//! An order's own changes are its events, written in the order's commit; this is for everything else: subscriptions, stock,
//! customers, keys, jobs, dead letters in bulk. Its entries are records of the store. An entry is written durably *before* the
//! change, as one whose outcome is unknown, and again after it: so nothing is changed without an entry, and a crash in
//! between leaves one that says so. Keys of entries descend with time, so that the newest come first.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::Json;
use comanda_store::{PutError, Record, StoreError};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::service::{Core, Service};

/// The kind of the records of entries.
const AUDIT: &str = "audit";
/// How the kinds of the records begin that say what an entry was last written of.
const AUDITED: &str = "audited-";
/// The longest value before or after a change that is kept, in bytes of JSON text.
const VALUE_BYTES_MAX: usize = 4 * 1024;
/// The longest error that is kept, in bytes.
const ERROR_BYTES_MAX: usize = 300;
/// How many entries one look reads at once.
const READ: usize = 500;
/// How many entries a page looks at, however few of them are asked for.
const LOOKED_AT_MAX: usize = 2_000;
/// How many entries are kept, however young they are.
const KEPT_MAX: usize = 100_000;

/// What is about to be changed.
#[derive(Clone, Debug)]
pub struct Act {
    /// Who changes it: `key:ID`, `local`.
    pub by: Arc<str>,
    /// What is done, such as `subscription.paused`.
    pub action: &'static str,
    /// What it is done to, such as `subscription:sub_1`.
    pub subject: String,
    /// How that stands, if it can be told. Never with a secret in it.
    pub before: Option<Value>,
}

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// The process ended in the middle: it was changed or not.
    Unknown,
    /// It was changed.
    Done,
    /// It was refused, or failed.
    Failed,
}

/// One entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its id; ids of later entries are smaller.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: Arc<str>,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// How it stood before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Json>,
    /// How it stood after, or what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Json>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Which entries. All that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// By this actor.
    pub by: Option<String>,
    /// This action, or all whose names begin with it up to a dot: `subscription`.
    pub action: Option<String>,
    /// To this.
    pub subject: Option<String>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

/// A page of entries.
#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins; `None` when there is nothing more. A page can be short, even empty, and still name one.
    pub next: Option<String>,
}

/// An entry whose change is under way.
#[derive(Debug)]
#[must_use = "its outcome is unknown until it is told"]
pub struct BegunAct(Option<AuditEntry>);

impl BegunAct {
    /// Says what the change is made to, where that is known only now.
    pub fn name(&mut self, subject: String) {
        if let Some(entry) = &mut self.0 {
            entry.subject = subject;
        }
    }
}

impl AuditFilter {
    /// Whether an entry is asked for.
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|wanted| wanted == actual);
        let action = |wanted: &str| {
            let rest = entry.action.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        is(&self.by, &entry.by)
            && is(&self.subject, &entry.subject)
            && self.action.as_deref().is_none_or(action)
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at < until)
    }
}

/// A value as it is kept: one that is too large is only said to be so.
fn kept(value: Option<Value>) -> Option<Json> {
    value.map(|value| {
        let json = Json::from(&value);
        let bytes = json.as_str().len();
        match bytes > VALUE_BYTES_MAX {
            true => Json::from(&serde_json::json!({"omitted": format!("{bytes} bytes")})),
            false => json,
        }
    })
}

/// How the keys of entries of a moment begin: later ones are smaller.
fn key(at: Timestamp) -> String {
    let micros = u64::try_from(at.as_microsecond()).unwrap_or(0);
    format!("{:016x}", u64::MAX - micros)
}

fn read(record: &Record) -> Result<AuditEntry, StoreError> {
    serde_json::from_str(record.value.as_str()).map_err(|error| StoreError::failed("read the audit log", error))
}

fn written(entry: &AuditEntry) -> Result<Json, StoreError> {
    let text = serde_json::to_string(entry).map_err(|error| StoreError::failed("write the audit log", error))?;
    Ok(Json::from_valid(text))
}

fn store_error(error: PutError) -> StoreError {
    match error {
        PutError::Store(error) => error,
        other => StoreError::failed("write the audit log", other),
    }
}

impl Service {
    /// Writes down that something is about to be changed. Only when this is answered may it be.
    ///
    /// # Errors
    /// The store's: then nothing may be changed.
    pub async fn begin_act(&self, act: Act) -> Result<BegunAct, StoreError> {
        let core = &self.0;
        if !core.store.capabilities().ledger {
            // A store without records keeps no log.
            return Ok(BegunAct(None));
        }
        let entry = core.entry(act);
        core.put_entry(&entry, 1).await?;
        Ok(BegunAct(Some(entry)))
    }

    /// Writes down how a change ended: what stands now, or why it failed. If that cannot be written, the entry goes on to
    /// say that the outcome is unknown.
    pub async fn end_act(&self, begun: BegunAct, ended: Result<Option<Value>, String>) {
        let Some(mut entry) = begun.0 else { return };
        match ended {
            Ok(after) => {
                entry.outcome = AuditOutcome::Done;
                entry.after = kept(after);
            }
            Err(error) => {
                entry.outcome = AuditOutcome::Failed;
                entry.error = Some(comanda_model::order::bounded(error, ERROR_BYTES_MAX));
            }
        }
        if let Err(error) = self.0.put_entry(&entry, 2).await {
            tracing::warn!(%error, action = entry.action, subject = entry.subject, "how a change ended is not in the audit log");
        }
    }

    /// Writes down a change that was made elsewhere and is found now.
    pub async fn note_act(&self, act: Act, after: Option<Value>) -> Result<(), StoreError> {
        let core = &self.0;
        if !core.store.capabilities().ledger {
            return Ok(());
        }
        let mut entry = core.entry(act);
        entry.outcome = AuditOutcome::Done;
        entry.after = kept(after);
        core.put_entry(&entry, 1).await
    }

    /// Compares things of a kind that are changed elsewhere (keys in their file, order types in theirs) with what the log
    /// last said of them, and writes down what differs. `kind` names them in actions and subjects: `key`, `order-type`.
    pub async fn audit_changes(&self, kind: &'static str, now: &[(String, Value)]) -> Result<(), StoreError> {
        let core = &self.0;
        if !core.store.capabilities().ledger {
            return Ok(());
        }
        let [added, changed, removed] = match kind {
            "key" => ["key.created", "key.changed", "key.removed"],
            _ => ["order-type.added", "order-type.changed", "order-type.removed"],
        };
        let record_kind = format!("{AUDITED}{kind}");
        let mut known = core.all_records(&record_kind).await?;
        for (id, value) in now {
            let found = known.iter().position(|record| record.key == *id);
            let before = found.map(|place| known.swap_remove(place));
            let json = Json::from(value);
            if before.as_ref().is_some_and(|before| before.value == json) {
                continue;
            }
            let version = before.as_ref().map_or(0, |record| record.version) + 1;
            let before = before.and_then(|record| record.value.value().ok());
            let action = match &before {
                None => added,
                Some(before) if kind == "key" && before["revokedAt"].is_null() && !value["revokedAt"].is_null() => {
                    "key.revoked"
                }
                Some(_) => changed,
            };
            self.note_elsewhere(action, format!("{kind}:{id}"), before, Some(value.clone()))
                .await?;
            let record = Record {
                kind: record_kind.clone(),
                key: id.clone(),
                version,
                value: json,
            };
            match core.store.put_record(&record).await {
                // Another node has found it too.
                Ok(()) | Err(PutError::VersionMoved { .. }) => {}
                Err(error) => return Err(store_error(error)),
            }
        }
        for gone in known {
            let before = gone.value.value().ok();
            self.note_elsewhere(removed, format!("{kind}:{}", gone.key), before, None)
                .await?;
            core.store.remove_records(&record_kind, &[gone.key]).await?;
        }
        Ok(())
    }

    async fn note_elsewhere(
        &self,
        action: &'static str,
        subject: String,
        before: Option<Value>,
        after: Option<Value>,
    ) -> Result<(), StoreError> {
        let act = Act {
            by: "local".into(),
            action,
            subject,
            before,
        };
        self.note_act(act, after).await
    }

    /// A page of the log, newest first.
    pub async fn audit(&self, filter: &AuditFilter, cursor: Option<&str>, max: usize) -> Result<AuditPage, StoreError> {
        // Entries of the moment before which is asked for have greater keys than this, and later ones smaller.
        let newest = filter.until.map(key);
        let mut after = cursor.map(str::to_owned).or(newest);
        let mut page = AuditPage::default();
        let mut looked_at = 0;
        loop {
            let records = self.0.store.records_after(AUDIT, after.as_deref(), READ).await?;
            for record in &records {
                let entry = read(record)?;
                if filter.since.is_some_and(|since| entry.at < since) {
                    return Ok(page);
                }
                let asked_for = filter.matches(&entry);
                looked_at += 1;
                if asked_for {
                    page.entries.push(entry);
                }
                if page.entries.len() == max || looked_at == LOOKED_AT_MAX {
                    page.next = Some(record.key.clone());
                    return Ok(page);
                }
            }
            match records.last() {
                Some(last) if records.len() == READ => after = Some(last.key.clone()),
                _ => return Ok(page),
            }
        }
    }

    /// Removes entries that are older than they are kept, and the oldest of too many.
    pub async fn prune_audit(&self, kept: Duration) -> Result<usize, StoreError> {
        let core = &self.0;
        if !core.store.capabilities().ledger {
            return Ok(0);
        }
        let kept = SignedDuration::try_from(kept).unwrap_or(SignedDuration::MAX);
        let oldest = core.store.now().checked_sub(kept).unwrap_or(Timestamp::MIN);
        let mut removed = 0;
        let mut after = core
            .last_kept()
            .await?
            .map_or_else(|| key(oldest), |last| last.min(key(oldest)));
        loop {
            let records = core.store.records_after(AUDIT, Some(&after), READ).await?;
            let keys: Vec<String> = records.into_iter().map(|record| record.key).collect();
            let Some(last) = keys.last() else { return Ok(removed) };
            after.clone_from(last);
            removed += core.store.remove_records(AUDIT, &keys).await?;
        }
    }
}

impl Core {
    /// An entry of a change that begins now.
    fn entry(&self, act: Act) -> AuditEntry {
        let at = self.store.now();
        AuditEntry {
            id: format!("{}{}", key(at), self.options.chance.random_id().simple()),
            at,
            by: act.by,
            action: act.action.to_owned(),
            subject: act.subject,
            outcome: AuditOutcome::Unknown,
            before: kept(act.before),
            after: None,
            error: None,
        }
    }

    async fn put_entry(&self, entry: &AuditEntry, version: u64) -> Result<(), StoreError> {
        let record = Record {
            kind: AUDIT.to_owned(),
            key: entry.id.clone(),
            version,
            value: written(entry)?,
        };
        self.store.put_record(&record).await.map_err(store_error)
    }

    async fn all_records(&self, kind: &str) -> Result<Vec<Record>, StoreError> {
        let mut all: Vec<Record> = Vec::new();
        loop {
            let after = all.last().map(|last| last.key.clone());
            let page = self.store.records_after(kind, after.as_deref(), READ).await?;
            let full = page.len() == READ;
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }

    /// The key of the last entry that is kept, if there are too many.
    async fn last_kept(&self) -> Result<Option<String>, StoreError> {
        let (mut after, mut count): (Option<String>, usize) = (None, 0);
        loop {
            let records = self.store.records_after(AUDIT, after.as_deref(), READ).await?;
            count += records.len();
            match records.last() {
                Some(last) if records.len() == READ => after = Some(last.key.clone()),
                _ => return Ok(None),
            }
            if count >= KEPT_MAX {
                return Ok(after);
            }
        }
    }

    /// Takes out of the log what it says of a customer but that something was done, by whom and when.
    pub(crate) async fn erase_audit_of(&self, customer: &str) -> Result<(), StoreError> {
        let subject = format!("customer:{customer}");
        let mut after: Option<String> = None;
        loop {
            let records = self.store.records_after(AUDIT, after.as_deref(), READ).await?;
            for record in &records {
                let mut entry = read(record)?;
                if entry.subject != subject || (entry.before.is_none() && entry.after.is_none()) {
                    continue;
                }
                (entry.before, entry.after, entry.error) = (None, None, None);
                self.put_entry(&entry, record.version + 1).await?;
            }
            match records.last() {
                Some(last) if records.len() == READ => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }
}
