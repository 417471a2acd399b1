//! What a context promises a step: fresh goes, values captured once, limits that hold.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use grayfin_agent::steps::{
    Context, Coordination, Denied, GO_FRESH_MAX, Record, Records, Reporting, StepError, Stop, Why,
    testing::{Double, work},
};
use grayfin_types::{
    Code, NodeAlias,
    step::{Happened, Step},
};

fn start() -> (Arc<Double>, Context) {
    let double = Arc::new(Double::default());
    let ctx = double.context(work(), Step::Stop);
    (double, ctx)
}

fn nodes() -> Vec<NodeAlias> {
    vec!["ctl43".parse().unwrap()]
}

#[tokio::test(start_paused = true)]
async fn a_go_is_durable_intent_while_it_is_fresh_and_worth_nothing_later() {
    let (double, ctx) = start();
    let go = ctx.ask_go(&nodes()).await.unwrap();
    assert!(double.records().is_empty(), "asking alone disturbs nothing");
    tokio::time::advance(GO_FRESH_MAX).await;
    ctx.going_down(go).unwrap();
    assert_eq!(double.records(), [Record::GoingDown { nodes: nodes() }]);

    let go = ctx.ask_go(&nodes()).await.unwrap();
    tokio::time::advance(GO_FRESH_MAX + Duration::from_millis(1)).await;
    assert_eq!(ctx.going_down(go).unwrap_err().code, Code::NoGo);
    assert_eq!(double.records().len(), 1);

    double.deny(Denied { reasons: Vec::new(), why: "no".to_owned() });
    assert_eq!(ctx.ask_go(&nodes()).await.unwrap_err().code, Code::NoGo);
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_down_after_an_abort_or_the_limit() {
    let (double, whole) = start();
    let stop = Stop::default();
    let ctx = whole.for_step(Step::Stop, false, Duration::from_secs(3), stop.clone());
    let go = ctx.ask_go(&nodes()).await.unwrap();
    stop.ask(Why::Aborted);
    stop.ask(Why::Deadline);
    assert_eq!(stop.asked(), Some(Why::Aborted), "the first reason stays");
    assert_eq!(ctx.going_down(go).unwrap_err().code, Code::Aborted);
    assert_eq!(ctx.ask_go(&nodes()).await.unwrap_err().code, Code::Aborted);

    let late = whole.for_step(Step::Stop, false, Duration::from_secs(3), Stop::default());
    let go = late.ask_go(&nodes()).await.unwrap();
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(late.going_down(go).unwrap_err().code, Code::StepTimeout);
    assert!(double.records().is_empty());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_limit_or_the_stop() {
    let (_, whole) = start();
    let stop = Stop::default();
    let ctx = whole.for_step(Step::Backup, true, Duration::from_secs(3), stop.clone());
    let forever = ctx.until(std::future::pending::<()>()).await;
    let error = forever.unwrap_err();
    assert_eq!(error.code, Code::StepTimeout);
    assert!(error.message.contains("undoing step `backup`"), "{error}");
    assert!(ctx.remaining().is_zero());
    stop.ask(Why::Aborted);
    assert_eq!(ctx.until(std::future::pending::<()>()).await.unwrap_err().code, Code::Aborted);
    assert_eq!(whole.until(async { 7 }).await, Ok(7));
}

#[tokio::test]
async fn the_first_captured_value_counts_and_a_full_disk_is_told() {
    let (double, ctx) = start();
    assert_eq!(ctx.captured::<u32>("unit"), Ok(None));
    assert_eq!(ctx.capture("unit", &1u32), Ok(1));
    assert_eq!(ctx.capture("unit", &2u32), Ok(1), "never read again (S10)");
    assert_eq!(ctx.captured::<String>("unit").unwrap_err().code, Code::LedgerCorrupt);
    ctx.journal("pid", &7u32).unwrap();
    ctx.journal("pid", &8u32).unwrap();
    assert_eq!(ctx.journalled::<u32>(Step::Stop, "pid"), Ok(vec![7, 8]));
    assert_eq!(ctx.journalled::<u32>(Step::Quiesce, "pid"), Ok(vec![]));
    double.undone(Step::Stop);
    assert_eq!(ctx.journalled::<u32>(Step::Stop, "pid"), Ok(vec![]));
    double.break_ledger(Some(StepError::new(Code::DiskTooSmall, "full")));
    assert_eq!(ctx.journal("pid", &9u32).unwrap_err().code, Code::DiskTooSmall);
    assert_eq!(ctx.capture("other", &9u32).unwrap_err().code, Code::DiskTooSmall);
}

#[tokio::test]
async fn blocking_work_is_waited_for_even_if_its_step_is_dropped() {
    let (_, ctx) = start();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let mine = ctx.clone();
    let step = tokio::spawn(async move {
        let work = mine.blocking(move |_| {
            let Err(_) = ended.recv() else { return Ok(()) };
            Ok(())
        });
        work.await
    });
    while futures_pending(&ctx).await.is_none() {
        tokio::task::yield_now().await;
    }
    step.abort();
    drop(step.await);
    assert!(futures_pending(&ctx).await.is_some(), "the work still runs");
    drop(end);
    ctx.quiet().await;
    assert_eq!(ctx.blocking(|_| Ok(3)).await, Ok(3));
}

/// Some while blocking work runs.
async fn futures_pending(ctx: &Context) -> Option<()> {
    let quiet = ctx.quiet();
    tokio::pin!(quiet);
    tokio::select! {
        biased;
        () = &mut quiet => None,
        () = std::future::ready(()) => Some(()),
    }
}

#[tokio::test]
async fn reports_name_their_step() {
    let (double, ctx) = start();
    ctx.progress(1, 2, "files");
    ctx.node(&nodes()[0], "stopping");
    let seen = double.passing();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|(step, undo, _)| (*step, *undo) == (Step::Stop, false)));
    assert!(matches!(&seen[1].2, Happened::Node { state, .. } if state == "stopping"));
    let ports: Arc<Double> = double;
    let whole = Context::new(
        Arc::new(work()),
        Arc::clone(&ports) as Arc<dyn Records>,
        Arc::clone(&ports) as Arc<dyn Coordination>,
        ports as Arc<dyn Reporting>,
    );
    assert!(whole.remaining().is_zero(), "only a step\'s context has time");
}
