//! The edge's half of POP3 before the logon (RFC 1939, RFC 2449, RFC 2595, RFC 5034): greeting, `CAPA`, `STLS`, `USER` and
//! `PASS`, `AUTH`, `NOOP`, `QUIT`.
//!
//! ```text
//!           STLS                    USER and PASS, or AUTH
//! Commands ------> TlsBegins   Commands ------------------> Judged --accepted--> the rest is the server's
//!    ^                |            ^  \---AUTH---> Sasl ------^ |
//!    \--tls_has_begun-/            \------------refused---------/
//! ```
//!
//! Everything that changes the state of a dialogue is in this file. `APOP` is not offered: it wants the server to know the
//! password, which Active Directory does not keep.

use super::{
    dialogue::{COMMANDS_MAX, Dialogue, End, LINE_MAX_BYTES, LOGONS_MAX, Logon, MISTAKES_MAX, Step, Terms, Way, Words},
    sasl::{self, Exchange, Mechanism, Next},
};
use crate::secret::Secret;

/// POP3 until somebody has logged on.
pub struct Pop3 {
    terms: Terms,
    state: State,
    /// What has come and is not yet a line that was read.
    input: Vec<u8>,
    /// So much of it is known to hold no line end.
    searched_bytes: usize,
    commands: u32,
    mistakes: u32,
    refused_logons: u32,
}

enum State {
    /// A command is awaited; what `USER` has named is kept for `PASS`.
    Commands {
        user: Option<Vec<u8>>,
    },
    /// A message of SASL is awaited.
    Sasl(Exchange),
    /// The client's logon is being judged, or its message of Windows authentication.
    Judged(Option<Exchange>),
    /// TLS is to begin; what comes in clear is nobody's.
    TlsBegins,
    Over(End),
}

impl Pop3 {
    /// A dialogue that begins on these terms.
    pub fn new(terms: Terms) -> Pop3 {
        Pop3 {
            terms,
            state: COMMANDS,
            input: Vec::new(),
            searched_bytes: 0,
            commands: 0,
            mistakes: 0,
            refused_logons: 0,
        }
    }

    fn command(&mut self, user: Option<Vec<u8>>, line: &[u8]) -> Step {
        self.commands += 1;
        if self.commands > COMMANDS_MAX {
            return self.end("-ERR There were too many commands without a logon.", End::TooManyCommands);
        }
        let (verb, argument) = match line.iter().position(|byte| *byte == b' ') {
            Some(space) => (&line[..space], &line[space + 1..]),
            None => (line, &b""[..]),
        };
        let verb = verb.to_ascii_uppercase();
        // A bare CR is a line end to some servers, and so would begin a command of its own there.
        if line.contains(&b'\r') || line.contains(&0) {
            return self.mistake("A line has neither NUL nor a CR without its LF.");
        }
        if matches!(&verb[..], b"CAPA" | b"STLS" | b"NOOP" | b"QUIT") && !argument.trim_ascii().is_empty() {
            return self.mistake("The command has no argument.");
        }
        match &verb[..] {
            b"USER" => self.user(argument),
            b"PASS" => self.pass(user, argument),
            b"AUTH" => self.auth(argument),
            b"STLS" => self.stls(),
            b"QUIT" => self.end("+OK Goodbye.", End::Goodbye),
            b"CAPA" => {
                self.state = State::Commands { user };
                self.capa()
            }
            b"NOOP" => {
                self.state = State::Commands { user };
                say("+OK")
            }
            b"STAT" | b"LIST" | b"RETR" | b"DELE" | b"RSET" | b"TOP" | b"UIDL" => say("-ERR Log on first."),
            b"APOP" => say("-ERR APOP is not offered; use USER and PASS, or AUTH."),
            _ => self.mistake(
                "The command is not known; before the logon there are CAPA, STLS, USER, PASS, AUTH, NOOP, QUIT.",
            ),
        }
    }

    fn user(&mut self, name: &[u8]) -> Step {
        if !self.terms.may_log_on() {
            return self.wants_tls();
        }
        if name.trim_ascii().is_empty() {
            return self.mistake("Write USER and a name.");
        }
        self.state = State::Commands { user: Some(name.to_vec()) };
        say("+OK Send the password.")
    }

    /// The password is the rest of the line, spaces included (RFC 1939 section 7).
    fn pass(&mut self, user: Option<Vec<u8>>, password: &[u8]) -> Step {
        if !self.terms.may_log_on() {
            return self.wants_tls();
        }
        let Some(user) = user else { return say("-ERR Send USER first.") };
        self.state = State::Judged(None);
        let password = Secret::new(password);
        Step::LogOn(Logon { user, password, authorize_as: None, way: Way::Command, tag: Vec::new() })
    }

    /// RFC 5034. Without a mechanism their names are listed, as Outlook asks ([MS-OXPOP3] section 2.2.1).
    fn auth(&mut self, argument: &[u8]) -> Step {
        if !self.terms.may_log_on() {
            return self.wants_tls();
        }
        let argument = argument.trim_ascii();
        let (name, initial) = match argument.iter().position(|byte| *byte == b' ') {
            Some(space) => (&argument[..space], Some(argument[space + 1..].trim_ascii_start())),
            None => (argument, None),
        };
        if name.is_empty() {
            let names = Mechanism::offered(&self.terms).map(Mechanism::name);
            return say(&["+OK Mechanisms:"].into_iter().chain(names).chain(["."]).collect::<Vec<_>>().join("\r\n"));
        }
        let mechanism = Mechanism::named(name);
        let Some(mechanism) = Mechanism::offered(&self.terms).find(|offered| Some(*offered) == mechanism) else {
            return say("-ERR The mechanism is not offered; AUTH alone lists those that are.");
        };
        let (exchange, next) = Exchange::begin(mechanism, initial);
        self.sasl(exchange, next)
    }

    fn sasl(&mut self, exchange: Exchange, next: Next) -> Step {
        match next {
            Next::Challenge(challenge) => {
                self.state = State::Sasl(exchange);
                say(&format!("+ {challenge}"))
            }
            Next::LogOn(logon) => {
                self.state = State::Judged(None);
                Step::LogOn(logon)
            }
            Next::Ntlm(message) => {
                self.state = State::Judged(Some(exchange));
                Step::Ntlm(message)
            }
            Next::Cancelled => say("-ERR The logon was cancelled."),
            Next::Malformed(why) => self.mistake(&why.to_string()),
        }
    }

    /// RFC 2595 section 4.
    fn stls(&mut self) -> Step {
        if self.terms.is_tls {
            return say("-ERR TLS has begun already.");
        }
        if !self.terms.may_begin_tls() {
            return say("-ERR TLS is not offered here.");
        }
        self.state = State::TlsBegins;
        Step::StartTls(line("+OK Begin TLS."))
    }

    /// RFC 2449. Before the logon nothing is listed that the server met afterwards may lack, but for what the edge does
    /// itself; so too that refusals have codes (RFC 3206), which are the edge's own.
    fn capa(&self) -> Step {
        let mechanisms: Vec<_> = Mechanism::offered(&self.terms).map(Mechanism::name).collect();
        let mut lines = vec!["+OK Capabilities:".to_owned()];
        if self.terms.may_log_on() {
            lines.push("USER".into());
            lines.push(format!("SASL {}", mechanisms.join(" ")));
        }
        if self.terms.may_begin_tls() {
            lines.push("STLS".into());
        }
        lines.extend(["RESP-CODES", "AUTH-RESP-CODE"].map(str::to_owned));
        lines.extend(self.terms.capabilities.iter().cloned());
        lines.push(".".into());
        say(&lines.join("\r\n"))
    }

    fn wants_tls(&self) -> Step {
        say(match self.terms.may_begin_tls() {
            true => "-ERR A password may be sent only under TLS; send STLS first.",
            false => "-ERR A password may be sent only under TLS; connect to the port for POP3 over TLS.",
        })
    }

    fn mistake(&mut self, why: &str) -> Step {
        self.mistakes += 1;
        let answer = format!("-ERR {why}");
        if self.mistakes <= MISTAKES_MAX { say(&answer) } else { self.end(&answer, End::TooManyMistakes) }
    }

    fn end(&mut self, words: &str, end: End) -> Step {
        self.state = State::Over(end);
        self.take_input();
        Step::End(line(words), end)
    }

    /// The next line without its end, which is CR LF or, from old and hand-made clients, LF.
    fn read_line(&mut self) -> Line {
        let within = self.input.len().min(LINE_MAX_BYTES);
        let Some(end) = self.input[self.searched_bytes..within].iter().position(|byte| *byte == b'\n') else {
            self.searched_bytes = within;
            return if within == LINE_MAX_BYTES { Line::TooLong } else { Line::Unfinished };
        };
        let mut line: Vec<u8> = self.input.drain(..=self.searched_bytes + end).collect();
        self.searched_bytes = 0;
        line.pop();
        line.pop_if(|last| *last == b'\r');
        Line::Read(line)
    }

    fn take_input(&mut self) -> Vec<u8> {
        self.searched_bytes = 0;
        std::mem::take(&mut self.input)
    }
}

enum Line {
    Read(Vec<u8>),
    Unfinished,
    TooLong,
}

impl Dialogue for Pop3 {
    fn greeting(&self) -> Vec<u8> {
        line(&format!("+OK {} is ready for POP3.", self.terms.host))
    }

    fn receive(&mut self, bytes: &[u8]) {
        match self.state {
            State::Commands { .. } | State::Sasl(_) | State::Judged(_) => self.input.extend_from_slice(bytes),
            State::TlsBegins | State::Over(_) => {}
        }
    }

    fn next(&mut self) -> Step {
        match self.state {
            State::Commands { .. } | State::Sasl(_) => {}
            State::Judged(_) | State::TlsBegins => return Step::Read,
            State::Over(end) => return Step::End(Vec::new(), end),
        }
        let line = match self.read_line() {
            Line::Read(line) => line,
            Line::Unfinished => return Step::Read,
            Line::TooLong => return self.end("-ERR The line is too long.", End::TooLong),
        };
        match std::mem::replace(&mut self.state, COMMANDS) {
            State::Sasl(mut exchange) => {
                let next = exchange.go_on(&line);
                self.sasl(exchange, next)
            }
            State::Commands { user } => self.command(user, &line),
            State::Judged(_) | State::TlsBegins | State::Over(_) => Step::Read,
        }
    }

    fn tls_has_begun(&mut self) {
        self.terms.is_tls = true;
        self.state = COMMANDS;
        self.take_input();
    }

    fn challenge(&mut self, message: &[u8]) -> Vec<u8> {
        if let State::Judged(Some(exchange)) = std::mem::replace(&mut self.state, COMMANDS) {
            self.state = State::Sasl(exchange);
        }
        line(&format!("+ {}", sasl::encode(message)))
    }

    fn refuse(&mut self, words: &Words) -> Vec<u8> {
        self.refused_logons += 1;
        self.state = if self.refused_logons < LOGONS_MAX { COMMANDS } else { State::Over(End::TooManyLogons) };
        let code = words.pop3_code().map(|code| format!("[{code}] ")).unwrap_or_default();
        let text: String = words.text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
        let mut words = format!("-ERR {code}{text}");
        words.truncate(ANSWER_MAX_BYTES - 2);
        line(&words)
    }

    fn tag(&self) -> &[u8] {
        b""
    }

    fn rest(&mut self) -> Vec<u8> {
        self.take_input()
    }
}

fn say(words: &str) -> Step {
    Step::Send(line(words))
}

fn line(words: &str) -> Vec<u8> {
    [words.as_bytes(), b"\r\n"].concat()
}

const COMMANDS: State = State::Commands { user: None };
/// RFC 2449 section 4, line end included.
const ANSWER_MAX_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::dialogue::INPUT_MAX_BYTES;

    #[test]
    fn a_logon_says_how_it_was_said() {
        for (said, way) in [
            (&b"USER ana\r\nPASS Pass-word1\r\n"[..], Way::Command),
            (b"AUTH PLAIN AGFuYQBQYXNzLXdvcmQx\r\n", Way::Plain),
            (b"AUTH LOGIN YW5h\r\nUGFzcy13b3JkMQ==\r\n", Way::Login),
        ] {
            let mut pop3 = Pop3::new(terms());
            pop3.receive(said);
            let mut steps = std::iter::repeat_with(|| pop3.next()).take(4);
            let Some(Step::LogOn(logon)) = steps.find(|step| !matches!(step, Step::Send(_))) else {
                panic!("{} is no logon", said.escape_ascii())
            };
            assert_eq!((logon.way, &logon.user[..], logon.password.expose()), (way, &b"ana"[..], &b"Pass-word1"[..]));
        }
    }

    proptest! {
        #[test]
        fn what_is_said_depends_on_the_bytes_and_not_on_where_they_are_cut(
            said in prop::collection::vec(any_line(), 0..70),
            cuts in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let said = said.concat();
            let mut rest = &said[..];
            let mut pieces = Vec::new();
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(course(pieces), course(said.chunks(INPUT_MAX_BYTES)));
        }
    }

    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            "(USER|PASS|AUTH PLAIN|AUTH LOGIN|AUTH NTLM|auth|CAPA|NOOP|QUIT|YW5h|\\*|=)( [a-z=]{0,8})?\r?\n"
                .prop_map(String::into_bytes),
        ]
    }

    /// Everything that is done for a client whose every logon is refused.
    fn course<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut pop3 = Pop3::new(terms());
        let mut course = String::new();
        let mut pieces = pieces.into_iter();
        loop {
            let step = pop3.next();
            match &step {
                Step::Read => {}
                Step::Send(answer) => course += &answer.escape_ascii().to_string(), // as one stream
                Step::LogOn(Logon { user, password, .. }) => {
                    course += &[user, password.expose()].concat().escape_ascii().to_string();
                }
                Step::StartTls(bytes) | Step::Ntlm(bytes) | Step::End(bytes, _) => {
                    course += &bytes.escape_ascii().to_string();
                }
            }
            match step {
                Step::Read => match pieces.next() {
                    Some(piece) => pop3.receive(piece),
                    None => return course,
                },
                Step::End(..) => return course,
                Step::Send(_) => {}
                Step::StartTls(_) => pop3.tls_has_begun(),
                Step::LogOn(_) => drop(pop3.refuse(&Words { code: None, text: "No.".into() })),
                Step::Ntlm(_) => drop(pop3.challenge(b"NTLMSSP")),
            }
            assert!(pop3.input.len() <= LINE_MAX_BYTES + INPUT_MAX_BYTES, "more is kept than may be");
        }
    }

    fn terms() -> Terms {
        Terms {
            host: "mail.contoso.com".into(),
            is_tls: true,
            may_start_tls: false,
            allow_plain_logon: false,
            offers_ntlm: true,
            capabilities: ["TOP".to_owned()].into(),
        }
    }
}
