//! Connections for bytes as they are: what no HTTP library would send, and servers that do what none would.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::harness::within;

/// One end of a connection. Every wait has a deadline.
pub struct Wire {
    stream: Pin<Box<dyn Duplex>>,
    /// Received and not yet taken.
    waiting: Vec<u8>,
}

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

impl Wire {
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Wire {
        Wire { stream: Box::pin(stream), waiting: Vec::new() }
    }

    pub async fn connect(address: SocketAddr) -> Wire {
        Wire::over(within("a connection", TcpStream::connect(address)).await.expect("somebody listens"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the other end reads");
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("sending", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// What comes up to and with this mark.
    pub async fn through(&mut self, mark: &str) -> String {
        loop {
            let found = self.waiting.windows(mark.len()).position(|window| window == mark.as_bytes());
            if let Some(place) = found {
                return text(self.waiting.drain(..place + mark.len()));
            }
            let more = self.more().await;
            assert_ne!(more, 0, "closed before {mark:?}, after {:?}", String::from_utf8_lossy(&self.waiting));
        }
    }

    /// The head of a message, with its empty line.
    pub async fn head(&mut self) -> String {
        self.through("\r\n\r\n").await
    }

    /// The same, or `None` where the other end has closed instead.
    pub async fn next_head(&mut self) -> Option<String> {
        if self.is_over().await { None } else { Some(self.head().await) }
    }

    /// A line without its end, or `None` where the other end has closed instead.
    pub async fn next_line(&mut self) -> Option<String> {
        if self.is_over().await { None } else { Some(self.through("\r\n").await.trim_end().to_owned()) }
    }

    async fn is_over(&mut self) -> bool {
        self.waiting.is_empty() && self.more().await == 0
    }

    /// This many bytes.
    pub async fn take(&mut self, bytes: usize) -> String {
        while self.waiting.len() < bytes {
            assert_ne!(self.more().await, 0, "closed before {bytes} bytes came");
        }
        text(self.waiting.drain(..bytes))
    }

    /// One chunk of a body with `Transfer-Encoding: chunked`; empty: the last.
    pub async fn chunk(&mut self) -> String {
        let size = self.through("\r\n").await;
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
        let chunk = self.take(size).await;
        assert_eq!(self.take(2).await, "\r\n");
        chunk
    }

    /// A body of `Content-Length` or of chunks, as its head says.
    pub async fn body(&mut self, head: &str) -> String {
        if let Some(length) = field(head, "content-length") {
            return self.take(length.parse().expect("a length")).await;
        }
        let mut body = String::new();
        loop {
            let chunk = self.chunk().await;
            if chunk.is_empty() {
                return body;
            }
            body.push_str(&chunk);
        }
    }

    /// Everything until the other end closes.
    pub async fn rest(&mut self) -> String {
        while self.more().await > 0 {}
        text(self.waiting.drain(..))
    }

    /// Reads and drops until the other end closes; how many bytes that were.
    pub async fn count_rest(&mut self) -> usize {
        let mut count = 0;
        loop {
            count += self.waiting.len();
            self.waiting.clear();
            if self.more().await == 0 {
                return count;
            }
        }
    }

    /// Writes until nothing more is taken for a while; how many bytes were.
    pub async fn fill(&mut self, bytes_max: usize) -> usize {
        static FILLING: [u8; 64 * 1024] = [b'.'; 64 * 1024];
        let mut written = 0;
        while written < bytes_max {
            let piece = &FILLING[..FILLING.len().min(bytes_max - written)];
            match tokio::time::timeout(STALLED, self.stream.write(piece)).await {
                Ok(bytes) => written += bytes.expect("the other end is there"),
                Err(_) => break,
            }
        }
        written
    }

    /// How many bytes came; 0: the other end has closed, cleanly or not.
    async fn more(&mut self) -> usize {
        let mut buffer = vec![0; 64 * 1024];
        let bytes = within("bytes", self.stream.read(&mut buffer)).await.unwrap_or(0);
        self.waiting.extend_from_slice(&buffer[..bytes]);
        bytes
    }
}

/// A field's value in the head of a message.
pub fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A server of a test's own, plain: each connection is given, with its number from 0, to the play.
pub async fn play<F, P>(play: P) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
    P: Fn(usize, Wire) -> F + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    play_on(listener, play);
    address
}

/// The same where somebody else has listened before.
pub fn play_on<F, P>(listener: TcpListener, play: P)
where
    F: Future<Output = ()> + Send + 'static,
    P: Fn(usize, Wire) -> F + Send + Sync + 'static,
{
    let play = Arc::new(play);
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(play(number, Wire::over(stream)));
            number += 1;
        }
    });
}

fn text(bytes: impl Iterator<Item = u8>) -> String {
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

/// Nobody reads for so long, in spite of all buffers: the way is full.
const STALLED: std::time::Duration = std::time::Duration::from_millis(500);
