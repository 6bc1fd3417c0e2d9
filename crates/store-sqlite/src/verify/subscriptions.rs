//! Subscriptions: each row's checksum, how far each has come, and whom its exceptions and its log belong to.

use comanda_store::subscription::{Delivery, Exception, Subscription};

use super::Verifier;
use crate::failure::Failure;
use crate::subscription::{number_of, parse, sum};
use crate::{notice, schema};

impl Verifier<'_> {
    /// No subscription is past the feed's end, each try is in its log at most once, and nothing belongs to nobody.
    pub(super) fn subscriptions(&mut self) -> Result<(), Failure> {
        let mut damaged: Vec<Failure> = Vec::new();
        let mut faults: Vec<(String, &str)> = Vec::new();
        {
            let connection = &self.reader.connection;
            let epoch = schema::epoch(connection)? as i64;
            let mut statement = connection.prepare(
                "SELECT id, spec, crc, epoch, position, delivery, (SELECT position FROM state), \
                 (SELECT coalesce(max(number), 0) FROM deliveries d WHERE d.subscription = subscriptions.id) FROM subscriptions",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (id, spec): (String, String) = (row.get(0)?, row.get(1)?);
                let what = format!("the subscription {id}");
                let parsed = parse::<Subscription>(&what, &spec, row.get(2)?, sum(b'S', &id, 0, &spec));
                damaged.extend(parsed.err());
                let cursor: (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
                let end: Option<i64> = row.get(6)?;
                let position = cursor.1.unwrap_or(0);
                if cursor.0.is_some() != cursor.1.is_some() || position < 0 {
                    faults.push((what.clone(), "its cursor is no cursor"));
                } else if cursor.0 == Some(epoch) && end.is_some_and(|end| position > end) {
                    faults.push((what.clone(), "it is past the end of the feed"));
                }
                if row.get::<_, i64>(5)? < row.get(7)? {
                    faults.push((what, "it counts fewer deliveries than its log has"));
                }
            }
            damaged.extend(notice::after(connection, 0, 0, i64::MAX).err());
            let mut statement = connection.prepare(
                "SELECT x.subscription, x.order_id, x.exception, x.crc, s.id \
                 FROM subscription_exceptions x LEFT JOIN subscriptions s ON s.id = x.subscription",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (id, order, text): (String, Vec<u8>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let what = format!("an exception of the subscription {id}");
                match parse::<Exception>(&what, &text, row.get(3)?, sum(b'X', &id, number_of(&order), &text)) {
                    Ok(exception) if exception.order.0.as_bytes()[..] != order => {
                        faults.push((what.clone(), "it stands under another order"));
                    }
                    Ok(_) => {}
                    Err(failure) => damaged.push(failure),
                }
                if row.get::<_, Option<String>>(4)?.is_none() {
                    faults.push((what, "there is no such subscription"));
                }
            }
            let mut statement = connection.prepare(
                "SELECT d.subscription, d.number, d.delivery, d.crc, s.id \
                 FROM deliveries d LEFT JOIN subscriptions s ON s.id = d.subscription",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (id, number, text): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let what = format!("delivery {number} of the subscription {id}");
                damaged.extend(parse::<Delivery>(&what, &text, row.get(3)?, sum(b'D', &id, number, &text)).err());
                if row.get::<_, Option<String>>(4)?.is_none() {
                    faults.push((what, "there is no such subscription"));
                }
            }
        }
        for failure in damaged {
            self.noted::<()>(Err(failure))?;
        }
        for (what, detail) in faults {
            self.fault(what, detail);
        }
        Ok(())
    }
}
