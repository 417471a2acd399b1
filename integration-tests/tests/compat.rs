//! The pair of versions of the project's first document, 2.00.7.4 to 2.00.8.12: the vendor publishes
//! no rolling upgrade for it (level 2), so it is refused; with the risk accepted it works.
//!
//! Could run on a real cluster.

use std::collections::BTreeMap;

use anyhow::ensure;
use grayfin_types::Code;
use integration_tests::Options;
use integration_tests::suite::{self, Refusal, TO};

const OLD: &str = "2.00.7.4";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_documents_pair_needs_the_risk_accepted_and_then_works() {
    let options = Options { version: OLD.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let names = [OLD, TO, "level 2", "--accept-compat-risk"];
        let code = Code::CompatRisk;
        lab.ensure_refused(&Refusal { to: TO, more: &[], code, also: &[], names: &names }).await?;
        let accept = ["--accept-compat-risk", "the vendor says that this pair works"];
        let answer = lab.preflight(TO, &accept).await?;
        ensure!(answer.ready, "{:?}", suite::against(&answer));
        let plan = answer.plan.as_ref();
        let level = plan.and_then(|plan| plan.compatibility.level);
        ensure!(level == Some(2), "the plan does not show the level: {level:?}");
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &accept).await?;
        lab.wait_rollout(&id, suite::ROLLOUT_LIMIT).await?;
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())
    })
    .await;
}
