//! Following the host that is in turn, from the grant to the release, and an abort.

use grayfin_types::{
    Code, HostId,
    gate::Reason,
    status::{HostPhase, RolloutState},
};

use super::{Work, debts::open};
use crate::{
    cmd::Cmd,
    gates::{self, reason},
    mutation,
    state::{CanaryPhase, Check, HoldStage, HostRun},
    view::Soak,
};

/// How long the answer to a canary's check may take before it is asked for again: reading back a
/// million rows takes seconds.
const CHECK_PATIENCE_MS: u64 = 60_000;

/// After how long rows that could not be read are asked for again. The host agent tries for a while
/// by itself first.
const CHECK_AGAIN_MS: u64 = 5_000;

impl Work<'_> {
    pub(super) fn follow(&mut self, run: &HostRun) {
        let Some(token) = run.token else { return };
        if run.phase != HostPhase::Granting && self.wait_for_readmission(&run.host) {
            return;
        }
        match &run.phase {
            HostPhase::Granting => self.granting(&run.host, token),
            HostPhase::Working { .. } => {
                self.canary(Some(&run.host));
                // After a retry they may be undone; the host is not kept waiting for them.
                if self.rollout.state == RolloutState::Running {
                    self.effects_in_force(token);
                }
                if !self.view.is_connected(&run.host) {
                    self.wait_for_agent(
                        &run.host,
                        "it brings the host up by itself and takes nothing more down",
                    );
                }
            }
            HostPhase::Recovering => self.recovering(run),
            HostPhase::Closing => {
                self.canary(Some(&run.host));
                if !self.view.is_connected(&run.host) {
                    self.wait_for_agent(&run.host, "it has to close its hold");
                }
            }
            // A failed host halts its rollout; these phases are never in turn.
            HostPhase::Failed
            | HostPhase::Waiting
            | HostPhase::Staged
            | HostPhase::Done
            | HostPhase::Skipped => {}
        }
    }

    /// The host is up: waits until the cluster is whole, and has been for the soak time (S7).
    fn recovering(&mut self, run: &HostRun) {
        self.canary(Some(&run.host));
        let soak = self.view.soaks.get(&self.rollout.id).filter(|soak| {
            soak.host == run.host && Some(soak.token) == run.token && soak.attempt == run.attempt
        });
        let Some(soak) = soak else {
            self.wait(soaking(run, "the host is up; the next look begins the soak".to_owned()));
            return;
        };
        let Some(soaked_ms) = self.soaked(run, soak) else {
            self.recovery_limit(run, soak);
            return;
        };
        // Rows that were read back before a bad sample, or under an earlier leader, may be lost since:
        // they are read again at the end of the soak that counts.
        let term = self.state.lease.as_ref().map_or(0, |lease| lease.term.0);
        let (token, attempt, restarts) = (soak.token, run.attempt, soak.restarts);
        if !self.rows_are_there(&format!("{}:{token}:{attempt}:{term}:{restarts}", run.host)) {
            return;
        }
        self.commands.push(Cmd::Close {
            rollout: self.rollout.id.clone(),
            host: run.host.clone(),
            token: soak.token,
            soaked_ms,
        });
    }

    /// Returns how long all has been well, once that is long enough.
    fn soaked(&mut self, run: &HostRun, soak: &Soak) -> Option<u64> {
        // Judged again now: the last sample may have gone stale.
        let findings = gates::after(self.state, self.view, self.rollout, &run.host, self.now_ms);
        let against = gates::against(&findings);
        if !against.is_empty() {
            self.waiting.extend(against);
            return None;
        }
        let no_soak = mutation::is("s7-no-soak");
        let needed_ms = if no_soak { 0 } else { self.rollout.plan.policy.soak_ms };
        match soak.soaked_ms() {
            Some(soaked_ms) if soaked_ms >= needed_ms => Some(soaked_ms),
            Some(soaked_ms) => {
                self.wait(soaking(
                    run,
                    format!("everything has been well for {soaked_ms} of {needed_ms} ms"),
                ));
                None
            }
            None => {
                self.wait(soaking(run, "the next look begins the soak".to_owned()));
                None
            }
        }
    }

    /// A cluster that does not recover in time is a person's affair.
    fn recovery_limit(&mut self, run: &HostRun, soak: &Soak) {
        let limit_ms = self.rollout.plan.policy.recover_timeout_ms;
        let passed_ms = self.now_ms.saturating_sub(soak.began_ms);
        if passed_ms <= limit_ms {
            return;
        }
        let first = self.waiting.first().cloned();
        let why = first.map_or_else(
            || soaking(run, "the soak does not end".to_owned()),
            |first| Reason {
                evidence: format!(
                    "the cluster has not recovered in {limit_ms} ms after `{}`: {}",
                    run.host, first.evidence
                ),
                remedy: format!(
                    "{}; then `grayfin rollout resume {}`",
                    first.remedy, self.rollout.id
                ),
                ..first
            },
        );
        let rollout = self.rollout.id.clone();
        self.commands.push(Cmd::Halt { rollout, reason: why });
    }

    /// Has every row that was acknowledged read back, once per purpose. True when all are there.
    pub(super) fn rows_are_there(&mut self, purpose: &str) -> bool {
        let canary = &self.rollout.canary;
        if canary.phase == CanaryPhase::Off || canary.wrote.is_empty() {
            return true;
        }
        let rollout = self.rollout.id.clone();
        let overdue = self.view.checks_since.iter().any(|((id, host, number), since)| {
            let answered = canary.checks.get(host).is_some_and(|c| c.result.is_some());
            let patience_ms = if answered { CHECK_AGAIN_MS } else { CHECK_PATIENCE_MS };
            *id == rollout
                && self.now_ms.saturating_sub(*since) > patience_ms
                && self
                    .state
                    .hosts
                    .get(host)
                    .is_some_and(|e| e.pending(&self.rollout.cluster, *number).is_none())
        });
        if canary.purpose != purpose || overdue {
            let purpose = purpose.to_owned();
            self.commands.push(Cmd::CanaryCheck { rollout, purpose });
            return false;
        }
        if !canary.checked() {
            let awaited = canary
                .wrote
                .iter()
                .filter(|h| canary.checks.get(*h).is_none_or(|c| c.result.is_none()));
            let reasons: Vec<Reason> = awaited
                .map(|host| {
                    reason(
                        Code::CanaryDown,
                        host.to_string(),
                        "the canary's rows that it wrote are being read back",
                        "it takes as long as reading the rows takes; the host agent must be connected",
                    )
                })
                .collect();
            self.waiting.extend(reasons);
            return false;
        }
        let total = canary.total(None);
        if total.lost == 0 || mutation::is("s11-lost-rows-are-fine") {
            let unread = canary.checks.iter().filter(|(_, check)| !check.complete());
            let reasons: Vec<Reason> =
                unread.map(|(host, check)| unread_rows(host, check)).collect();
            let all_there = reasons.is_empty();
            self.waiting.extend(reasons);
            return all_there;
        }
        let why = reason(
            Code::CanaryLoss,
            "canary",
            format!(
                "{} acknowledged row(s) are missing: {}",
                total.lost,
                total.lost_examples.join(", ")
            ),
            format!(
                "find out what became of them before going on; `grayfin rollout resume {rollout}` reads them back again, `grayfin rollout abort {rollout}` ends"
            ),
        );
        self.commands.push(Cmd::Halt { rollout, reason: why });
        false
    }

    /// Brings the held host up, stops the canary, and ends.
    pub(super) fn aborting(&mut self, in_turn: Option<&HostRun>) {
        if let Some(run) = in_turn {
            if self.stage() == Some(HoldStage::Asking)
                && let Some(token) = run.token
            {
                let rollout = self.rollout.id.clone();
                self.commands.push(Cmd::AbandonToken { rollout, token });
            } else if !self.wait_for_readmission(&run.host) && !self.view.is_connected(&run.host) {
                self.wait_for_agent(&run.host, "it has to bring the host up and close its hold");
            }
            return;
        }
        let id = &self.rollout.id;
        let debts: Vec<Reason> = self
            .state
            .debts
            .iter()
            .filter(|debt| &debt.rollout == id)
            .map(|debt| open(debt, "it is not undone yet"))
            .collect();
        let paid = debts.is_empty();
        self.waiting.extend(debts);
        if self.canary_ended() && paid {
            self.commands.push(Cmd::FinishAbort { rollout: self.rollout.id.clone() });
        }
    }
}

fn unread_rows(host: &HostId, check: &Check) -> Reason {
    let result = check.result.as_ref();
    let (read, all) = result.map_or((0, 0), |r| (r.verified, r.acknowledged));
    let why = result.and_then(|r| r.problem.as_deref()).unwrap_or("it does not say why");
    reason(
        Code::CanaryDown,
        host.to_string(),
        format!("only {read} of {all} acknowledged rows of the canary could be read back: {why}"),
        "they are read again until all are accounted for; see that the data nodes answer",
    )
}

fn soaking(run: &HostRun, evidence: String) -> Reason {
    reason(
        Code::Soaking,
        run.host.to_string(),
        evidence,
        "it goes on by itself; a bad sample or a change of the leader begins it again",
    )
}
