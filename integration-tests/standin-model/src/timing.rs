//! The documented times of a cluster, and how they shrink for tests.

use serde::{Deserialize, Serialize};

/// Below this DolphinDB raises `dfsRecoveryWaitTime`, unless it is 0.
pub const RECOVERY_WAIT_FLOOR_MS: u64 = 60_000;

/// Times of one node, in milliseconds, already scaled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Least time without a word from the leader before a follower stands: `raftElectionTick` x
    /// 10 ms; the real wait is drawn from one to two times this.
    pub election_ms: u64,
    /// How often the leading controller makes itself heard among the controllers.
    pub raft_heartbeat_ms: u64,
    /// `dfsChunkNodeHeartBeatTimeout`: a node silent for longer is offline.
    pub heartbeat_timeout_ms: u64,
    /// How often a node tells the leader that it lives: a fifth of the timeout, so that four
    /// heartbeats may be lost.
    pub heartbeat_ms: u64,
    /// `dfsRecoveryWaitTime`; `None` is off.
    pub recovery_wait_ms: Option<u64>,
    /// `datanodeRestartInterval`; `None` is off.
    pub restart_ms: Option<u64>,
    /// A transaction that its coordinator left open for this long is rolled back.
    pub transaction_ms: u64,
    /// How long a node looks for a leader before it gives a caller an error: longer than the
    /// longest first election (16 s).
    pub leader_wait_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            election_ms: 8_000,
            raft_heartbeat_ms: 1_000,
            heartbeat_timeout_ms: 8_000,
            heartbeat_ms: 1_600,
            recovery_wait_ms: None,
            restart_ms: None,
            transaction_ms: 60_000,
            leader_wait_ms: 24_000,
        }
    }
}

impl Timing {
    /// The same times multiplied by `factor`; nothing becomes shorter than a millisecond.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let scale = |ms: u64| scale_ms(ms, factor);
        Self {
            election_ms: scale(self.election_ms),
            raft_heartbeat_ms: scale(self.raft_heartbeat_ms),
            heartbeat_timeout_ms: scale(self.heartbeat_timeout_ms),
            heartbeat_ms: scale(self.heartbeat_ms),
            recovery_wait_ms: self.recovery_wait_ms.map(scale),
            restart_ms: self.restart_ms.map(scale),
            transaction_ms: scale(self.transaction_ms),
            leader_wait_ms: scale(self.leader_wait_ms),
        }
    }

    /// `dfsRecoveryWaitTime` as the server takes it: 0 is off, anything else at least a minute.
    #[must_use]
    pub fn effective_recovery_wait(configured_ms: u64) -> Option<u64> {
        (configured_ms > 0).then(|| configured_ms.max(RECOVERY_WAIT_FLOOR_MS))
    }
}

/// `ms` times `factor`, at least 1 unless it was 0.
#[must_use]
pub fn scale_ms(ms: u64, factor: f64) -> u64 {
    if ms == 0 {
        return 0;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "durations are far below 2^52 ms and the result is clamped"
    )]
    let scaled = (ms as f64 * factor).clamp(1.0, 1e15) as u64;
    scaled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_wait_has_a_floor_of_a_minute() {
        assert_eq!(Timing::effective_recovery_wait(0), None);
        assert_eq!(Timing::effective_recovery_wait(30_000), Some(60_000));
        assert_eq!(Timing::effective_recovery_wait(90_000), Some(90_000));
    }

    #[test]
    fn scaling_keeps_everything_above_zero() {
        let timing = Timing::default().scaled(0.000_001);
        assert_eq!(timing.raft_heartbeat_ms, 1);
        assert_eq!(Timing::default().scaled(0.1).election_ms, 800);
    }
}
