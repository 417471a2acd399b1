//! Asking for a go, and fetching the package: what a running step needs of the coordinators.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use grayfin_agent_core::{
    Body,
    fence::{self, Standing},
};
use grayfin_proto::{
    MESSAGE_MAX, document,
    v1::{self, host_agent_link_client::HostAgentLinkClient},
};
use grayfin_types::{Code, NodeAlias, gate::Reason, plan::Package};
use sha2::{Digest, Sha256};
use tokio::{
    io::AsyncWriteExt,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{Connected, Link, orders};
use crate::{
    failpoint,
    steps::{Boxed, Coordination, Denied, StepError, Work},
};

/// How long one request waits for its answer before it is sent again, perhaps to another
/// coordinator. The coordinator confirms that it leads (one round among coordinators) and may wait
/// for a fresh look of the observer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A package that does not arrive at 64 KiB a second is given up; a step has its own limit too.
const CHUNK_MAX: Duration = Duration::from_secs(15);

impl Coordination for Link {
    fn ask_go<'a>(
        &'a self,
        work: &'a Work,
        nodes: &'a [NodeAlias],
        limit: Duration,
    ) -> Boxed<'a, Result<(), Denied>> {
        Box::pin(self.ask(work, nodes, Instant::now() + limit))
    }

    fn fetch_package<'a>(
        &'a self,
        work: &'a Work,
        package: &'a Package,
        target: &'a Path,
    ) -> Boxed<'a, Result<(), StepError>> {
        Box::pin(async move {
            failpoint::reach(&["act.fetch_package.before"]);
            let fetched = self.fetch(work, package, target).await;
            failpoint::reach(&["act.fetch_package.after"]);
            fetched
        })
    }
}

impl Link {
    async fn ask(&self, work: &Work, nodes: &[NodeAlias], deadline: Instant) -> Result<(), Denied> {
        let nobody = || Denied {
            reasons: Vec::new(),
            why: "no coordinator that leads answered in time".to_owned(),
        };
        let mut sessions = self.connected();
        loop {
            let session = match timeout_at(deadline, sessions.wait_for(Option::is_some)).await {
                Ok(Ok(now)) => now.clone(),
                Ok(Err(_)) | Err(_) => return Err(nobody()),
            };
            let Some(session) = session else { continue };
            let (request, mut answer) = self.expect_go();
            let asked = v1::GoRequest {
                cluster: work.installation.cluster.to_string(),
                token: work.token.0,
                request,
                nodes: nodes.iter().map(ToString::to_string).collect(),
            };
            let message = v1::from_host::Message::Go(asked);
            let until = deadline.min(Instant::now() + ANSWER_MAX);
            let answered = tokio::select! {
                // The session died: ask the next one.
                gone = sessions.wait_for(|now| now.as_ref().map(|s| s.id) != Some(session.id)) => {
                    drop(gone);
                    None
                }
                answered = timeout_at(until, exchange(&session, message, &mut answer)) => {
                    answered.ok().flatten()
                }
            };
            self.forget_go(request);
            match answered.and_then(|answer| self.judge(work, request, answer)) {
                Some(verdict) => return verdict,
                None if Instant::now() >= deadline => return Err(nobody()),
                None => {}
            }
        }
    }

    /// None if the answer does not count.
    fn judge(&self, work: &Work, request: u64, answer: v1::GoAnswer) -> Option<Result<(), Denied>> {
        let ours = answer.request == request
            && answer.token == work.token.0
            && answer.cluster == work.installation.cluster.as_str();
        let by = orders::authority(answer.authority.as_ref());
        let raised = self.ledger.decide(|state| match fence::authority(state, &by) {
            Ok(Standing::Known) => (None, true),
            Ok(Standing::Higher) => (Some(Body::Raised { authority: by.clone() }), true),
            Err(_) => (None, false),
        });
        if !ours || !matches!(raised, Ok((_, true))) {
            tracing::warn!(request, "an answer to a go request does not count");
            return None;
        }
        if answer.allowed {
            return Some(Ok(()));
        }
        let reasons: Vec<Reason> =
            document::read("reasons", answer.reasons.as_ref()).unwrap_or_default();
        Some(Err(Denied { reasons, why: "the coordinator gave no go".to_owned() }))
    }

    async fn fetch(&self, work: &Work, package: &Package, target: &Path) -> Result<(), StepError> {
        let session = self.connected().borrow().clone();
        let missing = |why: String| StepError::new(Code::PackageMissing, why);
        let Some(session) = session else {
            let why = format!(
                "`{}` is not in the package folder and no coordinator is connected to fetch it from",
                package.file
            );
            return Err(missing(why));
        };
        let mut client =
            HostAgentLinkClient::new(session.channel).max_decoding_message_size(MESSAGE_MAX);
        let request = v1::FetchPackageRequest {
            cluster: work.installation.cluster.to_string(),
            file: package.file.clone(),
            sha256: package.sha256.clone(),
        };
        let failed = |e: &dyn std::fmt::Display| {
            missing(format!("fetch `{}` from the coordinator: {e}", package.file))
        };
        let mut chunks = tokio::time::timeout(CHUNK_MAX, client.fetch_package(request))
            .await
            .map_err(|e| failed(&e))?
            .map_err(|status| failed(&status.message()))?
            .into_inner();
        let mut part = Part::create(target).await.map_err(|e| failed(&e))?;
        loop {
            let chunk = tokio::time::timeout(CHUNK_MAX, chunks.message())
                .await
                .map_err(|e| failed(&e))?
                .map_err(|status| failed(&status.message()))?;
            let Some(chunk) = chunk else { break };
            part.write(&chunk.data, package.bytes).await.map_err(|e| failed(&e))?;
        }
        part.finish(package).await
    }
}

async fn exchange(
    session: &Connected,
    message: v1::from_host::Message,
    answer: &mut oneshot::Receiver<v1::GoAnswer>,
) -> Option<v1::GoAnswer> {
    session.to.send(v1::FromHost { message: Some(message) }).await.ok()?;
    answer.await.ok()
}

/// A package on its way: another name until it is whole.
struct Part {
    file: tokio::fs::File,
    path: PathBuf,
    target: PathBuf,
    bytes: u64,
    hash: Sha256,
}

impl Part {
    async fn create(target: &Path) -> std::io::Result<Self> {
        let mut name = target.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let file = tokio::fs::File::create(&path).await?;
        Ok(Self { file, path, target: target.to_owned(), bytes: 0, hash: Sha256::new() })
    }

    async fn write(&mut self, data: &[u8], max: u64) -> std::io::Result<()> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if self.bytes > max {
            return Err(std::io::Error::other("it is longer than the plan says"));
        }
        self.hash.update(data);
        self.file.write_all(data).await
    }

    async fn finish(mut self, package: &Package) -> Result<(), StepError> {
        let failed = |e: &dyn std::fmt::Display| {
            let why = format!("write the fetched `{}`: {e}", package.file);
            StepError::new(Code::PackageMissing, why)
        };
        self.file.flush().await.map_err(|e| failed(&e))?;
        self.file.sync_all().await.map_err(|e| failed(&e))?;
        let hash: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if hash != package.sha256 || self.bytes != package.bytes {
            let why = format!(
                "the coordinator sent another `{}` than the plan names: {} bytes, SHA-256 {hash}",
                package.file, self.bytes
            );
            return Err(StepError::new(Code::PackageDiffers, why));
        }
        tokio::fs::rename(&self.path, &self.target).await.map_err(|e| failed(&e))?;
        let Some(folder) = self.target.parent() else { return Ok(()) };
        let folder = tokio::fs::File::open(folder).await.map_err(|e| failed(&e))?;
        folder.sync_all().await.map_err(|e| failed(&e))
    }
}
