//! The small values that the model's states and messages are made of.

use grayfin_coordinator_core::state::OrderKind;
use grayfin_types::{
    ClusterId, Code, HostId, RolloutId,
    plan::{HostPlan, Plan, Policy},
    step::{SequenceState, Step},
};

/// How many host agents the model has.
pub const HOSTS: usize = 3;

/// The group's id, the same in every copy of its state.
pub const GROUP: &str = "group";

/// The one cluster.
pub fn cluster() -> ClusterId {
    "trade".parse().expect("a word is a cluster's id")
}

/// The id of a host.
pub fn host(number: u8) -> HostId {
    format!("host{number}").parse().expect("a word is a host's id")
}

/// The number of a host.
pub fn host_number(host: &HostId) -> u8 {
    host.as_str().bytes().last().map_or(0, |digit| digit.saturating_sub(b'0'))
}

/// The id of a rollout.
pub fn rollout(number: u8) -> RolloutId {
    format!("r{number}").parse().expect("a word is a rollout's id")
}

/// The number of a rollout.
pub fn rollout_number(id: &RolloutId) -> u8 {
    id.as_str().bytes().last().map_or(0, |digit| digit.saturating_sub(b'0'))
}

/// A small number of the model; what the bounds allow never comes near 255.
pub fn small(number: u64) -> u8 {
    u8::try_from(number).expect("the bounds keep every number small")
}

/// The plan of every rollout: all hosts, nothing else that the protocol looks at.
pub fn plan() -> Plan {
    let number = |number: usize| small(u64::try_from(number).unwrap_or(0));
    let hosts = (0..HOSTS).map(|at| HostPlan::bare(host(number(at))));
    let target = "2.00.8.12".parse().expect("a version");
    Plan {
        hash: "h".to_owned(),
        policy: Policy { start_attempts: 0, ..Policy::default() },
        ..Plan::bare(cluster(), target, hosts.collect())
    }
}

/// A sequence's state without its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told {
    /// Running.
    Running,
    /// Up.
    Up,
    /// Refused, nothing was taken down.
    Refused,
    /// Undone.
    Undone,
    /// Failed; with the first start made or not.
    Failed {
        /// It was made.
        first_start: bool,
    },
    /// Closed.
    Closed,
}

impl Told {
    /// Leaves the words out.
    pub const fn of(state: &SequenceState) -> Self {
        match state {
            SequenceState::Running { .. } => Self::Running,
            SequenceState::Up => Self::Up,
            SequenceState::Refused { .. } => Self::Refused,
            SequenceState::Undone { .. } => Self::Undone,
            SequenceState::Failed { first_start, .. } => Self::Failed { first_start: *first_start },
            SequenceState::Closed => Self::Closed,
        }
    }

    /// Puts words in.
    pub fn state(self) -> SequenceState {
        let (step, code, message) = (Step::Stop, Code::StopFailed, String::new());
        match self {
            Self::Running => SequenceState::Running { step },
            Self::Up => SequenceState::Up,
            Self::Refused => SequenceState::Refused { step: Step::Guard, code, message },
            Self::Undone => SequenceState::Undone { step, code, message },
            Self::Failed { first_start } => {
                SequenceState::Failed { step, code, message, first_start }
            }
            Self::Closed => SequenceState::Closed,
        }
    }
}

/// What a message to a host agent asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asked {
    /// A promise.
    Promise,
    /// An order with this number.
    Order {
        /// The number.
        number: u8,
        /// What to do.
        kind: OrderKind,
        /// For which rollout.
        rollout: u8,
    },
}

/// A message to a host agent. It stays deliverable for ever, any number of times, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    /// To which host's agent.
    pub to: u8,
    /// Of which of the two coordinators' states.
    pub from: u8,
    /// The sender's incarnation.
    pub incarnation: u8,
    /// The sender's term.
    pub term: u8,
    /// The token.
    pub token: u8,
    /// What it asks for.
    pub asked: Asked,
}
