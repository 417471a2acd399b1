//! Changes of the group: learner first, then voter; out again; the lead to another one.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers,
    error::{ClientWriteError, RaftError},
};

use super::{
    Change, Refused,
    replicated::Replicated,
    types::{NodeInfo, TypeConfig},
};

/// For a newcomer to have the whole log or a snapshot; what is not there by then goes on by itself.
const LEARN_MAX: Duration = Duration::from_mins(1);

/// For a majority of the old and of the new group.
const CHANGE_MAX: Duration = Duration::from_secs(10);

type Changed = Result<
    openraft::raft::ClientWriteResponse<TypeConfig>,
    RaftError<u64, ClientWriteError<u64, NodeInfo>>,
>;

impl Replicated {
    /// Refuses everything while this coordinator steps aside.
    pub(super) fn not_aside(&self) -> Result<(), Refused> {
        if *self.aside.borrow() { Err(Refused::NotLeader { leader: None }) } else { Ok(()) }
    }

    pub(super) async fn run_change(&self, change: Change) -> Result<(), Refused> {
        self.not_aside()?;
        match change {
            Change::Learn { id, address, instance } => {
                let node = NodeInfo { address, instance };
                bounded(LEARN_MAX, self.raft.add_learner(id, node, true)).await
            }
            Change::Vote(id) => {
                self.change_members(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
            }
            Change::Drop(id) => {
                let voter = self
                    .raft
                    .with_raft_state(move |state| {
                        state.membership_state.effective().voter_ids().any(|voter| voter == id)
                    })
                    .await
                    .map_err(|fatal| Refused::Stopped(fatal.to_string()))?;
                let one = BTreeSet::from([id]);
                self.change_members(if voter {
                    ChangeMembers::RemoveVoters(one)
                } else {
                    ChangeMembers::RemoveNodes(one)
                })
                .await
            }
            Change::StepAside => self.step_aside().await,
        }
    }

    async fn change_members(&self, members: ChangeMembers<u64, NodeInfo>) -> Result<(), Refused> {
        bounded(CHANGE_MAX, self.raft.change_membership(members, false)).await
    }

    /// The engine has no transfer: the leader falls silent and takes nothing, until the patience of
    /// the others is over and they elect one of them. It costs what a failover costs.
    async fn step_aside(&self) -> Result<(), Refused> {
        let store = self.clone();
        // A task of its own: the asker may go away, and the silence must end in any case.
        let waited = tokio::spawn(async move {
            let own = store.id;
            let mut metrics = store.raft.metrics();
            let runtime = store.raft.runtime_config();
            store.aside.send_replace(true);
            runtime.heartbeat(false);
            runtime.elect(false);
            let other = metrics.wait_for(|m| m.current_leader.is_some_and(|it| it != own));
            let led = tokio::time::timeout(store.aside_max, other).await.is_ok();
            runtime.heartbeat(true);
            runtime.elect(true);
            store.aside.send_replace(false);
            led
        });
        match waited.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refused::Group(
                "no other coordinator was elected in time; this one leads on".to_owned(),
            )),
            Err(error) => Err(Refused::Stopped(error.to_string())),
        }
    }
}

async fn bounded(limit: Duration, work: impl Future<Output = Changed>) -> Result<(), Refused> {
    match tokio::time::timeout(limit, work).await {
        Err(_) => Err(Refused::NoQuorum),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(Refused::NotLeader {
                leader: forward.leader_id.zip(forward.leader_node.map(|node| node.address)),
            })
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
            Err(Refused::Group(error.to_string()))
        }
        Ok(Err(RaftError::Fatal(fatal))) => Err(Refused::Stopped(fatal.to_string())),
    }
}
