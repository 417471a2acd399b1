//! What a DolphinDB agent does: starts and stops the data and compute nodes of its host.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use standin_model::member::CallError;
use standin_model::message::{Answer, Start};
use tokio::process::Command;

use super::shared::{Shared, config_role};
use crate::config::ClusterConfig;
use crate::net::{Question, Response};

/// The configuration that a DolphinDB agent writes for a node, in the node's home.
pub(crate) const NODE_CONFIG: &str = "standin-node.cfg";

/// A node that is there answers at once.
const PING: Duration = Duration::from_secs(2);
/// Nobody waits longer for a node to be gone.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Between two looks whether a node is gone.
const LOOK: Duration = Duration::from_millis(50);

/// Starts a node, unless it is there. A node that is about to end does not count as there: the
/// new process will find the port bound, as on a real host.
pub(crate) async fn start_node(shared: &Shared, start: &Start) -> Answer {
    if let Ok(Response::Yes) = shared.peers.ask(&start.site, Question::Ping, PING).await {
        return Answer::Done;
    }
    match spawn(shared, start) {
        Ok(()) => {
            shared.log.info(&format!("Started the node [{}].", start.alias));
            Answer::Done
        }
        Err(error) => {
            let text = format!("Failed to start the node [{}]: {error}", start.alias);
            shared.log.error(&text);
            Answer::Failed(text)
        }
    }
}

fn spawn(shared: &Shared, start: &Start) -> io::Result<()> {
    let home = shared.places.home.join(&start.alias);
    std::fs::create_dir_all(&home)?;
    let config = home.join(NODE_CONFIG);
    write_config(shared, start, &config)?;
    let role = config_role(start.role);
    let mut command = Command::new(&shared.places.program);
    command
        .args(["-console", "0", "-mode", role.as_str(), "-home"])
        .arg(&home)
        .args(["-script", "dolphindb.dos", "-config"])
        .arg(&config)
        .args(["-localSite", &format!("{}:{}", start.site, start.alias)])
        .args(["-logFile", &format!("log/{}.log", start.alias)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: the node outlives the agent, and what is done to the agent's group.
        .process_group(0)
        .kill_on_drop(false);
    let mut child = command.spawn()?;
    // Somebody has to take note of its end, or it stays a zombie.
    shared.runtime.spawn(async move { child.wait().await });
    Ok(())
}

fn write_config(shared: &Shared, start: &Start, path: &Path) -> io::Result<()> {
    let text = start.cluster_lines.join("\n") + "\n";
    let cluster = ClusterConfig::parse("cluster.cfg", &text).map_err(io::Error::other)?;
    let effective = cluster.effective(&start.alias, config_role(start.role));
    let mut lines = vec![
        "# Written by the DolphinDB agent of the stand-in at each start of the node.".to_owned(),
        format!("mode={}", config_role(start.role)),
        format!("standinTimeScale={}", shared.scale),
        format!("standinHA={}", u8::from(shared.ha)),
    ];
    let sites: Vec<String> =
        shared.controllers.iter().map(|site| format!("{site}:controller")).collect();
    lines.push(format!("sites={}", sites.join(",")));
    let own = effective.values.iter().map(|(key, value)| (key.clone(), value.clone()));
    let given = start.settings.iter().filter(|(key, _)| effective.get(key).is_none()).cloned();
    lines.extend(given.chain(own).map(|(key, value)| format!("{key}={value}")));
    let partial = path.with_extension("tmp");
    std::fs::write(&partial, lines.join("\n") + "\n")?;
    std::fs::rename(partial, path)
}

/// Asks a node to stop; it may take its time.
pub(crate) async fn stop_node(shared: &Shared, site: &str, wait: bool) -> Answer {
    match shared.peers.ask(site, Question::Shutdown, PING).await {
        Ok(_) => {}
        Err(CallError::Gone) => return Answer::Done,
        Err(CallError::Timeout) if !wait => {
            return Answer::Failed(format!("The node {site} does not answer."));
        }
        Err(CallError::Timeout) => {}
    }
    if !wait {
        return Answer::Done;
    }
    let gone = async {
        while !matches!(shared.peers.ask(site, Question::Ping, PING).await, Err(CallError::Gone)) {
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(WAIT_MAX, gone).await {
        Ok(()) => Answer::Done,
        Err(_) => Answer::Failed(format!("The node {site} has not stopped.")),
    }
}
