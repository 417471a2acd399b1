//! What a node is configured with, and where its files are.

use std::path::Path;

use standin_lang::eval::CallError;
use standin_lang::value::Value;

use super::identity::{is_worker, texts};
use super::{By, Call, Function, On, Outcome, f};
use crate::config::{ControllerDirs, NodeDirs, Properties, Role};
use crate::node::{Node, start};

pub(super) const FUNCTIONS: &[Function] = &[
    f("getConfig", &["key"], On::Any, By::Anybody),
    f("getConfigure", &["key"], On::Any, By::Anybody),
    f("loadClusterNodesConfigs", &[], On::Controllers, By::Anybody),
    f("getClusterNodesCfg", &[], On::Controllers, By::Anybody),
    f("loadControllerConfigs", &[], On::Controllers, By::Anybody),
    f("getHomeDir", &[], On::Any, By::Anybody),
    f("getPluginDir", &[], On::Any, By::Anybody),
    f("getWorkDir", &[], On::Any, By::Anybody),
    f("getExecDir", &[], On::Any, By::Anybody),
];

/// The functions that tell where a node was installed came with this version.
const PLACES_SINCE: [u32; 4] = [3, 0, 3, 1];

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    let (node, places) = (call.node, &call.node.shared.places);
    match call.name {
        "getConfig" | "getConfigure" => get_config(call),
        "loadClusterNodesConfigs" => Ok(texts(node.cluster().await?.cluster_lines)),
        "getClusterNodesCfg" => Ok(texts(node.cluster().await?.nodes_lines)),
        "loadControllerConfigs" => {
            let settings = node.shared.settings.iter();
            Ok(texts(settings.map(|(key, value)| format!("{key}={value}"))))
        }
        "getHomeDir" => Ok(path(&places.home)),
        "getPluginDir" => Ok(path(&plugin_dir(node))),
        "getWorkDir" if node.shared.version.is_at_least(PLACES_SINCE) => Ok(path(&places.work)),
        "getExecDir" if node.shared.version.is_at_least(PLACES_SINCE) => Ok(path(&places.server)),
        "getWorkDir" | "getExecDir" => Err(call.not_yet()),
        _ => Err(CallError::Unknown),
    }
}

fn path(path: &Path) -> Value {
    Value::string(path.display().to_string())
}

/// Plugins are looked for in the node's home, the working folder and beside the binary.
pub(super) fn plugin_dir(node: &Node) -> std::path::PathBuf {
    let places = &node.shared.places;
    let name = node.shared.setting("pluginDir").unwrap_or("plugins");
    [&places.home, &places.work]
        .iter()
        .map(|folder| folder.join(name))
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| places.server.join(name))
}

fn get_config(call: &Call<'_>) -> Outcome {
    let all = values(call.node);
    if matches!(call.arg(0), Value::Nothing) {
        let entries = all.into_iter().map(|(key, value)| (key, Value::string(value)));
        return Ok(Value::dictionary(entries));
    }
    let key = call.text(0)?;
    let found = all.into_iter().rev().find(|(known, _)| *known == key);
    Ok(found.map_or(Value::null(), |(_, value)| Value::string(value)))
}

/// Every key with its value: what the files say, and the places that follow from it.
fn values(node: &Node) -> Vec<(String, String)> {
    let shared = &node.shared;
    let own = |key: &String| !matches!(key.as_str(), "sites" | "standinHA" | "standinTimeScale");
    let mut all: Vec<(String, String)> = shared
        .settings
        .iter()
        .filter(|(key, _)| own(key) || shared.role == Role::DdbAgent)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut add = |key: &str, value: &Path| {
        all.retain(|(known, _)| known != key);
        all.push((key.to_owned(), value.display().to_string()));
    };
    add("home", &shared.places.home);
    if is_worker(shared.role) {
        let dirs = NodeDirs::new(&shared.places.home, &start::effective(shared));
        add("chunkMetaDir", &dirs.chunk_meta);
        add("redoLogDir", &dirs.redo_log);
        add("TSDBRedoLogDir", &dirs.tsdb_redo_log);
        add("PKEYRedoLogDir", &dirs.pkey_redo_log);
        add("PKEYMetaLogDir", &dirs.pkey_meta);
        add("recoverLogDir", &dirs.recover_log);
        if let Some(persistence) = &dirs.persistence {
            add("persistenceDir", persistence);
        }
        let volumes: Vec<String> =
            dirs.volumes.iter().map(|volume| volume.display().to_string()).collect();
        add("volumes", Path::new(&volumes.join(",")));
    }
    if shared.role == Role::Controller {
        let text = shared.settings.iter().map(|(key, value)| format!("{key}={value}\n"));
        let properties =
            Properties::parse("controller.cfg", &text.collect::<String>()).unwrap_or_default();
        let dirs = ControllerDirs::new(&shared.places.home, shared.alias(), shared.ha, &properties);
        add("dfsMetaDir", &dirs.dfs_meta);
    }
    let plain = [("mode", shared.role.as_str().to_owned()), ("localSite", shared.site.to_string())];
    for (key, value) in plain {
        all.retain(|(known, _)| known != key);
        all.push((key.to_owned(), value));
    }
    all
}
