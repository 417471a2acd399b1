//! The numbers, texts and counts that objects on the wire are made of, each charged and bounded.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::Error;
use super::decode::Decoder;

impl<R: AsyncBufRead + Unpin + Send> Decoder<'_, R> {
    /// Takes memory from the request's budget.
    pub(super) fn charge(&mut self, bytes: usize, count: usize) -> Result<(), Error> {
        let cost = bytes.saturating_mul(count);
        match self.memory_left.checked_sub(cost) {
            Some(left) => {
                self.memory_left = left;
                Ok(())
            }
            None => Err(Error::Limit {
                what: "memory of a request",
                size: cost as u64,
                limit: self.limits.memory_bytes,
            }),
        }
    }

    pub(super) async fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// Reads bytes of one number and returns them in little-endian order.
    pub(super) async fn ordered<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = self.array::<N>().await?;
        if !self.little_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub(super) async fn bits(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.ordered().await?))
    }

    pub(super) async fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.ordered().await?))
    }

    pub(super) async fn i32(&mut self) -> Result<i32, Error> {
        Ok(i32::from_le_bytes(self.ordered().await?))
    }

    /// Reads a signed integer; `None` for the width's minimum, which is null.
    pub(super) async fn integer(&mut self, width: u8) -> Result<Option<i128>, Error> {
        let (number, null) = match width {
            1 => {
                let number = i8::from_le_bytes(self.ordered().await?);
                (i128::from(number), number == i8::MIN)
            }
            2 => {
                let number = i16::from_le_bytes(self.ordered().await?);
                (i128::from(number), number == i16::MIN)
            }
            4 => {
                let number = self.i32().await?;
                (i128::from(number), number == i32::MIN)
            }
            8 => {
                let number = i64::from_le_bytes(self.ordered().await?);
                (i128::from(number), number == i64::MIN)
            }
            _ => {
                let number = i128::from_le_bytes(self.ordered().await?);
                (number, number == i128::MIN)
            }
        };
        Ok((!null).then_some(number))
    }

    /// Reads a count of rows and checks it.
    pub(super) async fn rows(&mut self) -> Result<usize, Error> {
        let rows = self.i32().await?;
        let limit = self.limits.rows;
        match usize::try_from(rows) {
            Ok(rows) if rows <= limit => Ok(rows),
            Ok(rows) => Err(Error::Limit { what: "row count", size: rows as u64, limit }),
            Err(_) => Err(Error::Object(format!("a row count of {rows}"))),
        }
    }

    /// Reads a text up to its NUL.
    pub(super) async fn text(&mut self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            let end = available.iter().position(|byte| *byte == 0);
            let part = end.and_then(|end| available.get(..end)).unwrap_or(available);
            let used = part.len();
            bytes.extend_from_slice(part);
            self.charge(used, 1)?;
            self.reader.consume(used + usize::from(end.is_some()));
            if end.is_some() {
                break;
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) => Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        }
    }
}
