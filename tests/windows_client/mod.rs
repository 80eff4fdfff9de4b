//! A client's side of Windows authentication: `Authorization` values for a handshake, without a socket.
//!
//! ```no_run
//! let handshake = Handshake::ntlm("CONTOSO\\bruno");
//! let challenge = client.get("/owa/").header("Authorization", &handshake.first()).send().await;
//! let last = handshake.answer(challenge.header("WWW-Authenticate"));
//! client.get("/owa/").header("Authorization", &last).send().await;
//! ```
//!
//! Kerberos takes one leg: `kerberos(&Ticket::of("bruno"))`. The NTLM messages are `ntlmclient`'s, the envelopes and
//! the tickets Contoso's own.
#![allow(dead_code)] // each test takes this module whole and uses a part of it

use base64::{Engine, prelude::BASE64_STANDARD};
use ntlmclient::{
    AuthenticateMessage, ChallengeMessage, Credentials, Flags, Message, NegotiateMessage, TargetInfoEntry,
    TargetInfoType, respond_challenge_ntlm_v2,
};

use crate::contoso::{
    spnego::{self, Mechanism},
    tickets::Ticket,
};

/// An NTLM handshake of one client.
#[derive(Clone, Debug)]
pub struct Handshake {
    user: String,
    domain: String,
    password: String,
    workstation: String,
    form: Form,
    channel_bindings: Option<[u8; 16]>,
}

/// How NTLM's messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `NTLM <message>`.
    Ntlm,
    /// `Negotiate <message>`, without SPNEGO.
    Negotiate,
    /// `Negotiate <SPNEGO with the message>`.
    Spnego,
}

impl Handshake {
    /// A handshake of `DOMAIN\user`, `user@domain` or `user`, with Contoso's password, in the form `NTLM`.
    pub fn ntlm(name: &str) -> Self {
        let (domain, user) = name.split_once('\\').unwrap_or(("", name));
        Handshake {
            user: user.to_owned(),
            domain: domain.to_owned(),
            password: "Pass-word1".to_owned(),
            workstation: "LAPTOP".to_owned(),
            form: Form::Ntlm,
            channel_bindings: None,
        }
    }

    /// In another form.
    pub fn form(self, form: Form) -> Self {
        Handshake { form, ..self }
    }

    /// With another password.
    pub fn password(self, password: &str) -> Self {
        Handshake { password: password.to_owned(), ..self }
    }

    /// From another workstation.
    pub fn workstation(self, workstation: &str) -> Self {
        Handshake { workstation: workstation.to_owned(), ..self }
    }

    /// With `MsvAvChannelBindings` in the response ([MS-NLMP] 2.2.2.1), as Windows sends over TLS.
    pub fn channel_bindings(self, hash: [u8; 16]) -> Self {
        Handshake { channel_bindings: Some(hash), ..self }
    }

    /// The first `Authorization` value, with the NEGOTIATE_MESSAGE.
    pub fn first(&self) -> String {
        let message = Message::Negotiate(NegotiateMessage {
            flags: FLAGS | Flags::NEGOTIATE_OEM | Flags::REQUEST_TARGET,
            supplied_domain: String::new(),
            supplied_workstation: String::new(),
            os_version: ntlmclient::OsVersion::default(),
        });
        let message = message.to_bytes().expect("ASCII");
        match self.form {
            Form::Ntlm => value("NTLM", &message),
            Form::Negotiate => value("Negotiate", &message),
            Form::Spnego => value("Negotiate", &spnego::first(&[Mechanism::Ntlm], &message)),
        }
    }

    /// The second `Authorization` value, with the AUTHENTICATE_MESSAGE for the challenge in this
    /// `WWW-Authenticate` value.
    ///
    /// # Panics
    /// If there is no challenge in it.
    pub fn answer(&self, challenge: &str) -> String {
        let message = self.authenticate(&challenge_in(challenge));
        match self.form {
            Form::Ntlm => value("NTLM", &message),
            Form::Negotiate => value("Negotiate", &message),
            Form::Spnego => value("Negotiate", &spnego::further(None, None, Some(&message))),
        }
    }

    fn authenticate(&self, challenge: &ChallengeMessage) -> Vec<u8> {
        let credentials =
            Credentials { username: self.user.clone(), password: self.password.clone(), domain: self.domain.clone() };
        let mut info = challenge.target_information.clone();
        if let Some(hash) = self.channel_bindings {
            let bindings = TargetInfoEntry { entry_type: TargetInfoType::ChannelBindings, data: hash.to_vec() };
            info.insert(info.len().saturating_sub(1), bindings); // before the terminator
        }
        let stamp = info.iter().find(|entry| entry.entry_type == TargetInfoType::Timestamp);
        let stamp = stamp.and_then(|entry| entry.data.first_chunk().copied()).map_or(0, i64::from_le_bytes);
        let info: Vec<u8> = info.iter().flat_map(TargetInfoEntry::to_bytes).collect();
        let response = respond_challenge_ntlm_v2(challenge.challenge, &info, stamp, &credentials);
        let message = Message::Authenticate(AuthenticateMessage {
            lm_response: response.lm_response,
            ntlm_response: response.ntlm_response,
            domain_name: self.domain.clone(),
            user_name: self.user.clone(),
            workstation_name: self.workstation.clone(),
            session_key: Vec::new(), // no key exchange: nothing is signed or sealed over HTTP
            flags: FLAGS | Flags::NEGOTIATE_TARGET_INFO,
            os_version: ntlmclient::OsVersion::default(),
        });
        message.to_bytes().expect("UTF-16 takes every name")
    }
}

/// The one `Authorization` value of a client with a ticket, in SPNEGO as browsers and Windows send it.
pub fn kerberos(ticket: &Ticket) -> String {
    value("Negotiate", &ticket.spnego_token())
}

/// The same without SPNEGO.
pub fn raw_kerberos(ticket: &Ticket) -> String {
    value("Negotiate", &ticket.token())
}

fn value(scheme: &str, token: &[u8]) -> String {
    format!("{scheme} {}", BASE64_STANDARD.encode(token))
}

fn challenge_in(value: &str) -> ChallengeMessage {
    let (_, token) = value.split_once(' ').unwrap_or_else(|| panic!("no challenge in {value:?}"));
    let token = BASE64_STANDARD.decode(token).expect("base64");
    let message = match spnego::open(&token) {
        Some(opened) => opened.token.expect("a challenge in the envelope"),
        None => token,
    };
    match Message::try_from(message.as_slice()) {
        Ok(Message::Challenge(challenge)) => challenge,
        other => panic!("no challenge but {other:?}"),
    }
}

const FLAGS: Flags = Flags::NEGOTIATE_UNICODE
    .union(Flags::NEGOTIATE_NTLM)
    .union(Flags::NEGOTIATE_ALWAYS_SIGN)
    .union(Flags::NEGOTIATE_NTLM2_KEY)
    .union(Flags::NEGOTIATE_128BIT)
    .union(Flags::NEGOTIATE_56BIT);
