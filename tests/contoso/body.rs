//! Bodies: of answers, and what is kept of a request's.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

/// An answer's body.
pub enum Body {
    /// In one piece; empty once sent.
    Whole(Bytes),
    /// This many bytes more, made while they are sent.
    Filled(u64),
    /// The request's own body, sent back as it arrives.
    Duplex(Incoming),
    /// Half of what `Content-Length` promises, then the connection drops.
    Cut(Cut),
}

/// How far a [`Body::Cut`] is.
pub enum Cut {
    /// Nothing sent.
    Begun,
    /// Half is on its way.
    HalfSent,
    /// Half has left; the end comes next.
    HalfGone,
}

/// The connection ends here, on purpose. As a service's or a body's error it makes hyper drop the connection.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
pub struct Dropped;

impl Body {
    /// A body in one piece.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Body::Whole(bytes.into())
    }

    /// No body.
    pub fn empty() -> Self {
        Body::Whole(Bytes::new())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Dropped;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut *self {
            Body::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Filled(0) => Poll::Ready(None),
            Body::Filled(left) => {
                let chunk = usize::try_from(*left).map_or(FILLING.len(), |left| left.min(FILLING.len()));
                *left -= chunk as u64;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILLING).slice(..chunk)))))
            }
            Body::Duplex(incoming) => Pin::new(incoming).poll_frame(context).map_err(|_| Dropped),
            Body::Cut(cut) => match cut {
                Cut::Begun => {
                    *cut = Cut::HalfSent;
                    Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILLING).slice(..CUT)))))
                }
                Cut::HalfSent => {
                    *cut = Cut::HalfGone;
                    context.waker().wake_by_ref(); // hyper flushes before it comes back
                    Poll::Pending
                }
                Cut::HalfGone => Poll::Ready(Some(Err(Dropped))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Filled(left) => *left == 0,
            Body::Duplex(incoming) => incoming.is_end_stream(),
            Body::Cut(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Filled(left) => SizeHint::with_exact(*left),
            Body::Duplex(incoming) => incoming.size_hint(),
            Body::Cut(_) => SizeHint::with_exact(2 * CUT as u64),
        }
    }
}

/// What is kept of a request's body after reading it.
pub struct Received {
    /// Its length in bytes.
    pub length: u64,
    /// Its hash, if asked for.
    pub hash: Option<blake3::Hash>,
}

/// Reads a request's body to its end and keeps nothing but its length and, if wanted, its hash.
pub async fn receive(mut body: Incoming, with_hash: bool) -> Result<Received, Dropped> {
    let mut length = 0;
    let mut hasher = with_hash.then(blake3::Hasher::new);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Dropped)?;
        let Some(chunk) = frame.data_ref() else {
            continue; // trailers
        };
        length += chunk.len() as u64;
        if let Some(hasher) = &mut hasher {
            hasher.update(chunk);
        }
    }
    Ok(Received { length, hash: hasher.map(|hasher| hasher.finalize()) })
}

static FILLING: [u8; 64 * 1024] = [b'.'; 64 * 1024];
const CUT: usize = 1024;
