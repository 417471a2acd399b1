//! Hosts, their agents and nodes.

use grayfin_types::status::HostLine;

use super::{
    duration,
    findings::line,
    table::{row, table},
};

/// Writes hosts.
pub(crate) fn hosts(hosts: &[HostLine]) -> String {
    if hosts.is_empty() {
        return "no host agent has enrolled yet\n".to_owned();
    }
    let mut rows = vec![row([
        "HOST", "CLUSTERS", "AGENT", "LOOKED", "HOLD", "NODE", "ROLE", "STATE", "VERSION",
    ])];
    for host in hosts {
        let clusters: Vec<_> = host.clusters.iter().map(ToString::to_string).collect();
        let agent =
            if host.connected { host.agent_version.clone() } else { "not connected".to_owned() };
        let looked = host
            .facts_age_ms
            .map_or_else(|| "-".to_owned(), |age| format!("{} ago", duration(age)));
        let hold = host.open_hold.map_or_else(|| "-".to_owned(), |token| token.to_string());
        let mut first = row([host.host.as_str(), &clusters.join(" "), &agent, &looked, &hold]);
        let mut nodes = host.nodes.iter();
        if let Some((alias, role, state, version)) = nodes.next() {
            first.extend(row([alias, role, state, version]));
        }
        rows.push(first);
        for (alias, role, state, version) in nodes {
            rows.push(row(["", "", "", "", "", alias, role, state, version]));
        }
    }
    let mut out = table(&rows);
    for host in hosts {
        for problem in &host.problems {
            line(
                &mut out,
                format_args!(
                    "{} {}: {}: {}",
                    problem.code, host.host, problem.subject, problem.detail
                ),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use grayfin_types::{Code, Token, facts::Problem};

    use super::*;

    #[test]
    fn hosts_show_agents_nodes_and_problems() {
        let node = |alias: &str, role: &str| {
            (alias.to_owned(), role.to_owned(), "up".to_owned(), "2.00.8.10".to_owned())
        };
        let lines = [
            HostLine {
                host: "db1".parse().unwrap(),
                clusters: vec!["trade".parse().unwrap()],
                connected: true,
                agent_version: "0.1.0".to_owned(),
                facts_age_ms: Some(300),
                nodes: vec![node("ctl1", "controller"), node("node1", "data node")],
                open_hold: Some(Token(7)),
                problems: vec![Problem {
                    code: Code::CredentialsRefused,
                    subject: "node1".to_owned(),
                    detail: "user `probe` was refused".to_owned(),
                }],
            },
            HostLine {
                host: "db2".parse().unwrap(),
                clusters: vec!["trade".parse().unwrap()],
                connected: false,
                agent_version: "0.1.0".to_owned(),
                facts_age_ms: None,
                nodes: Vec::new(),
                open_hold: None,
                problems: Vec::new(),
            },
        ];
        let expected = "\
HOST  CLUSTERS  AGENT          LOOKED     HOLD  NODE   ROLE        STATE  VERSION
db1   trade     0.1.0          0.3 s ago  7     ctl1   controller  up     2.00.8.10
                                                node1  data node   up     2.00.8.10
db2   trade     not connected  -          -
GF0201 db1: node1: user `probe` was refused
";
        assert_eq!(hosts(&lines), expected);
    }
}
