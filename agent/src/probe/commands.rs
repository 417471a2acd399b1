//! What steps ask of DolphinDB: start and stop data nodes, flush caches. Each is sent once, on a
//! fresh connection; whether it took effect without an answer is said, never guessed.

use grayfin_types::{
    NodeAlias,
    facts::{MemoryObject, NodeSpec, Probe},
};

use super::Prober;
use super::credentials::Account;
use super::memory::{self, Pending};
use super::node::Asker;
use super::pool::{AskError, words};
use crate::ddb::{Call, Tag, Value, Vector};

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There was nobody to send it to.
    #[error("there is no leading controller to ask: {0}")]
    NoLeader(String),
    /// It was not sent; nothing has changed.
    #[error("`{command}` was not sent: {why}")]
    NotSent {
        /// The function.
        command: &'static str,
        /// Why.
        why: String,
    },
    /// The node said no; nothing has changed.
    #[error("`{command}` was refused: {why}")]
    Refused {
        /// The function.
        command: &'static str,
        /// The node's words.
        why: String,
    },
    /// It was sent and no answer came: it may take effect, now or late.
    #[error("the outcome of `{command}` is unknown: {why}")]
    OutcomeUnknown {
        /// The function.
        command: &'static str,
        /// Why.
        why: String,
    },
}

impl CommandError {
    /// Tells whether the command may have taken effect, or may still.
    pub const fn outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. })
    }
}

impl Prober {
    /// Asks the leading controller to start data and compute nodes. Success means that it accepted;
    /// whether they start is seen by their processes.
    pub async fn start_data_nodes(&self, aliases: &[NodeAlias]) -> Result<(), CommandError> {
        self.on_leader("startDataNode", aliases).await
    }

    /// Asks the leading controller to stop data and compute nodes. Since 3.00.2 it answers before
    /// they are gone.
    pub async fn stop_data_nodes(&self, aliases: &[NodeAlias]) -> Result<(), CommandError> {
        self.on_leader("stopDataNode", aliases).await
    }

    async fn on_leader(
        &self,
        command: &'static str,
        aliases: &[NodeAlias],
    ) -> Result<(), CommandError> {
        let leader = self.leader().await.map_err(CommandError::NoLeader)?;
        let aliases = Value::Vector(Vector::text(aliases.iter().map(NodeAlias::as_str)));
        self.send(&leader, command, &[aliases]).await
    }

    /// Writes a node's caches to its files, so that its stop and its next start are short. A version
    /// without one of the engines has nothing to flush in it.
    pub async fn flush_caches(&self, alias: &NodeAlias) -> Result<(), CommandError> {
        let command = "flushOLAPCache";
        let spec = self.node(alias).await.map_err(|why| CommandError::NotSent { command, why })?;
        let mut commands = vec!["flushOLAPCache", "flushTSDBCache"];
        // Primary-key tables came with 3.00.
        let version = Asker::new(&self.0.pool, self.0.options.probe).version(&spec).await;
        if let Ok(Probe::Known(version)) = version
            && version.release().first().is_some_and(|major| *major >= 3)
        {
            commands.push("flushPKEYCache");
        }
        for command in commands {
            match self.send(&spec, command, &[]).await {
                Err(CommandError::Refused { why, .. }) if lacks(&why) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Looks for transactions of a data node that have not reached its files for good: what a stop
    /// waits for, or a start replays.
    pub async fn pending_transactions(&self, alias: &NodeAlias) -> Result<Pending, String> {
        let spec = self.node(alias).await?;
        let call = Call::urgent(self.0.options.probe);
        match memory::pending_transactions(&self.0.pool, &spec, &call).await {
            Ok(pending) => Ok(pending),
            Err(AskError::Call(error)) if error.is_unknown_function() => Ok(Pending::default()),
            Err(error) => Err(error.words()),
        }
    }

    /// Lists what a data or compute node holds only in memory (S13), now.
    pub async fn memory_objects(&self, alias: &NodeAlias) -> Result<Vec<MemoryObject>, String> {
        let spec = self.node(alias).await?;
        let call = Call::urgent(self.0.options.probe);
        let startup = self.startup().await;
        memory::objects(&self.0.pool, &spec, &call, &|kind, name| startup.provides(kind, name))
            .await
    }

    async fn send(
        &self,
        spec: &NodeSpec,
        command: &'static str,
        arguments: &[Value],
    ) -> Result<(), CommandError> {
        self.0.pool.credentials().refresh();
        let opened = self.0.pool.open(spec, Account::Operate, self.0.options.probe).await;
        let mut lease =
            opened.map_err(|error| CommandError::NotSent { command, why: error.words() })?;
        let call = Call::plain(self.0.options.command);
        match lease.function(command, arguments, &call).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_server() => match error.tag() {
                Some(Tag::NotLeader { .. }) => Err(CommandError::NoLeader(words(&error))),
                Some(_) | None => Err(CommandError::Refused { command, why: words(&error) }),
            },
            Err(error) if error.outcome_unknown() => {
                Err(CommandError::OutcomeUnknown { command, why: words(&error) })
            }
            Err(error) => Err(CommandError::NotSent { command, why: words(&error) }),
        }
    }
}

/// The server does not have a function, or does not have the engine on.
fn lacks(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["recognize", "not enabled", "isn't enabled", "disabled", "not supported"]
        .iter()
        .any(|part| text.contains(part))
}
