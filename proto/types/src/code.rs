//! Error codes. Each has a page `docs/errors/GFnnnn.md`; a test compares this list with the folder.
//!
//! Groups: 01 configuration and identity, 02 looking (facts), 03 gates before a rollout, 04 gates
//! during it, 05 host steps, 06 hold and fencing, 07 coordinator and wire, 08 backup and restore,
//! 09 canary.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $title:literal;)*) => {
        /// A reason that has a page of its own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* #[doc = ""] #[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the text of the code: `GF0301`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Returns one line that says what it means.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    ConfigUnreadable = "GF0101", "a configuration file cannot be read or has a bad line";
    NodesDiffer = "GF0102", "cluster.nodes differs between hosts or from the live configuration";
    BadIdentity = "GF0103", "a certificate does not match the host, role or generation";
    ForbiddenName = "GF0104", "a user, path or argument contains the word that the vendor's stop script kills by";
    AgentLocked = "GF0105", "another host agent works on this ledger or installation";
    CredentialsRefused = "GF0201", "DolphinDB refused the user name or password";
    RightMissing = "GF0202", "the database account lacks a right";
    FactUnknown = "GF0203", "a needed fact is unknown";
    FactStale = "GF0204", "a needed fact is too old";
    AgentMissing = "GF0205", "a host agent is not connected";
    NodeUnclaimed = "GF0206", "a live node is claimed by no host agent, or by two";
    NodeDown = "GF0207", "a node is down";
    UnknownVersion = "GF0301", "the target version is unknown or cannot be parsed";
    CompatRisk = "GF0302", "the vendor does not publish rolling upgrade for this pair of versions";
    PackageMissing = "GF0303", "the package is not in the host's package folder";
    PackageCorrupt = "GF0304", "the package is damaged";
    PackageWrongVersion = "GF0305", "the package holds another version than its name says";
    PackageDiffers = "GF0306", "the package is not the same on all hosts";
    DiskTooSmall = "GF0307", "a volume has too little room";
    LicenceExpired = "GF0308", "the licence has expired: a stopped node would not start again";
    LicenceCap = "GF0309", "the licence does not cover the target version";
    VariantMismatch = "GF0310", "the installed and the target build variants differ";
    PluginMismatch = "GF0311", "an installed plugin does not match the target version";
    Downgrade = "GF0312", "the target is older than what is installed";
    AlreadyDone = "GF0313", "every host is on the target version already";
    QuorumAtRisk = "GF0401", "too few DolphinDB controllers would stay alive";
    ReplicaAtRisk = "GF0402", "a chunk would have no current replica on another host";
    GroupAtRisk = "GF0403", "a streaming or MVCC Raft group would lose its majority";
    PartitionCapacity = "GF0404", "too few data nodes would stay for new partitions";
    ChunksRecovering = "GF0405", "chunks are recovering";
    ReplicasMissing = "GF0406", "chunks have fewer replicas than their baseline";
    RecoveryRunning = "GF0407", "recovery tasks are running";
    LeaderUnclear = "GF0408", "the DolphinDB controllers do not agree on a leader";
    NotCaughtUp = "GF0409", "a DolphinDB controller has not caught up";
    VersionNotReached = "GF0410", "a node does not answer with the target version";
    MemoryLoss = "GF0411", "something that lives only in memory would vanish";
    RecoveryWait = "GF0412", "the host would be down longer than DolphinDB waits before it re-replicates";
    BaselineTooLarge = "GF0413", "too many chunks already differ from the replication factor";
    Soaking = "GF0414", "everything is well, but not for long enough yet";
    ClusterBusy = "GF0415", "another rollout of this cluster is not finished";
    WindowClosed = "GF0416", "no maintenance window is open";
    DebtOpen = "GF0417", "a change to the cluster as a whole is not made or not undone yet";
    StepTimeout = "GF0501", "a step took longer than its limit";
    StopFailed = "GF0502", "a process did not go away";
    ProcessAppeared = "GF0503", "a DolphinDB process appeared while none may run";
    UpgradeFailed = "GF0504", "the software was not replaced as it should be";
    StartFailed = "GF0505", "a node did not start";
    JoinFailed = "GF0506", "a node started but did not become ready with the target version";
    GuardRefused = "GF0507", "the host agent's own check refused to take a node down";
    NoGo = "GF0508", "no fresh go came from a coordinator that leads";
    UndoFailed = "GF0509", "a failed step could not be undone";
    UndoImpossible = "GF0510", "the new version may have been started: there is no way back by itself";
    ScriptFailed = "GF0511", "the site's script failed or did not do what it says";
    HostRestarted = "GF0512", "the machine was restarted in the middle of a sequence";
    StopScriptTooWide = "GF0513", "the stop script would match processes beyond this installation";
    Aborted = "GF0514", "an operator aborted the rollout";
    PromiseMissing = "GF0601", "a host agent has not promised the token";
    TokenStale = "GF0602", "an order carried an old token, term, incarnation or number";
    HoldOpen = "GF0603", "a hold is open";
    AgentAmnesic = "GF0604", "a host agent's ledger is unknown or older than it was";
    LedgerCorrupt = "GF0605", "the ledger is damaged";
    HoldBroken = "GF0606", "an operator broke the hold";
    PoweredOff = "GF0607", "an operator attested that the host is powered off";
    NotLeader = "GF0701", "this coordinator does not lead";
    NoQuorum = "GF0702", "the coordinators have no majority: the outcome is unknown";
    BadRequest = "GF0703", "the request is not valid";
    NoSuchObject = "GF0704", "there is no such cluster, host or rollout";
    WrongState = "GF0705", "the rollout's state does not allow this";
    Unreachable = "GF0706", "no coordinator could be reached";
    StoreDamaged = "GF0707", "the coordinator's store is damaged";
    NotAllowed = "GF0708", "the certificate's role does not allow this";
    GroupChange = "GF0709", "the coordinators' group cannot be changed in this way";
    CoordinatorRefused = "GF0710", "a coordinator speaks for an older group than is known";
    BackupIncomplete = "GF0801", "a backup is incomplete or damaged";
    BackupSourceChanged = "GF0802", "a source changed while it was copied";
    RestoreRefused = "GF0803", "a restore in place is not allowed now";
    CanaryLoss = "GF0901", "an acknowledged row of the canary is missing";
    CanaryDown = "GF0902", "the canary cannot write";
    Internal = "GF9999", "a fault in Grayfin itself";
}

impl Code {
    /// Finds a code by its text.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // A newer party may know codes that we do not; its words still count.
        Ok(Self::from_text(&text).unwrap_or(Self::Internal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].as_str() < pair[1].as_str(), "{} {}", pair[0], pair[1]);
        }
    }
}
