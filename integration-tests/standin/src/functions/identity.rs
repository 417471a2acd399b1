//! Who a node is, and whether it is ready.

use std::time::Duration;

use standin_lang::eval::CallError;
use standin_lang::value::{Type, Value, Vector};

use super::table::{Rows, text};
use super::{By, Call, Function, On, Outcome, f};
use crate::config::Role;
use crate::faults::Kind;
use crate::node::{Brain, Node};

pub(super) const FUNCTIONS: &[Function] = &[
    f("version", &[], On::Any, By::Anybody),
    f("getNodeAlias", &[], On::Any, By::Anybody),
    f("getNodeType", &[], On::Any, By::Anybody),
    f("getNodeHost", &[], On::Any, By::Anybody),
    f("getNodePort", &[], On::Any, By::Anybody),
    f("getControllerAlias", &[], On::Any, By::Anybody),
    f("getActiveMaster", &[], On::Controllers, By::Anybody),
    f("isControllerInitialized", &[], On::Controllers, By::Anybody),
    f("isDataNodeInitialized", &[], On::Workers, By::Anybody),
    f("isNodeInitialized", &[], On::Any, By::Anybody),
    f("getRequiredAPIVersion", &[], On::Any, By::Anybody),
    f("isClientAuth", &[], On::Any, By::Anybody),
    f("license", &["fileName", "pubKeyFile", "read"], On::Any, By::Anybody),
    f("getLicenseExpiration", &[], On::Any, By::Anybody),
    f("sleep", &["milliseconds"], On::Any, By::Anybody),
    f("standinUnmodelled", &[], On::Any, By::Anybody),
];

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    let shared = &call.node.shared;
    match call.name {
        "version" => Ok(Value::string(version(call.node))),
        "getNodeAlias" => Ok(Value::string(shared.alias())),
        "getNodeType" => Ok(Value::int(shared.role.number())),
        "getNodeHost" => Ok(Value::string(shared.site.host.clone())),
        "getNodePort" => Ok(Value::int(i32::from(shared.site.port))),
        "getControllerAlias" => call.node.leader().await.map(Value::string),
        "getActiveMaster" => call.node.leader().await.map(Value::string),
        "isControllerInitialized" => controller_initialized(call.node).await,
        "isDataNodeInitialized" => Ok(Value::bool(call.node.is_ready().await)),
        "isNodeInitialized" => Ok(Value::bool(call.node.is_ready().await)),
        "getRequiredAPIVersion" => Ok(Value::any([Value::int(0), Value::string("")])),
        "isClientAuth" => Ok(Value::bool(shared.is_on("enableClientAuth"))),
        "license" => Ok(license(call.node)),
        "getLicenseExpiration" => {
            let day = Value::string(shared.license.expiration.clone()).to_vector();
            let day = day.and_then(|day| day.cast(Type::Date)).map(|day| day.get(0));
            Ok(day.unwrap_or(Value::null()))
        }
        "sleep" => {
            let ms = u64::try_from(call.number(0)?).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(Value::Nothing)
        }
        "standinUnmodelled" => unmodelled(call.node),
        _ => Err(CallError::Unknown),
    }
}

/// What `version()` answers; a fault can make it lie.
pub(super) fn version(node: &Node) -> String {
    let shared = &node.shared;
    if let Some(version) = shared.faults.get(Kind::ReportOldVersion) {
        let has_date = version.contains(' ');
        return if has_date { version } else { format!("{version} {}", shared.trailer.date) };
    }
    let line = shared.trailer.version_line();
    if !shared.version.names_platform() {
        return line;
    }
    let mut words = line.split(' ');
    let (number, date) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let flags: Vec<&str> = words.collect();
    let platform = ["LINUX", "x86_64"];
    [&[number, date][..], &platform, &flags].concat().join(" ")
}

/// On a follower the question goes to the leader.
async fn controller_initialized(node: &Node) -> Outcome {
    let Brain::Controller(engine) = &node.brain else { return Err(CallError::Unknown) };
    let look = |m: &mut crate::node::controller::ControllerMachine, now| {
        let leader = m.controller.raft().leader().cloned();
        (m.controller.is_leader(now), m.controller.is_initialized(now), leader)
    };
    let (leads, initialized, leader) = engine.look(look).await.map_err(CallError::Error)?;
    if leads || leader.is_none() {
        return Ok(Value::bool(initialized));
    }
    Err(node.not_leader(leader.as_deref()))
}

fn license(node: &Node) -> Value {
    let license = &node.shared.license;
    Value::dictionary([
        ("authorization", Value::string(license.authorization.clone())),
        ("licenseType", Value::int(license.license_type)),
        ("maxMemoryPerNode", Value::int(license.max_memory_per_node)),
        ("bindCores", Value::null()),
        ("maxCoresPerNode", Value::int(license.max_cores_per_node)),
        ("clientName", Value::string(license.client_name.clone())),
        ("port", Value::int(0)),
        ("bindCPU", Value::bool(false)),
        ("expiration", {
            let day = Value::string(license.expiration.clone()).to_vector();
            day.and_then(|day| day.cast(Type::Date)).map_or(Value::null(), |day| day.get(0))
        }),
        ("maxNodes", Value::int(license.max_nodes)),
        ("version", Value::string(license.version.clone())),
        ("modules", Value::long(license.modules)),
    ])
}

/// How much clients wanted that this stand-in does not have, and the last of it.
fn unmodelled(node: &Node) -> Outcome {
    let (count, last) = node.memory.unmodelled();
    let mut rows = Rows::new(&[("what", Type::String)]);
    for what in last {
        rows.push([text(what)]);
    }
    Ok(Value::dictionary([
        ("count", Value::long(i64::try_from(count).unwrap_or(i64::MAX))),
        ("last", rows.done()?),
    ]))
}

/// Is a role one of those that keep or compute data?
pub(super) fn is_worker(role: Role) -> bool {
    matches!(role, Role::DataNode | Role::ComputeNode)
}

/// Texts as an answer.
pub(super) fn texts(texts: impl IntoIterator<Item = String>) -> Value {
    Value::Vector(Vector::strings(texts))
}
