//! The ledger and the coordinator's ear, as a step sees them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use grayfin_agent_core::{Body, State, entry::Event};
use grayfin_types::{
    Code, HostId, Token,
    step::{Happened, Report, Step},
};
use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};

use super::passing_report;
use crate::{
    ledger::{self, Ledger},
    steps::{Record, Records, Reporting, StepError},
};

/// At most so often is progress reported: five times a second is smooth for a person's eye.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The records of the open hold.
pub(super) struct HoldRecords {
    pub(super) ledger: Arc<Ledger>,
    pub(super) token: Token,
}

impl HoldRecords {
    fn hold<T>(&self, read: impl FnOnce(&grayfin_agent_core::Hold) -> T) -> Option<T> {
        self.ledger.state(|state: &State| {
            state.hold.as_ref().filter(|hold| hold.token == self.token).map(read)
        })
    }
}

impl Records for HoldRecords {
    fn append(&self, record: Record) -> Result<(), StepError> {
        let event = match record {
            Record::Captured { key, value } => Event::Captured { key, value },
            Record::Journal { step, key, value } => Event::Journal { step, key, value },
            Record::GoingDown { nodes } => Event::GoingDown { nodes },
        };
        let turned = matches!(event, Event::GoingDown { .. })
            && self.hold(grayfin_agent_core::Hold::must_turn_round).unwrap_or(true);
        match self.ledger.append(Body::Sequence { token: self.token, event }) {
            Ok(_) => Ok(()),
            Err(ledger::Error::Illegal(_)) if turned => {
                let message = "an operator asked to go back before anything more went down";
                Err(StepError::new(Code::Aborted, message))
            }
            Err(e) => Err(StepError::new(e.code(), format!("cannot write the ledger: {e}"))),
        }
    }

    fn captured(&self, key: &str) -> Option<Value> {
        self.hold(|hold| hold.captured(key).cloned()).flatten()
    }

    fn journal(&self, step: Step, key: &str) -> Vec<Value> {
        self.hold(|hold| hold.journal(step, key).cloned().collect()).unwrap_or_default()
    }

    fn first_start(&self) -> bool {
        self.hold(|hold| hold.first_start).unwrap_or(false)
    }
}

/// Staging has no hold and so no records.
pub(super) struct NoRecords;

impl Records for NoRecords {
    fn append(&self, _: Record) -> Result<(), StepError> {
        let message = "staging has no hold: it records nothing and takes nothing down";
        Err(StepError::new(Code::Internal, message))
    }

    fn captured(&self, _: &str) -> Option<Value> {
        None
    }

    fn journal(&self, _: Step, _: &str) -> Vec<Value> {
        Vec::new()
    }

    fn first_start(&self) -> bool {
        false
    }
}

/// Hands passing reports to the link, thinned out; what does not fit is dropped.
#[derive(Debug)]
pub struct Passing {
    host: HostId,
    token: Token,
    to: mpsc::Sender<Report>,
    last: Mutex<Option<(Step, Instant)>>,
}

impl Passing {
    /// Makes one for a hold, or for staging with token 0.
    pub fn new(host: HostId, token: Token, to: mpsc::Sender<Report>) -> Self {
        Self { host, token, to, last: Mutex::new(None) }
    }

    fn too_soon(&self, step: Step, happened: &Happened) -> bool {
        let Happened::Progress { done, total, .. } = happened else { return false };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = last.is_some_and(|(of, at)| of == step && at.elapsed() < PROGRESS_INTERVAL);
        if soon && done != total {
            return true;
        }
        *last = Some((step, Instant::now()));
        false
    }
}

impl Reporting for Passing {
    fn passing(&self, step: Step, undo: bool, happened: Happened) {
        if !self.too_soon(step, &happened) {
            // A full queue means a slow or missing link; passing reports may be lost.
            drop(self.to.try_send(passing_report(&self.host, self.token, step, undo, happened)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_is_thinned_but_its_end_and_nodes_are_not() {
        let (to, mut from) = mpsc::channel(16);
        let passing = Passing::new("h".parse().unwrap(), Token(5), to);
        let progress = |done| Happened::Progress { done, total: 3, unit: "files".to_owned() };
        for done in 1..=3 {
            passing.passing(Step::Backup, false, progress(done));
        }
        let node = Happened::Node { alias: "n".parse().unwrap(), state: "stopped".to_owned() };
        passing.passing(Step::Stop, false, node.clone());
        tokio::time::advance(PROGRESS_INTERVAL).await;
        passing.passing(Step::Backup, false, progress(1));
        let mut seen = Vec::new();
        while let Ok(report) = from.try_recv() {
            assert_eq!((report.position, report.token), (0, Token(5)));
            seen.push(report.happened);
        }
        assert_eq!(seen, [progress(1), progress(3), node, progress(1)]);
    }
}
