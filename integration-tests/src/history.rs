//! Histories of hold operations, and whether they could have come from one coordinator that did one
//! thing after the other.
//!
//! What clients of the store asked and were told is recorded with the order of its beginnings and
//! ends, the host agents' real times down and up among it, and checked with stateright's
//! [`LinearizabilityTester`] against [`Holds`], a reference written from the rules S1 to S3 alone: it
//! shares no code with the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// The checker goes one level deeper for each operation, unoptimised in tests.
const CHECKER_STACK: usize = 1 << 30;

/// A host, by number.
pub type Host = u8;

/// What was asked, or done to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A token for a host.
    Allot(Host),
    /// A host's promise for a token is recorded.
    Promise(Host, u64),
    /// The hold is to take effect.
    Grant(Host, u64),
    /// May the host be taken down now?
    Go(Host, u64),
    /// The host goes down: not a question, it happened.
    Down(Host, u64),
    /// The host is up again; it happened too.
    Up(Host, u64),
    /// The hold is to be closed.
    Close(Host, u64),
    /// The host's agent closed the token.
    Closed(Host, u64),
    /// An operator breaks the hold with this token.
    Break(u64),
    /// What is there now?
    Look,
}

/// How far a hold has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Promises are asked for.
    Asking,
    /// In force.
    Held,
    /// To be closed.
    Closing,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ret {
    /// A new token.
    Token(u64),
    /// It is done, or allowed.
    Done,
    /// Nothing was changed. This is always a true answer, but for what has happened already.
    No,
    /// The last token, and the hold.
    Saw(u64, Option<(Host, u64, Stage)>),
}

#[derive(Debug, Clone)]
struct Held {
    host: Host,
    token: u64,
    stage: Stage,
    promised: BTreeSet<Host>,
}

/// The reference: holds over one cluster, as S1 to S3 describe them.
#[derive(Debug, Clone)]
pub struct Holds {
    hosts: Host,
    last: u64,
    held: Option<Held>,
    /// Tokens that an operator broke and that are not closed.
    broken: BTreeSet<(Host, u64)>,
    down: Option<(Host, u64)>,
}

impl Holds {
    /// No hold, nothing down.
    pub fn new(hosts: Host) -> Self {
        Self { hosts, last: 0, held: None, broken: BTreeSet::new(), down: None }
    }

    /// Returns the hold if it is this one at this stage.
    fn at(&mut self, host: Host, token: u64, stage: Stage) -> Option<&mut Held> {
        self.held.as_mut().filter(|h| h.host == host && h.token == token && h.stage == stage)
    }

    fn promise(&mut self, host: Host, token: u64) -> bool {
        let held = self.held.as_mut().filter(|h| h.token == token && h.host != host);
        held.map(|h| h.promised.insert(host)).is_some()
    }

    fn grant(&mut self, host: Host, token: u64) -> bool {
        let others = usize::from(self.hosts - 1);
        let ready = self.at(host, token, Stage::Asking).filter(|h| h.promised.len() == others);
        ready.map(|h| h.stage = Stage::Held).is_some()
    }

    /// A host may go down under a hold that is in force; one that was broken after the go is in force
    /// for its own host until it is closed, because everybody else's next hold needs that promise.
    fn goes_down(&mut self, host: Host, token: u64) -> bool {
        let its_own = self.at(host, token, Stage::Held).is_some();
        let may = self.down.is_none() && (its_own || self.broken.contains(&(host, token)));
        if may {
            self.down = Some((host, token));
        }
        may
    }

    fn closed(&mut self, host: Host, token: u64) -> bool {
        if self.down == Some((host, token)) {
            return false;
        }
        self.broken.remove(&(host, token));
        if self
            .held
            .as_ref()
            .is_some_and(|h| h.host == host && h.token == token && h.stage != Stage::Asking)
        {
            self.held = None;
        }
        true
    }

    fn breaks(&mut self, token: u64) -> bool {
        let Some(held) = self.held.take_if(|h| h.token == token) else { return false };
        if held.stage != Stage::Asking {
            self.broken.insert((held.host, token));
        }
        true
    }
}

impl SequentialSpec for Holds {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        let done = match *op {
            Op::Allot(host) => {
                if self.held.is_some() {
                    return Ret::No;
                }
                self.last += 1;
                let (token, promised) = (self.last, BTreeSet::new());
                self.held = Some(Held { host, token, stage: Stage::Asking, promised });
                return Ret::Token(token);
            }
            Op::Look => {
                let held = self.held.as_ref().map(|h| (h.host, h.token, h.stage));
                return Ret::Saw(self.last, held);
            }
            Op::Promise(host, token) => self.promise(host, token),
            Op::Grant(host, token) => self.grant(host, token),
            Op::Go(host, token) => self.at(host, token, Stage::Held).is_some(),
            Op::Down(host, token) => self.goes_down(host, token),
            Op::Up(host, token) => self.down.take_if(|down| *down == (host, token)).is_some(),
            Op::Close(host, token) => {
                let not_down = self.down.is_none();
                let held = self.at(host, token, Stage::Held).filter(|_| not_down);
                held.map(|h| h.stage = Stage::Closing).is_some()
            }
            Op::Closed(host, token) => self.closed(host, token),
            Op::Break(token) => self.breaks(token),
        };
        if done { Ret::Done } else { Ret::No }
    }

    fn is_valid_step(&mut self, op: &Op, ret: &Ret) -> bool {
        // A refusal changes nothing and may have reasons that are not modelled here.
        *ret == Ret::No || self.invoke(op) == *ret
    }
}

#[derive(Debug, Clone)]
enum Entry {
    Began(usize, Op),
    Ended(usize, Ret),
}

#[derive(Debug, Default)]
struct Recorded {
    entries: Vec<Entry>,
    operations: usize,
}

/// An operation that has begun.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Pending(usize);

/// A history that is being recorded. An operation that began and never ended has an unknown outcome.
#[derive(Debug, Default)]
pub struct History {
    recorded: Mutex<Recorded>,
}

impl History {
    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the beginning of an operation, before anything of it is sent.
    pub fn begin(&self, op: Op) -> Pending {
        let mut recorded = self.recorded();
        let number = recorded.operations;
        recorded.operations += 1;
        recorded.entries.push(Entry::Began(number, op));
        Pending(number)
    }

    /// Records its end, after the answer has come.
    pub fn end(&self, pending: Pending, ret: Ret) {
        self.recorded().entries.push(Entry::Ended(pending.0, ret));
    }

    /// Records something that happens in an instant.
    pub fn happened(&self, op: Op) {
        let pending = self.begin(op);
        self.end(pending, Ret::Done);
    }

    /// How many operations have begun.
    pub fn operations(&self) -> usize {
        self.recorded().operations
    }

    /// The operations that have ended, with what came of them.
    pub fn ended(&self) -> Vec<(Op, Ret)> {
        let recorded = self.recorded();
        let mut begun = BTreeMap::new();
        let mut ended = Vec::new();
        for entry in &recorded.entries {
            match entry {
                Entry::Began(number, op) => {
                    begun.insert(*number, op.clone());
                }
                Entry::Ended(number, ret) => {
                    ended.extend(begun.remove(number).map(|op| (op, ret.clone())));
                }
            }
        }
        ended
    }

    /// Checks the history. Of the operations whose outcome is unknown those count for which `took`
    /// says so: leaving one out claims that it never took effect, which can only make a good history
    /// look bad, never a bad one good.
    ///
    /// # Errors
    /// If no order of the operations explains the answers, or if none was found in time.
    pub fn check(
        &self,
        hosts: Host,
        limit: Duration,
        mut took: impl FnMut(&Pending, &Op) -> bool,
    ) -> Result<usize, String> {
        let tester = self.tester(hosts, |number, op| took(&Pending(number), op))?;
        let operations = tester.len();
        let (sender, receiver) = mpsc::channel();
        let work = move || sender.send(tester.is_consistent()).ok();
        let thread = std::thread::Builder::new().stack_size(CHECKER_STACK).spawn(work);
        thread.map_err(|error| format!("start the checker: {error}"))?;
        match receiver.recv_timeout(limit) {
            Ok(true) => Ok(operations),
            Ok(false) => Err("no order of the operations explains the answers".to_owned()),
            Err(error) => Err(format!("not decided within {limit:?}: {error}")),
        }
    }

    fn tester(
        &self,
        hosts: Host,
        mut took: impl FnMut(usize, &Op) -> bool,
    ) -> Result<LinearizabilityTester<usize, Holds>, String> {
        let recorded = self.recorded();
        let ended: BTreeSet<usize> = recorded.entries.iter().filter_map(Entry::ends).collect();
        // Operations that follow each other share a thread, which keeps the checker's maps small.
        // Unknown ones have threads of their own behind all others: they are tried last.
        let mut free: BTreeSet<usize> = BTreeSet::new();
        let mut threads = 0;
        let mut on: BTreeMap<usize, usize> = BTreeMap::new();
        let mut tester = LinearizabilityTester::new(Holds::new(hosts));
        for entry in &recorded.entries {
            match entry {
                Entry::Began(number, op) if ended.contains(number) => {
                    let thread = free.pop_first().unwrap_or_else(|| {
                        threads += 1;
                        threads
                    });
                    on.insert(*number, thread);
                    tester.on_invoke(thread, op.clone())?;
                }
                Entry::Began(number, op) if took(*number, op) => {
                    tester.on_invoke(recorded.operations + number, op.clone())?;
                }
                Entry::Began(..) => {}
                Entry::Ended(number, ret) => {
                    let thread = on.remove(number).ok_or("it ended without a beginning")?;
                    tester.on_return(thread, ret.clone())?;
                    free.insert(thread);
                }
            }
        }
        Ok(tester)
    }
}

impl Entry {
    const fn ends(&self) -> Option<usize> {
        match self {
            Self::Began(..) => None,
            Self::Ended(number, _) => Some(*number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// One thing after the other.
    fn told(steps: &[(Op, Ret)]) -> History {
        let history = History::default();
        for (op, ret) in steps {
            let pending = history.begin(op.clone());
            history.end(pending, ret.clone());
        }
        history
    }

    fn held(host: Host, token: u64) -> Vec<(Op, Ret)> {
        let others = (1..=3).filter(|other| *other != host);
        let promises = others.map(|other| (Op::Promise(other, token), Ret::Done));
        let mut steps = vec![(Op::Allot(host), Ret::Token(token))];
        steps.extend(promises);
        steps.extend([(Op::Grant(host, token), Ret::Done), (Op::Go(host, token), Ret::Done)]);
        steps
    }

    fn check(history: &History) -> Result<usize, String> {
        history.check(3, LIMIT, |_, _| true)
    }

    #[test]
    fn a_host_after_the_other_is_explained() {
        let mut steps = held(1, 1);
        steps.extend([
            (Op::Down(1, 1), Ret::Done),
            (Op::Up(1, 1), Ret::Done),
            (Op::Close(1, 1), Ret::Done),
            (Op::Allot(2), Ret::No),
            (Op::Look, Ret::Saw(1, Some((1, 1, Stage::Closing)))),
            (Op::Closed(1, 1), Ret::Done),
        ]);
        steps.extend(held(2, 2));
        assert_eq!(check(&told(&steps)), Ok(steps.len()));
    }

    /// Each of these is what a fault in the store or in an agent would look like.
    #[test]
    fn every_planted_violation_is_found() {
        let down = |host, token| (Op::Down(host, token), Ret::Done);
        let planted: [(&str, Vec<(Op, Ret)>); 8] = [
            (
                "a token twice",
                [held(1, 1), vec![(Op::Closed(1, 1), Ret::Done)], held(2, 1)].concat(),
            ),
            ("a token allotted under a hold", [held(1, 1), held(2, 2)].concat()),
            (
                "a grant without all promises",
                vec![
                    (Op::Allot(1), Ret::Token(1)),
                    (Op::Promise(2, 1), Ret::Done),
                    (Op::Grant(1, 1), Ret::Done),
                ],
            ),
            (
                "an old read",
                [held(1, 1), vec![(Op::Look, Ret::Saw(1, Some((1, 1, Stage::Asking))))]].concat(),
            ),
            (
                "two hosts down, the hold of one broken and never closed",
                [
                    held(1, 1),
                    vec![down(1, 1), (Op::Break(1), Ret::Done)],
                    held(2, 2),
                    vec![down(2, 2)],
                ]
                .concat(),
            ),
            (
                "down after the close",
                [held(1, 1), vec![(Op::Closed(1, 1), Ret::Done), down(1, 1)]].concat(),
            ),
            (
                "closed while down",
                [held(1, 1), vec![down(1, 1), (Op::Closed(1, 1), Ret::Done)]].concat(),
            ),
            (
                "a break of a hold that is gone",
                [held(1, 1), vec![(Op::Closed(1, 1), Ret::Done), (Op::Break(1), Ret::Done)]]
                    .concat(),
            ),
        ];
        for (what, steps) in planted {
            assert!(check(&told(&steps)).is_err(), "not found: {what}");
        }
    }

    #[test]
    fn what_overlaps_may_have_come_in_either_order_and_what_is_unknown_at_any_time() {
        let history = History::default();
        let (one, two) = (history.begin(Op::Allot(1)), history.begin(Op::Allot(2)));
        history.end(one, Ret::No);
        history.end(two, Ret::Token(1));
        history.end(history.begin(Op::Break(1)), Ret::Done);
        // Its answer was lost.
        let lost = history.begin(Op::Allot(3));
        history.end(history.begin(Op::Look), Ret::Saw(1, None));
        history.end(history.begin(Op::Look), Ret::Saw(2, Some((3, 2, Stage::Asking))));
        assert_eq!(check(&history), Ok(6));
        let lost = lost.0;
        assert!(history.check(3, LIMIT, |pending, _| pending.0 != lost).is_err());
    }
}
