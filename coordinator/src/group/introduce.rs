//! Asking another coordinator who it is, and whether it is there at all.

use std::time::Duration;

use grayfin_proto::{
    tls,
    v1::{Empty, Introduction, group_client::GroupClient},
};
use grayfin_types::Code;
use tokio::task::JoinSet;
use tonic::{Request, Status};

use crate::{server::status, store::Member};

/// For the answer of a peer that lives: it needs no disk.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Whether a member answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Which.
    pub id: u64,
    /// Why not, if it did not.
    pub silent: Option<String>,
}

/// Asks the coordinator at an address who it is.
pub async fn introduce(files: &tls::Files, address: &str) -> Result<Introduction, String> {
    ask(files, address).await.map_err(|status| status.message().to_owned())
}

/// Asks the coordinator at an address whether it takes this one for removed; returns its words if so.
pub(super) async fn refusal(files: &tls::Files, address: &str) -> Option<String> {
    let refused = ask(files, address).await.err()?;
    let code = refused.metadata().get(status::CODE)?;
    let removed = refused.code() == tonic::Code::PermissionDenied
        && code.as_bytes() == Code::CoordinatorRefused.as_str().as_bytes();
    removed.then(|| refused.message().to_owned())
}

async fn ask(files: &tls::Files, address: &str) -> Result<Introduction, Status> {
    let channel = files.channel(address).map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = Request::new(Empty {});
    request.set_timeout(ANSWER_MAX);
    let call = async move { GroupClient::new(channel).introduce(request).await };
    match tokio::time::timeout(ANSWER_MAX, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => {
            let why = format!("no answer within {} s", ANSWER_MAX.as_secs());
            Err(Status::deadline_exceeded(why))
        }
    }
}

/// Asks every member but `own` at the same time; the answers come in the members' order.
pub async fn reach(files: &tls::Files, own: u64, members: &[Member]) -> Vec<Reached> {
    let mut asked = JoinSet::new();
    for member in members.iter().filter(|member| member.id != own).cloned() {
        let files = files.clone();
        asked.spawn(async move {
            let silent = match introduce(&files, &member.address).await {
                Ok(who) if who.id != member.id => {
                    Some(format!("coordinator {} answers there", who.id))
                }
                Ok(who) if who.instance != member.instance => {
                    Some("it has another state folder than the group knows".to_owned())
                }
                Ok(_) => None,
                Err(why) => Some(why),
            };
            Reached { id: member.id, silent }
        });
    }
    let mut all = asked.join_all().await;
    all.push(Reached { id: own, silent: None });
    all.sort_by_key(|reached| reached.id);
    all
}
