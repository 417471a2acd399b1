//! The group of coordinators.

use std::fmt::Write;

use grayfin_proto::v1::{CoordinatorLine, CoordinatorsAnswer};
use jiff::tz::TimeZone;

use super::{
    clock,
    table::{row, table},
};

fn role(answer: &CoordinatorsAnswer, one: &CoordinatorLine) -> &'static str {
    match (one.id == answer.leader, one.voter) {
        (true, _) => "leads",
        (false, true) => "follows",
        (false, false) => "learns",
    }
}

/// Writes who is there.
pub(crate) fn list(answer: &CoordinatorsAnswer) -> String {
    let mut rows = vec![row(["ID", "ADDRESS", "ROLE"])];
    for one in &answer.coordinators {
        rows.push(row([&one.id.to_string(), &one.address, role(answer, one)]));
    }
    let mut out = table(&rows);
    out.push_str(&foot(answer));
    out
}

/// Writes who is there, who answers, and what was done to the group.
pub(crate) fn status(answer: &CoordinatorsAnswer, zone: &TimeZone) -> String {
    let mut rows = vec![row(["ID", "ADDRESS", "ROLE", "ANSWERS", "BEHIND"])];
    for one in &answer.coordinators {
        let reached = if one.reached { "yes" } else { &one.why };
        let behind = if answer.confirmed { one.behind.to_string() } else { "unknown".to_owned() };
        rows.push(row([&one.id.to_string(), &one.address, role(answer, one), reached, &behind]));
    }
    let mut out = table(&rows);
    out.push_str(&foot(answer));
    let mut line = |args: std::fmt::Arguments<'_>| {
        // A `String` takes everything.
        out.write_fmt(args).ok();
        out.push('\n');
    };
    line(format_args!("group {}, incarnation {}", answer.group, answer.incarnation));
    let voters = answer.coordinators.iter().filter(|c| c.voter).count();
    let needed = voters / 2 + 1;
    let here = answer.coordinators.iter().filter(|c| c.voter && c.reached).count();
    if here < needed {
        line(format_args!(
            "no majority: {here} of {voters} answer, {needed} are needed; nothing can be changed"
        ));
    } else if voters > 1 {
        line(format_args!("{} of them may fail", here - needed));
    }
    for act in &answer.acts {
        line(format_args!(
            "{}  {}  {} {}  {}",
            clock(act.at_ms, zone),
            act.by,
            act.what,
            act.id,
            act.reason
        ));
    }
    out
}

fn foot(answer: &CoordinatorsAnswer) -> String {
    let nobody = if answer.leader == 0 { "nobody leads\n" } else { "" };
    format!("{nobody}term {}, answered by {}\n", answer.term, answer.answering)
}

/// Writes who gave no answer to this program.
pub(crate) fn silent(silent: &[(String, String)]) -> String {
    silent.iter().map(|(address, why)| format!("`{address}` does not answer: {why}\n")).collect()
}
