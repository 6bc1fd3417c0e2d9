//! Answers that come from outside: those of workers, and callbacks. What is held or awaited counts; what is not never does.

use comanda_model::{Order, Token};

use super::{Fate, Judge, Verdict, hold};

impl Judge {
    /// A worker was told that its answer counts.
    pub fn answer_counted(&mut self, run: usize) -> Verdict {
        let run = self.runs.get_mut(run).ok_or("an answer to nothing")?;
        run.answered = true;
        let fate = self.tokens.get(&run.secret);
        hold!(
            fate == Some(&Fate::Answered),
            "durable before visible: a worker was told that its answer for {} counts, and its token is {fate:?}",
            run.order
        );
        Ok(())
    }

    /// A worker was told that its answer came too late.
    pub fn answer_is_late(&self, run: usize) -> Verdict {
        let run = self.runs.get(run).ok_or("an answer to nothing")?;
        hold!(
            self.tokens.get(&run.secret) != Some(&Fate::Held),
            "a result is never dropped: a worker's answer for {} was called late, and it holds the work",
            run.order
        );
        Ok(())
    }

    /// A callback is on its way.
    pub fn calls_back(&mut self, token: &Token) {
        self.callbacks.insert(token.secret);
    }

    /// A callback was told that it counts.
    pub fn callback_counted(&mut self, token: &Token, answer: &Order) -> Verdict {
        hold!(
            self.tokens.contains_key(&token.secret),
            "a callback to {} counts under a token that was never given",
            token.order
        );
        let mut runs = self.runs.iter_mut();
        if let Some(run) = runs.find(|run| run.secret == token.secret) {
            run.answered = true;
        }
        self.acknowledged(answer)
    }

    /// A callback was told that nobody waits for it.
    pub fn callback_turned_away(&self, token: &Token) -> Verdict {
        let known = self.orders.get(&token.order).ok_or("a callback to nothing")?;
        let work = known.order.head.work.as_ref();
        let awaited = work.and_then(|work| work.awaiting).map(|awaited| awaited.secret);
        let held = known.held.is_some_and(|(held, _)| held == *token);
        hold!(
            awaited != Some(token.secret) && !held,
            "a result is never dropped: a callback to #{} was turned away while it is waited for",
            known.n
        );
        Ok(())
    }
}
