//! Jobs, sessions and connections.

use std::path::PathBuf;
use std::sync::Arc;

use standin_lang::eval::{self, CallError, Session};
use standin_lang::value::{Cell, Type, Value};

use super::table::{Rows, int, maybe, text};
use super::{By, Call, Caller, Function, On, Outcome, f};
use crate::config::{Role, wildcard_matches};
use crate::node::Node;
use crate::node::log::local_ms;
use crate::node::shared::Shared;
use crate::store::{self, lines};

pub(super) const FUNCTIONS: &[Function] = &[
    f("submitJob", &["jobId", "jobDesc", "jobDef"], On::Any, By::Users),
    f("cancelJob", &["jobId"], On::Any, By::Users),
    f("getRecentJobs", &["top"], On::Any, By::Anybody),
    f("getConsoleJobs", &[], On::Any, By::Anybody),
    f(
        "scheduleJob",
        &[
            "jobId",
            "jobDesc",
            "jobFunc",
            "scheduleTime",
            "startDate",
            "endDate",
            "frequency",
            "days",
        ],
        On::Any,
        By::Users,
    ),
    f("deleteScheduledJob", &["jobId"], On::Any, By::Users),
    f("getScheduledJobs", &["jobIdPattern"], On::Any, By::Anybody),
    f("getBackupStatus", &["userName"], On::Any, By::Anybody),
    f("getSessionMemoryStat", &[], On::Any, By::Anybody),
    f("getConnections", &[], On::Any, By::Anybody),
];

/// A batch job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    id: String,
    root: String,
    description: String,
    user: String,
    remote: std::net::SocketAddr,
    received_ms: i64,
    ended_ms: Option<i64>,
    error: String,
    handle: Option<tokio::task::AbortHandle>,
}

/// A scheduled job. It is listed and kept on disk; this stand-in never runs one.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Scheduled {
    id: String,
    description: String,
    user: String,
    function: String,
    /// Minutes of the day.
    at: i64,
    start: i64,
    end: i64,
    frequency: String,
    days: Option<i64>,
}

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    match call.name {
        "submitJob" => submit(call),
        "cancelJob" => {
            let ids = call.texts(0)?;
            for job in call.node.memory.jobs().iter_mut().filter(|job| ids.contains(&job.id)) {
                if let Some(handle) = job.handle.take() {
                    handle.abort();
                    job.ended_ms = Some(local_ms());
                    "The job was cancelled.".clone_into(&mut job.error);
                }
            }
            Ok(Value::Nothing)
        }
        "getRecentJobs" => recent(call),
        "getConsoleJobs" => console(call.node),
        "scheduleJob" => schedule(call),
        "deleteScheduledJob" => {
            let id = call.text(0)?;
            call.node.memory.scheduled().retain(|job| job.id != id);
            save(call.node)?;
            Ok(Value::Nothing)
        }
        "getScheduledJobs" => scheduled(call),
        "getBackupStatus" => Rows::new(&[
            ("userName", Type::String),
            ("type", Type::String),
            ("startTime", Type::Timestamp),
            ("dbName", Type::String),
            ("tableName", Type::String),
            ("totalPartitions", Type::Long),
            ("completedPartitions", Type::Long),
            ("percentComplete", Type::Double),
            ("endTime", Type::Timestamp),
            ("completed", Type::Int),
        ])
        .done(),
        "getSessionMemoryStat" => session_memory(call.node),
        "getConnections" => connections(call.node),
        _ => Err(CallError::Unknown),
    }
}

fn submit(call: &mut Call<'_>) -> Outcome {
    let (id, description) = (call.text(0)?, call.arg(1).as_str().unwrap_or("").to_owned());
    let Value::Function(function) = call.arg(2).clone() else {
        return Err(call.wrong(2, "a function"));
    };
    let args: Vec<Value> = call.args.iter().skip(3).cloned().collect();
    let mut session = Session::new("0");
    session.user.clone_from(&call.session.user);
    session.admin = call.session.admin;
    session.rights.clone_from(&call.session.rights);
    // Functions that the script defined are called by the job as well.
    session.variables = call
        .session
        .variables
        .iter()
        .filter(|(_, value)| matches!(value, Value::Function(_)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut jobs = call.node.memory.jobs();
    let taken = |id: &str| jobs.iter().any(|job| job.id == id);
    let unique = (0..).map(|n| if n == 0 { id.clone() } else { format!("{id}{:03}", n - 1) });
    let id = unique.into_iter().find(|id| !taken(id)).unwrap_or_default();
    let root = uuid::Uuid::new_v4().to_string();
    let (node, ended) = (Arc::clone(call.node), root.clone());
    let task = tokio::spawn(async move {
        let caller = Caller::internal(Arc::clone(&node));
        let outcome = eval::apply(&caller, &mut session, &function, args).await;
        let mut jobs = node.memory.jobs();
        if let Some(job) = jobs.iter_mut().find(|job| job.root == ended) {
            job.ended_ms = Some(local_ms());
            job.handle = None;
            if let Err(error) = outcome {
                job.error = error.to_string();
            }
        }
    });
    jobs.push(Job {
        id: id.clone(),
        root,
        description,
        user: call.session.user.clone(),
        remote: call.caller.remote,
        received_ms: local_ms(),
        ended_ms: None,
        error: String::new(),
        handle: Some(task.abort_handle()),
    });
    Ok(Value::string(id))
}

fn recent(call: &Call<'_>) -> Outcome {
    let jobs = call.node.memory.jobs();
    let top = call.arg(0).as_i64().and_then(|n| usize::try_from(n).ok()).unwrap_or(jobs.len());
    let mut rows = Rows::new(&[
        ("node", Type::String),
        ("userID", Type::String),
        ("jobId", Type::String),
        ("rootJobId", Type::String),
        ("jobDesc", Type::String),
        ("priority", Type::Int),
        ("parallelism", Type::Int),
        ("clientIp", Type::String),
        ("clientPort", Type::Int),
        ("receivedTime", Type::Timestamp),
        ("startTime", Type::Timestamp),
        ("endTime", Type::Timestamp),
        ("errorMsg", Type::String),
    ]);
    for job in jobs.iter().skip(jobs.len().saturating_sub(top)) {
        rows.push([
            text(call.node.shared.alias()),
            text(job.user.clone()),
            text(job.id.clone()),
            text(job.root.clone()),
            text(job.description.clone()),
            int(4),
            int(2),
            text(job.remote.ip().to_string()),
            int(job.remote.port()),
            int(job.received_ms),
            int(job.received_ms),
            maybe(job.ended_ms),
            text(job.error.clone()),
        ]);
    }
    rows.done()
}

fn console(node: &Node) -> Outcome {
    let mut rows = Rows::new(&[
        ("node", Type::String),
        ("userID", Type::String),
        ("rootJobId", Type::String),
        ("jobType", Type::String),
        ("desc", Type::String),
        ("priority", Type::Int),
        ("parallelism", Type::Int),
        ("receiveTime", Type::Timestamp),
        ("sessionId", Type::Long),
        ("remoteIP", Type::String),
        ("remotePort", Type::Int),
        ("totalTasks", Type::Int),
        ("finishedTasks", Type::Int),
        ("runningTask", Type::Int),
        ("firstTaskStartTime", Type::Timestamp),
        ("latestTaskStartTime", Type::Timestamp),
        ("queue", Type::String),
    ]);
    for connection in node.sessions.all() {
        let Some((what, since)) = connection.running else { continue };
        rows.push([
            text(node.shared.alias()),
            text(connection.user),
            text(format!("{}-{since}", connection.session)),
            text("script"),
            text(what),
            int(4),
            int(2),
            int(since),
            int(connection.session.parse::<i64>().unwrap_or(0)),
            text(connection.remote.ip().to_string()),
            int(connection.remote.port()),
            int(1),
            int(0),
            int(1),
            int(since),
            int(since),
            text("normal queue"),
        ]);
    }
    rows.done()
}

fn path_of(shared: &Shared) -> PathBuf {
    // A controller without high availability keeps its state in the home folder itself.
    let alone = shared.role == Role::Controller && !shared.ha;
    let folder = if alone { &shared.places.home } else { &shared.places.own };
    folder.join("sysmgmt/jobCheckPoint.meta")
}

/// The scheduled jobs on disk.
pub(super) fn load(shared: &Shared) -> Result<Vec<Scheduled>, store::Error> {
    if shared.role == Role::DdbAgent {
        return Ok(Vec::new());
    }
    let path = path_of(shared);
    let jobs = lines::read(&path, &shared.version)?.map(|file| file.lines).unwrap_or_default();
    if path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok()) {
        lines::replace(&path, &shared.version, &jobs, false)?;
        lines::replace::<u8>(&path.with_file_name("jobEditlog.meta"), &shared.version, &[], false)?;
    }
    Ok(jobs)
}

fn save(node: &Node) -> Result<(), CallError> {
    let jobs = node.memory.scheduled();
    lines::replace(&path_of(&node.shared), &node.shared.version, &jobs, true)
        .map_err(|error| CallError::Error(error.to_string()))
}

fn schedule(call: &Call<'_>) -> Outcome {
    let Value::Function(function) = call.arg(2) else { return Err(call.wrong(2, "a function")) };
    let job = Scheduled {
        id: call.text(0)?,
        description: call.arg(1).as_str().unwrap_or("").to_owned(),
        user: call.session.user.clone(),
        function: function.name.clone(),
        at: call.number(3)?,
        start: call.number(4)?,
        end: call.number(5)?,
        frequency: call.arg(6).as_str().unwrap_or("D").to_owned(),
        days: call.arg(7).as_i64(),
    };
    let id = job.id.clone();
    {
        let mut jobs = call.node.memory.scheduled();
        jobs.retain(|known| known.id != id);
        jobs.push(job);
    }
    save(call.node)?;
    Ok(Value::string(id))
}

fn scheduled(call: &Call<'_>) -> Outcome {
    let pattern = call.arg(0).as_str().unwrap_or("%");
    let mut rows = Rows::new(&[
        ("userId", Type::String),
        ("jobId", Type::String),
        ("jobDesc", Type::String),
        ("startDate", Type::Date),
        ("endDate", Type::Date),
        ("frequency", Type::String),
        ("scheduleTime", Type::Minute),
        ("days", Type::Int),
    ]);
    let jobs = call.node.memory.scheduled();
    for job in jobs.iter().filter(|job| wildcard_matches(pattern, &job.id)) {
        rows.push([
            text(job.user.clone()),
            text(job.id.clone()),
            text(job.description.clone()),
            int(job.start),
            int(job.end),
            text(job.frequency.clone()),
            int(job.at),
            maybe(job.days),
        ]);
    }
    rows.done()
}

fn session_memory(node: &Node) -> Outcome {
    let mut rows = Rows::new(&[
        ("userId", Type::String),
        ("sessionId", Type::Long),
        ("memSize", Type::Long),
        ("remoteIP", Type::IpAddr),
        ("remotePort", Type::Int),
        ("createTime", Type::Timestamp),
        ("lastActiveTime", Type::Timestamp),
    ]);
    for cache in ["__SharedTable__", "__OLAPCacheEngine__", "__TSDBCacheEngine__"] {
        rows.push([text(cache), Cell::Null, int(0), Cell::Bytes(vec![0; 16])]);
    }
    for connection in node.sessions.all() {
        let address = match connection.remote.ip() {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mut octets = vec![0; 16 - address.len()];
        octets.extend(address);
        rows.push([
            text(connection.user),
            int(connection.session.parse::<i64>().unwrap_or(0)),
            int(1_024),
            Cell::Bytes(octets),
            int(connection.remote.port()),
            int(connection.since_ms),
            int(connection.active_ms),
        ]);
    }
    rows.done()
}

fn connections(node: &Node) -> Outcome {
    let mut rows = Rows::new(&[
        ("server", Type::String),
        ("client", Type::String),
        ("startTime", Type::Timestamp),
    ]);
    for connection in node.sessions.all() {
        rows.push([
            text(node.shared.site.address()),
            text(connection.remote.to_string()),
            int(connection.since_ms),
        ]);
    }
    rows.done()
}

/// Runs `startup.dos` of a data or compute node, if there is one; what goes wrong in it does not
/// fail the start.
pub(crate) async fn run_startup_script(node: &Arc<Node>) {
    let places = &node.shared.places;
    let name = node.shared.setting("startup").unwrap_or("startup.dos");
    let folders = [&places.home, &places.work, &places.server];
    let found = folders.iter().find_map(|folder| std::fs::read_to_string(folder.join(name)).ok());
    let Some(source) = found else { return };
    let caller = Caller::internal(Arc::clone(node));
    let mut session = Session::new("0");
    "admin".clone_into(&mut session.user);
    session.admin = true;
    if let Err(text) = eval::run_script(&caller, &mut session, &source).await {
        node.shared.log.error(&format!("Failed to run the startup script [{name}]: {text}"));
    }
}
