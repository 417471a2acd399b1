//! `rollout watch`: every event once and in order, across failures of coordinators, until the
//! final one.

use std::time::Duration;

use grayfin_proto::{
    document,
    v1::{Document, Empty, WatchRequest},
};
use grayfin_types::{Code, RolloutId, event::Event, status::RolloutState};
use jiff::tz::TimeZone;
use tokio::time::{Instant, interval, sleep, timeout};
use tonic::Streaming;

use super::{
    client::{Client, chain, code_of},
    error::{Error, Exit},
    output::Output,
    render::{self, board::Board, events},
    screen::Screen,
    show,
};

/// A stream that does not open in this time is tried at the next coordinator.
const OPEN_MAX: Duration = Duration::from_secs(6);

/// Between two rounds over all coordinators.
const AGAIN: Duration = Duration::from_millis(500);

/// After this time without a coordinator a person is told, and then every time again.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// Watches until the final event.
pub(crate) async fn run(
    client: &Client,
    id: Option<&RolloutId>,
    from: u64,
    output: Output,
) -> Result<Exit, Error> {
    let id = match id {
        Some(id) => id.clone(),
        None => show::rollout(client, None).await?.id,
    };
    let mut shown = Shown::new(output);
    // The live view is made of all events.
    let first = if shown.screen.is_some() { 1 } else { from.max(1) };
    let mut reader =
        Reader { client, id: id.clone(), next: first, alone_since: None, learned: false, output };
    let state = reader.read(&mut shown).await?;
    if first > 1 && !output.json {
        // So is the summary; what was not read is asked for.
        let status = show::rollout(client, Some(&id)).await?;
        output.result(&format!(
            "\n{}",
            render::status::rollout(&status, show::now_ms(), &TimeZone::system())
        ))?;
    } else {
        shown.end()?;
    }
    Ok(match state {
        RolloutState::Succeeded => Exit::Done,
        RolloutState::Staging
        | RolloutState::Running
        | RolloutState::Paused
        | RolloutState::Halted
        | RolloutState::Aborting
        | RolloutState::Verifying
        | RolloutState::Incomplete
        | RolloutState::Aborted
        | RolloutState::Failed => Exit::Refused,
    })
}

/// Reads events, from whichever coordinator answers.
struct Reader<'a> {
    client: &'a Client,
    id: RolloutId,
    next: u64,
    alone_since: Option<Instant>,
    learned: bool,
    output: Output,
}

impl Reader<'_> {
    async fn read(&mut self, shown: &mut Shown) -> Result<RolloutState, Error> {
        loop {
            for address in self.client.in_order() {
                match self.open(&address).await? {
                    Ok(stream) => {
                        self.alone_since = None;
                        self.learn(&address).await;
                        if let Some(state) = self.follow(stream, shown).await? {
                            return Ok(state);
                        }
                    }
                    Err(why) => self.tell(&address, &why),
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Asks who else is there, once: the one that is watched may be gone a moment later.
    async fn learn(&mut self, address: &str) {
        if self.learned {
            return;
        }
        let Ok(mut operator) = self.client.to(address) else { return };
        if let Ok(Ok(answer)) = timeout(OPEN_MAX, operator.coordinators(Empty {})).await {
            self.learned = true;
            let all = answer.into_inner().coordinators;
            self.client.learn(all.into_iter().map(|coordinator| coordinator.address));
        }
    }

    /// Opens a stream. The inner error is one that another coordinator may not have.
    async fn open(&self, address: &str) -> Result<Result<Streaming<Document>, String>, Error> {
        let mut operator = self.client.to(address)?;
        let request = WatchRequest { rollout: self.id.to_string(), from: self.next };
        match timeout(OPEN_MAX, operator.watch(request)).await {
            Err(_) => Ok(Err("no answer in time".to_owned())),
            Ok(Ok(stream)) => Ok(Ok(stream.into_inner())),
            Ok(Err(status)) => match code_of(&status) {
                Some(code @ (Code::BadRequest | Code::NotAllowed)) => {
                    Err(Error::refused(code, status.message()))
                }
                // A coordinator that has just come back may not know it yet; the leader decides.
                Some(Code::NoSuchObject) => {
                    show::rollout(self.client, Some(&self.id)).await?;
                    Ok(Err("does not know this rollout yet".to_owned()))
                }
                Some(_) | None => Ok(Err(chain(&status))),
            },
        }
    }

    /// Follows a stream to its end. None if it broke off before the final event.
    async fn follow(
        &mut self,
        mut stream: Streaming<Document>,
        shown: &mut Shown,
    ) -> Result<Option<RolloutState>, Error> {
        // A second's tick keeps the times in the live view going.
        let mut tick = interval(Duration::from_secs(1));
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                _ = tick.tick() => {
                    shown.tick()?;
                    continue;
                }
            };
            let document = match message {
                Ok(Some(document)) => document,
                Ok(None) => return self.may_be_over().await,
                Err(_) => return Ok(None),
            };
            let event: Event = document::read("Event", Some(&document))
                .map_err(|e| Error::from_chain(Exit::Internal, &e))?;
            if event.seq.0 < self.next {
                continue;
            }
            if event.seq.0 > self.next {
                // A hole: the stream is not to be trusted, another one begins where we are.
                return Ok(None);
            }
            self.next = event.seq.next().0;
            shown.event(&event)?;
            if let grayfin_types::event::Body::State { state } = &event.body
                && state.is_final()
            {
                return Ok(Some(*state));
            }
        }
    }

    /// A stream that ended without a final event: it had been seen before (`--from` beyond it), or
    /// the coordinator stopped.
    async fn may_be_over(&self) -> Result<Option<RolloutState>, Error> {
        let status = show::rollout(self.client, Some(&self.id)).await?;
        let over = status.state.is_final() && status.last_seq.0 < self.next;
        Ok(over.then_some(status.state))
    }

    fn tell(&mut self, address: &str, why: &str) {
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= TELL_AFTER {
            self.alone_since = Some(Instant::now());
            self.output.note(&format!("no coordinator to watch on yet; `{address}`: {why}"));
        }
    }
}

/// How events are shown.
struct Shown {
    output: Output,
    board: Board,
    screen: Option<Screen>,
    zone: TimeZone,
    /// When the last event came, to let the coordinators' clock run on between events.
    heard: Instant,
}

impl Shown {
    fn new(output: Output) -> Self {
        let live = output.terminal && !output.json && !output.quiet;
        Self {
            output,
            board: Board::default(),
            screen: live.then(Screen::default),
            zone: TimeZone::system(),
            heard: Instant::now(),
        }
    }

    fn event(&mut self, event: &Event) -> Result<(), Error> {
        self.board.take(event);
        self.heard = Instant::now();
        if self.output.json {
            return self.output.document(event);
        }
        if self.screen.is_some() {
            return self.tick();
        }
        if self.output.quiet && !events::is_major(&event.body) {
            return Ok(());
        }
        self.output.result(&format!("{}\n", events::line(event, &self.zone)))
    }

    fn tick(&mut self) -> Result<(), Error> {
        let passed = u64::try_from(self.heard.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.board.last_ms().saturating_add(passed);
        match &mut self.screen {
            Some(screen) => {
                let text = screen.frame(&self.board.draw(now_ms), self.output.colour);
                self.output.result(&text)
            }
            None => Ok(()),
        }
    }

    /// Prints the summary of what ended.
    fn end(&mut self) -> Result<(), Error> {
        if self.output.json {
            return Ok(());
        }
        if self.screen.is_some() {
            return self.tick();
        }
        self.output.result(&format!("\n{}", self.board.draw(self.board.last_ms())))
    }
}
