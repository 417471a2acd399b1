//! Rollouts in a lab, driven through the command line as an operator would, and judged without it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use grayfin_types::status::RolloutStatus;
use serde::de::DeserializeOwned;
use standin::config::Role;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::Lab;
use crate::observer::Report;

/// For a command that only asks.
const ASK_LIMIT: Duration = Duration::from_secs(60);

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Lab {
    /// Runs the CLI to its end.
    pub async fn cli(&self, arguments: &[&str]) -> anyhow::Result<Finished> {
        let run = self.grayfin(arguments).output();
        let output = tokio::time::timeout(ASK_LIMIT, run)
            .await
            .with_context(|| format!("`grayfin {}` did not end", arguments.join(" ")))??;
        Ok(Finished {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs the CLI and reads the one document that it prints.
    pub async fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> anyhow::Result<T> {
        let done = self.cli(arguments).await?;
        ensure!(
            done.code == Some(0),
            "`grayfin {}` ended with {:?}: {}{}",
            arguments.join(" "),
            done.code,
            done.out,
            done.err
        );
        serde_json::from_str(&done.out).with_context(|| {
            format!("`grayfin {}` printed no document: {}", arguments.join(" "), done.out)
        })
    }

    /// Starts a rollout of the first cluster and returns its id.
    pub async fn start_rollout(&self, target: &str, more: &[&str]) -> anyhow::Result<String> {
        let name = self.cluster().name.clone();
        let mut arguments = vec!["rollout", "start", &name, "--to", target, "--yes", "--json"];
        arguments.extend_from_slice(more);
        let answer: serde_json::Value = self.ask(&arguments).await?;
        let id = answer.get("id").and_then(serde_json::Value::as_str);
        Ok(id.with_context(|| format!("no rollout id in {answer}"))?.to_owned())
    }

    /// Asks where a rollout stands.
    pub async fn rollout(&self, id: &str) -> anyhow::Result<RolloutStatus> {
        self.ask(&["rollout", "status", id, "--json"]).await
    }

    /// Waits until a rollout is in a final state, within a limit.
    pub async fn wait_rollout(&self, id: &str, limit: Duration) -> anyhow::Result<RolloutStatus> {
        crate::wait::until(&format!("rollout {id} to end"), limit, || async {
            let status = self.rollout(id).await.map_err(|e| format!("{e:#}"))?;
            if status.state.is_final() {
                Ok(status)
            } else {
                Err(format!(
                    "{}: {:?} waiting for {:?}",
                    status.state, status.hosts, status.waiting
                ))
            }
        })
        .await
    }

    /// Runs a command and hands every line of its output on as it comes; returns the exit code.
    pub async fn stream(
        &self,
        arguments: &[&str],
        limit: Duration,
        mut line: impl FnMut(&str),
    ) -> anyhow::Result<Option<i32>> {
        let mut child =
            self.grayfin(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("standard output")?).lines();
        let mut err = BufReader::new(child.stderr.take().context("standard error")?).lines();
        let whole = async {
            let (mut out_open, mut err_open) = (true, true);
            while out_open || err_open {
                let (next, open) = tokio::select! {
                    next = out.next_line(), if out_open => (next?, &mut out_open),
                    next = err.next_line(), if err_open => (next?, &mut err_open),
                };
                match next {
                    Some(text) => line(&text),
                    None => *open = false,
                }
            }
            anyhow::Ok(child.wait().await?.code())
        };
        match tokio::time::timeout(limit, whole).await {
            Ok(code) => code,
            Err(_) => bail!("`grayfin {}` did not end within {limit:?}", arguments.join(" ")),
        }
    }

    /// The version that every node of the first cluster answers with when it is asked directly.
    pub async fn versions(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut versions = BTreeMap::new();
        for node in &self.cluster().nodes {
            // A DolphinDB agent takes no login.
            let answer = self.ddb(node.alias())?.as_guest().text("version()").await;
            let answer =
                answer.with_context(|| format!("ask `{}` for its version", node.alias()))?;
            let first = answer.split_whitespace().next().unwrap_or_default();
            versions.insert(node.alias().to_owned(), first.to_owned());
        }
        Ok(versions)
    }

    /// Runs a verb of the host agent's own command line on a host, with that host's configuration.
    pub async fn agent_cli(
        &self,
        host: u8,
        verb: &[&str],
    ) -> anyhow::Result<crate::hostns::Finished> {
        let host = self.host(host)?;
        let folder = self.paths().agent(&host.name);
        let program = self.paths().programs().join("grayfin-agent").display().to_string();
        let config = folder.join("agent.toml").display().to_string();
        let mut argv = vec![program.as_str()];
        argv.extend_from_slice(verb);
        argv.extend_from_slice(&["--config", &config]);
        self.run_on(host, folder, &argv, ASK_LIMIT).await
    }

    /// Says what an observer holds against a rollout over the first cluster; empty if nothing.
    pub fn objections(&self, seen: &Report) -> Vec<String> {
        let name = &self.cluster().name;
        let mut found: Vec<String> = seen
            .overlaps()
            .iter()
            .map(|o| {
                format!(
                    "`{}` and `{}` were both disturbed from {} ms on",
                    o.first, o.second, o.span.from_ms
                )
            })
            .collect();
        let changes = seen.leader_changes(name);
        if changes.len() > 1 {
            found.push(format!("the leading DolphinDB controller changed {} times", changes.len()));
        }
        for node in &self.cluster().nodes {
            let processes = seen.node(node.alias()).map_or(0, |record| record.processes.len());
            if processes != 2 {
                found.push(format!("`{}` had {processes} processes, expected 2", node.alias()));
            }
        }
        found
    }

    /// How many nodes of the first cluster have a role.
    pub fn count(&self, role: Role) -> usize {
        self.cluster().with_role(role).count()
    }
}
