//! A relay in front of a coordinator that can be cut, frozen or slowed down, as a cable, a firewall or
//! a long way would: what is sent meanwhile is lost with the connection, waits, or comes late.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Pieces on their way in one direction; more than that make the sender wait, as a full pipe does.
const UNDERWAY_MAX: usize = 256;

/// What the relay does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Open,
    /// Ends every connection and lets none come about.
    Cut,
    /// Keeps connections, takes new ones, and passes nothing on: half-open.
    Frozen,
    /// Passes everything on, so much later, in each direction.
    Slow(Duration),
}

impl Mode {
    fn passes(self) -> Option<Duration> {
        match self {
            Self::Open => Some(Duration::ZERO),
            Self::Slow(late) => Some(late),
            Self::Cut | Self::Frozen => None,
        }
    }
}

/// A running relay; it goes when this is dropped.
#[derive(Debug)]
pub struct Relay {
    mode: watch::Sender<Mode>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Listens on an address and passes connections on to another.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(listen: &str, target: String) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let (mode, seen) = watch::channel(Mode::Open);
        let accepting = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                // A cut one refuses by ending the connection at once.
                if *seen.borrow() != Mode::Cut {
                    tokio::spawn(pass(from, target.clone(), seen.clone()));
                }
            }
        });
        Ok(Self { mode, accepting })
    }

    /// Changes what it does, for present connections too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(from: TcpStream, target: String, mode: watch::Receiver<Mode>) {
    let Ok(to) = TcpStream::connect(target).await else { return };
    let (from_read, from_write) = from.into_split();
    let (to_read, to_write) = to.into_split();
    tokio::select! {
        () = pump(from_read, to_write, mode.clone()) => {}
        () = pump(to_read, from_write, mode) => {}
    }
}

/// Copies until an end is gone or the relay is cut.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mode: watch::Receiver<Mode>,
) {
    let (underway, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(UNDERWAY_MAX);
    let mut seen = mode.clone();
    let take = async move {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let now = seen.wait_for(|mode| *mode != Mode::Frozen).await.map(|mode| *mode);
            let Some(late) = now.ok().and_then(Mode::passes) else { return };
            tokio::select! {
                read = from.read(&mut buffer) => {
                    let Some(bytes) = read.ok().and_then(|count| buffer.get(..count)) else { return };
                    let piece = (Instant::now() + late, bytes.to_vec());
                    if bytes.is_empty() || underway.send(piece).await.is_err() {
                        return;
                    }
                }
                changed = seen.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let give = async {
        let mut mode = mode.clone();
        while let Some((due, bytes)) = arriving.recv().await {
            sleep_until(due).await;
            let now = mode.wait_for(|mode| *mode != Mode::Frozen).await.map(|mode| *mode);
            if now.ok().and_then(Mode::passes).is_none() || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(give);
    tokio::select! {
        // What is underway still arrives.
        () = take => give.await,
        () = &mut give => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        address
    }

    async fn answered(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_u8(7).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn what_is_frozen_waits_and_what_is_cut_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap().to_string();
        drop(listener);
        let relay = Relay::start(&listen, echo().await).await.unwrap();
        let mut stream = TcpStream::connect(&listen).await.unwrap();
        assert_eq!(answered(&mut stream).await.unwrap(), 7);
        relay.set(Mode::Frozen);
        let waiting = tokio::time::timeout(Duration::from_millis(100), answered(&mut stream));
        assert!(waiting.await.is_err());
        relay.set(Mode::Open);
        assert_eq!(stream.read_u8().await.unwrap(), 7, "what waited comes");
        relay.set(Mode::Cut);
        assert!(stream.read_u8().await.is_err());
        let mut again = TcpStream::connect(&listen).await.unwrap();
        assert!(answered(&mut again).await.is_err());
        relay.set(Mode::Open);
        let mut again = TcpStream::connect(&listen).await.unwrap();
        assert_eq!(answered(&mut again).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_is_slow_comes_late_and_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap().to_string();
        drop(listener);
        let relay = Relay::start(&listen, echo().await).await.unwrap();
        let late = Duration::from_millis(60);
        relay.set(Mode::Slow(late));
        let mut stream = TcpStream::connect(&listen).await.unwrap();
        let sent = Instant::now();
        let all: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
        let (mut read, mut write) = stream.split();
        let mut came = vec![0; all.len()];
        let (written, read) = tokio::join!(write.write_all(&all), read.read_exact(&mut came));
        written.unwrap();
        read.unwrap();
        assert!(sent.elapsed() >= late * 2);
        assert!(came == all);
    }
}
