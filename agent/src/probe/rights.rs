//! Whether the account that stops and starts nodes may do so: found out before it is needed. A host
//! whose data nodes were stopped and cannot be started again is the worst that a missing right can do.

use std::path::Path;

use grayfin_types::{
    Code,
    facts::{NodeSpec, Problem},
};

use super::credentials::Account;
use super::pool::{AskError, Pool};
use crate::ddb::{Call, Value};

/// What the account `operate` must be able to call. DolphinDB lets administrators do so only.
const NEEDED: &str = "startDataNode, stopDataNode";

/// Asks one node what the account may do; every node of a cluster knows the same accounts. A login
/// that is refused is told by the accounts themselves.
pub(super) async fn problems(
    pool: &Pool,
    spec: &NodeSpec,
    call: &Call,
    file: &Path,
) -> Vec<Problem> {
    let name = "getUserAccess";
    let subject = format!("{name} on {}", spec.alias);
    let unknown = |why: String| {
        let detail = format!("whether the account `operate` may call {NEEDED} is unknown: {why}");
        vec![Problem { code: Code::FactUnknown, subject: subject.clone(), detail }]
    };
    let answer = match pool.ask(spec, Account::Operate, name, &[], call).await {
        Ok(answer) => answer,
        Err(AskError::Login(_)) => return Vec::new(),
        Err(AskError::Call(crate::ddb::Error::Refused { .. })) => return Vec::new(),
        Err(error) => return unknown(error.words()),
    };
    match is_administrator(&answer) {
        Some((_, true)) => Vec::new(),
        Some((user, false)) => vec![Problem {
            code: Code::RightMissing,
            subject: NEEDED.to_owned(),
            detail: format!(
                "the account `operate` (user `{user}`) is no administrator and may not call {NEEDED}: this host's data nodes could be stopped by signal and not be started again. Make it one, or use another account in `{}`",
                file.display()
            ),
        }],
        None => unknown(format!("`{name}` does not say whether it is an administrator")),
    }
}

/// Tells whether nothing was found out.
pub(super) fn are_unknown(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.code == Code::FactUnknown)
}

/// The account's name, and whether it is an administrator.
fn is_administrator(answer: &Value) -> Option<(String, bool)> {
    let table = answer.table()?;
    let user = table.column("userId").and_then(|column| column.str(0).map(str::to_owned));
    let admin = table.column("isAdmin").and_then(|column| column.boolean(0))?;
    Some((user.unwrap_or_default(), admin))
}
