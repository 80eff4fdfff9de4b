//! A client's end of a connection, for requests as bytes: pipelined, broken off, reset. Every wait has a deadline.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A connection.
pub struct Connection {
    stream: TcpStream,
    /// Received and not yet taken.
    waiting: Vec<u8>,
}

/// Why nothing more comes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The other end has closed or reset it, or we have.
    Closed,
    /// The other end does nothing.
    Silent,
    /// What came is no HTTP.
    Unreadable,
}

/// An answer, read as far as it came.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub is_whole: bool,
}

impl Connection {
    /// A new one.
    pub async fn open(address: SocketAddr) -> Result<Self, Over> {
        let stream = within(TcpStream::connect(address)).await?;
        stream.set_nodelay(true).map_err(|_| Over::Closed)?;
        Ok(Connection { stream, waiting: Vec::new() })
    }

    /// Writes. Of what could not be written the answer may still tell why.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        match within(self.stream.write_all(bytes)).await {
            Ok(()) | Err(Over::Closed) => Ok(()),
            Err(over @ (Over::Silent | Over::Unreadable)) => Err(over),
        }
    }

    /// The next answer that is not an interim one.
    pub async fn answer(&mut self) -> Result<Answer, Over> {
        loop {
            let answer = self.head().await?;
            if answer.status < 200 {
                continue;
            }
            return self.body(answer).await;
        }
    }

    /// Ends it with RST instead of FIN.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    async fn head(&mut self) -> Result<Answer, Over> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(length) = response.parse(&self.waiting).map_err(|_| Over::Unreadable)? {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let answer = Answer {
                    status: response.code.unwrap_or_default(),
                    fields: response.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect(),
                    body: Vec::new(),
                    is_whole: false,
                };
                self.waiting.drain(..length);
                return Ok(answer);
            }
            self.more().await?;
        }
    }

    async fn body(&mut self, mut answer: Answer) -> Result<Answer, Over> {
        let whole = if matches!(answer.status, 204 | 304) {
            Ok(())
        } else if answer.field("Transfer-Encoding").is_some() {
            self.chunks(&mut answer.body).await
        } else if let Some(length) = answer.field("Content-Length") {
            let length = length.parse().map_err(|_| Over::Unreadable)?;
            self.take(length, &mut answer.body).await
        } else {
            while self.more().await.is_ok() {}
            answer.body.append(&mut self.waiting);
            Ok(())
        };
        match whole {
            Ok(()) => answer.is_whole = true,
            Err(Over::Closed) => {}
            Err(over @ (Over::Silent | Over::Unreadable)) => return Err(over),
        }
        Ok(answer)
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Result<(), Over> {
        loop {
            let (begin, size) = loop {
                match httparse::parse_chunk_size(&self.waiting).map_err(|_| Over::Unreadable)? {
                    httparse::Status::Complete(found) => break found,
                    httparse::Status::Partial => self.more().await?,
                }
            };
            self.waiting.drain(..begin);
            self.take(usize::try_from(size).map_err(|_| Over::Unreadable)?, body).await?;
            self.take(2, &mut Vec::new()).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, length: usize, to: &mut Vec<u8>) -> Result<(), Over> {
        while self.waiting.len() < length {
            self.more().await?;
        }
        to.extend(self.waiting.drain(..length));
        Ok(())
    }

    async fn more(&mut self) -> Result<(), Over> {
        let before = self.waiting.len();
        self.waiting.reserve(16 * 1024);
        within(self.stream.read_buf(&mut self.waiting)).await?;
        if self.waiting.len() == before { Err(Over::Closed) } else { Ok(()) }
    }
}

impl Answer {
    /// A field's first value.
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// All values of a field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.fields.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// Whether no other answer follows it.
    pub fn closes(&self) -> bool {
        !self.is_whole || self.values("Connection").any(|value| value.to_ascii_lowercase().contains("close"))
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, Over> {
    timeout(DEADLINE, work).await.map_err(|_| Over::Silent)?.map_err(|_| Over::Closed)
}

/// More than any stand-in holds an answer, on a machine with much else to do.
const DEADLINE: Duration = Duration::from_secs(20);
