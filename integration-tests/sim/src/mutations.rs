//! Faults that are put into the cores on purpose, at run time and in debug builds only, to show that
//! the simulator finds them.

use grayfin_agent_core::mutation as agent;
use grayfin_coordinator_core::mutation as coordinator;
pub use grayfin_types::mutation::set;

/// Every mutation: its name, which begins with the rule, and what it does.
pub fn all() -> Vec<(&'static str, &'static str)> {
    agent::ALL.iter().chain(coordinator::ALL).copied().collect()
}

/// Finds one by its name.
pub fn named(name: &str) -> anyhow::Result<&'static str> {
    let found = all().into_iter().map(|(known, _)| known).find(|known| *known == name);
    anyhow::ensure!(cfg!(debug_assertions), "mutations are compiled into debug builds only");
    found.ok_or_else(|| anyhow::anyhow!("there is no mutation `{name}`: see `cargo sim mutations`"))
}
