//! Connections to other nodes: one per address, kept open, shared by all that ask there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use standin_model::Alias;
use standin_model::member::CallError;
use standin_model::raft;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::frame::{Frame, PREFACE, Question, Response, encode, read_frame};

/// Frames that wait to be written; more than that means that the other side does not read.
const QUEUE: usize = 1_024;
/// The kernel accepts a connection on this machine at once, or nobody listens.
const CONNECT: Duration = Duration::from_secs(2);

type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<Response>>>>;

/// A connection; `waiting` is taken away when it is over.
#[derive(Debug)]
struct Line {
    queue: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
}

/// All connections of this node to others.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    lines: Mutex<HashMap<String, Arc<Line>>>,
    next: AtomicU64,
}

/// A poisoned lock means that a thread panicked while it held it; the map is still a map.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

impl Line {
    fn is_over(&self) -> bool {
        self.queue.is_closed() || locked(&self.waiting).is_none()
    }
}

impl Peers {
    /// Asks a node and waits for its answer.
    pub(crate) async fn ask(
        &self,
        address: &str,
        question: Question,
        limit: Duration,
    ) -> Result<Response, CallError> {
        let asked = async {
            let line = self.line(address).await?;
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let frame = encode(&Frame::Ask { id, question }).map_err(|_| CallError::Gone)?;
            let (sender, receiver) = oneshot::channel();
            match locked(&line.waiting).as_mut() {
                Some(waiting) => waiting.insert(id, sender),
                None => return Err(CallError::Gone),
            };
            let forget = Forget { line: &line, id };
            line.queue.send(frame).await.map_err(|_| CallError::Gone)?;
            let answer = receiver.await.map_err(|_| CallError::Gone);
            drop(forget);
            answer
        };
        tokio::time::timeout(limit, asked).await.unwrap_or(Err(CallError::Timeout))
    }

    /// Sends a message of the controllers' log replication, which may get lost.
    pub(crate) async fn tell(&self, address: &str, from: Alias, message: raft::Message) {
        let Ok(frame) = encode(&Frame::Raft { from, message }) else { return };
        if let Ok(line) = self.line(address).await {
            // A full queue means a peer that hangs: dropping is what a network would do.
            drop(line.queue.try_send(frame));
        }
    }

    async fn line(&self, address: &str) -> Result<Arc<Line>, CallError> {
        if let Some(line) = locked(&self.lines).get(address).filter(|line| !line.is_over()) {
            return Ok(Arc::clone(line));
        }
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Err(CallError::Gone),
            Err(_) => return Err(CallError::Timeout),
        };
        // Small frames must not wait for each other.
        drop(stream.set_nodelay(true));
        let line = Arc::new(open(stream));
        let mut lines = locked(&self.lines);
        lines.retain(|_, line| !line.is_over());
        lines.insert(address.to_owned(), Arc::clone(&line));
        Ok(line)
    }
}

/// Takes a question out of the list, also when its asker stopped waiting.
struct Forget<'a> {
    line: &'a Line,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = locked(&self.line.waiting).as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// Starts to read and write; both end when the connection does.
fn open(stream: TcpStream) -> Line {
    let (reader, mut writer) = stream.into_split();
    let (queue, mut frames) = mpsc::channel::<Vec<u8>>(QUEUE);
    let waiting: Arc<Waiting> = Arc::new(Mutex::new(Some(HashMap::new())));
    let answers = Arc::clone(&waiting);
    let writing = tokio::spawn(async move {
        if writer.write_all(PREFACE).await.is_err() {
            return;
        }
        while let Some(frame) = frames.recv().await {
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut reader = BufReader::new(reader);
        while let Ok(Some(frame)) = read_frame(&mut reader).await {
            if let Frame::Answer { id, response } = frame {
                let sender = locked(&answers).as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(sender) = sender {
                    // Nobody may wait any more.
                    drop(sender.send(response));
                }
            }
        }
        // Dropping the senders tells everybody that the other side is gone.
        drop(locked(&answers).take());
        writing.abort();
    });
    Line { queue, waiting }
}
