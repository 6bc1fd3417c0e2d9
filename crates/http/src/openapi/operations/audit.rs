//! The operation of the audit log.

use super::{Answer, BASE, Operation, PAGE};

const FILTERS: &[(&str, &str, &str)] = &[
    ("by", "string", "By this actor: `key:ID` or `local`."),
    (
        "action",
        "string",
        "This action, or all that begin with it: `subscription` for `subscription.paused` and so on.",
    ),
    (
        "subject",
        "string",
        "To this: `subscription:ID`, `customer:ID`; `order:ID` for what callers changed of one order.",
    ),
    ("since", "string", "At or after this time (RFC 3339)."),
    ("until", "string", "Before this time (RFC 3339)."),
];

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    path: "/v1/audit",
    summary: "Who changed what, newest first, and how it stood before and after. A page can be short, even empty, and still name a next one.",
    scope: Some("operate"),
    answer: Answer::Json("AuditPage"),
    refusals: &["400", "404", "501", "503"],
    query: &[FILTERS, PAGE],
    ..BASE
}];
