//! What the coordinators say about this ledger, and waiting for it (S8).

use std::time::Duration;

use grayfin_types::Code;
use tokio::sync::watch;

/// How long work that was open when the host agent started waits for a coordinator to say whether this
/// ledger is the newest one. Long enough for a coordinator that is there to be found (a connect of
/// 2 s, a redirect, another connect), short beside the minutes of a start. Without an answer the host
/// is brought up: nobody is needed for that.
const RESUME_WAIT: Duration = Duration::from_secs(6);

/// What the coordinators say about this ledger (S8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Nobody was reached yet in this life.
    Unknown,
    /// No newer position of it was ever seen.
    Confirmed,
    /// It was newer once: only looks, until an operator readmits the host.
    Amnesic,
}

/// Gives the coordinators a moment to say that this ledger is an old copy.
pub(crate) async fn settled(trust: &watch::Receiver<Trust>) {
    let mut trust = trust.clone();
    let known = trust.wait_for(|trust| *trust != Trust::Unknown);
    if tokio::time::timeout(RESUME_WAIT, known).await.is_err() {
        tracing::warn!("no coordinator answers: going on alone with what was begun");
    }
}

/// Waits as long as the ledger is known to be an old copy.
pub(crate) async fn not_amnesic(trust: &watch::Receiver<Trust>) {
    let mut trust = trust.clone();
    if *trust.borrow() != Trust::Amnesic {
        return;
    }
    tracing::error!(
        code = %Code::AgentAmnesic,
        "the coordinators know a newer ledger of this host: nothing is done until an operator readmits it"
    );
    if trust.wait_for(|trust| *trust != Trust::Amnesic).await.is_err() {
        // The link is gone for good: so is this process, in a moment.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_for_long_and_an_answer_not_at_all() {
        let (sender, receiver) = watch::channel(Trust::Unknown);
        let begun = Instant::now();
        settled(&receiver).await;
        assert_eq!(begun.elapsed().as_secs(), RESUME_WAIT.as_secs());
        sender.send_replace(Trust::Confirmed);
        let begun = Instant::now();
        settled(&receiver).await;
        not_amnesic(&receiver).await;
        assert!(begun.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_copy_waits_until_it_is_readmitted() {
        let (sender, receiver) = watch::channel(Trust::Amnesic);
        let waiting = not_amnesic(&receiver);
        tokio::pin!(waiting);
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, &mut waiting).await.is_err());
        sender.send_replace(Trust::Confirmed);
        waiting.await;
    }
}
