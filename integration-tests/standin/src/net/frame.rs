//! Frames.

use serde::{Deserialize, Serialize};
use standin_model::message::{Answer, Ask, Order};
use standin_model::{Alias, raft};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The first line of a connection between nodes. A client's begins with `API`.
pub(crate) const PREFACE: &[u8] = b"STANDIN/1\n";

/// Longer is not believed: the longest honest frame is a controller's whole metadata.
const FRAME_MAX: usize = 256 << 20;

/// What goes over the connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// Between controllers; no answer.
    Raft { from: Alias, message: raft::Message },
    /// A question with the asker's number.
    Ask { id: u64, question: Question },
    /// The answer to it.
    Answer { id: u64, response: Response },
}

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Are you there?
    Ping,
    /// Stop gracefully.
    Shutdown,
    /// For a controller.
    Ask(Ask),
    /// For any other node.
    Order(Order),
    /// Apply a function.
    Run(Run),
}

/// A function to apply, in the name of a user of another node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) user: String,
    pub(crate) admin: bool,
    pub(crate) rights: Vec<String>,
    /// Function and arguments, as the wire protocol writes them, in hexadecimal.
    pub(crate) values: Vec<String>,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    /// To `Ping` and `Shutdown`.
    Yes,
    /// To `Ask` and `Order`.
    Answer(Answer),
    /// To `Run`: a value, or the text for the client.
    Value(Result<String, String>),
}

/// Reads a frame; `None` when the connection ends between two.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
) -> std::io::Result<Option<Frame>> {
    let length = match reader.read_u32().await {
        Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > FRAME_MAX {
        return Err(std::io::Error::other(format!("a frame of {length} bytes")));
    }
    // Grown as it arrives: a wrong length must not take memory.
    let mut bytes = Vec::new();
    let wanted = u64::try_from(length).unwrap_or(u64::MAX);
    reader.take(wanted).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// The bytes of a frame.
pub(crate) fn encode(frame: &Frame) -> std::io::Result<Vec<u8>> {
    let json = serde_json::to_vec(frame)?;
    let length = u32::try_from(json.len()).map_err(std::io::Error::other)?;
    let mut bytes = Vec::with_capacity(json.len() + 4);
    bytes.extend(length.to_be_bytes());
    bytes.extend(json);
    Ok(bytes)
}

/// Writes a frame.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    writer: &mut W,
    frame: &Frame,
) -> std::io::Result<()> {
    writer.write_all(&encode(frame)?).await?;
    writer.flush().await
}
