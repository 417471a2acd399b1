//! Runs one of the model's machines on a thread of its own: events in, actions done in order,
//! files included, so that what must be durable first is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use standin_model::Millis;
use standin_model::ids::RequestId;
use standin_model::message::Answer;
use tokio::sync::oneshot;

use crate::store;

/// A machine with everything it acts on.
pub(crate) trait Machine: Send + 'static {
    /// Its events.
    type Input: Send + 'static;

    /// Takes an event, or the passing of time, and does what follows.
    fn turn(&mut self, now: Millis, input: Option<Self::Input>) -> Result<(), store::Error>;

    /// When it wants to be called without an event.
    fn wakeup(&self) -> Millis;
}

type Look<M> = Box<dyn FnOnce(&mut M, Millis) -> Result<(), store::Error> + Send>;

enum Command<M: Machine> {
    Input(M::Input),
    Look(Look<M>),
}

/// Whoever waits for an answer of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiters {
    waiting: Arc<Mutex<HashMap<RequestId, oneshot::Sender<Answer>>>>,
    next: Arc<AtomicU64>,
}

impl Waiters {
    fn locked(&self) -> MutexGuard<'_, HashMap<RequestId, oneshot::Sender<Answer>>> {
        match self.waiting.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    fn open(&self) -> (RequestId, oneshot::Receiver<Answer>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.locked().insert(id, sender);
        (id, receiver)
    }

    /// Hands over an answer; whoever wanted it may have gone.
    pub(crate) fn answer(&self, id: RequestId, answer: Answer) {
        if let Some(sender) = self.locked().remove(&id) {
            drop(sender.send(answer));
        }
    }
}

/// The clock of a node's machine: milliseconds since the process started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Millis {
        Millis::try_from(self.0.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct Engine<M: Machine> {
    queue: mpsc::Sender<Command<M>>,
    pub(crate) waiters: Waiters,
}

impl<M: Machine> Clone for Engine<M> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), waiters: self.waiters.clone() }
    }
}

/// Said when the machine is no more: the process is about to end.
const OVER: &str = "<DataNodeNotAvail>The node is shutting down.";

impl<M: Machine> Engine<M> {
    /// Makes the machine with a handle to itself and starts it. `failed` is told if it cannot go
    /// on.
    pub(crate) fn start(
        clock: Clock,
        make: impl FnOnce(&Self) -> M,
        failed: tokio::sync::mpsc::UnboundedSender<store::Error>,
    ) -> std::io::Result<Self> {
        let (queue, commands) = mpsc::channel();
        let engine = Self { queue, waiters: Waiters::default() };
        let mut machine = make(&engine);
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            if let Err(error) = run(&mut machine, clock, &commands) {
                drop(failed.send(error));
            }
        })?;
        Ok(engine)
    }

    /// Gives it an event.
    pub(crate) fn input(&self, input: M::Input) {
        // A machine that has stopped takes nothing any more.
        drop(self.queue.send(Command::Input(input)));
    }

    /// Gives it an event that has an answer.
    pub(crate) async fn request(&self, make: impl FnOnce(RequestId) -> M::Input) -> Answer {
        let (id, receiver) = self.waiters.open();
        if self.queue.send(Command::Input(make(id))).is_err() {
            return Answer::Failed(OVER.to_owned());
        }
        receiver.await.unwrap_or_else(|_| Answer::Failed(OVER.to_owned()))
    }

    /// Looks at it, or does something with it.
    pub(crate) async fn look<R: Send + 'static>(
        &self,
        look: impl FnOnce(&mut M, Millis) -> R + Send + 'static,
    ) -> Result<R, String> {
        let (sender, receiver) = oneshot::channel();
        let look: Look<M> = Box::new(move |machine, now| {
            // Nobody may wait any more.
            drop(sender.send(look(machine, now)));
            Ok(())
        });
        self.queue.send(Command::Look(look)).map_err(|_| OVER.to_owned())?;
        receiver.await.map_err(|_| OVER.to_owned())
    }
}

fn run<M: Machine>(
    machine: &mut M,
    clock: Clock,
    commands: &mpsc::Receiver<Command<M>>,
) -> Result<(), store::Error> {
    loop {
        let now = clock.now();
        let wakeup = machine.wakeup();
        if wakeup <= now {
            machine.turn(now, None)?;
        }
        let left = machine.wakeup().saturating_sub(clock.now()).min(60_000);
        match commands.recv_timeout(Duration::from_millis(left)) {
            Ok(Command::Input(input)) => machine.turn(clock.now(), Some(input))?,
            Ok(Command::Look(look)) => look(machine, clock.now())?,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
