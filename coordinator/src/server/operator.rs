//! The service that operators and viewers call.

use std::{future::Future, sync::Arc, time::Duration};

use grayfin_coordinator_core::{
    Cmd, Response as Applied, State,
    cmd::{Action, Control},
    explain, readmit,
    state::Rollout,
    status as core_status,
};
use grayfin_proto::{
    document,
    v1::{
        ControlAction, ControlAnswer, ControlRequest, CoordinatorsAnswer, CoordinatorsRequest,
        Document, Empty, RolloutName, StartAnswer, StartRequest, WatchRequest,
        operator_server::Operator,
    },
};
use grayfin_types::{ClusterId, Code, HostId, RolloutId, Token, plan::PlanRequest};
use serde::de::DeserializeOwned;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, metadata::MetadataValue};

use super::{
    caller, coordinators,
    planning::{self, check_request_id, leads, must_lead},
    status, watch,
};
use crate::{clock::monotonic_ms, shared::Shared, store::Refused};

/// A plan waits up to 45 s for fresh facts.
const PLAN_MAX: Duration = Duration::from_secs(60);

/// A command waits up to 5 s for a majority.
const CONTROL_MAX: Duration = Duration::from_secs(10);

/// A read waits up to 2 s for the confirmation of the lead.
const READ_MAX: Duration = Duration::from_secs(5);

/// The longest reason of an operator that is stored.
const REASON_MAX: usize = 4_096;

/// The `Operator` service of this coordinator.
#[derive(Debug, Clone)]
pub struct OperatorService {
    shared: Arc<Shared>,
}

impl OperatorService {
    /// Serves operators and viewers.
    pub const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns whether an answer from here may be old: nobody is known to lead, or the lead could
    /// not be confirmed. A caller who can be sent to the leader is.
    async fn is_stale(&self) -> Result<bool, Status> {
        match leads(&self.shared).await {
            Ok(()) => Ok(false),
            Err(elsewhere @ Refused::NotLeader { leader: Some(_) }) => {
                Err(status::refused(&elsewhere))
            }
            Err(_) => Ok(true),
        }
    }

    async fn plan(&self, request: Request<Document>) -> Result<Document, Status> {
        let by = caller::viewer(&request)?;
        let wanted: PlanRequest = read("PlanRequest", Some(request.get_ref()))?;
        planning::plan(&self.shared, wanted, by).await.map(|answer| document::wrap(&answer))
    }

    async fn start(&self, request: Request<StartRequest>) -> Result<StartAnswer, Status> {
        let by = caller::operator(&request)?;
        let wish = request.into_inner();
        let wanted: PlanRequest = read("PlanRequest", wish.request.as_ref())?;
        planning::start(&self.shared, &wish, wanted, by).await
    }

    async fn status(&self, request: Request<RolloutName>) -> Result<Aged, Status> {
        caller::viewer(&request)?;
        let stale = self.is_stale().await?;
        let state = self.shared.store.state();
        let rollout = match find(&state, request.get_ref()) {
            // Perhaps it was started since.
            Err(_) if stale => {
                return Err(status::refused(&Refused::NotLeader { leader: None }));
            }
            found => found?,
        };
        let document = self.shared.sight.read(|view| {
            document::wrap(&core_status::rollout(rollout, (!stale).then_some(view), stale))
        });
        Ok(Aged { document, stale })
    }

    async fn list(&self, request: Request<Empty>) -> Result<Aged, Status> {
        caller::viewer(&request)?;
        let stale = self.is_stale().await?;
        let state = self.shared.store.state();
        let document = self.shared.sight.read(|view| {
            document::wrap(&core_status::list(&state, (!stale).then_some(view), stale))
        });
        Ok(Aged { document, stale })
    }

    async fn control(&self, request: Request<ControlRequest>) -> Result<ControlAnswer, Status> {
        let by = caller::operator(&request)?;
        let wish = request.into_inner();
        check_request_id(&wish.request_id)?;
        if wish.reason.len() > REASON_MAX {
            return Err(bad_request(&format!("a reason has {REASON_MAX} bytes at most")));
        }
        must_lead(&self.shared).await?;
        let state = self.shared.store.state();
        let action = match self.judged(&wish, &state)? {
            Ok(action) => action,
            Err(refused) => return Ok(control_answer(refused)),
        };
        let rollout = match &action {
            Action::AttestPoweredOff { host, .. } => {
                if self.shared.sight.read(|view| view.is_connected(host)) {
                    return Ok(control_answer(Applied::Refused {
                        code: Code::WrongState,
                        why: format!(
                            "the host agent of `{host}` is connected: it is not powered off"
                        ),
                    }));
                }
                rollout_of(&state, host)
            }
            Action::Readmit { host, .. } => rollout_of(&state, host),
            Action::Pause
            | Action::Resume
            | Action::Abort
            | Action::Retry
            | Action::Skip { .. }
            | Action::RollbackHost
            | Action::BreakHold { .. } => {
                let name = RolloutName { id: wish.rollout, cluster: String::new() };
                find(&state, &name)?.id.clone()
            }
        };
        tracing::info!(%rollout, action = action.word(), %by, "operator's request");
        // Applying changes the state in place if nobody else holds it, and copies it otherwise.
        drop(state);
        let readmitted =
            if let Action::Readmit { host, .. } = &action { Some(host.clone()) } else { None };
        let command = Cmd::Control(Control {
            request_id: wish.request_id,
            rollout,
            action,
            reason: wish.reason,
            by,
        });
        let applied = self.shared.store.propose(command).await.map_err(|e| status::refused(&e))?;
        if let Some(host) = readmitted.filter(|_| applied == Applied::Done) {
            // It takes the act in when it says hello.
            self.shared
                .links
                .end(&host, Status::unavailable("the host was readmitted: hello again"));
        }
        Ok(control_answer(applied))
    }

    /// Reads what is to be done. A readmission is judged here, by what is seen (S8).
    fn judged(
        &self,
        wish: &ControlRequest,
        state: &State,
    ) -> Result<Result<Action, Applied>, Status> {
        if wish.action() != ControlAction::Readmit {
            return plain(wish).map(Ok);
        }
        if wish.reason.trim().is_empty() {
            return Err(bad_request("readmitting a host needs a reason"));
        }
        let host = HostId::new(wish.host.clone()).map_err(|e| bad_request(&e.to_string()))?;
        let cluster =
            ClusterId::new(wish.cluster.clone()).map_err(|e| bad_request(&e.to_string()))?;
        let judged = self
            .shared
            .sight
            .read(|view| readmit::prove(state, view, &cluster, &host, monotonic_ms()));
        Ok(judged.map_err(|against| readmit::refusal(&host, &against)))
    }

    async fn hosts(&self, request: Request<Empty>) -> Result<Document, Status> {
        caller::viewer(&request)?;
        must_lead(&self.shared).await?;
        let state = self.shared.store.state();
        Ok(self
            .shared
            .sight
            .read(|view| document::wrap(&core_status::hosts(&state, view, monotonic_ms()))))
    }

    async fn holds(&self, request: Request<Empty>) -> Result<Document, Status> {
        caller::viewer(&request)?;
        must_lead(&self.shared).await?;
        Ok(document::wrap(&core_status::holds(&self.shared.store.state())))
    }

    async fn explain(&self, request: Request<RolloutName>) -> Result<Document, Status> {
        caller::viewer(&request)?;
        must_lead(&self.shared).await?;
        let state = self.shared.store.state();
        let id = find(&state, request.get_ref())?.id.clone();
        self.shared
            .sight
            .read(|view| explain::explain(&state, view, &id, monotonic_ms()))
            .map(|explanation| document::wrap(&explanation))
            .ok_or_else(|| no_such_rollout(id.as_str()))
    }
}

/// An answer that may be old: whoever asked may find a newer one at another coordinator.
struct Aged {
    document: Document,
    stale: bool,
}

impl Aged {
    fn answer(aged: Response<Self>) -> Response<Document> {
        let Self { document, stale } = aged.into_inner();
        let mut answer = Response::new(document);
        if stale {
            answer.metadata_mut().insert(status::STALE, MetadataValue::from_static("1"));
        }
        answer
    }
}

async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome.map(Response::new),
        Err(_) => Err(status::of(
            Code::NoQuorum,
            tonic::Code::DeadlineExceeded,
            "no answer in time: the outcome is unknown; the same request may be sent again",
        )),
    }
}

fn read<T: DeserializeOwned>(what: &'static str, found: Option<&Document>) -> Result<T, Status> {
    document::read(what, found).map_err(|e| bad_request(&format!("{e}{}", cause(&e))))
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(|source| format!(": {source}")).unwrap_or_default()
}

fn bad_request(why: &str) -> Status {
    status::of(Code::BadRequest, tonic::Code::InvalidArgument, why)
}

fn no_such_rollout(name: &str) -> Status {
    let why = format!("there is no rollout `{name}`: `grayfin rollout list` shows all");
    status::of(Code::NoSuchObject, tonic::Code::NotFound, &why)
}

fn none_yet(cluster: Option<&ClusterId>) -> Status {
    let of = cluster.map(|cluster| format!(" of `{cluster}`")).unwrap_or_default();
    let why = format!("there was no rollout{of} yet: `grayfin rollout start` begins one");
    status::of(Code::NoSuchObject, tonic::Code::NotFound, &why)
}

/// Finds a rollout by its id, or the beginning of one; without an id, the newest.
fn find<'a>(state: &'a State, name: &RolloutName) -> Result<&'a Rollout, Status> {
    if name.id.is_empty() {
        let cluster = match name.cluster.as_str() {
            "" => None,
            text => Some(ClusterId::new(text).map_err(|e| bad_request(&e.to_string()))?),
        };
        return state.newest(cluster.as_ref()).ok_or_else(|| none_yet(cluster.as_ref()));
    }
    if let Some(exact) = RolloutId::new(&*name.id).ok().and_then(|id| state.rollouts.get(&id)) {
        return Ok(exact);
    }
    let mut begin_so = state.rollouts.values().filter(|r| r.id.as_str().starts_with(&name.id));
    match (begin_so.next(), begin_so.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            Err(bad_request(&format!("several rollouts begin with `{}`", name.id)))
        }
        (None, _) => Err(no_such_rollout(&name.id)),
    }
}

/// Finds the rollout that an act on a host belongs to: the newest one that names it. Where there never
/// was one, the act is recorded with the host alone.
fn rollout_of(state: &State, host: &HostId) -> RolloutId {
    let named = state.rollouts.values().filter(|r| r.host(host).is_some());
    named
        .max_by_key(|r| (!r.state.is_final(), r.started_ms))
        .map_or_else(|| RolloutId::new("none").expect("a plain word is an id"), |r| r.id.clone())
}

fn plain(wish: &ControlRequest) -> Result<Action, Status> {
    let host = || HostId::new(wish.host.clone()).map_err(|e| bad_request(&e.to_string()));
    Ok(match wish.action() {
        ControlAction::Unspecified | ControlAction::Readmit => {
            return Err(bad_request("the action is missing or unknown"));
        }
        ControlAction::Pause => Action::Pause,
        ControlAction::Resume => Action::Resume,
        ControlAction::Abort => Action::Abort,
        ControlAction::Retry => Action::Retry,
        ControlAction::Skip if wish.host.is_empty() => Action::Skip { host: None },
        ControlAction::Skip => Action::Skip { host: Some(host()?) },
        ControlAction::RollbackHost => Action::RollbackHost,
        ControlAction::BreakHold if wish.token == 0 || wish.reason.trim().is_empty() => {
            return Err(bad_request("breaking a hold needs its token and a reason"));
        }
        ControlAction::BreakHold => Action::BreakHold { token: Token(wish.token) },
        ControlAction::AttestPoweredOff if wish.reason.trim().is_empty() => {
            return Err(bad_request("attesting that a host is powered off needs a reason"));
        }
        ControlAction::AttestPoweredOff => {
            Action::AttestPoweredOff { host: host()?, token: Token(wish.token) }
        }
    })
}

fn control_answer(applied: Applied) -> ControlAnswer {
    let refused =
        |code: Code, why: String| ControlAnswer { accepted: false, code: code.to_string(), why };
    match applied {
        Applied::Done => ControlAnswer { accepted: true, code: String::new(), why: String::new() },
        Applied::Ignored { why } => refused(Code::WrongState, why),
        Applied::Refused { code, why } => refused(code, why),
        other @ (Applied::Enrolled { .. }
        | Applied::Started { .. }
        | Applied::Allotted { .. }
        | Applied::Committed { .. }
        | Applied::Go { .. }) => refused(
            Code::BadRequest,
            format!("the request id was used for something else before: {other:?}"),
        ),
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn plan(&self, request: Request<Document>) -> Result<Response<Document>, Status> {
        bounded(PLAN_MAX, self.plan(request)).await
    }

    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartAnswer>, Status> {
        bounded(PLAN_MAX, self.start(request)).await
    }

    type WatchStream = ReceiverStream<Result<Document, Status>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        caller::viewer(&request)?;
        let wanted = request.into_inner();
        let rollout = RolloutId::new(wanted.rollout).map_err(|e| bad_request(&e.to_string()))?;
        bounded(READ_MAX, watch::start(&self.shared, rollout, wanted.from)).await
    }

    async fn status(&self, request: Request<RolloutName>) -> Result<Response<Document>, Status> {
        bounded(READ_MAX, self.status(request)).await.map(Aged::answer)
    }

    async fn list(&self, request: Request<Empty>) -> Result<Response<Document>, Status> {
        bounded(READ_MAX, self.list(request)).await.map(Aged::answer)
    }

    async fn control(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlAnswer>, Status> {
        bounded(CONTROL_MAX, self.control(request)).await
    }

    async fn hosts(&self, request: Request<Empty>) -> Result<Response<Document>, Status> {
        bounded(READ_MAX, self.hosts(request)).await
    }

    async fn holds(&self, request: Request<Empty>) -> Result<Response<Document>, Status> {
        bounded(READ_MAX, self.holds(request)).await
    }

    async fn explain(&self, request: Request<RolloutName>) -> Result<Response<Document>, Status> {
        bounded(READ_MAX, self.explain(request)).await
    }

    async fn coordinators(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<CoordinatorsAnswer>, Status> {
        caller::viewer(&request)?;
        bounded(READ_MAX, async { Ok(coordinators::describe(&self.shared).await) }).await
    }

    async fn change_coordinators(
        &self,
        request: Request<CoordinatorsRequest>,
    ) -> Result<Response<ControlAnswer>, Status> {
        let by = caller::operator(&request)?;
        let work = coordinators::change(&self.shared, request.into_inner(), by);
        bounded(coordinators::CHANGE_MAX, work).await
    }
}
