//! Verbs for the state of one coordinator: backup, restore, and going on without a majority.

use std::path::{Path, PathBuf};

use grayfin_coordinator_core::state::GroupAct;
use grayfin_proto::{identity::Identity, tls};
use grayfin_types::{Incarnation, raise::Raise};
use serde_json::json;

use super::{
    args::{Common, Recover, State},
    error::{Error, Exit},
    output::Output,
    show::now_ms,
};
use crate::{
    config::Config,
    store::recover::{self, Stopped},
};

fn failed(error: &dyn std::error::Error) -> Error {
    Error::from_chain(Exit::Refused, error)
}

fn config(file: &Path) -> Result<Config, Error> {
    let usage = |e: &crate::config::Error| Error::from_chain(Exit::Usage, e);
    let config = Config::read(file).map_err(|e| usage(&e))?;
    config.own_identity().map_err(|e| usage(&e))?;
    Ok(config)
}

/// `state backup` and `state restore`.
pub(crate) fn run(common: &Common, verb: &State, output: Output) -> Result<Exit, Error> {
    match verb {
        State::Backup { file, config: from } => {
            let config = config(from)?;
            let made = recover::backup(&config.state_dir, file).map_err(|e| failed(&e))?;
            let document = json!({
                "file": file, "group": made.group, "incarnation": made.incarnation,
            });
            output.either(&document, || {
                format!(
                    "`{}` has the state of group {}, incarnation {}; keep it as safe as the state itself\n",
                    file.display(),
                    made.group,
                    made.incarnation
                )
            })?;
            Ok(Exit::Done)
        }
        State::Restore { file, recover } => {
            let config = config(&recover.config)?;
            let operator = operator(common)?;
            let warning = format!(
                "This puts the state of `{}` back as a new group of one, coordinator {}. Whatever was decided after the backup is forgotten here; hosts may be further than it knows, and rollouts that were under way are halted. Every other coordinator of the old group is refused from then on.",
                file.display(),
                config.id
            );
            confirm(recover, "restore", &warning, output)?;
            recover::put_back(file, &config.state_dir).map_err(|e| failed(&e))?;
            let raised = raise(&config, &operator, GroupAct::Restore, recover);
            if raised.is_err() {
                take_away(&config.state_dir);
            }
            tell(GroupAct::Restore, &config, &raised?, output)
        }
    }
}

/// `coordinator force-recover`.
pub(crate) fn force_recover(
    common: &Common,
    recover: &Recover,
    output: Output,
) -> Result<Exit, Error> {
    let config = config(&recover.config)?;
    let operator = operator(common)?;
    let warning = format!(
        "This makes coordinator {} a new group of one with what it has. Only when a majority of the coordinators is lost for good: what they had acknowledged and this one had not yet received is forgotten. Rollouts that were under way are halted. Every other coordinator of the old group is refused from then on, by host agents too.",
        config.id
    );
    confirm(recover, "force-recover", &warning, output)?;
    let raised = raise(&config, &operator, GroupAct::ForceRecover, recover)?;
    tell(GroupAct::ForceRecover, &config, &raised, output)
}

/// The operator's files: host agents verify who did this.
fn operator(common: &Common) -> Result<tls::Files, Error> {
    let given = |file: &Option<PathBuf>, flag: &str| {
        file.clone().ok_or_else(|| {
            Error::usage(format!("`{flag}` is missing: an operator's certificate signs this act"))
        })
    };
    let files = tls::Files {
        ca: given(&common.ca, "--ca")?,
        cert: given(&common.cert, "--cert")?,
        key: given(&common.key, "--key")?,
    };
    match files.own_identity() {
        Ok(Identity::Operator(_)) => Ok(files),
        Ok(other) => Err(Error::usage(format!("`{other}` is no operator"))),
        Err(error) => Err(Error::from_chain(Exit::Usage, &error)),
    }
}

fn confirm(recover: &Recover, word: &str, warning: &str, output: Output) -> Result<(), Error> {
    if recover.reason.trim().is_empty() {
        return Err(Error::usage("this needs a `--reason`; it is on record"));
    }
    output.note(warning);
    if recover.yes {
        return Ok(());
    }
    if !output.can_ask() {
        return Err(Error::usage("nobody can be asked: this is no terminal")
            .hint("`--yes` does it without asking"));
    }
    if output.ask(&format!("Type `{word}` to do it: "))? == word {
        Ok(())
    } else {
        Err(Error::refused(grayfin_types::Code::Aborted, "nothing was changed"))
    }
}

fn raise(
    config: &Config,
    operator: &tls::Files,
    act: GroupAct,
    recover: &Recover,
) -> Result<(Raise, String), Error> {
    let stopped = Stopped::open(&config.state_dir).map_err(|e| failed(&e))?;
    let (from, at_ms) = (stopped.incarnation(), now_ms());
    let raise = Raise {
        group: stopped.group(),
        from,
        // Never the same twice, even if one backup is restored again and again.
        to: Incarnation(from.0.saturating_add(1).max(at_ms / 1_000)),
        act: act.to_string(),
        reason: recover.reason.clone(),
        at_ms,
    };
    if raise.group.is_empty() {
        return Err(Error::usage(format!(
            "`{}` is part of no group: there is nothing to go on with",
            config.state_dir.display()
        )));
    }
    let (signed, by) = grayfin_proto::raise::sign(operator, &raise).map_err(|e| failed(&e))?;
    // A signature that host agents would not accept must not end the old incarnation.
    grayfin_proto::raise::verify(&config.tls.ca, &signed).map_err(|e| failed(&e))?;
    stopped.go_on_alone(config.id, act, &raise, signed, &by).map_err(|e| failed(&e))?;
    Ok((raise, by))
}

fn take_away(state_dir: &Path) {
    let file = state_dir.join(crate::store::FILE_NAME);
    if let Err(error) = std::fs::remove_file(&file) {
        tracing::warn!(file = %file.display(), %error, "the half-restored state stays");
    }
}

fn tell(
    act: GroupAct,
    config: &Config,
    (raise, by): &(Raise, String),
    output: Output,
) -> Result<Exit, Error> {
    let document = json!({
        "act": act.word(), "coordinator": config.id, "group": raise.group,
        "from": raise.from, "to": raise.to, "by": by,
    });
    output.either(&document, || {
        format!(
            "coordinator {} goes on alone with group {}, incarnation {}; start it with `join = false`, then add new coordinators\n",
            config.id, raise.group, raise.to
        )
    })?;
    Ok(Exit::Done)
}
