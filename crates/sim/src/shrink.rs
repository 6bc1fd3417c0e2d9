//! Shrinking: a plan that fails is cut down, as long as it goes on failing.

use crate::plan::Plan;
use crate::run::run;

/// The smallest plan that was found to fail, within so many runs. It may fail otherwise than the first: what is wanted
/// is something to look at.
pub fn shrink(plan: &Plan, runs_max: u32) -> Plan {
    let mut best = plan.clone();
    let mut runs = 0;
    let mut fails = |candidate: &Plan| {
        runs += 1;
        runs <= runs_max && run(candidate, false).failure.is_some()
    };
    loop {
        let before = (best.actions.len(), best.faults.len(), best.nodes);
        // Halves, quarters, … and at last single actions are left out.
        let mut size = best.actions.len().div_ceil(2).max(1);
        loop {
            let mut from = 0;
            while from < best.actions.len() {
                let mut candidate = best.clone();
                candidate.actions.drain(from..(from + size).min(best.actions.len()));
                if fails(&candidate) {
                    best = candidate;
                } else {
                    from += size;
                }
            }
            if size == 1 {
                break;
            }
            size = size.div_ceil(2);
        }
        for index in (0..best.faults.len()).rev() {
            let mut candidate = best.clone();
            candidate.faults.remove(index);
            if fails(&candidate) {
                best = candidate;
            }
        }
        if best.nodes > 1 {
            let candidate = Plan {
                nodes: 1,
                ..best.clone()
            };
            if fails(&candidate) {
                best = candidate;
            }
        }
        if (best.actions.len(), best.faults.len(), best.nodes) == before {
            return best;
        }
    }
}
