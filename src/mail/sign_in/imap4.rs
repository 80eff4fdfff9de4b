//! IMAP4 (RFC 3501) as a client speaks it, until somebody is signed in.

use std::collections::VecDeque;

use base64::prelude::{BASE64_STANDARD, Engine};

use super::{Credential, Failure, Step, echoes::Echoes, is_unspeakable, plain, without_end};
use crate::mail::dialogue::{LINE_MAX_BYTES, Logon};

pub(super) struct Imap4 {
    credential: Credential,
    tag: Vec<u8>,
    start_tls: bool,
    is_tls: bool,
    capabilities: Option<Vec<String>>,
    commands: u8,
    awaits: Awaits,
    /// What the server has said since the logon, which the client would have heard.
    said: Vec<u8>,
    echoes: Echoes,
}

enum Awaits {
    Greeting,
    Capabilities,
    /// The answer to `STARTTLS`.
    Tls,
    /// The answer to the logon; each of these lines goes when the server asks for more.
    Logon(VecDeque<Vec<u8>>),
    /// Its message of Windows authentication.
    Challenge,
    /// Nothing: the client is to answer its message.
    Client,
}

/// What kind of line it is.
enum Line<'l> {
    Untagged(&'l [u8]),
    More(&'l [u8]),
    Tagged(&'l [u8]),
    Other,
}

impl Imap4 {
    pub(super) fn new(credential: Credential, tag: Vec<u8>, start_tls: bool, is_tls: bool) -> Self {
        let echoes = match &credential {
            Credential::Password(logon) => Echoes::of(logon.password.expose()),
            Credential::Ntlm(_) => Echoes::of(b""),
        };
        let (awaits, said) = (Awaits::Greeting, Vec::new());
        Imap4 { credential, tag, start_tls, is_tls, capabilities: None, commands: 0, awaits, said, echoes }
    }

    /// A refusal of what no IMAP4 server can be told: not even a literal may have a NUL in it.
    pub(super) fn unspeakable(&self) -> Option<Step> {
        let Credential::Password(logon) = &self.credential else { return None };
        let words = "NO [AUTHENTICATIONFAILED] IMAP4 has no way to say this name or this password";
        is_unspeakable(logon, b"\0").then(|| self.refused(words))
    }

    pub(super) fn capabilities(&self) -> Option<&[String]> {
        self.capabilities.as_deref()
    }

    pub(super) fn tls_has_begun(&mut self) -> Step {
        self.is_tls = true;
        self.capabilities = None; // said in clear, and so perhaps by somebody else
        self.ask_capabilities()
    }

    pub(super) fn answer(&mut self, message: &[u8]) -> Step {
        self.echoes.add(message);
        self.awaits = Awaits::Logon(VecDeque::new());
        Step::Send(format!("{}\r\n", BASE64_STANDARD.encode(message)).into_bytes())
    }

    /// `None`: the next line.
    pub(super) fn hear(&mut self, line: &[u8]) -> Option<Step> {
        let words = without_end(line);
        match (self.kind(words), &self.awaits) {
            (Line::Untagged(said), Awaits::Greeting) if is_word(said, b"OK") => {
                self.learn(said);
                Some(if self.capabilities.is_some() { self.proceed() } else { self.ask_capabilities() })
            }
            (Line::Untagged(said), awaits) if !is_word(said, b"BYE") && !matches!(awaits, Awaits::Greeting) => {
                if matches!(awaits, Awaits::Logon(_) | Awaits::Challenge | Awaits::Client) {
                    self.said.extend_from_slice(line);
                }
                self.learn(said);
                None
            }
            (Line::Tagged(said), Awaits::Capabilities) if is_word(said, b"OK") => {
                self.learn(said);
                Some(self.proceed())
            }
            (Line::Tagged(said), Awaits::Tls) => {
                Some(if is_word(said, b"OK") { Step::StartTls } else { Step::Failed(Failure::NoTls) })
            }
            (Line::Tagged(said), Awaits::Logon(_) | Awaits::Challenge) => Some(self.judged(said, line)),
            (Line::More(_), Awaits::Logon(_)) => Some(self.go_on(words)),
            (Line::More(said), Awaits::Challenge) => Some(self.challenged(said, words)),
            (
                Line::Untagged(_) | Line::Tagged(_) | Line::More(_) | Line::Other,
                Awaits::Greeting
                | Awaits::Capabilities
                | Awaits::Tls
                | Awaits::Logon(_)
                | Awaits::Challenge
                | Awaits::Client,
            ) => Some(self.failed(words)),
        }
    }

    fn kind<'l>(&self, words: &'l [u8]) -> Line<'l> {
        let awaited = match self.awaits {
            Awaits::Logon(_) | Awaits::Challenge | Awaits::Client => &self.tag,
            Awaits::Greeting | Awaits::Capabilities | Awaits::Tls => &self.own_tag(),
        };
        match words.iter().position(|byte| *byte == b' ').map(|space| (&words[..space], &words[space + 1..])) {
            Some((b"*", said)) => Line::Untagged(said),
            Some((b"+", said)) => Line::More(said),
            None if words == b"+" => Line::More(b""), // Exchange and others leave the space out
            Some((tag, said)) if tag == awaited => Line::Tagged(said),
            Some(_) | None => Line::Other,
        }
    }

    /// The tag of the edge's own last command. It is never the client's: it begins by another letter.
    fn own_tag(&self) -> Vec<u8> {
        let letter = if self.tag.first() == Some(&b'e') { 'f' } else { 'e' };
        format!("{letter}{}", self.commands).into_bytes()
    }

    fn command(&mut self, command: &[u8], awaits: Awaits) -> Step {
        self.commands += 1;
        self.awaits = awaits;
        Step::Send([&self.own_tag()[..], b" ", command, b"\r\n"].concat())
    }

    fn ask_capabilities(&mut self) -> Step {
        self.command(b"CAPABILITY", Awaits::Capabilities)
    }

    /// All is known that has to be.
    fn proceed(&mut self) -> Step {
        if !self.start_tls || self.is_tls {
            return self.log_on();
        }
        if self.offers("STARTTLS") == Some(true) {
            self.command(b"STARTTLS", Awaits::Tls)
        } else {
            Step::Failed(Failure::NoTls)
        }
    }

    fn log_on(&mut self) -> Step {
        let logon = match &self.credential {
            Credential::Password(logon) => logon,
            Credential::Ntlm(_) if self.offers("AUTH=NTLM") == Some(false) => {
                return Step::Failed(Failure::NoMechanism("NTLM"));
            }
            Credential::Ntlm(first) => {
                let message = first.clone();
                return self.authenticate("NTLM", &message, false);
            }
        };
        let offers_plain = self.offers("AUTH=PLAIN");
        let is_login_disabled = self.offers("LOGINDISABLED") == Some(true);
        match (logon.authorize_as.is_some(), is_login_disabled, offers_plain) {
            (false, false, _) => {
                let mut lines = login(&self.tag, logon);
                let first = lines.pop_front().unwrap_or_default();
                self.awaits = Awaits::Logon(lines);
                Step::Send(first)
            }
            (true, _, None | Some(true)) | (false, true, Some(true)) => {
                let message = plain(logon);
                self.authenticate("PLAIN", &message, self.offers("SASL-IR") == Some(true))
            }
            (_, true, _) if !self.is_tls => Step::Failed(Failure::TlsRequired),
            (true, ..) => self.refused("NO [AUTHORIZATIONFAILED] the server cannot be told whose mailbox is meant"),
            (false, true, _) => Step::Failed(Failure::NoMechanism("LOGIN or AUTHENTICATE PLAIN")),
        }
    }

    fn authenticate(&mut self, mechanism: &str, message: &[u8], at_once: bool) -> Step {
        self.echoes.add(message);
        let command = [&self.tag[..], b" AUTHENTICATE ", mechanism.as_bytes()].concat();
        let message = BASE64_STANDARD.encode(message).into_bytes();
        let whole = [&command[..], b" ", &message, b"\r\n"].concat();
        if at_once && whole.len() <= LINE_MAX_BYTES {
            self.awaits = Awaits::Logon(VecDeque::new());
            Step::Send(whole)
        } else {
            self.awaits = Awaits::Logon([[&message[..], b"\r\n"].concat()].into());
            Step::Send([&command[..], b"\r\n"].concat())
        }
    }

    /// It wants more.
    fn go_on(&mut self, words: &[u8]) -> Step {
        let Awaits::Logon(lines) = &mut self.awaits else { return self.failed(words) };
        let Some(line) = lines.pop_front() else { return self.failed(words) };
        if matches!(self.credential, Credential::Ntlm(_)) {
            self.awaits = Awaits::Challenge;
        }
        Step::Send(line)
    }

    fn challenged(&mut self, said: &[u8], words: &[u8]) -> Step {
        let Ok(message) = BASE64_STANDARD.decode(said.trim_ascii()) else { return self.failed(words) };
        self.awaits = Awaits::Client;
        Step::Challenge(message)
    }

    /// The answer to the logon.
    fn judged(&mut self, said: &[u8], line: &[u8]) -> Step {
        if is_word(said, b"OK") {
            self.learn(said);
            self.said.extend_from_slice(line);
            return Step::SignedIn(std::mem::take(&mut self.said));
        }
        if !is_word(said, b"NO") {
            return self.failed(without_end(line));
        }
        if !self.is_tls && code(said).is_some_and(|code| code.eq_ignore_ascii_case(b"PRIVACYREQUIRED")) {
            return Step::Failed(Failure::TlsRequired);
        }
        let told = self.echoes.remove_from(&said[2..]); // neither the tag nor the word is an echo, whatever the password
        Step::Refused([&self.tag[..], b" NO", &told, b"\r\n"].concat())
    }

    fn refused(&self, words: &str) -> Step {
        Step::Refused([&self.tag[..], b" ", words.as_bytes(), b"\r\n"].concat())
    }

    fn failed(&self, words: &[u8]) -> Step {
        let words = self.echoes.printable(words);
        Step::Failed(match self.awaits {
            Awaits::Greeting | Awaits::Capabilities | Awaits::Tls => Failure::Words(words),
            Awaits::Logon(_) | Awaits::Challenge | Awaits::Client => Failure::Answer(words),
        })
    }

    /// `None`: it has not said what it offers.
    fn offers(&self, capability: &str) -> Option<bool> {
        Some(self.capabilities.as_ref()?.iter().any(|offered| offered.eq_ignore_ascii_case(capability)))
    }

    /// `CAPABILITY ...`, or `OK [CAPABILITY ...]`.
    fn learn(&mut self, said: &[u8]) {
        let list = if is_word(said, b"OK") { code(said).unwrap_or_default() } else { said };
        if is_word(list, b"CAPABILITY") {
            let offered = String::from_utf8_lossy(list);
            self.capabilities = Some(offered.split_ascii_whitespace().skip(1).map(str::to_owned).collect());
        }
    }
}

/// Whether the first word is this one, in whatever letters.
fn is_word(said: &[u8], word: &[u8]) -> bool {
    let first = said.split(|byte| *byte == b' ').next();
    first.is_some_and(|first| first.eq_ignore_ascii_case(word))
}

/// `UNAVAILABLE` of `NO [UNAVAILABLE] come back later`.
fn code(said: &[u8]) -> Option<&[u8]> {
    let text = &said[said.iter().position(|byte| *byte == b' ')? + 1..];
    let code = text.strip_prefix(b"[")?;
    Some(&code[..code.iter().position(|byte| *byte == b']')?])
}

/// `LOGIN`, in as many lines as it takes: a literal waits until the server asks for it.
fn login(tag: &[u8], logon: &Logon) -> VecDeque<Vec<u8>> {
    let mut lines = VecDeque::new();
    let mut line = [tag, b" LOGIN"].concat();
    for word in [&logon.user[..], logon.password.expose()] {
        line.push(b' ');
        if word.iter().all(|byte| byte.is_ascii() && !matches!(byte, b'\r' | b'\n')) {
            line.push(b'"');
            for byte in word {
                line.extend(matches!(byte, b'"' | b'\\').then_some(b'\\'));
                line.push(*byte);
            }
            line.push(b'"');
        } else {
            line.extend_from_slice(format!("{{{}}}\r\n", word.len()).as_bytes());
            lines.push_back(std::mem::replace(&mut line, word.to_vec()));
        }
    }
    line.extend_from_slice(b"\r\n");
    lines.push_back(line);
    lines
}
