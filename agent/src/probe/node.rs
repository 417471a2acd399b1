//! Asking one node: its version, whether it is ready, and whom a controller follows.

use std::time::Duration;

use grayfin_types::{
    DdbVersion, NodeAlias,
    facts::{NodeRole, NodeSpec, Probe},
};

use super::credentials::Account;
use super::pool::{AskError, Pool};
use crate::ddb::{Call, Tag, Value};

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its version.
    pub version: Probe<DdbVersion>,
    /// Whether it is ready to serve.
    pub ready: Probe<bool>,
    /// For a controller: whom it takes for the leader.
    pub leader: Option<Probe<NodeAlias>>,
}

impl Answer {
    /// Nothing was found out, for this reason.
    pub fn unknown(role: NodeRole, why: &str) -> Self {
        let leader = (role == NodeRole::Controller).then(|| Probe::Unknown(why.to_owned()));
        Self {
            version: Probe::Unknown(why.to_owned()),
            ready: Probe::Unknown(why.to_owned()),
            leader,
        }
    }
}

/// Asks nodes of one cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pool: &'a Pool,
    deadline: Duration,
}

impl<'a> Asker<'a> {
    /// `deadline` is the limit of each single call.
    pub(super) const fn new(pool: &'a Pool, deadline: Duration) -> Self {
        Self { pool, deadline }
    }

    /// Asks for everything. Takes at most twice the deadline, whatever the node does.
    pub(super) async fn all(&self, spec: &NodeSpec) -> Answer {
        let limit = self.deadline * 2;
        match tokio::time::timeout(limit, self.all_unlimited(spec)).await {
            Ok(answer) => answer,
            Err(_) => {
                let why = format!("it did not answer within {} ms", limit.as_millis());
                Answer::unknown(spec.role, &why)
            }
        }
    }

    async fn all_unlimited(&self, spec: &NodeSpec) -> Answer {
        let version = match self.version(spec).await {
            Ok(version) => version,
            // A node that does not even tell its version is not asked more: a hung one would cost
            // the deadline each time.
            Err(error) => {
                let mut answer = Answer::unknown(spec.role, &error.words());
                if says_not_ready(&error) {
                    answer.ready = Probe::Known(false);
                }
                return answer;
            }
        };
        match spec.role {
            NodeRole::Controller => {
                let leader = self.leader(spec).await;
                let ready = self.controller_ready(spec, &leader).await;
                let leader = match leader {
                    Ok(alias) => Probe::Known(alias),
                    Err(why) => Probe::Unknown(why),
                };
                Answer { version, ready, leader: Some(leader) }
            }
            // It answers: there is nothing else that it could be ready for.
            NodeRole::DdbAgent => Answer { version, ready: Probe::Known(true), leader: None },
            NodeRole::DataNode | NodeRole::ComputeNode => {
                let ready = self.flag(spec, "isDataNodeInitialized").await;
                Answer { version, ready, leader: None }
            }
        }
    }

    /// The account to ask a node with: DolphinDB agents know no accounts, and no password is sent
    /// where none is needed.
    pub(super) const fn account(spec: &NodeSpec) -> Account {
        match spec.role {
            NodeRole::DdbAgent => Account::Guest,
            NodeRole::Controller | NodeRole::DataNode | NodeRole::ComputeNode => Account::Probe,
        }
    }

    /// Asks a function that guests may call too. When there is no usable login it is asked without.
    async fn guest_function(&self, spec: &NodeSpec, name: &str) -> Result<Value, AskError> {
        let call = Call::urgent(self.deadline);
        match self.pool.ask(spec, Self::account(spec), name, &[], &call).await {
            Err(AskError::Login(_)) => self.pool.ask(spec, Account::Guest, name, &[], &call).await,
            Err(AskError::Call(crate::ddb::Error::Refused { .. })) => {
                self.pool.ask(spec, Account::Guest, name, &[], &call).await
            }
            answer => answer,
        }
    }

    /// Asks for the version.
    pub(super) async fn version(&self, spec: &NodeSpec) -> Result<Probe<DdbVersion>, AskError> {
        let answer = self.guest_function(spec, "version").await?;
        let text = answer.word().unwrap_or_default();
        Ok(match DdbVersion::from_answer(&text) {
            Ok(version) => Probe::Known(version),
            Err(error) => Probe::Unknown(error.to_string()),
        })
    }

    /// Asks a controller for the leader's alias.
    pub(super) async fn leader(&self, spec: &NodeSpec) -> Result<NodeAlias, String> {
        let answer = self.guest_function(spec, "getActiveMaster").await.map_err(|e| e.words())?;
        let text = answer.word().unwrap_or_default();
        if text.is_empty() {
            return Err("it knows no leader".to_owned());
        }
        NodeAlias::new(text).map_err(|error| error.to_string())
    }

    /// Asks a function that answers yes or no.
    async fn flag(&self, spec: &NodeSpec, name: &str) -> Probe<bool> {
        match self.guest_function(spec, name).await {
            Ok(value) => value.boolean().map_or_else(
                || Probe::Unknown(format!("`{name}` answered neither true nor false")),
                Probe::Known,
            ),
            Err(error) if says_not_ready(&error) => Probe::Known(false),
            // An old version: official clients take that for ready too.
            Err(error) if error.call().is_some_and(crate::ddb::Error::is_unknown_function) => {
                Probe::Known(true)
            }
            Err(error) => Probe::Unknown(error.words()),
        }
    }

    /// A leader says itself whether it is initialised; a follower is ready when it follows one.
    async fn controller_ready(
        &self,
        spec: &NodeSpec,
        leader: &Result<NodeAlias, String>,
    ) -> Probe<bool> {
        match leader {
            Ok(alias) if *alias == spec.alias => self.flag(spec, "isControllerInitialized").await,
            Ok(_) => self.flag(spec, "isNodeInitialized").await,
            Err(_) => Probe::Known(false),
        }
    }
}

/// Tells whether a node says of itself that it is not ready.
fn says_not_ready(error: &AskError) -> bool {
    let Some(error) = error.call() else { return false };
    let tagged = matches!(
        error.tag(),
        Some(
            Tag::DataNodeNotReady
                | Tag::DataNodeNotAvail
                | Tag::ControllerNotReady
                | Tag::ControllerNotAvail
        )
    );
    let worded = error.is_server()
        && error.server_text().is_some_and(|text| {
            let text = text.to_ascii_lowercase();
            text.contains("isn't initialized") || text.contains("not initialized")
        });
    tagged || worded
}
