//! A plan, host by host.

use grayfin_types::{
    facts::{BackupClass, BackupPart, Probe},
    plan::{CanarySpec, Compatibility, HostPlan, Plan, RecoveryPolicy, StaysAlive, UpgradeMode},
};

use super::{
    bytes, duration,
    findings::line,
    table::{row, table},
};

/// Writes a plan.
pub(crate) fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    let todo = plan.hosts.iter().filter(|h| !h.already_done).count();
    let short = plan.hash.get(..12).unwrap_or(&plan.hash);
    line(
        &mut out,
        format_args!(
            "plan {short} for {}: to {}, {todo} host(s), one at a time",
            plan.cluster, plan.target
        ),
    );
    let package = &plan.package;
    let mut rows = vec![
        row(["", "compatibility", &compatibility(&plan.compatibility)]),
        row([
            "",
            "package",
            &format!(
                "{}, {}, SHA-256 {}…",
                package.file,
                bytes(package.bytes),
                package.sha256.get(..16).unwrap_or(&package.sha256)
            ),
        ]),
        row(["", "replaced by", mode(plan.mode)]),
        row(["", "canary", &canary(&plan.canary)]),
        row([
            "",
            "after each host",
            &format!("all well for {} before the next", duration(plan.policy.soak_ms)),
        ]),
        row(["", "recovery", recovery(plan.policy.recovery)]),
        row(["", "SIGKILL", if plan.policy.allow_kill { "allowed" } else { "never" }]),
    ];
    for set_aside in &plan.overrides {
        let text = format!("{}: {} (`{}`)", set_aside.gate, set_aside.reason, set_aside.by);
        rows.push(row(["", "set aside", &text]));
    }
    for loss in &plan.accepted_losses {
        rows.push(row(["", "accepted loss", loss]));
    }
    out.push_str(&table(&rows));
    for (at, host) in plan.hosts.iter().enumerate() {
        out.push('\n');
        out.push_str(&host_plan(at + 1, host));
    }
    out.push('\n');
    line(&mut out, format_args!("point of no return, on each host: {}", plan.point_of_no_return));
    out
}

fn host_plan(number: usize, host: &HostPlan) -> String {
    let mut out = String::new();
    let from = host.from.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    line(&mut out, format_args!("{number}. {} (now {from}): {}", host.host, host.reason));
    if host.already_done {
        return out;
    }
    let nodes: Vec<String> =
        host.nodes.iter().map(|n| format!("{} ({})", n.alias, n.role)).collect();
    let mut rows = vec![
        row(["  ", "stopped", &nodes.join(", ")]),
        row(["  ", "stays alive", &stays(&host.stays)]),
        row(["  ", "backed up", &format!("{} to {}", total(&host.backup), host.backup_dir)]),
    ];
    for object in &host.memory {
        let name = format!("{}/{}/{}", object.node, object.kind, object.name);
        let fate = if object.provided_for { "made again at start" } else { "vanishes" };
        rows.push(row(["  ", "in memory only", &format!("{name}: {fate}")]));
    }
    out.push_str(&table(&rows));
    let parts: Vec<Vec<String>> = host
        .backup
        .iter()
        .filter(|part| part.bytes != Probe::Known(None))
        .map(|part| {
            let node = if part.node.is_empty() { "installation" } else { &part.node };
            row(["     ", class(part.class), &size(part), node, &part.what, &part.path])
        })
        .collect();
    out.push_str(&table(&parts));
    out
}

fn stays(stays: &StaysAlive) -> String {
    let mut words = vec![
        format!("{} of {} controllers", stays.controllers, stays.controllers_of),
        format!("{} of {} data nodes", stays.data_nodes, stays.data_nodes_of),
    ];
    words.push(stays.replicas_min.map_or_else(
        || "no chunk is known".to_owned(),
        |least| format!("{least} current replica(s) of every chunk at least"),
    ));
    for (id, stay, of) in &stays.groups {
        words.push(format!("{id}: {stay} of {of} members"));
    }
    words.join(", ")
}

fn total(parts: &[BackupPart]) -> String {
    let mut sum = 0u64;
    let mut unknown = false;
    for part in parts {
        match &part.bytes {
            Probe::Known(found) => sum = sum.saturating_add(found.unwrap_or(0)),
            Probe::Unknown(_) => unknown = true,
        }
    }
    if unknown { format!("{} or more", bytes(sum)) } else { bytes(sum) }
}

fn size(part: &BackupPart) -> String {
    match &part.bytes {
        Probe::Known(Some(count)) => bytes(*count),
        Probe::Known(None) => "absent".to_owned(),
        Probe::Unknown(why) => format!("unknown ({why})"),
    }
}

const fn class(class: BackupClass) -> &'static str {
    match class {
        BackupClass::Must => "must",
        BackupClass::Should => "should",
        BackupClass::Optional => "optional",
    }
}

fn compatibility(found: &Compatibility) -> String {
    let level = match (found.patch, found.level) {
        (true, _) => "patch, allowed".to_owned(),
        (false, Some(level)) => format!("level {level} of 5"),
        (false, None) => "not published".to_owned(),
    };
    format!("{level} ({})", found.why)
}

const fn mode(mode: UpgradeMode) -> &'static str {
    match mode {
        UpgradeMode::Native => "Grayfin, entry by entry",
        UpgradeMode::Script => "the site's upgrade script",
    }
}

const fn recovery(policy: RecoveryPolicy) -> &'static str {
    match policy {
        RecoveryPolicy::Refuse => {
            "a host that would be down longer than the recovery wait is refused"
        }
        RecoveryPolicy::Allow => "re-replication while a host is down is allowed and waited for",
        RecoveryPolicy::Suspend => "suspended while a host is down",
    }
}

fn canary(spec: &CanarySpec) -> String {
    match spec {
        CanarySpec::Off => "off: nobody proves that writing goes on".to_owned(),
        CanarySpec::New { rows_per_second } => {
            format!("a database of its own, {rows_per_second} rows a second")
        }
        CanarySpec::Table { database, table, rows_per_second } => {
            format!("{database}, table {table}, {rows_per_second} rows a second")
        }
    }
}
