//! Finding out that this coordinator was removed from its group.
//!
//! Whoever is removed is sent nothing more, not even the removal. It would stand for election for
//! ever, or believe that it leads alone; instead it asks, and ends.

use std::time::Duration;

use grayfin_proto::tls;

use super::introduce::refusal;
use crate::store::{Replicated, Store};

/// Between two questions. A removed coordinator decides nothing in this time: it has no majority.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Waits until a member of the group says that this coordinator was removed, and returns its words.
/// Nobody is asked while a leader is followed, or while a majority follows this one.
pub async fn removed(store: &Replicated, files: &tls::Files) -> String {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let now = store.leadership().borrow().clone();
        let follows = now.leader.as_ref().is_some_and(|(id, _)| *id != store.id());
        if follows || now.leads && store.linearizable().await.is_ok() {
            continue;
        }
        let others = store.members().into_iter().filter(|member| member.id != store.id());
        for member in others {
            if let Some(words) = refusal(files, &member.address).await {
                return words;
            }
        }
    }
}
