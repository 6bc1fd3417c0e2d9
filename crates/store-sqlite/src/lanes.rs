//! Lanes: who enters, who leaves, and who is next.

use comanda_model::OrderId;
use comanda_store::Commit;
use rusqlite::{OptionalExtension, params};

use crate::current::{Current, Member};
use crate::failure::Failure;
use crate::writer::Writer;

impl Writer<'_> {
    /// Moves the order between lanes. Answers the order that was promoted in the lane that it left, and when that is
    /// due.
    pub(crate) fn move_lanes(
        &mut self,
        commit: &Commit,
        current: &mut Current,
    ) -> Result<Option<(OrderId, Option<i64>)>, Failure> {
        let (leave, enter) = (&commit.lane.leave, &commit.lane.enter);
        let mut promoted = None;
        // An order stands in one lane at a time: whoever enters another leaves the first.
        let leaves = current.member.take_if(|member| {
            leave.as_ref() == Some(&member.lane) || enter.as_ref().is_some_and(|entry| entry.name != member.lane)
        });
        if let Some(member) = leaves {
            self.statements
                .lane_leave
                .execute(params![member.lane, !member.at_head, member.position])?;
            if member.at_head {
                promoted = self.promote(&member.lane)?;
            }
        }
        let Some(entry) = enter.as_ref().filter(|_| current.member.is_none()) else {
            return Ok(promoted);
        };
        let position = match current.lane_position.filter(|_| entry.resume) {
            Some(position) => position,
            None => {
                self.counters.lane_position += 1;
                self.counters.lane_position
            }
        };
        let at_head = !self.statements.lane_head.exists([&entry.name])?;
        self.statements
            .lane_enter
            .execute(params![entry.name, !at_head, position, current.seq])?;
        current.lane_position = Some(position);
        current.member = Some(Member {
            lane: entry.name.clone(),
            position,
            at_head,
        });
        Ok(promoted)
    }

    /// Puts the first of those that wait at the head of a lane that has none.
    fn promote(&mut self, lane: &str) -> Result<Option<(OrderId, Option<i64>)>, Failure> {
        let next: Option<(i64, i64)> = self
            .statements
            .lane_next
            .query_row([lane], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((position, seq)) = next else { return Ok(None) };
        let id = self.id_of(seq)?;
        let mut next = match self.recent.take(id) {
            Some(current) => current,
            None => self.current_by_seq(seq, id)?,
        };
        self.statements.lane_leave.execute(params![lane, 1, position])?;
        self.statements.lane_enter.execute(params![lane, 0, position, seq])?;
        let due_before = next.due();
        let queued_before = next.queued();
        if let Some(member) = &mut next.member {
            member.at_head = true;
        }
        if next.due() != due_before {
            if let Some(at) = due_before {
                self.statements.delete_due.execute((at, seq))?;
            }
            if let Some(at) = next.due() {
                self.statements.insert_due.execute((at, seq))?;
            }
        }
        self.move_queued(seq, queued_before, next.queued())?;
        let due = next.due_at_head.or(next.queued().map(|(_, at)| at));
        self.recent.put(id, next);
        Ok(Some((id, due)))
    }
}
