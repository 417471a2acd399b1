//! Ids and numbers that must not be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest text accepted for any id, in bytes; ids come from certificates and configuration.
pub const MAX_ID_BYTES: usize = 128;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a valid {what}: use 1 to 128 letters, digits, `.`, `_` or `-`, starting with a letter or digit"
)]
pub struct BadId {
    what: &'static str,
    text: String,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a text. Fails if it is empty, too long or has other characters.
            pub fn new(text: impl Into<String>) -> Result<Self, BadId> {
                let text = text.into();
                let ok = text.len() <= MAX_ID_BYTES
                    && text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric())
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
                if ok { Ok(Self(text)) } else { Err(BadId { what: $what, text }) }
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the following number.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_id!(
    /// The operator's name for a DolphinDB cluster.
    ClusterId,
    "cluster name"
);
text_id!(
    /// The operator's name for a machine; its host agent's certificate carries it.
    HostId,
    "host name"
);
text_id!(
    /// A DolphinDB node's alias. Case matters, and it is unique in its cluster.
    NodeAlias,
    "node alias"
);
text_id!(
    /// A rollout: one run over one cluster.
    RolloutId,
    "rollout id"
);
text_id!(
    /// The random name that a host agent's ledger got when it was made (S8).
    LedgerId,
    "ledger id"
);

number!(
    /// The fencing number of a hold. It only ever grows within a group (S2).
    Token
);
number!(
    /// The coordinators' Raft term. Terms compare only within one [`Incarnation`].
    Term
);
number!(
    /// Raised by an operator's act when the coordinators' state was restored or forced (S2).
    Incarnation
);
number!(
    /// The number of an order to one host agent; each runs once, in turn.
    OrderNumber
);
number!(
    /// A place in a rollout's event log; the first event is 1, and there are no gaps.
    Seq
);
number!(
    /// A host agent's enrolment generation; an older one is refused.
    Generation
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_also_when_they_come_from_outside() {
        assert!(HostId::new("db-43.a_1").is_ok());
        for bad in ["", "-x", "a b", "a/b", "ä", &"x".repeat(129)] {
            assert!(HostId::new(bad).is_err(), "{bad}");
            assert!(serde_json::from_str::<HostId>(&format!("{bad:?}")).is_err());
        }
    }
}
