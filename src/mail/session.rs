//! One client's session: drives the dialogue and the sign-in over their sockets, and then passes on what comes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::{
    apps::ServerApp,
    protocols::{Stream, l4::stream::Stream as L4Stream, tls::server::handshake},
    server::ShutdownWatch,
    tls::ssl::SslAcceptor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    dialogue::{Dialogue, INPUT_MAX_BYTES, Step, Terms, Words},
    imap4::Imap4,
    judge::Refused,
    ntlm::{self, Passing},
    offered::Offered,
    pop3::Pop3,
    server::ServerStream,
    splice::{self, Passed, splice},
    story::{Ended, Story},
};
use crate::{
    certificates::{CertificateError, ListenerCertificates},
    config::{Config, MailListener},
    edge::{
        arrival::{Guest, Reception},
        health::InFlight,
        in_force::InForce,
    },
    routing::protocol::Protocol,
};

/// Where clients of POP3 and IMAP4 are received.
pub struct Mail {
    pub(super) in_force: Arc<ArcSwap<InForce>>,
    listeners: Vec<Place>,
    pub(super) offered: Arc<Offered>,
    reception: Reception,
    in_flight: TaskTracker,
    /// Of an edge that stops, quiet sessions end now and the others when they are.
    idle_end: CancellationToken,
    /// Places for those who are asked by a server's challenge.
    pub(super) ntlm_waiting: Arc<Semaphore>,
}

/// A listener's TLS.
struct Place {
    address: SocketAddr,
    certificates: Arc<ListenerCertificates>,
    acceptor: SslAcceptor,
}

/// A session that has begun.
pub(super) struct Session<'m> {
    pub(super) mail: &'m Mail,
    pub(super) in_force: Arc<InForce>,
    pub(super) protocol: Protocol,
    pub(super) client: IpAddr,
    pub(super) story: Story,
}

/// A client that is logged on.
struct Open {
    client: Stream,
    server: Opened,
    /// What the client has said already.
    first_to_server: Vec<u8>,
}

/// A server that somebody is signed in at.
pub(super) struct Opened {
    pub(super) stream: ServerStream,
    /// For the client.
    pub(super) words: Vec<u8>,
    /// The server's, as long as the session lasts.
    pub(super) in_flight: InFlight,
}

impl Mail {
    /// For the listeners that stand at these addresses; those without certificates speak no TLS.
    pub fn new(
        in_force: Arc<ArcSwap<InForce>>,
        reception: Reception,
        listeners: &[(SocketAddr, Option<Arc<ListenerCertificates>>)],
        offered: Arc<Offered>,
        in_flight: TaskTracker,
        idle_end: CancellationToken,
    ) -> Result<Self, CertificateError> {
        let place = |(address, certificates): &(SocketAddr, Option<Arc<ListenerCertificates>>)| {
            let certificates = certificates.clone()?;
            Some(certificates.clone().acceptor().map(|acceptor| Place { address: *address, certificates, acceptor }))
        };
        let listeners = listeners.iter().filter_map(place).collect::<Result<_, _>>()?;
        let ntlm_waiting = Arc::new(Semaphore::new(ntlm::WAITING_MAX));
        Ok(Mail { in_force, listeners, offered, reception, in_flight, idle_end, ntlm_waiting })
    }

    fn place(&self, address: SocketAddr) -> Option<&Place> {
        self.listeners.iter().find(|place| place.address == address)
    }
}

#[async_trait]
impl ServerApp for Mail {
    /// Pingora's task for a connection has the size of a handshake; a session lasts for hours and has one of its own.
    async fn process_new(self: &Arc<Self>, mut stream: Stream, _: &ShutdownWatch) -> Option<Stream> {
        let mail = self.clone();
        tokio::spawn(async move {
            let received = Box::pin(mail.receive(&mut stream)).await;
            if let Some((guest, listener, session)) = received {
                session.last(stream, listener).await;
                drop(guest);
            }
        });
        None
    }
}

impl Mail {
    async fn receive(&self, stream: &mut Stream) -> Option<(Guest, (MailListener, SocketAddr), Session<'_>)> {
        let guest = self.reception.admit(stream).await?;
        let in_force = self.in_force.load_full();
        let digest = stream.get_socket_digest()?;
        let came_to = *digest.local_addr()?.as_inet()?;
        let client = digest.peer_addr()?.as_inet()?.ip().to_canonical();
        let (listener, address) = in_force.listener_at(&came_to)?;
        let listener = listener.mail?;
        let story = Story::new(listener.protocol, client, &in_force.shared.metrics);
        Some((guest, (listener, address), Session { mail: self, in_force, protocol: listener.protocol, client, story }))
    }
}

impl Session<'_> {
    /// From the greeting to the end.
    async fn last(mut self, stream: Stream, (listener, address): (MailListener, SocketAddr)) {
        let mail = self.mail;
        let _counted = mail.in_flight.token();
        let patience = self.in_force.config.mail.logon_timeout;
        let deadline = Instant::now() + patience;
        // On the heap, to be gone when it is over. A logon that comes just in time is judged, too.
        let log_on = self.log_on(stream, listener, mail.place(address), deadline);
        let open = Box::pin(timeout(patience * 2, log_on)).await.unwrap_or(Err(Ended::TooSlow));
        let splice = splice_settings(&self.in_force.config, self.protocol);
        let mut story = self.story;
        drop(self.in_force); // a session outlives many organisations and configurations
        let ended = match open {
            Ok(open) => pass_on(open, &splice, &mut story, &mail.idle_end).await,
            Err(ended) => ended,
        };
        story.tell_end(&ended);
    }

    /// Speaks with the client until somebody has logged on.
    async fn log_on(
        &mut self,
        stream: Stream,
        listener: MailListener,
        place: Option<&Place>,
        deadline: Instant,
    ) -> Result<Open, Ended> {
        let mut client = stream;
        let at_once = place.filter(|_| !listener.start_tls);
        if let Some(place) = at_once {
            client = begin_tls(client, place, deadline).await?;
        }
        let mail = &self.in_force.config.mail;
        let terms = Terms {
            host: self.host(place),
            is_tls: at_once.is_some(),
            may_start_tls: place.is_some() && listener.start_tls,
            allow_plain_logon: listener.allow_plain_logon,
            offers_ntlm: self.ntlm_server().is_some(),
            capabilities: self.mail.offered.of(self.protocol, mail),
        };
        let is_pop3 = self.protocol == Protocol::Pop3;
        let mut dialogue: Box<dyn Dialogue> =
            if is_pop3 { Box::new(Pop3::new(terms)) } else { Box::new(Imap4::new(terms)) };
        let mut passing: Option<Passing> = None;
        let mut input = [0; INPUT_MAX_BYTES];
        let greeting = dialogue.greeting();
        say(&mut client, &greeting).await?;
        loop {
            let asked_at = Instant::now();
            let opened = match dialogue.next() {
                Step::Read => {
                    let read = tokio::select! {
                        biased;
                        read = client.read(&mut input) => read.map_err(|_| Ended::Client)?,
                        () = self.mail.idle_end.cancelled() => return Err(self.say_bye(client, Ended::Drained).await),
                        () = sleep_until(deadline) => return Err(self.say_bye(client, Ended::TooSlow).await),
                    };
                    if read == 0 {
                        return Err(Ended::Client);
                    }
                    dialogue.receive(&input[..read]);
                    continue;
                }
                Step::Send(words) => {
                    passing = None; // if there was one, the client has called it off
                    say(&mut client, &words).await?;
                    continue;
                }
                Step::StartTls(words) => {
                    passing = None;
                    say(&mut client, &words).await?;
                    let Some(place) = place else { return Err(Ended::Tls) }; // it was not offered
                    client = begin_tls(client, place, deadline).await?;
                    dialogue.tls_has_begun();
                    continue;
                }
                Step::End(words, why) => {
                    let _ = say(&mut client, &words).await; // it may be gone already
                    let_go(client).await;
                    return Err(Ended::Dialogue(why));
                }
                Step::LogOn(logon) => {
                    passing = None;
                    self.judge(&logon).await
                }
                Step::Ntlm(message) => match passing.take() {
                    None => match self.begin_ntlm(message, dialogue.tag()).await {
                        Ok((begun, challenge)) => {
                            passing = Some(begun);
                            let words = dialogue.challenge(&challenge);
                            say(&mut client, &words).await?;
                            continue;
                        }
                        Err(refused) => Err(refused),
                    },
                    Some(begun) => self.end_ntlm(begun, &message).await,
                },
            };
            match opened {
                Ok(server) => {
                    self.story.tell_logon(&self.in_force);
                    say(&mut client, &server.words).await?;
                    return Ok(Open { client, server, first_to_server: dialogue.rest() });
                }
                Err(refused) => {
                    self.story.tell_logon(&self.in_force);
                    sleep_until(leaves_at(asked_at, Instant::now(), self.in_force.config.mail.refusal_delay)).await;
                    let words = refuse(&mut *dialogue, refused);
                    say(&mut client, &words).await?;
                }
            }
        }
    }

    /// Nobody has logged on and nobody will. POP3 has no words for it.
    async fn say_bye(&self, mut client: Stream, why: Ended) -> Ended {
        if self.protocol == Protocol::Imap4 {
            let _ = say(&mut client, b"* BYE [UNAVAILABLE] Nobody has logged on. Connect again.\r\n").await; // it may be gone
        }
        let_go(client).await;
        why
    }

    fn host(&self, place: Option<&Place>) -> Arc<str> {
        let of_certificate = || place?.certificates.name();
        let configured = self.in_force.config.mail.host.clone();
        configured.or_else(of_certificate).unwrap_or_else(|| "mail".to_owned()).into()
    }
}

fn splice_settings(config: &Config, protocol: Protocol) -> splice::Settings {
    let is_pop3 = protocol == Protocol::Pop3;
    splice::Settings {
        idle_timeout: if is_pop3 { config.mail.pop3_idle_timeout } else { config.mail.imap4_idle_timeout },
        write_timeout: config.timeouts.client,
        half_closed_timeout: config.timeouts.client,
    }
}

/// Passes on everything, both ways, until one has gone.
async fn pass_on(open: Open, settings: &splice::Settings, story: &mut Story, drain: &CancellationToken) -> Ended {
    let Open { mut client, server: Opened { mut stream, in_flight: _in_flight, .. }, first_to_server } = open;
    let passed = Passed::default();
    let ending = splice(&mut client, &mut stream, first_to_server, settings, &passed, drain).await;
    story.passed(&passed);
    Ended::Passed(ending)
}

/// When a refusal leaves that was asked for and is known now: at a whole multiple of the delay, whatever the reason, so that
/// the time tells nothing.
fn leaves_at(asked_at: Instant, now: Instant, delay: Duration) -> Instant {
    let times = now.duration_since(asked_at).as_millis().checked_div(delay.as_millis()).unwrap_or_default();
    asked_at + delay.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX).saturating_add(1))
}

/// The client's words for a refusal, by which its dialogue goes on.
fn refuse(dialogue: &mut dyn Dialogue, refused: Refused) -> Vec<u8> {
    match refused {
        Refused::By(denial) => dialogue.refuse(&denial.words()),
        Refused::InOwnWords(words) => {
            dialogue.refuse(&Words { code: None, text: String::new() });
            words
        }
    }
}

async fn say(client: &mut Stream, words: &[u8]) -> Result<(), Ended> {
    let said = async {
        client.write_all(words).await?;
        client.flush().await
    };
    said.await.map_err(|_| Ended::Client)
}

/// Closes, and hears out for a moment who still speaks: else the system would throw away what was said to them.
async fn let_go(mut client: Stream) {
    let _ = client.shutdown().await; // it may be gone
    let mut unheard = [0; INPUT_MAX_BYTES];
    let hear_out = async { while client.read(&mut unheard).await.is_ok_and(|read| read > 0) {} };
    let _ = timeout(HEARD_OUT, hear_out).await;
}

/// How long who is let go may still speak.
const HEARD_OUT: Duration = Duration::from_secs(1);

async fn begin_tls(stream: Stream, place: &Place, deadline: Instant) -> Result<Stream, Ended> {
    let Ok(stream) = stream.into_any().downcast::<L4Stream>() else { return Err(Ended::Tls) }; // under TLS already
    let stream = timeout_at(deadline, handshake(&place.acceptor, *stream)).await.map_err(|_| Ended::TooSlow)?;
    Ok(Box::new(stream.map_err(|_| Ended::Tls)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_leaves_at_the_next_multiple_of_the_delay() {
        let asked_at = Instant::now();
        let after = |millis, delay| {
            let now = asked_at + Duration::from_millis(millis);
            leaves_at(asked_at, now, Duration::from_millis(delay)).duration_since(asked_at).as_millis()
        };
        assert_eq!([after(0, 2000), after(1999, 2000), after(2000, 2000), after(7300, 2000)], [2000, 2000, 4000, 8000]);
        assert_eq!(after(7300, 0), 0, "at once");
    }
}
