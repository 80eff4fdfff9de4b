//! The line between the edge and a directory server, with faults at will. Bytes go through unread.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use url::Url;

/// What the line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it carries.
    None,
    /// Nobody listens, and the old connections end.
    Refused,
    /// Bytes vanish, new connections are accepted and never heard of again: a black hole.
    Silent,
    /// Every piece of an answer comes that much later.
    Slow(Duration),
    /// Answers end after so many more bytes, in the middle of whatever it is.
    CutAfter(usize),
    /// Another server is there in its place, and the old connections end.
    #[allow(dead_code)] // for tests/edge
    Elsewhere(SocketAddr),
}

/// A line to a server.
pub struct Line {
    scheme: String,
    address: SocketAddr,
    fault: watch::Sender<Fault>,
}

impl Line {
    /// Lays a line to a server of that URL.
    pub async fn to(server: &Url) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (fault, faults) = watch::channel(Fault::None);
        let scheme = server.scheme().to_owned();
        let server = socket_address(server);
        tokio::spawn(async move {
            let (mut listener, mut waiting) = (Some(listener), faults.clone());
            loop {
                if *waiting.borrow_and_update() == Fault::Refused {
                    listener = None;
                }
                match &listener {
                    None => {
                        let _ = waiting.wait_for(|fault| *fault != Fault::Refused).await;
                        listener = TcpListener::bind(address).await.ok();
                    }
                    Some(open) => tokio::select! {
                        Ok((client, _)) = open.accept() => drop(tokio::spawn(carry(client, server, faults.clone()))),
                        changed = waiting.changed() => if changed.is_err() { return },
                    },
                }
            }
        });
        Line { scheme, address, fault }
    }

    /// Where the edge connects to.
    pub fn url(&self) -> Url {
        Url::parse(&format!("{}://{}", self.scheme, self.address)).expect("a URL")
    }

    /// From now on.
    pub fn becomes(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

/// Where a server of that URL listens.
pub fn socket_address(server: &Url) -> SocketAddr {
    server.socket_addrs(|| None).expect("an address")[0]
}

impl Fault {
    /// Where connections lead; `None`: nowhere.
    fn leads_to(self, server: SocketAddr) -> Option<SocketAddr> {
        match self {
            Fault::Refused => None,
            Fault::Elsewhere(other) => Some(other),
            Fault::None | Fault::Silent | Fault::Slow(_) | Fault::CutAfter(_) => Some(server),
        }
    }
}

async fn carry(client: TcpStream, server: SocketAddr, mut faults: watch::Receiver<Fault>) {
    let leads_to = faults.borrow_and_update().leads_to(server);
    let Some(there) = leads_to else { return };
    let Ok(there) = TcpStream::connect(there).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = there.into_split();
    let carried = Arc::new(faults.clone());
    let ended = async {
        let _ = faults.wait_for(|fault| fault.leads_to(server) != leads_to).await;
    };
    tokio::select! {
        () = ended => {}
        () = pump(from_client, to_server, carried.clone(), false) => {}
        () = pump(from_server, to_client, carried, true) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    faults: Arc<watch::Receiver<Fault>>,
    answers: bool,
) {
    let (mut piece, mut carried_since) = ([0; 4096], 0);
    loop {
        let Ok(read @ 1..) = from.read(&mut piece).await else { return };
        let mut faults = (*faults).clone();
        let fault = *faults.borrow_and_update();
        let mut whole = read;
        match fault {
            Fault::Silent => {
                let _ = faults.wait_for(|fault| *fault != Fault::Silent).await;
                return; // what vanished does not come back
            }
            Fault::Slow(delay) if answers => tokio::time::sleep(delay).await,
            Fault::CutAfter(bytes) if answers => {
                whole = read.min(bytes.saturating_sub(carried_since));
                carried_since += whole;
            }
            Fault::None | Fault::Refused | Fault::Elsewhere(_) | Fault::Slow(_) | Fault::CutAfter(_) => {}
        }
        if to.write_all(&piece[..whole]).await.is_err() || whole < read {
            return;
        }
    }
}
