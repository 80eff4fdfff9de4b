//! A stream that resets its connection (RST instead of FIN) once an answer has left.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::session::Session;

/// A server's end of a connection.
pub struct Resettable<S> {
    stream: S,
    session: Arc<Session>,
    /// The answer that asked for it has been written.
    written: bool,
    /// And has left.
    flushed: bool,
}

/// A stream over TCP.
pub trait OverTcp {
    /// The connection below.
    fn tcp(&self) -> &TcpStream;
}

impl OverTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl OverTcp for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl<S> Resettable<S> {
    /// A stream that the session may ask to reset.
    pub fn new(stream: S, session: Arc<Session>) -> Self {
        Resettable { stream, session, written: false, flushed: false }
    }
}

impl<S: AsyncRead + OverTcp + Unpin> AsyncRead for Resettable<S> {
    /// Whoever reads on after the answer is told that the connection is gone; dropping it then sends the RST.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.flushed {
            self.stream.tcp().set_zero_linger()?;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Resettable<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = self.session.ends_in_reset.load(Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if self.written && !self.flushed && matches!(flushed, Poll::Ready(Ok(()))) {
            self.flushed = true;
            context.waker().wake_by_ref(); // so that it is read from
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flushed {
            return Poll::Ready(Ok(())); // no FIN before the RST
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
