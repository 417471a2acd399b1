//! Waiting for a condition with a limit.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two looks: short beside everything that is waited for, long beside what a look costs.
const LOOK: Duration = Duration::from_millis(25);

/// Waits until `look` answers `Ok`; its `Err` says what is still missing. When the time is over, the
/// error says what was waited for, how long, and what was missing at the last look.
pub async fn until<T, F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        let missing = match look().await {
            Ok(found) => return Ok(found),
            Err(missing) => missing,
        };
        if started.elapsed() >= limit {
            anyhow::bail!("waited {limit:?} for {what}: {missing}");
        }
        sleep(LOOK).await;
    }
}

/// Waits until `look` answers true.
pub async fn until_true<F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = bool>,
{
    until(what, limit, || {
        let answer = look();
        async { if answer.await { Ok(()) } else { Err("not yet".to_owned()) } }
    })
    .await
}

/// Blocks this thread for a moment: only for code that cannot be asynchronous, such as `Drop`.
pub(crate) fn pause_thread(time: Duration) {
    // Nobody ever sends: the time always runs out.
    let (_sender, receiver) = std::sync::mpsc::channel::<()>();
    receiver.recv_timeout(time).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_says_what_was_missing() {
        let error =
            until("the moon", Duration::ZERO, || async { Err::<(), _>("it is cloudy".to_owned()) })
                .await
                .unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns for the moon: it is cloudy");
    }

    #[tokio::test]
    async fn it_returns_what_was_found() {
        let mut left = 3;
        let found = until("three looks", Duration::from_secs(60), || {
            left -= 1;
            let now = left;
            async move { if now == 0 { Ok(7) } else { Err(format!("{now} left")) } }
        })
        .await
        .unwrap();
        assert_eq!(found, 7);
    }
}
