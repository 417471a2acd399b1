//! Plugins: a text file that names version and library, in a folder of its own.

use std::path::Path;

use standin_lang::eval::CallError;
use standin_lang::value::{Type, Value};

use super::configuration::plugin_dir;
use super::table::{Rows, int, text};
use super::{By, Call, Function, On, Outcome, f};
use crate::config::Role;
use crate::node::log::local_ms;
use crate::node::shared::Shared;
use crate::version::Version;

pub(super) const FUNCTIONS: &[Function] = &[
    f("loadPlugin", &["filePath"], On::Workers, By::Users),
    f("getLoadedPlugins", &[], On::Any, By::Anybody),
];

/// A loaded plugin.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    name: String,
    version: String,
    user: String,
    at_ms: i64,
}

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    match call.name {
        "loadPlugin" => {
            let name = call.text(0)?;
            let path = Path::new(&name);
            let folder = match path.extension() {
                Some(_) => path.parent().map_or_else(|| plugin_dir(call.node), Path::to_owned),
                None => plugin_dir(call.node).join(&name),
            };
            let user = call.session.user.clone();
            let plugin =
                read(&folder, &call.node.shared.version, user).map_err(CallError::Error)?;
            let mut plugins = call.node.memory.plugins();
            plugins.retain(|known| known.name != plugin.name);
            plugins.push(plugin);
            Ok(Value::Nothing)
        }
        "getLoadedPlugins" => {
            let mut rows = Rows::new(&[
                ("plugin", Type::String),
                ("version", Type::String),
                ("user", Type::String),
                ("time", Type::Timestamp),
            ]);
            for plugin in call.node.memory.plugins().iter() {
                rows.push([
                    text(plugin.name.clone()),
                    text(plugin.version.clone()),
                    text(plugin.user.clone()),
                    int(plugin.at_ms),
                ]);
            }
            rows.done()
        }
        _ => Err(CallError::Unknown),
    }
}

/// Reads a plugin's text file; its first line is `name,library,version`, and the first three
/// numbers of the version must be the server's.
fn read(folder: &Path, own: &Version, user: String) -> Result<Plugin, String> {
    let bad = |reason: &str| format!("Failed to load the plugin [{}]: {reason}", folder.display());
    let entries = std::fs::read_dir(folder).map_err(|error| bad(&error.to_string()))?;
    let file = entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        name.starts_with("Plugin") && name.ends_with(".txt")
    });
    let file = file.ok_or_else(|| bad("there is no Plugin*.txt"))?;
    let content = std::fs::read_to_string(file).map_err(|error| bad(&error.to_string()))?;
    let mut words = content.lines().next().unwrap_or("").split(',').map(str::trim);
    let (Some(name), Some(library), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Err(bad("its first line is not name,library,version"));
    };
    if !folder.join(library).exists() {
        return Err(bad(&format!("the library {library} is missing")));
    }
    let parsed: Version = version.parse().map_err(|_| bad("its version cannot be read"))?;
    if parsed.series() != own.series() {
        return Err(bad(&format!("its version {version} does not fit the server's {own}")));
    }
    Ok(Plugin { name: name.to_owned(), version: version.to_owned(), user, at_ms: local_ms() })
}

/// `preloadModules=plugins::x,module`: a plugin that cannot be loaded keeps the node from
/// starting, because function views and jobs may need it.
pub(super) fn preload(shared: &Shared) -> Result<Vec<Plugin>, String> {
    if shared.role == Role::DdbAgent {
        return Ok(Vec::new());
    }
    let places = &shared.places;
    let name = shared.setting("pluginDir").unwrap_or("plugins");
    let folders = [&places.home, &places.work, &places.server];
    let folder = folders.iter().map(|folder| folder.join(name)).find(|folder| folder.is_dir());
    let modules = shared.setting("preloadModules").unwrap_or("").split(',').map(str::trim);
    modules
        .filter_map(|module| module.strip_prefix("plugins::"))
        .map(|plugin| match &folder {
            Some(folder) => read(&folder.join(plugin), &shared.version, "admin".to_owned()),
            None => Err(format!("Failed to load the plugin [{plugin}]: no plugin folder")),
        })
        .collect()
}
