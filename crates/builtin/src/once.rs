//! Asking before a request is made again: what may have happened is found, never done twice.

use comanda_engine::StepCall;

use crate::Unanswered;

/// Makes a request. On an attempt that is not the first, or may not be, `ask` tells first what an earlier request under the
/// same key has come to; `None` if it never came.
///
/// # Errors
/// If there is no answer. Whoever cannot say what has happened is not asked to do it again: it may have happened then.
pub(crate) async fn once<A>(
    call: &StepCall<'_>,
    ask: impl Future<Output = Result<Option<A>, Unanswered>> + Send,
    request: impl Future<Output = Result<A, Unanswered>> + Send,
) -> Result<A, Unanswered> {
    if call.attempt > 1 || call.uncertain {
        let found = ask.await.map_err(|unanswered| Unanswered {
            may_have_happened: true,
            ..unanswered
        })?;
        if let Some(answer) = found {
            return Ok(answer);
        }
    }
    request.await
}
