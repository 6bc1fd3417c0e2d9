//! The pieces that are no orders: queues, the ledger, records, subscriptions, notices, counters.

use comanda_store::StoreError;
use comanda_store::piece::{Counters, Piece};
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::WHAT;
use crate::column::signed;
use crate::failure::store_error;
use crate::record::{json, text};
use crate::server::Parameter;

/// Writes a piece that is no order and no type.
pub(super) async fn write(transaction: &Transaction<'_>, piece: Piece, epoch: i64) -> Result<(), StoreError> {
    let ask = async |statement: &str, parameters: &[Parameter<'_>]| {
        let asked = transaction.query_typed(statement, parameters).await;
        asked.map(|_| ()).map_err(|error| store_error(WHAT, error))
    };
    match piece {
        Piece::Type(_) | Piece::Order(_) => Ok(()),
        Piece::Queue(name) => {
            let statement = "INSERT INTO comanda.tally VALUES ('q', $1, '', '', 0) ON CONFLICT DO NOTHING";
            ask(statement, &[(&text(&name), Type::TEXT)]).await
        }
        Piece::Balance {
            account,
            place,
            quantity,
        } => {
            let (account, place) = (text(&account), text(&place));
            let parameters: [Parameter<'_>; 3] =
                [(&account, Type::TEXT), (&place, Type::TEXT), (&quantity, Type::INT8)];
            ask("INSERT INTO comanda.balances VALUES ($1, $2, $3)", &parameters).await
        }
        Piece::Flow {
            account,
            from,
            to,
            quantity,
        } => {
            let (account, from, to) = (text(&account), text(&from), text(&to));
            let parameters: [Parameter<'_>; 4] = [
                (&account, Type::TEXT),
                (&from, Type::TEXT),
                (&to, Type::TEXT),
                (&quantity, Type::INT8),
            ];
            ask("INSERT INTO comanda.ledger_flows VALUES ($1, $2, $3, $4)", &parameters).await
        }
        Piece::Posting {
            once_id,
            fingerprint,
            at,
        } => {
            let (once, fingerprint) = (text(&once_id), fingerprint.to_vec());
            let parameters: [Parameter<'_>; 3] = [
                (&once, Type::TEXT),
                (&fingerprint, Type::BYTEA),
                (&at, Type::TIMESTAMPTZ),
            ];
            ask(
                "INSERT INTO comanda.postings (once, fingerprint, at, counted) VALUES ($1, $2, $3, true)",
                &parameters,
            )
            .await
        }
        Piece::Record(record) => {
            let (kind, key, version) = (text(&record.kind), text(&record.key), signed(record.version));
            let value = record.value.as_str();
            let parameters: [Parameter<'_>; 4] = [
                (&kind, Type::TEXT),
                (&key, Type::TEXT),
                (&version, Type::INT8),
                (&value, Type::TEXT),
            ];
            ask("INSERT INTO comanda.records VALUES ($1, $2, $3, $4)", &parameters).await
        }
        Piece::Subscription(whole) => {
            let (id, spec) = (text(&whole.subscription.id), json(&whole.subscription)?);
            let count = signed(whole.deliveries_count);
            // A cursor in a feed that is no more stays one: whoever follows it is told of the gap.
            let cursor = whole.position.map(|position| match position {
                Some(position) => (epoch, signed(position)),
                None => (0, 0),
            });
            let (at, position) = (cursor.map(|(epoch, _)| epoch), cursor.map(|(_, position)| position));
            let parameters: [Parameter<'_>; 5] = [
                (&id, Type::TEXT),
                (&spec, Type::TEXT),
                (&at, Type::INT8),
                (&position, Type::INT8),
                (&count, Type::INT8),
            ];
            let statement = "INSERT INTO comanda.subscriptions (id, spec, epoch, position, delivery) \
                 VALUES ($1, $2, $3, $4, $5)";
            ask(statement, &parameters).await?;
            for exception in &whole.exceptions {
                let exception_text = json(exception)?;
                let parameters: [Parameter<'_>; 3] = [
                    (&id, Type::TEXT),
                    (&exception.order.0, Type::UUID),
                    (&exception_text, Type::TEXT),
                ];
                let statement = "INSERT INTO comanda.subscription_exceptions VALUES ($1, $2, $3)";
                ask(statement, &parameters).await?;
            }
            Ok(())
        }
        Piece::Delivery(id, delivery) => {
            let (id, number, delivery) = (text(&id), signed(delivery.number), json(&delivery)?);
            let parameters: [Parameter<'_>; 3] = [(&id, Type::TEXT), (&number, Type::INT8), (&delivery, Type::TEXT)];
            ask("INSERT INTO comanda.deliveries VALUES ($1, $2, $3)", &parameters).await
        }
        Piece::Notice(position, notice) => {
            let (position, id, notice_text) = (signed(position), text(&notice.id), json(&notice)?);
            let parameters: [Parameter<'_>; 4] = [
                (&position, Type::INT8),
                (&id, Type::TEXT),
                (&notice.at, Type::TIMESTAMPTZ),
                (&notice_text, Type::TEXT),
            ];
            let statement = "INSERT INTO comanda.notices (position, id, at, notice) VALUES ($1, $2, $3, $4)";
            ask(statement, &parameters).await
        }
        Piece::Counters(counters) => {
            let Counters {
                seq,
                position,
                lane_position,
                retained,
            } = counters;
            let (seq, position, lane) = (signed(seq), signed(position), signed(lane_position));
            let retained = signed(retained);
            let parameters: [Parameter<'_>; 4] = [
                (&seq, Type::INT8),
                (&position, Type::INT8),
                (&lane, Type::INT8),
                (&retained, Type::INT8),
            ];
            // A sequence that has given nothing yet is at 1, and gives that first.
            let statement = "WITH r AS (UPDATE comanda.meta SET value = $4 WHERE name = 'retained'), \
                 m AS (INSERT INTO comanda.meta VALUES ('moved_to', $2) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value) \
                 SELECT setval('comanda.order_seq', greatest($1, 1), $1 > 0), \
                 setval('comanda.feed_position', greatest($2, 1), $2 > 0), \
                 setval('comanda.lane_position', greatest($3, 1), $3 > 0), \
                 setval('comanda.item_position', greatest($3, 1), $3 > 0)";
            ask(statement, &parameters).await
        }
    }
}
