//! `preflight`, `plan`, `rollout start`: what is wished for, and what stands against it.

use std::time::Duration;

use grayfin_proto::{
    document,
    v1::{StartAnswer, StartRequest},
};
use grayfin_types::{
    Code,
    gate::{Decision, Finding},
    plan::{CanarySpec, PlanAnswer, PlanRequest, RecoveryPolicy, UpgradeMode},
};
use serde_json::json;

use super::{
    args::{self, Wish},
    client::Client,
    error::{Error, Exit},
    output::Output,
    render,
    values::CanaryChoice,
    watch,
};

/// The coordinator looks for up to 45 s (a package is hashed and read through) and then answers.
const PLAN_MAX: Duration = Duration::from_secs(75);

/// Looks whether a rollout could start now.
pub(crate) async fn preflight(client: &Client, wish: &Wish, output: Output) -> Result<Exit, Error> {
    let answer = ask(client, wish, output).await?;
    output.either(&answer, || {
        let mut text = render::findings::findings(&answer.findings);
        text.push_str(if answer.ready {
            "ready: a rollout could start now\n"
        } else {
            "not ready\n"
        });
        text
    })?;
    Ok(verdict(&answer))
}

/// Shows what a rollout would do.
pub(crate) async fn plan(client: &Client, wish: &Wish, output: Output) -> Result<Exit, Error> {
    let answer = ask(client, wish, output).await?;
    output.either(&answer, || shown(&answer))?;
    Ok(verdict(&answer))
}

/// How a rollout is started.
#[derive(Debug, Clone)]
pub(crate) struct How {
    /// Without asking.
    pub(crate) yes: bool,
    /// Watched until it ends.
    pub(crate) watch: bool,
    /// The wish's own id, if a program gave one.
    pub(crate) request_id: Option<String>,
}

/// Shows the plan, asks, starts, and watches if wanted.
pub(crate) async fn start(
    client: &Client,
    wish: &Wish,
    how: How,
    output: Output,
) -> Result<Exit, Error> {
    let mut plan_hash = String::new();
    if !how.yes {
        if !output.can_ask() {
            return Err(Error::usage("nobody can be asked: this is no terminal")
                .hint("`--yes` starts without asking; `grayfin plan` shows the plan"));
        }
        let answer = ask(client, wish, output).await?;
        let Some(plan) = answer.plan.as_ref().filter(|_| answer.ready) else {
            return Err(not_started(wish, &answer.findings));
        };
        output.note(&shown(&answer));
        let reply = output.ask("Start this rollout? Type `yes`: ")?;
        if reply != "yes" {
            return Err(Error::refused(Code::Aborted, "nothing was started: you did not say yes"));
        }
        plan_hash.clone_from(&plan.hash);
    }
    let request_id = how.request_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let started = send(client, wish, request_id, plan_hash).await?;
    let answer: PlanAnswer = document::read("PlanAnswer", started.answer.as_ref())
        .map_err(|e| Error::from_chain(Exit::Internal, &e))?;
    let Ok(id) = started.rollout.parse() else {
        return Err(not_started(wish, &answer.findings));
    };
    let hash = answer.plan.as_ref().map_or("", |p| p.hash.as_str());
    output.either(&json!({ "id": id, "plan_hash": hash }), || format!("rollout {id} started\n"))?;
    if how.watch {
        return watch::run(client, Some(&id), 1, output).await;
    }
    output.note(&format!("hint: `grayfin rollout watch {id}` shows how it goes"));
    Ok(Exit::Done)
}

async fn send(
    client: &Client,
    wish: &Wish,
    request_id: String,
    plan_hash: String,
) -> Result<StartAnswer, Error> {
    let request =
        StartRequest { request_id, request: Some(document::wrap(&request(wish))), plan_hash };
    client
        .call(PLAN_MAX, |mut operator| {
            let request = request.clone();
            async move { operator.start(request).await }
        })
        .await
}

async fn ask(client: &Client, wish: &Wish, output: Output) -> Result<PlanAnswer, Error> {
    output.note("looking at the cluster; packages are read through, which can take a while");
    let request = document::wrap(&request(wish));
    client
        .document("PlanAnswer", PLAN_MAX, |mut operator| {
            let request = request.clone();
            async move { operator.plan(request).await }
        })
        .await
}

fn shown(answer: &PlanAnswer) -> String {
    let mut text =
        answer.plan.as_ref().map_or_else(|| "no plan can be made\n".to_owned(), render::plan::plan);
    text.push('\n');
    text.push_str(&render::findings::findings(&answer.findings));
    text
}

fn verdict(answer: &PlanAnswer) -> Exit {
    let stops = |finding: &Finding| {
        finding.overridden.is_none() && matches!(finding.decision, Decision::Stop { .. })
    };
    if answer.ready {
        Exit::Done
    } else if answer.findings.iter().any(stops) {
        Exit::Refused
    } else {
        Exit::Held
    }
}

/// Makes the error of a rollout that was not started, from what stands against it: first what a
/// person must mend, then what may clear by itself.
fn not_started(wish: &Wish, findings: &[Finding]) -> Error {
    let against = |stop: bool| {
        findings
            .iter()
            .filter(move |f| {
                f.overridden.is_none() && matches!(f.decision, Decision::Stop { .. }) == stop
            })
            .flat_map(|f| f.decision.reasons().to_vec())
    };
    let stops: Vec<_> = against(true).collect();
    let held = stops.is_empty();
    let reasons = if held { against(false).collect() } else { stops };
    let message = format!("no rollout of `{}` to {} was started", wish.cluster, wish.to);
    let mut error = Error::from_reasons(message, &reasons);
    if held {
        error.exit = Exit::Held;
    }
    error
}

/// Makes the request from the command line.
pub(crate) fn request(wish: &Wish) -> PlanRequest {
    PlanRequest {
        cluster: wish.cluster.clone(),
        target: wish.to.clone(),
        mode: match wish.mode {
            args::Mode::Native => UpgradeMode::Native,
            args::Mode::Script => UpgradeMode::Script,
        },
        accept_compat_risk: wish.accept_compat_risk.clone(),
        overrides: wish.overrides.iter().map(|o| (o.gate.clone(), o.reason.clone())).collect(),
        accept_losses: wish.accept_loss.clone(),
        canary: match &wish.canary {
            CanaryChoice::Off => CanarySpec::Off,
            CanaryChoice::New => CanarySpec::New { rows_per_second: wish.rate },
            CanaryChoice::Table { database, table } => CanarySpec::Table {
                database: database.clone(),
                table: table.clone(),
                rows_per_second: wish.rate,
            },
        },
        soak_ms: wish.soak.map(|soak| soak.ms),
        recovery: wish.recovery.map(|recovery| match recovery {
            args::Recovery::Refuse => RecoveryPolicy::Refuse,
            args::Recovery::Allow => RecoveryPolicy::Allow,
            args::Recovery::Suspend => RecoveryPolicy::Suspend,
        }),
        allow_kill: wish.allow_kill,
        pause_after: match wish.pause_after {
            args::PauseAfter::Never => grayfin_types::plan::PauseAfter::Never,
            args::PauseAfter::First => grayfin_types::plan::PauseAfter::First,
            args::PauseAfter::Each => grayfin_types::plan::PauseAfter::Each,
        },
        // The coordinator knows it from the certificate.
        by: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use grayfin_types::gate::Reason;

    use super::*;

    fn finding(stop: bool, code: Code) -> Finding {
        let reasons = vec![Reason {
            code,
            subject: "db1".to_owned(),
            evidence: "seen".to_owned(),
            remedy: "do".to_owned(),
        }];
        let decision = if stop { Decision::Stop { reasons } } else { Decision::Hold { reasons } };
        Finding { gate: "g".to_owned(), rule: "S4".to_owned(), decision, overridden: None }
    }

    fn wish() -> Wish {
        use clap::Parser;
        let line = ["grayfin", "plan", "trade", "--to", "2.00.8.12", "--soak", "2s"];
        let args::Command::Plan(wish) = args::Cli::try_parse_from(line).unwrap().command else {
            panic!("`plan` was not understood");
        };
        wish
    }

    #[test]
    fn what_a_person_must_mend_goes_before_what_clears_by_itself() {
        let findings = [finding(false, Code::FactStale), finding(true, Code::NodeDown)];
        let error = not_started(&wish(), &findings);
        assert_eq!((error.code, error.exit), (Some(Code::NodeDown), Exit::Refused));
        let error = not_started(&wish(), &findings[..1]);
        assert_eq!((error.code, error.exit), (Some(Code::FactStale), Exit::Held));
    }

    #[test]
    fn a_verdict_is_done_refused_or_held() {
        let answer = |ready, findings| PlanAnswer { plan: None, findings, ready };
        assert_eq!(verdict(&answer(true, vec![finding(false, Code::FactStale)])), Exit::Done);
        assert_eq!(verdict(&answer(false, vec![finding(true, Code::NodeDown)])), Exit::Refused);
        assert_eq!(verdict(&answer(false, vec![finding(false, Code::NodeDown)])), Exit::Held);
    }

    #[test]
    fn the_command_line_becomes_a_request() {
        let request = request(&wish());
        assert_eq!(request.soak_ms, Some(2_000));
        assert_eq!(request.canary, CanarySpec::New { rows_per_second: 100 });
        assert_eq!(request.mode, UpgradeMode::Native);
    }
}
