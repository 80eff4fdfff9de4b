//! The edge's half of IMAP4 before the logon (RFC 3501, RFC 9051): greeting, `CAPABILITY`, `STARTTLS`, `LOGIN`,
//! `AUTHENTICATE`, `ID`, `NOOP`, `LOGOUT`.
//!
//! ```text
//!                  a line              STARTTLS
//! Line::First -------------> command ------------> BeginsTls ---> Line::First, everything anew
//!  ^   |                     ^   | |
//!  |   | it ends in {6}      |   | | AUTHENTICATE
//!  |   v            a line   |   | +------> Line::Sasl ---- NTLM ----> PassedOn
//!  | Literal ---> Line::Rest +   |          |        ^                  |  |  |
//!  |   ^              |          | LOGIN    |        +---- challenge ---+  |  |
//!  |   +----- {10} ---+          v          v                              |  |
//!  +------------- refused ------ Judged <---+                              |  |
//!  |                             +---------------- accepted ---------------+--|----> the rest is the server's
//!  +------------- refused ----------------------------------------------------+
//! ```
//!
//! Whatever is answered or cancelled leads back to `Line::First`, whatever goes beyond its bounds to `Over`; the last logon
//! that may be refused, by way of `Ending`.
//!
//! Why not `imap-codec`: neither 1.0 nor 2.0 takes `LOGIN CONTOSO\duarte x`, `"CONTOSO\duarte"`, 8-bit names or a second
//! space, and clients send all of these. It reads every command and answer of IMAP where eight commands are wanted: 33,000
//! lines, with nom 7, chrono and an older base64.

mod command;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use super::{
    dialogue::{
        COMMANDS_MAX, Dialogue, End, INPUT_MAX_BYTES, LINE_MAX_BYTES, LITERAL_MAX_BYTES, LOGONS_MAX, Logon,
        MISTAKES_MAX, Step, Terms, Way, Words,
    },
    sasl::{self, Exchange, Mechanism},
};
use crate::secret::Secret;
use command::{Command, Literal, Name};

/// A client's dialogue before its logon. It has no `Debug`: a password may be in its input.
pub struct Imap4 {
    terms: Terms,
    state: State,
    /// What has come and is not read yet.
    input: VecDeque<u8>,
    /// Of the command under way; empty where it must not be sent back.
    tag: Vec<u8>,
    commands: u32,
    mistakes: u32,
    refused_logons: u32,
}

/// What comes next. See the picture above.
enum State {
    /// A line from the client.
    Line(Line),
    /// So many bytes of a literal from the client.
    Literal(Command, usize),
    /// What has become of the logon, from whoever drives this.
    Judged,
    /// A server's challenge, or what has become of the logon.
    PassedOn(Exchange),
    /// TLS.
    BeginsTls,
    /// The end.
    Ending(End),
    /// Nothing any more.
    Over,
}

/// What a line is.
enum Line {
    /// It begins a command.
    First,
    /// It goes on with a command after a literal.
    Rest(Command),
    /// It answers within `AUTHENTICATE`.
    Sasl(Exchange),
}

impl Imap4 {
    /// A dialogue with a client that has connected.
    pub fn new(terms: Terms) -> Self {
        let state = State::Line(Line::First);
        Self { terms, state, input: VecDeque::new(), tag: Vec::new(), commands: 0, mistakes: 0, refused_logons: 0 }
    }
}

impl Dialogue for Imap4 {
    fn greeting(&self) -> Vec<u8> {
        format!("* OK [CAPABILITY {}] {} is ready.\r\n", self.capabilities(), self.terms.host).into_bytes()
    }

    fn receive(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::BeginsTls | State::Over) {
            return;
        }
        self.input.extend(bytes);
        if self.input.len() > LINE_MAX_BYTES + INPUT_MAX_BYTES {
            self.input = VecDeque::new();
            self.state = State::Ending(End::TooLong);
        }
    }

    fn next(&mut self) -> Step {
        loop {
            match std::mem::replace(&mut self.state, State::Line(Line::First)) {
                State::Line(awaited) => {
                    let Some(line) = take_line(&mut self.input) else {
                        if self.input.len() >= LINE_MAX_BYTES {
                            return self.end(Vec::new(), End::TooLong);
                        }
                        self.state = State::Line(awaited);
                        return Step::Read;
                    };
                    let step = match awaited {
                        Line::First => self.begin(&line),
                        Line::Rest(mut command) => {
                            let literal = command.push_line(&line);
                            self.go_on(command, literal)
                        }
                        Line::Sasl(mut exchange) => {
                            let next = exchange.go_on(&line);
                            Some(self.exchange(exchange, next))
                        }
                    };
                    if let Some(step) = step {
                        return step;
                    }
                }
                State::Literal(mut command, length) => {
                    if self.input.len() < length {
                        self.state = State::Literal(command, length);
                        return Step::Read;
                    }
                    command.push_literal(&self.input.drain(..length).collect::<Vec<_>>());
                    self.state = State::Line(Line::Rest(command));
                }
                State::Ending(end) => return self.end(Vec::new(), end),
                waiting @ (State::Judged | State::PassedOn(_) | State::BeginsTls | State::Over) => {
                    self.state = waiting;
                    return Step::Read;
                }
            }
        }
    }

    fn tls_has_begun(&mut self) {
        self.terms.is_tls = true;
        self.input = VecDeque::new();
        self.tag = Vec::new();
        self.state = State::Line(Line::First);
    }

    fn challenge(&mut self, message: &[u8]) -> Vec<u8> {
        if let State::PassedOn(exchange) = std::mem::replace(&mut self.state, State::Over) {
            self.state = State::Line(Line::Sasl(exchange));
        }
        continuation(&sasl::encode(message))
    }

    fn refuse(&mut self, words: &Words) -> Vec<u8> {
        self.refused_logons += 1;
        if matches!(self.state, State::Judged | State::PassedOn(_)) {
            let is_last = self.refused_logons >= LOGONS_MAX;
            self.state = if is_last { State::Ending(End::TooManyLogons) } else { State::Line(Line::First) };
        }
        let code = words.code.map_or_else(String::new, |code| format!("[{code}] "));
        self.tagged(&format!("NO {code}{}", words.text))
    }

    fn tag(&self) -> &[u8] {
        &self.tag
    }

    fn rest(&mut self) -> Vec<u8> {
        self.state = State::Over;
        std::mem::take(&mut self.input).into()
    }
}

impl Imap4 {
    /// A command's first line.
    fn begin(&mut self, line: &[u8]) -> Option<Step> {
        if self.commands == COMMANDS_MAX {
            return Some(self.end(Vec::new(), End::TooManyCommands));
        }
        self.commands += 1;
        let (command, literal) = Command::begin(line);
        self.tag = command.tag.clone().unwrap_or_default();
        self.go_on(command, literal)
    }

    /// A command, as far as it has come.
    fn go_on(&mut self, mut command: Command, literal: Option<Literal>) -> Option<Step> {
        let Some(literal) = literal else { return Some(self.obey(&command)) };
        let is_too_long = literal.length > LITERAL_MAX_BYTES || command.is_too_long();
        if literal.is_coming {
            // Whatever this answered, the literal would come, and be taken for commands.
            if is_too_long {
                return Some(self.end(Vec::new(), End::TooLong));
            }
            self.state = State::Literal(command, literal.length);
            return None;
        }
        if !self.wants_literal(&command) {
            command.arguments = None;
            return Some(self.obey(&command));
        }
        if is_too_long {
            let text = format!("NO [TOOBIG] A literal may have {LITERAL_MAX_BYTES} bytes before the logon.");
            return Some(Step::Send(self.tagged(&text)));
        }
        self.state = State::Literal(command, literal.length);
        Some(Step::Send(continuation("Go on.")))
    }

    /// Whether the client is to send the literal for which it has asked; a password that must not be sent, it is not.
    fn wants_literal(&self, command: &Command) -> bool {
        match command.name {
            Name::Id => command.tag.is_some(),
            Name::Login => {
                let is_awaited = command.arguments.as_ref().is_some_and(|arguments| arguments.len() < 2);
                command.tag.is_some() && self.terms.may_log_on() && is_awaited
            }
            Name::AfterLogon
            | Name::Authenticate
            | Name::Capability
            | Name::Logout
            | Name::Noop
            | Name::StartTls
            | Name::Unknown => false,
        }
    }

    /// A command that is all there.
    fn obey(&mut self, command: &Command) -> Step {
        if command.tag.is_none() {
            return self.mistake("A command begins with a tag, such as a1.");
        }
        match (command.name, command.arguments.as_deref()) {
            (Name::Capability, Some([])) => {
                self.answer(&format!("* CAPABILITY {}\r\n", self.capabilities()), "OK Done.")
            }
            (Name::Noop, Some([])) => self.answer("", "OK Done."),
            (Name::Id, _) => self.answer("* ID NIL\r\n", "OK Done."),
            (Name::Logout, Some([])) => {
                let goodbye = [bye(End::Goodbye), self.tagged("OK Done.")].concat();
                self.close(goodbye, End::Goodbye)
            }
            (Name::StartTls, Some([])) => self.begin_tls(),
            (Name::Login, _) if !self.terms.may_log_on() => self.needs_privacy(),
            (Name::Login, Some([user, password])) => {
                let (user, password) = (user.expose().to_vec(), password.clone());
                self.log_on(Logon { user, password, authorize_as: None, way: Way::Command, tag: Vec::new() })
            }
            (Name::Login, _) => self.mistake("LOGIN takes a name and a password."),
            (Name::Authenticate, Some([mechanism])) => self.authenticate(mechanism, None),
            (Name::Authenticate, Some([mechanism, response])) => self.authenticate(mechanism, Some(response)),
            (Name::Authenticate, _) => self.mistake("AUTHENTICATE takes a mechanism, and a response if need be."),
            (Name::Capability | Name::Noop | Name::Logout | Name::StartTls, _) => {
                self.mistake("It takes no arguments.")
            }
            (Name::AfterLogon, _) => self.answer("", "BAD Log on first."),
            (Name::Unknown, _) => self.mistake("There is no such command."),
        }
    }

    fn begin_tls(&mut self) -> Step {
        if self.terms.may_begin_tls() {
            // What may have come in clear with it is not the reason to end: that depends on how the network cuts.
            self.state = State::BeginsTls;
            self.input = VecDeque::new();
            return Step::StartTls(self.tagged("OK Begin TLS."));
        }
        self.mistake(if self.terms.is_tls { "TLS has begun already." } else { "TLS is not offered here." })
    }
}

impl Imap4 {
    fn authenticate(&mut self, mechanism: &Secret, response: Option<&Secret>) -> Step {
        match Mechanism::named(mechanism.expose()) {
            Some(_) if !self.terms.may_log_on() => self.needs_privacy(),
            Some(mechanism) if Mechanism::offered(&self.terms).any(|offered| offered == mechanism) => {
                let (exchange, next) = Exchange::begin(mechanism, response.map(Secret::expose));
                self.exchange(exchange, next)
            }
            Some(_) | None => self.answer("", "NO That mechanism is not offered."),
        }
    }

    fn exchange(&mut self, exchange: Exchange, next: sasl::Next) -> Step {
        match next {
            sasl::Next::Challenge(challenge) => {
                self.state = State::Line(Line::Sasl(exchange));
                Step::Send(continuation(challenge))
            }
            sasl::Next::LogOn(logon) => self.log_on(logon),
            sasl::Next::Ntlm(message) => {
                self.state = State::PassedOn(exchange);
                Step::Ntlm(message)
            }
            sasl::Next::Cancelled => self.answer("", "BAD Cancelled."),
            sasl::Next::Malformed(why) => self.mistake(&why.to_string()),
        }
    }

    fn log_on(&mut self, logon: Logon) -> Step {
        self.state = State::Judged;
        Step::LogOn(Logon { tag: self.tag.clone(), ..logon })
    }

    fn needs_privacy(&mut self) -> Step {
        let cure = if self.terms.may_begin_tls() { "Begin TLS first, by STARTTLS." } else { "Connect over TLS." };
        self.answer("", &format!("NO [PRIVACYREQUIRED] {cure}"))
    }

    /// A command that is none. Somebody may be trying out what can be done here.
    fn mistake(&mut self, text: &str) -> Step {
        self.mistakes += 1;
        let answer = self.tagged(&format!("BAD {text}"));
        if self.mistakes <= MISTAKES_MAX { Step::Send(answer) } else { self.end(answer, End::TooManyMistakes) }
    }

    /// Says this; then comes the next command.
    fn answer(&self, untagged: &str, text: &str) -> Step {
        Step::Send([untagged.as_bytes(), &self.tagged(text)].concat())
    }

    /// Says this, then goodbye.
    fn end(&mut self, answer: Vec<u8>, end: End) -> Step {
        self.close([answer, bye(end)].concat(), end)
    }

    fn close(&mut self, bytes: Vec<u8>, end: End) -> Step {
        self.state = State::Over;
        self.input = VecDeque::new();
        Step::End(bytes, end)
    }

    fn tagged(&self, text: &str) -> Vec<u8> {
        let tag = if self.tag.is_empty() { &b"*"[..] } else { &self.tag };
        [tag, b" ", text.as_bytes(), b"\r\n"].concat()
    }

    /// What can be done now. `STARTTLS` is told only as long as it can, `AUTH=` only when it may (RFC 3501 section 6.2).
    fn capabilities(&self) -> String {
        let mut names = vec!["IMAP4rev1".to_owned()];
        names.extend_from_slice(&self.terms.capabilities);
        names.extend(self.terms.may_begin_tls().then(|| "STARTTLS".to_owned()));
        names.extend((!self.terms.may_log_on()).then(|| "LOGINDISABLED".to_owned()));
        names.extend(Mechanism::offered(&self.terms).map(|mechanism| format!("AUTH={}", mechanism.name())));
        names.join(" ")
    }
}

/// The next line, without its end, LF alone being one too; `None` if it has not come, or is longer than may be.
fn take_line(input: &mut VecDeque<u8>) -> Option<Vec<u8>> {
    let end = input.iter().take(LINE_MAX_BYTES).position(|byte| *byte == b'\n')?;
    let mut line: Vec<u8> = input.drain(..=end).collect();
    line.pop();
    line.pop_if(|byte| *byte == b'\r');
    Some(line)
}

/// Asks for more; with an empty challenge too there is a space (RFC 3501 section 7.5).
fn continuation(challenge: &str) -> Vec<u8> {
    format!("+ {challenge}\r\n").into_bytes()
}

fn bye(end: End) -> Vec<u8> {
    let text = match end {
        End::Goodbye => "Goodbye.",
        End::TooLong => "[TOOBIG] That is longer than may be before the logon.",
        End::TooManyCommands => "Too many commands without a logon.",
        End::TooManyLogons => "Too many logons were refused.",
        End::TooManyMistakes => "Too many mistakes.",
    };
    format!("* BYE {text}\r\n").into_bytes()
}
