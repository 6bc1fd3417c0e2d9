//! Money: the payments in the sandbox's book, each for an order that is there, of the amount that was ordered, taken once
//! or given back.

use std::collections::BTreeMap;

use comanda_model::order::DoneState;
use comanda_model::{OrderId, Phase};
use comanda_store::Record;
use serde_json::Value;

use super::stock::products;
use super::{Judge, Verdict, hold};
use crate::shop::SKUS;

/// A payment, by its id.
#[derive(Clone, Debug)]
struct Payment {
    order: OrderId,
    visit: u32,
    state: String,
    hundredths: Option<u64>,
}

/// All payments.
#[derive(Default)]
pub struct Money(BTreeMap<String, Payment>);

impl Payment {
    fn of(record: &Record) -> Option<Self> {
        let value: Value = serde_json::from_str(record.value.as_str()).ok()?;
        let order: OrderId = value["orderId"].as_str()?.parse().ok()?;
        let visit = record.key.strip_prefix(&format!("{order}:"))?.parse().ok()?;
        // All prices have two places, and so has each amount.
        let amount = value["amount"].as_str().map(|amount| amount.replace('.', "").parse());
        Some(Self {
            order,
            visit,
            state: value["state"].as_str()?.to_owned(),
            hundredths: amount.transpose().ok()?,
        })
    }

    fn stands(&self) -> bool {
        matches!(self.state.as_str(), "authorized" | "captured")
    }
}

impl Judge {
    /// A record is durable.
    pub fn recorded(&mut self, record: &Record) -> Verdict {
        if record.kind != "sandbox-payment" {
            return Ok(());
        }
        let id = &record.key;
        let payment = Payment::of(record).ok_or_else(|| format!("money: the payment {id} cannot be read"))?;
        let known = self.orders.get(&payment.order);
        let known = known.ok_or_else(|| format!("money: there is a charge ({id}) without an order"))?;
        let n = known.n;
        hold!(
            payment.visit <= known.order.head.visits,
            "money: #{n} is charged for visit {}, which has not begun",
            payment.visit
        );
        hold!(
            !payment.stands() || self.may_buy(&known.order),
            "customers: #{n} is charged, and its customer was blocked before it was accepted, or is nobody"
        );
        let price = |sku: &str| {
            SKUS.iter()
                .find(|(name, _)| *name == sku)
                .map_or(0, |(_, price)| *price)
        };
        let lines = products(known.order.data.as_str());
        let total: u64 = lines.iter().map(|(sku, quantity)| price(sku) * quantity).sum();
        hold!(
            payment.hundredths.is_none_or(|amount| amount == total),
            "money: #{n} is charged {:?} hundredths for goods of {total}",
            payment.hundredths
        );
        let before = self.money.0.get(id);
        let from = before.map_or("", |before| before.state.as_str());
        let legal = match (from, payment.state.as_str()) {
            ("", "authorized" | "declined") => payment.hundredths.is_some(),
            ("", "voided") => payment.hundredths.is_none(),
            ("authorized", "captured" | "voided") | ("captured", "refunded") => true,
            (from, to) => from == to,
        };
        hold!(
            legal && before.is_none_or(|before| before.hundredths == payment.hundredths),
            "money: the payment {id} of #{n} went from {before:?} to {payment:?}"
        );
        self.money.0.insert(id.clone(), payment);
        Ok(())
    }

    /// When all orders are final: what was delivered was paid for once, and what was not is paid back; the same of its
    /// stock.
    pub fn shop_is_settled(&self) -> Verdict {
        for (id, known) in &self.orders {
            let head = &known.order.head;
            if &*known.order.accepted.order_type != "shop" || head.phase != Phase::Final {
                continue;
            }
            let n = known.n;
            let payments = self.money.0.values().filter(|payment| payment.order == *id);
            let standing: Vec<&Payment> = payments.filter(|payment| payment.stands()).collect();
            let delivered = &*head.status == "delivered";
            if !delivered {
                hold!(
                    standing.is_empty(),
                    "money: #{n} ended in {}, and {standing:?} stands",
                    head.status
                );
            } else {
                let captured = standing.iter().filter(|payment| payment.state == "captured").count();
                hold!(
                    captured == 1,
                    "money: #{n} was delivered, and was paid for {captured} times"
                );
                let remembered = |payment: &Payment| {
                    let mut done = head.done.iter();
                    done.any(|done| done.visit == payment.visit && done.state != DoneState::Undone)
                };
                let forgotten = standing.iter().find(|payment| !remembered(payment));
                hold!(
                    forgotten.is_none(),
                    "money: #{n} was delivered, and does not remember {forgotten:?}"
                );
            }
            self.shipped_is(*id, delivered)?;
        }
        Ok(())
    }
}
