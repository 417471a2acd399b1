//! Changes to the cluster as a whole: recorded, made, inherited, undone (S10).

use grayfin_types::{
    HostId, NodeAlias, RolloutId, Token,
    event::Body,
    plan::{DebtOrder, Effect, Policy},
};

use super::Applier;
use crate::{
    cmd::{OrderAnswered, Response},
    state::{Debt, OrderBody, OrderKind},
};

impl Applier<'_> {
    /// Records an effect before it is brought about. One that is there already is inherited with its
    /// original value.
    pub(super) fn record_debt(&mut self, id: &RolloutId, token: Token, effect: Effect) -> Response {
        let held = self.state.hold_of(id).is_some_and(|held| held.token == token);
        let Some(entry) = self.state.rollouts.get(id).filter(|r| held && !r.state.is_final())
        else {
            return Response::ignored("there is no such hold");
        };
        let cluster = entry.cluster.clone();
        let limit_ms = limit_ms(&entry.plan.policy);
        let alike =
            self.state.debts.iter_mut().find(|d| d.cluster == cluster && d.effect.is_alike(effect));
        if let Some(debt) = alike {
            if debt.token == token {
                return Response::ignored("it is recorded");
            }
            debt.token = token;
            debt.rollout = id.clone();
            debt.in_force = false;
            debt.recorded_ms = self.at_ms;
            debt.limit_ms = limit_ms;
            let (number, effect) = (debt.id, debt.effect);
            self.tell_debt(id, number, effect, "recorded", "inherited with its original value");
            return Response::Done;
        }
        self.state.last_debt = self.state.last_debt.saturating_add(1);
        let number = self.state.last_debt;
        self.state.debts.push(Debt {
            id: number,
            cluster,
            rollout: id.clone(),
            token,
            effect,
            in_force: false,
            leader: None,
            order: None,
            attempts: 0,
            problem: None,
            recorded_ms: self.at_ms,
            limit_ms,
        });
        let detail = format!("undone when the host is up, after {limit_ms} ms at the latest");
        self.tell_debt(id, number, effect, "recorded", &detail);
        Response::Done
    }

    /// Orders a host agent to bring a debt's effect about, or to undo it. An order that is out counts
    /// no more.
    pub(super) fn order_debt(
        &mut self,
        number: u64,
        host: &HostId,
        pay: bool,
        leader: &NodeAlias,
    ) -> Response {
        let cluster = self.state.debts.iter().find(|d| d.id == number).map(|d| d.cluster.clone());
        let without = cluster.map(|c| self.state.nodes_gone(&c)).unwrap_or_default();
        let Some(debt) = self.state.debts.iter_mut().find(|d| d.id == number) else {
            return Response::ignored("there is no such debt");
        };
        if let Some((before, order, _)) = debt.order.take()
            && let Some(enrolment) = self.state.hosts.get_mut(&before)
        {
            enrolment.drop_orders(&debt.cluster, |o| o.number == order);
        }
        let may = |e: &&mut crate::state::Enrolment| e.amnesic.is_none() && e.gone.is_none();
        let Some(enrolment) = self.state.hosts.get_mut(host).filter(may) else {
            return Response::ignored("the host agent may not work");
        };
        let body = OrderBody::Debt(DebtOrder {
            debt: number,
            effect: debt.effect,
            pay,
            without: without.into_iter().collect(),
        });
        let order = enrolment.push(&debt.cluster, Token(0), OrderKind::Debt, &debt.rollout, body);
        debt.order = Some((host.clone(), order, pay));
        debt.attempts = debt.attempts.saturating_add(1);
        debt.leader = Some(leader.clone());
        if pay {
            debt.in_force = false;
        }
        Response::Done
    }

    pub(super) fn debt_answered(&mut self, answer: &OrderAnswered) {
        let of = |debt: &&mut Debt| {
            debt.order
                .as_ref()
                .is_some_and(|(host, number, _)| *host == answer.host && *number == answer.number)
        };
        let Some(debt) = self.state.debts.iter_mut().find(of) else { return };
        let pay = debt.order.take().is_some_and(|(_, _, pay)| pay);
        let before = debt.problem.take();
        let (number, effect, rollout) = (debt.id, debt.effect, debt.rollout.clone());
        if !answer.accepted {
            let why = answer.why.clone();
            debt.problem = Some(why.clone());
            if before.as_ref() != Some(&why) {
                let detail = format!("`{}`: {why}", answer.host);
                self.tell_debt(&rollout, number, effect, "failed", &detail);
            }
            return;
        }
        let detail = format!("by the host agent of `{}`", answer.host);
        if pay {
            self.state.debts.retain(|d| d.id != number);
            self.tell_debt(&rollout, number, effect, "paid", &detail);
        } else {
            let news = !debt.in_force;
            debt.in_force = true;
            if news {
                self.tell_debt(&rollout, number, effect, "in force", &detail);
            }
        }
    }

    fn tell_debt(&mut self, id: &RolloutId, debt: u64, effect: Effect, state: &str, detail: &str) {
        let body = Body::Debt { debt, effect, state: state.to_owned(), detail: detail.to_owned() };
        self.emit(id, "coordinator", body);
    }
}

/// As long as a host may be down at most.
fn limit_ms(policy: &Policy) -> u64 {
    [
        policy.stop_timeout_ms,
        policy.backup_timeout_ms,
        policy.upgrade_timeout_ms,
        policy.start_timeout_ms,
        policy.join_timeout_ms,
        policy.late_stop_ms,
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}
