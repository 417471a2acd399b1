//! Taking an operator's readmission in, between two steps (S8).

use std::time::Duration;

use grayfin_agent_core::{
    entry::Authority,
    fence::{self, Readmission},
};
use grayfin_types::ledger::Readmit;

use super::{Fatal, Runner};
use crate::{ledger, steps::Executor};

/// Before one that did not succeed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// A readmission that came with a coordinator's welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What is to be taken in.
    pub readmit: Readmit,
    /// Who says so.
    pub by: Authority,
    /// The coordinators call this ledger an old one.
    pub amnesic: bool,
}

impl<E: Executor> Runner<E> {
    /// Waits for a readmission that can be taken in now.
    pub(super) async fn wished(&self) {
        let mut wish = self.parts.wish.clone();
        let can_be = |wish: &Option<Wish>| {
            wish.as_ref().is_some_and(|wish| matches!(self.judge(wish), Readmission::Record(_)))
        };
        if wish.wait_for(can_be).await.is_err() {
            // The link is gone for good: so is this process, in a moment.
            std::future::pending::<()>().await;
        }
    }

    fn judge(&self, wish: &Wish) -> Readmission {
        self.parts
            .ledger
            .state(|state| fence::readmission(state, &wish.by, &wish.readmit, wish.amnesic))
    }

    /// Takes a readmission in, if there is one: no step runs now and none begins, and what helpers of
    /// earlier steps have left is ended first.
    pub(super) async fn readmit(&self) -> Result<(), Fatal> {
        let Some(wish) = self.parts.wish.borrow().clone() else { return Ok(()) };
        if !matches!(self.judge(&wish), Readmission::Record(_)) {
            return Ok(());
        }
        let mut turns = Vec::new();
        for turn in self.turns.values() {
            turns.push(turn.lock().await);
        }
        for installation in &self.parts.settings.installations {
            if let Err(error) = self.parts.executor.clear(&self.parts.settings, installation).await
            {
                tracing::error!(%error, "the host is not readmitted: something that was begun here still runs");
                tokio::time::sleep(AGAIN).await;
                return Ok(());
            }
        }
        let taken = self.parts.ledger.decide(|state| {
            match fence::readmission(state, &wish.by, &wish.readmit, wish.amnesic) {
                Readmission::Record(body) => (Some(*body), true),
                Readmission::Already | Readmission::Refuse(_) => (None, false),
            }
        });
        match taken {
            Ok((position, true)) => {
                tracing::warn!(act = wish.readmit.act, floor = %wish.readmit.floor, position, "readmitted");
                Ok(())
            }
            Ok((_, false)) => Ok(()),
            Err(ledger::Error::Illegal(why)) => {
                tracing::error!(%why, "the readmission does not fit the ledger");
                tokio::time::sleep(AGAIN).await;
                Ok(())
            }
            Err(other) => Err(other.into()),
        }
    }
}
