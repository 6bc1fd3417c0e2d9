//! Holds: how an order's moves become lines of the ledger, in the same change.

use std::sync::Arc;
use std::time::Duration;

use super::draft::Draft;
use super::later;
use crate::bounds::HOLD_LINES_MAX;
use crate::event::EventKind;
use crate::ledger::{HELD, Hold, HoldLine, HoldMove, HoldState, LedgerLine, ON_HAND, SHIPPED, STOCK_PREFIX};

/// The lines that move a hold from one place to another, and the count of its moves afterwards.
fn lines(hold: &mut Hold, from: &str, to: &str, quantity: impl Fn(&HoldLine) -> u32) -> Vec<LedgerLine> {
    hold.moves += 1;
    let once_id: Arc<str> = format!("{}.{}", hold.visit, hold.moves).into();
    let moved = hold.lines.iter().filter(|line| quantity(line) > 0);
    moved
        .map(|line| LedgerLine {
            account: line.account.clone(),
            from: from.into(),
            to: to.into(),
            quantity: quantity(line),
            once_id: once_id.clone(),
        })
        .collect()
}

fn described(holds: &[Hold]) -> String {
    let lines = holds.iter().flat_map(|hold| &hold.lines);
    let texts: Vec<String> = lines
        .filter(|line| line.quantity > 0)
        .map(|line| {
            let sku = line.account.strip_prefix(STOCK_PREFIX).unwrap_or(&line.account);
            format!("{} of {sku}", line.quantity)
        })
        .collect();
    texts.join(", ")
}

impl Draft<'_> {
    fn hold_lasts(&self, lasts_ms: u64) -> Option<jiff::Timestamp> {
        (lasts_ms > 0).then(|| later(self.input.now, Duration::from_millis(lasts_ms)))
    }

    /// Does to the order's holds what a step asks for in `visit`.
    pub(super) fn move_holds(&mut self, hold_move: HoldMove, visit: u32) {
        match hold_move {
            HoldMove::Take {
                lines: wanted,
                lasts_ms,
            } => self.take(wanted, lasts_ms, visit),
            HoldMove::Ship => self.ship(visit),
            HoldMove::Release { visit: None } => self.release_holds(),
            HoldMove::Release { visit: Some(visit) } => self.take_back_holds(visit),
        }
    }

    fn take(&mut self, wanted: Vec<HoldLine>, lasts_ms: u64, visit: u32) {
        let mut hold = Hold {
            visit,
            state: HoldState::Held,
            until: self.hold_lasts(lasts_ms),
            lasts_ms,
            moves: 0,
            shipped_in: None,
            lines: wanted,
        };
        self.ledger
            .extend(lines(&mut hold, ON_HAND, HELD, |line| line.quantity));
        self.order.head.holds.push(hold);
    }

    /// How many more lines the order's holds may have.
    pub(super) fn hold_lines_left(&self) -> usize {
        let lines: usize = self.order.head.holds.iter().map(|hold| hold.lines.len()).sum();
        HOLD_LINES_MAX.saturating_sub(lines)
    }

    fn ship(&mut self, visit: u32) {
        for hold in &mut self.order.head.holds {
            match hold.state {
                HoldState::Held => {
                    self.ledger.extend(lines(hold, HELD, SHIPPED, |line| line.quantity));
                    self.ledger.extend(lines(hold, ON_HAND, SHIPPED, |line| line.short));
                }
                HoldState::Lapsed => {
                    let whole = |line: &HoldLine| line.quantity.saturating_add(line.short);
                    self.ledger.extend(lines(hold, ON_HAND, SHIPPED, whole));
                }
                HoldState::Shipped => continue,
            }
            for line in &mut hold.lines {
                line.quantity = line.quantity.saturating_add(std::mem::take(&mut line.short));
            }
            hold.state = HoldState::Shipped;
            hold.shipped_in = Some(visit);
            hold.until = None;
        }
    }

    /// Gives back all that the order holds. What has shipped stays shipped.
    pub(super) fn release_holds(&mut self) {
        for hold in &mut self.order.head.holds {
            if hold.state == HoldState::Held {
                self.ledger.extend(lines(hold, HELD, ON_HAND, |line| line.quantity));
            }
        }
        self.order.head.holds.retain(|hold| hold.state == HoldState::Shipped);
    }

    /// Takes back what a visit has done: what it took is given back, what it shipped comes back.
    fn take_back_holds(&mut self, visit: u32) {
        let mut kept = Vec::new();
        for mut hold in std::mem::take(&mut self.order.head.holds) {
            match hold.state {
                HoldState::Shipped if hold.shipped_in == Some(visit) => {
                    self.ledger
                        .extend(lines(&mut hold, SHIPPED, ON_HAND, |line| line.quantity));
                }
                HoldState::Held if hold.visit == visit => {
                    self.ledger
                        .extend(lines(&mut hold, HELD, ON_HAND, |line| line.quantity));
                }
                HoldState::Lapsed if hold.visit == visit => {}
                HoldState::Held | HoldState::Lapsed | HoldState::Shipped => kept.push(hold),
            }
        }
        self.order.head.holds = kept;
    }

    /// Gives back what holds name whose time has passed.
    pub(super) fn lapse(&mut self) {
        let now = self.input.now;
        let mut lapsed = Vec::new();
        for hold in &mut self.order.head.holds {
            if hold.state == HoldState::Held && hold.until.is_some_and(|until| until <= now) {
                self.ledger.extend(lines(hold, HELD, ON_HAND, |line| line.quantity));
                hold.state = HoldState::Lapsed;
                hold.until = None;
                lapsed.push(hold.clone());
            }
        }
        let reason = format!("the hold's time has passed: {}", described(&lapsed));
        self.event(EventKind::HoldLapsed, "engine".into(), Some(reason));
    }

    /// Whether a hold has lapsed that the order's next step must be able to rely on.
    pub(super) fn has_lapsed(&self) -> bool {
        let holds = &self.order.head.holds;
        holds.iter().any(|hold| hold.state == HoldState::Lapsed)
    }

    /// Takes again what has lapsed.
    pub(super) fn take_again(&mut self) {
        let mut taken = Vec::new();
        for index in 0..self.order.head.holds.len() {
            let until = self.hold_lasts(self.order.head.holds[index].lasts_ms);
            let hold = &mut self.order.head.holds[index];
            if hold.state == HoldState::Lapsed {
                self.ledger.extend(lines(hold, ON_HAND, HELD, |line| line.quantity));
                hold.state = HoldState::Held;
                hold.until = until;
                taken.push(hold.clone());
            }
        }
        let reason = format!("the hold had lapsed and was taken again: {}", described(&taken));
        self.event(EventKind::HoldTaken, "engine".into(), Some(reason));
    }
}
