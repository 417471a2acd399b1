//! Changes to the cluster as a whole (S10): every DolphinDB controller keeps them in its memory alone, so
//! each one is told.

use std::io;

use grayfin_types::{
    NodeAlias,
    facts::NodeSpec,
    plan::{DebtOrder, Effect},
};

use super::Prober;
use super::cluster::controllers_of;
use super::credentials::Account;
use super::pool::{AskError, words};
use crate::ddb::{Call, Error, Value};

/// What became of telling one controller.
enum Told {
    /// It took it.
    Taken,
    /// It surely does not run: what it knew is gone with its process.
    Down,
    /// It was not told, or nobody knows.
    Not(String),
}

impl Prober {
    /// Tells every controller of the cluster. To bring an effect about, the leader must take it, and
    /// none may be in doubt; to undo it, every one that runs must take it. One that refuses
    /// connections does not run, and has forgotten it.
    pub async fn effect(&self, order: &DebtOrder) -> Result<(), String> {
        self.0.pool.credentials().refresh();
        let local = self.0.local().await;
        let controllers = controllers_of(&self.topology(&local).await.all);
        let controllers: Vec<NodeSpec> =
            controllers.into_iter().filter(|spec| !order.without.contains(&spec.alias)).collect();
        if controllers.is_empty() {
            return Err("no DolphinDB controller is configured here".to_owned());
        }
        let (command, arguments) = call(order);
        let mut doubts = Vec::new();
        let mut taken: Vec<NodeAlias> = Vec::new();
        for spec in controllers {
            match self.tell(&spec, command, &arguments, order.pay).await {
                Told::Taken => taken.push(spec.alias),
                Told::Down => {}
                Told::Not(why) => doubts.push(format!("`{}`: {why}", spec.alias)),
            }
        }
        if !doubts.is_empty() {
            return Err(format!("`{command}` did not reach {}", doubts.join("; ")));
        }
        let leader = self.leader().await?.alias;
        if taken.contains(&leader) || order.pay {
            return Ok(());
        }
        Err(format!("`{command}` did not reach `{leader}`, which leads"))
    }

    async fn tell(
        &self,
        spec: &NodeSpec,
        command: &'static str,
        arguments: &[Value],
        pay: bool,
    ) -> Told {
        let pool = &self.0.pool;
        let mut lease = match pool.open(spec, Account::Operate, self.0.options.probe).await {
            Ok(lease) => lease,
            Err(AskError::Call(Error::Io { source, .. }))
                if source.kind() == io::ErrorKind::ConnectionRefused =>
            {
                return Told::Down;
            }
            Err(error) => return Told::Not(error.words()),
        };
        let call = Call::plain(self.0.options.command);
        match lease.function(command, arguments, &call).await {
            Ok(_) => Told::Taken,
            // What it does not know, nobody has told it before: there is nothing to undo.
            Err(error) if pay && error.is_unknown_function() => Told::Taken,
            Err(error) => Told::Not(words(&error)),
        }
    }
}

fn call(order: &DebtOrder) -> (&'static str, Vec<Value>) {
    match (order.effect, order.pay) {
        (Effect::SuspendedRecovery, false) => ("suspendRecovery", Vec::new()),
        (Effect::SuspendedRecovery, true) => ("resumeRecovery", Vec::new()),
        (Effect::RestartInterval { .. }, false) => {
            ("setDatanodeRestartInterval", vec![Value::int(0)])
        }
        (Effect::RestartInterval { original_s }, true) => {
            let seconds = i32::try_from(original_s).unwrap_or(i32::MAX);
            ("setDatanodeRestartInterval", vec![Value::int(seconds)])
        }
    }
}
