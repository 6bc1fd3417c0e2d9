//! The operations of erasing, of exporting, and of the jobs that both and bounded redrives are.

use super::{Answer, BASE, Body, Operation};

const OPERATE: Operation = Operation {
    scope: Some("operate"),
    ..BASE
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/orders/{id}/erase",
        summary: "Erase what a final order knows of its customer. Repeating it changes nothing.",
        answer: Answer::Json("Order"),
        refusals: &["404", "409", "501", "503"],
        ..OPERATE
    },
    Operation {
        method: "post",
        path: "/v1/customers/{id}/erase",
        summary: "Erase what all orders of a customer know of it, in the background.",
        body: Body::Optional("EraseBody"),
        success: "202",
        answer: Answer::Json("JobView"),
        or_else: Some(("200", "With `dryRun`: what there is to erase.", "ErasableView")),
        refusals: &["400", "409", "413", "415", "501", "503"],
        ..OPERATE
    },
    Operation {
        path: "/v1/customers/{id}/export",
        summary: "Everything that is known of a customer: one JSON object a line, named `customer`, `order`, `event` or `attempt`.",
        answer: Answer::Lines,
        refusals: &["503"],
        ..OPERATE
    },
    Operation {
        path: "/v1/jobs",
        summary: "List jobs, newest first: those at work, and the last 200 that have ended.",
        answer: Answer::Json("JobList"),
        refusals: &["501", "503"],
        ..OPERATE
    },
    Operation {
        path: "/v1/jobs/{id}",
        summary: "Show a job: how far it is, and what it left as it was.",
        answer: Answer::Json("JobView"),
        refusals: &["404", "501", "503"],
        ..OPERATE
    },
    Operation {
        method: "post",
        path: "/v1/jobs/{id}/stop",
        summary: "Stop a job where it is. What it has done stays done.",
        answer: Answer::Json("JobView"),
        refusals: &["404", "501", "503"],
        ..OPERATE
    },
];
