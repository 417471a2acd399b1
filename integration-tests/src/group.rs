//! What suites, benchmarks and chaos runs ask of a lab with several coordinators.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::hostns::{Command, Finished};
use crate::topology::Coordinator;
use crate::{Lab, wait};

/// A failover is followed by one round of looks; what a person would call at once.
const SOON: Duration = Duration::from_secs(60);
/// For a question to one coordinator, which waits a while for a majority.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The same for one that may watch a whole rollout.
const ASKED_LIMIT: Duration = Duration::from_secs(420);

impl Lab {
    /// The number of the coordinator that leads, as one that has confirmed it says.
    pub async fn leading_coordinator(&self) -> anyhow::Result<u8> {
        wait::until("a coordinator to lead", SOON, || async {
            let done = self.cli(&["coordinator", "status", "--json"]).await;
            let done = done.map_err(|error| format!("{error:#}"))?;
            let answer: serde_json::Value =
                serde_json::from_str(&done.out).map_err(|error| format!("{error}: {done:?}"))?;
            let confirmed = answer["confirmed"] == serde_json::Value::Bool(true);
            let number = answer["leader"].as_u64().and_then(|number| u8::try_from(number).ok());
            number.filter(|number| confirmed && *number > 0).ok_or_else(|| answer.to_string())
        })
        .await
    }

    /// Waits until a coordinator leads that is none of these.
    pub async fn leads_other_than(&self, not: u8) -> anyhow::Result<u8> {
        wait::until(&format!("another one than coordinator {not} to lead"), SOON, || async {
            let found = self.leading_coordinator().await.map_err(|error| format!("{error:#}"))?;
            if found == not { Err(format!("{found} leads")) } else { Ok(found) }
        })
        .await
    }

    /// Waits until every member of the group answers and has everything.
    pub async fn group_is_whole(&self) -> anyhow::Result<()> {
        wait::until("the group to be whole", SOON, || async {
            let done = self.cli(&["coordinator", "status", "--json"]).await;
            let out = done.map_err(|error| format!("{error:#}"))?.out;
            let answer: serde_json::Value =
                serde_json::from_str(&out).map_err(|error| error.to_string())?;
            let lines = answer["coordinators"].as_array().cloned().unwrap_or_default();
            let whole = answer["confirmed"] == true
                && lines.iter().all(|one| one["reached"] == true && one["behind"] == 0);
            if whole && !lines.is_empty() { Ok(()) } else { Err(answer.to_string()) }
        })
        .await
    }

    /// Numbers of the coordinators but one.
    pub fn coordinators_but(&self, not: u8) -> Vec<u8> {
        let all = self.topology().coordinators.iter().map(|it| it.number);
        all.filter(|number| *number != not).collect()
    }

    /// Runs the command line on a coordinator's own machine, knowing that coordinator only.
    pub async fn grayfin_beside(&self, number: u8, words: &[&str]) -> anyhow::Result<Finished> {
        let Coordinator { name, address, .. } = self.coordinator(number)?;
        let program = self.paths().programs().join("grayfin").display().to_string();
        let mut argv = vec![program];
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        let mut env = self.grayfin_environment();
        env.insert("GRAYFIN_COORDINATORS".to_owned(), address.clone());
        env.insert("NO_COLOR".to_owned(), "1".to_owned());
        let command = Command { argv, cwd: self.paths().machine(name), env };
        self.machine(name).run(command, ANSWER_LIMIT).await
    }

    /// Runs the command line here, knowing one coordinator only.
    pub async fn cli_at(
        &self,
        number: u8,
        words: &[&str],
    ) -> anyhow::Result<crate::rollout::Finished> {
        let address = &self.coordinator(number)?.address;
        let run = self.grayfin(words).env("GRAYFIN_COORDINATORS", address).output();
        let output = tokio::time::timeout(ASKED_LIMIT, run).await.context("it did not end")??;
        Ok(crate::rollout::Finished {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// A coordinator that is cut off leads nothing: it serves what it has, marked as old, refuses
    /// changes, and says who is missing.
    pub async fn ensure_powerless(&self, number: u8, rollout: &str) -> anyhow::Result<()> {
        let status = self.grayfin_beside(number, &["coordinator", "status", "--json"]).await?;
        let answer: serde_json::Value = serde_json::from_str(&status.output)
            .with_context(|| format!("coordinator {number} says {}", status.output))?;
        ensure!(answer["confirmed"] == false, "coordinator {number} confirms a lead: {answer}");
        let old = self.grayfin_beside(number, &["rollout", "status", rollout, "--json"]).await?;
        ensure!(
            old.output.contains(r#""stale":true"#),
            "coordinator {number} does not say that it is old: {}",
            old.output
        );
        let pause = self.grayfin_beside(number, &["rollout", "pause", rollout]).await?;
        // Knowing this one only, the command line gives up: it says what that one said.
        let said = ["GF0701", "GF0702", "are needed; missing: "];
        let refused = said.iter().any(|words| pause.output.contains(words));
        ensure!(
            !pause.is_success() && refused,
            "coordinator {number} took an order, or said nothing useful: {}",
            pause.output
        );
        Ok(())
    }
}
