//! Signs somebody in at one server, over a connection of their own.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    dialogue::INPUT_MAX_BYTES,
    server::{self, ServerStream},
    session::{Opened, Session},
    sign_in::{Failure, SignIn, Step},
};
use crate::{
    edge::{
        health::{Fault, InFlight},
        organisation::Target,
    },
    events::Event,
    routing::topology::ServerId,
};

/// A sign-in under way.
pub(super) struct Sitting {
    sign_in: Box<SignIn>,
    stream: ServerStream,
    server: ServerId,
    in_flight: InFlight,
}

/// What came of it.
pub(super) enum Came {
    /// They are in.
    In(Opened),
    /// The server wants to hear more from them.
    Challenged(Sitting, Vec<u8>),
    /// It has refused them, in these words.
    Refused(Vec<u8>),
    /// It was reached, but another server of the pool may do better.
    Failed,
    /// It does not take connections, or is not believed.
    Away,
}

impl Session<'_> {
    /// Connects, and signs in as far as it goes.
    pub(super) async fn sign_in_at(&mut self, server: ServerId, target: &Target<'_>, sign_in: SignIn) -> Came {
        let organisation = self.in_force.organisation.clone();
        self.story.at(&organisation.topology.server(server).name);
        let stream = match server::connect(target).await {
            Ok(stream) => stream,
            Err(fault) => return self.is_away(server, fault.as_ref()),
        };
        let in_flight = organisation.health.enter(server);
        self.go_on(Sitting { sign_in: Box::new(sign_in), stream, server, in_flight }, target, false).await
    }

    /// The client's answer to the server's challenge.
    pub(super) async fn answer_at(&mut self, mut sitting: Sitting, message: &[u8], target: &Target<'_>) -> Came {
        sitting.sign_in.answer(message);
        self.go_on(sitting, target, true).await
    }

    fn is_away(&self, server: ServerId, fault: Option<&Fault>) -> Came {
        if let Some(fault) = fault {
            self.in_force.organisation.health.refused(server, self.protocol, fault);
        }
        Came::Away
    }

    async fn go_on(&self, sitting: Sitting, target: &Target<'_>, was_heard: bool) -> Came {
        let (server, is_heard) = (sitting.server, AtomicBool::new(was_heard));
        let patience = self.in_force.config.mail.server_timeout;
        let came = timeout(patience, self.converse(sitting, target, &is_heard)).await;
        let (why, is_out) = match came {
            Ok(Ok(came)) => {
                self.in_force.organisation.health.accepted(server, self.protocol);
                return came;
            }
            Ok(Err(Trouble::Sign(failure))) => (failure.to_string(), failure.is_of_server()),
            Ok(Err(Trouble::Tls(fault))) => return self.is_away(server, fault.as_ref()),
            // One that has spoken may have had enough of this one client, or have a large mailbox to open.
            Ok(Err(Trouble::Ended)) => ("it ended the connection".to_owned(), !is_heard.load(Relaxed)),
            Err(_) => (format!("it did not answer within {} s", patience.as_secs()), !is_heard.load(Relaxed)),
        };
        let why = format!("lets nobody sign in by {}: {why}", self.protocol);
        if is_out {
            // The next client goes to another of the pool, and need not wait for this one.
            self.in_force.organisation.health.refused(server, self.protocol, &Fault::Unfit(why));
            return Came::Failed;
        }
        let name = &self.in_force.organisation.topology.server(server).name;
        let place = format!("{name} {}", self.protocol);
        if self.in_force.shared.lately.is_news(Event::MailServerFailed, &place).await {
            Event::MailServerFailed.report(format_args!("{name} {why}"));
        }
        Came::Failed
    }

    async fn converse(&self, sitting: Sitting, target: &Target<'_>, is_heard: &AtomicBool) -> Result<Came, Trouble> {
        let Sitting { mut sign_in, mut stream, server, in_flight } = sitting;
        let mut input = [0; INPUT_MAX_BYTES];
        loop {
            match sign_in.next() {
                Step::Read => {
                    let read = stream.read(&mut input).await.unwrap_or_default();
                    if read == 0 {
                        return Err(Trouble::Ended);
                    }
                    is_heard.store(true, Relaxed);
                    sign_in.receive(&input[..read]);
                }
                Step::Send(words) => {
                    let sent = async {
                        stream.write_all(&words).await?;
                        stream.flush().await
                    };
                    sent.await.map_err(|_: std::io::Error| Trouble::Ended)?;
                }
                Step::StartTls => {
                    stream = server::start_tls(stream, target).await.map_err(Trouble::Tls)?;
                    sign_in.tls_has_begun();
                }
                Step::Challenge(message) => {
                    return Ok(Came::Challenged(Sitting { sign_in, stream, server, in_flight }, message));
                }
                Step::SignedIn(words) => {
                    if let Some(says) = sign_in.capabilities() {
                        let name = &self.in_force.organisation.topology.server(server).name;
                        self.mail.offered.learn(name, says, &self.in_force.config.mail);
                    }
                    return Ok(Came::In(Opened { stream, words, in_flight }));
                }
                Step::Refused(words) => return Ok(Came::Refused(words)),
                Step::Failed(failure) => return Err(Trouble::Sign(failure)),
            }
        }
    }
}

enum Trouble {
    Sign(Failure),
    /// `None`: nothing was learned of the server.
    Tls(Option<Fault>),
    Ended,
}
