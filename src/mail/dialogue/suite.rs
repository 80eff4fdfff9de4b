//! The dialogue suite: what a client and the edge say to each other, as text files in `tests/dialogues/{pop3,imap4}`. Each
//! is run as it is written, then whole, byte by byte, and cut once at every byte; it must come out the same.
//!
//! ```text
//! # A client that begins TLS is asked everything anew     the first line: a sentence
//! terms: starttls allow_plain ntlm cap=IDLE,NAMESPACE     or tls, or plain; the host is mail.contoso.com
//! S: +OK ...                 exactly this line comes, without its line end
//! C: STLS                    the client sends this line
//! C+: STA                    sends this without a line end
//! C*: 100000 x               sends this so many times, without a line end
//! ! starttls                 TLS begins; what was sent and is not read yet is thrown away
//! ! logon ana Pass-word1     somebody logs on: name, password, then, where there are such, whose mailbox, IMAP4's tag;
//!                            "" is nothing, - is none
//! ! refuse AUTHENTICATIONFAILED Wrong password.     the answer to it; the code may be -
//! ! rest STAT\r\n            or this one: accepted; so much came after it
//! ! ntlm TlRMTVNTUAAB        a message of Windows authentication, in base64 as are its challenges
//! ! challenge TlRMTVNTUAAC   the answer to it
//! ! end Goodbye              the dialogue is over, for this reason
//! ```
//!
//! Everywhere `\r`, `\n`, `\0`, `\\` and `\x20` are single bytes. A line that begins with `#` is a remark.

use std::{collections::VecDeque, fmt, fs, path::Path, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{Dialogue, INPUT_MAX_BYTES, Step, Terms, Words};
use crate::mail::{imap4::Imap4, pop3::Pop3};

/// The edge's half of a protocol, called as its folder is.
fn open(protocol: &str, terms: Terms) -> Box<dyn Dialogue> {
    match protocol {
        "imap4" => Box::new(Imap4::new(terms)),
        "pop3" => Box::new(Pop3::new(terms)),
        _ => panic!("nobody speaks {protocol} here"),
    }
}

#[test]
fn every_dialogue_goes_as_it_is_written_however_it_is_cut() {
    let mut mistakes = Vec::new();
    for protocol in ["pop3", "imap4"] {
        for (name, text) in files(protocol) {
            let file = format!("tests/dialogues/{protocol}/{name}");
            mistakes.extend(run(&file, &text, &|terms| open(protocol, terms)).err());
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

fn files(protocol: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues").join(protocol);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a folder can be listed"))
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "txt"))
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read_to_string(entry.path()).expect("a dialogue is UTF-8 text"))
        })
        .collect();
    files.sort();
    files
}

/// Runs one dialogue in every way, or says in which file and line it went wrong, and how.
fn run(file: &str, text: &str, open: &dyn Fn(Terms) -> Box<dyn Dialogue>) -> Result<(), String> {
    let script = Script::read(text).map_err(|(line, mistake)| format!("{file}:{line}: {mistake}"))?;
    for way in script.ways() {
        let got = script.speak(&way, open(script.terms.clone()));
        script.compare(&way, &got).map_err(|(line, mistake)| format!("{file}:{line}: {way}: {mistake}"))?;
    }
    Ok(())
}

/// What is in a file.
struct Script {
    terms: Terms,
    lines: Vec<(usize, Line)>,
}

enum Line {
    /// The client sends.
    Client(Vec<u8>),
    /// The other side does something.
    Event(Event),
    /// What it is answered.
    Answer(Answer),
}

/// What a dialogue does that can be seen.
#[derive(Clone, PartialEq, Eq)]
enum Event {
    /// A line comes, without its line end.
    Says(Vec<u8>),
    StartTls,
    LogOn {
        user: Vec<u8>,
        password: Vec<u8>,
        authorize_as: Option<Vec<u8>>,
        tag: Vec<u8>,
    },
    Ntlm(Vec<u8>),
    /// The logon was accepted and this came after it.
    Rest(Vec<u8>),
    /// For this reason, by its name.
    End(String),
    /// Only where the dialogue is run as it is written: all is said, and the client speaks.
    Turn,
    /// It does what it may not.
    Fault(&'static str),
}

#[derive(Clone)]
enum Answer {
    Refuse(Words),
    Challenge(Vec<u8>),
    /// So much comes after it.
    Accept(Vec<u8>),
}

/// How the client's bytes are cut.
enum Way {
    /// What stands together in the file is sent together, when all before it has been answered.
    AsWritten,
    /// Everything at once.
    Whole,
    ByteByByte,
    /// In two, after so many bytes.
    Cut(usize),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::AsWritten => write!(f, "as written"),
            Way::Whole => write!(f, "sent at once"),
            Way::ByteByByte => write!(f, "byte by byte"),
            Way::Cut(bytes) => write!(f, "cut after {bytes} bytes"),
        }
    }
}

// Reading

type Mistake = (usize, String);

impl Script {
    fn read(text: &str) -> Result<Script, Mistake> {
        let mut numbered = (1..).zip(text.lines());
        if !numbered.next().is_some_and(|(_, title)| title.starts_with("# ")) {
            return Err((1, "the first line must be `# ` and a sentence".into()));
        }
        let mut terms = None;
        let mut lines: Vec<(usize, Line)> = Vec::new();
        for (number, line) in numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let wrong = |mistake: String| (number, mistake);
            if let Some(words) = line.strip_prefix("terms:") {
                terms = Some(read_terms(words).map_err(wrong)?);
                continue;
            }
            let line = read_line(line).map_err(wrong)?;
            let asks = |line: &(usize, Line)| matches!(line.1, Line::Event(Event::LogOn { .. } | Event::Ntlm(_)));
            if matches!(line, Line::Answer(_)) != lines.last().is_some_and(asks) {
                return Err(wrong(
                    "`! logon` and `! ntlm` are each followed by their answer, and only they are".into(),
                ));
            }
            lines.push((number, line));
        }
        let terms = terms.ok_or((1, "there is no line `terms:`".to_owned()))?;
        Ok(Script { terms, lines })
    }

    /// What the client sends: in phases, between which TLS begins, each in turns, between which it waits for an answer.
    fn phases(&self) -> Vec<Vec<Vec<u8>>> {
        let mut phases = vec![Vec::new()];
        let mut goes_on = false;
        for (_, line) in &self.lines {
            match line {
                Line::Client(bytes) => {
                    let phase = phases.last_mut().expect("there is a phase");
                    if !goes_on {
                        phase.push(Vec::new());
                    }
                    phase.last_mut().expect("there is a turn").extend_from_slice(bytes);
                }
                Line::Event(Event::StartTls) => phases.push(Vec::new()),
                Line::Event(_) | Line::Answer(_) => {}
            }
            goes_on = matches!(line, Line::Client(_));
        }
        phases
    }

    /// What is to be seen, with the number of its line.
    fn events(&self, way: &Way) -> Vec<(usize, Event)> {
        let mut events = Vec::new();
        let mut goes_on = false;
        for (number, line) in &self.lines {
            match line {
                Line::Client(_) if !goes_on && matches!(way, Way::AsWritten) => events.push((*number, Event::Turn)),
                Line::Event(event) => events.push((*number, event.clone())),
                Line::Answer(Answer::Accept(rest)) => events.push((*number, Event::Rest(rest.clone()))),
                Line::Client(_) | Line::Answer(_) => {}
            }
            goes_on = matches!(line, Line::Client(_));
        }
        events
    }

    fn answers(&self) -> VecDeque<Answer> {
        let answer = |(_, line): &(usize, Line)| match line {
            Line::Answer(answer) => Some(answer.clone()),
            Line::Client(_) | Line::Event(_) => None,
        };
        self.lines.iter().filter_map(answer).collect()
    }

    fn ways(&self) -> Vec<Way> {
        let length: usize = self.phases().concat().concat().len();
        // Where there is much, it is much of the same: the ends are cut at every byte, the middle here and there.
        let is_cut = |at: &usize| length < 4096 || at.min(&(length - at)) < &32 || at.is_multiple_of(1021);
        let cuts = (1..length).filter(is_cut).map(Way::Cut);
        [Way::AsWritten, Way::Whole, Way::ByteByByte].into_iter().chain(cuts).collect()
    }
}

fn read_terms(words: &str) -> Result<Terms, String> {
    let mut terms = Terms {
        host: "mail.contoso.com".into(),
        is_tls: false,
        may_start_tls: false,
        allow_plain_logon: false,
        offers_ntlm: false,
        capabilities: Arc::default(),
    };
    for word in words.split_whitespace() {
        match word {
            "plain" => {}
            "tls" => terms.is_tls = true,
            "starttls" => terms.may_start_tls = true,
            "allow_plain" => terms.allow_plain_logon = true,
            "ntlm" => terms.offers_ntlm = true,
            _ => {
                let names = word.strip_prefix("cap=").ok_or(format!("`{word}` is no term"))?;
                terms.capabilities = names.split(',').map(text).collect::<Result<Vec<_>, _>>()?.into();
            }
        }
    }
    Ok(terms)
}

fn read_line(line: &str) -> Result<Line, String> {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    match kind {
        "C:" => Ok(Line::Client([unescape(rest)?, b"\r\n".to_vec()].concat())),
        "C+:" => Ok(Line::Client(unescape(rest)?)),
        "C*:" => {
            let (times, text) = rest.split_once(' ').ok_or("write `C*: 1000 x`")?;
            let times = times.parse().map_err(|_| format!("`{times}` is no number"))?;
            Ok(Line::Client(unescape(text)?.repeat(times)))
        }
        "S:" => Ok(Line::Event(Event::Says(unescape(rest)?))),
        "!" => read_deed(rest),
        _ => Err(format!("`{kind}` is none of `C:`, `C+:`, `C*:`, `S:`, `!`")),
    }
}

fn read_deed(deed: &str) -> Result<Line, String> {
    let (verb, rest) = deed.split_once(' ').unwrap_or((deed, ""));
    let base64 = || BASE64_STANDARD.decode(rest).map_err(|_| format!("`{rest}` is not base64"));
    Ok(match verb {
        "starttls" => Line::Event(Event::StartTls),
        "logon" => {
            let mut words = rest.split(' ').map(word).collect::<Result<VecDeque<_>, _>>()?;
            let mut next = || words.pop_front().flatten();
            let (Some(user), Some(password)) = (next(), next()) else {
                return Err("write `! logon user password`".into());
            };
            Line::Event(Event::LogOn { user, password, authorize_as: next(), tag: next().unwrap_or_default() })
        }
        "ntlm" => Line::Event(Event::Ntlm(base64()?)),
        "end" => Line::Event(Event::End(rest.to_owned())),
        "rest" => Line::Answer(Answer::Accept(unescape(rest)?)),
        "challenge" => Line::Answer(Answer::Challenge(base64()?)),
        "refuse" => {
            let (code, words) = rest.split_once(' ').ok_or("write `! refuse CODE Text.`")?;
            let code = (code != "-").then(|| &*code.to_owned().leak()); // a code is 'static; a test may forget a few
            Line::Answer(Answer::Refuse(Words { code, text: text(words)? }))
        }
        _ => return Err(format!("`! {verb}` is none of starttls, logon, refuse, rest, ntlm, challenge, end")),
    })
}

/// One word, which may be nothing or none.
fn word(word: &str) -> Result<Option<Vec<u8>>, String> {
    match word {
        "-" => Ok(None),
        "\"\"" => Ok(Some(Vec::new())),
        _ => unescape(word).map(Some),
    }
}

fn text(text: &str) -> Result<String, String> {
    String::from_utf8(unescape(text)?).map_err(|_| format!("`{text}` is not UTF-8"))
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (byte, length) = match rest {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b'0', ..] => (0, 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', digits @ ..] if digits.len() >= 2 => {
                let digits = str::from_utf8(&digits[..2]).ok();
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                (byte.ok_or(format!("`{text}` has a `\\x` without its two digits"))?, 3)
            }
            _ => return Err(format!("`{text}` has a `\\` that stands for nothing; write `\\\\`")),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    Ok(bytes)
}

// Running

impl Script {
    fn speak(&self, way: &Way, dialogue: Box<dyn Dialogue>) -> Vec<Event> {
        let mut talk = Talk { dialogue, answers: self.answers(), said: Vec::new(), events: Vec::new() };
        talk.said = talk.dialogue.greeting();
        let mut cut = match way {
            Way::Cut(bytes) => Some(*bytes),
            Way::AsWritten | Way::Whole | Way::ByteByByte => None,
        };
        for phase in self.phases() {
            let length: usize = phase.iter().map(Vec::len).sum();
            let pieces: VecDeque<Vec<u8>> = match way {
                Way::AsWritten => phase.into(),
                Way::Whole => [phase.concat()].into(),
                Way::ByteByByte => phase.concat().chunks(1).map(<[u8]>::to_vec).collect(),
                Way::Cut(_) => {
                    let bytes = phase.concat();
                    let (head, tail) = bytes.split_at(cut.unwrap_or(length).min(length));
                    [head.to_vec(), tail.to_vec()].into()
                }
            };
            cut = cut.map(|cut| cut.saturating_sub(length)).filter(|cut| *cut > 0);
            if !talk.phase(pieces, matches!(way, Way::AsWritten)) {
                break;
            }
        }
        talk.flush();
        talk.events
    }

    fn compare(&self, way: &Way, got: &[Event]) -> Result<(), Mistake> {
        let expected = self.events(way);
        let mut got = got.iter();
        for (line, expected) in &expected {
            match got.next() {
                Some(event) if event == expected => {}
                Some(event) => return Err((*line, format!("expected {expected}, got {event}"))),
                None => return Err((*line, format!("expected {expected}, got nothing"))),
            }
        }
        let last = self.lines.last().map_or(1, |(line, _)| *line);
        got.next().map_or(Ok(()), |event| Err((last, format!("after this line nothing was expected, got {event}"))))
    }
}

/// A dialogue under way.
struct Talk {
    dialogue: Box<dyn Dialogue>,
    answers: VecDeque<Answer>,
    /// What has been said and is not yet among the events.
    said: Vec<u8>,
    events: Vec<Event>,
}

impl Talk {
    /// Until TLS begins: whether it did.
    fn phase(&mut self, mut pieces: VecDeque<Vec<u8>>, tells_turns: bool) -> bool {
        let mut input = Vec::new();
        let mut steps_since_read = 0;
        loop {
            let step = self.dialogue.next();
            steps_since_read = if matches!(step, Step::Read) { 0 } else { steps_since_read + 1 };
            if steps_since_read > INPUT_MAX_BYTES {
                self.fault("more steps than bytes");
                return false;
            }
            match step {
                Step::Read if input.is_empty() => {
                    let Some(piece) = pieces.pop_front() else { return false };
                    if tells_turns {
                        self.see(Event::Turn);
                    }
                    input = piece;
                }
                Step::Read => {
                    let later = input.split_off(input.len().min(INPUT_MAX_BYTES));
                    self.dialogue.receive(&input);
                    input = later;
                }
                Step::Send(bytes) => self.said.extend(bytes),
                Step::StartTls(bytes) => {
                    self.said.extend(bytes);
                    self.see(Event::StartTls);
                    self.dialogue.tls_has_begun();
                    return true;
                }
                Step::LogOn(logon) => {
                    if self.dialogue.tag() != logon.tag {
                        self.fault("a tag that is not the logon's");
                    }
                    let password = logon.password.expose().to_vec();
                    let (user, authorize_as, tag) = (logon.user, logon.authorize_as, logon.tag);
                    self.see(Event::LogOn { user, password, authorize_as, tag });
                    if !self.answer(&input, &pieces) {
                        return false;
                    }
                }
                Step::Ntlm(message) => {
                    self.see(Event::Ntlm(message));
                    if !self.answer(&input, &pieces) {
                        return false;
                    }
                }
                Step::End(bytes, end) => {
                    self.said.extend(bytes);
                    self.see(Event::End(format!("{end:?}")));
                    return false;
                }
            }
        }
    }

    /// Tells the dialogue what has become of a logon, or takes what is left: whether the dialogue goes on.
    fn answer(&mut self, unread: &[u8], unsent: &VecDeque<Vec<u8>>) -> bool {
        match self.answers.pop_front() {
            Some(Answer::Refuse(words)) => self.said.extend(self.dialogue.refuse(&words)),
            Some(Answer::Challenge(message)) => self.said.extend(self.dialogue.challenge(&message)),
            Some(Answer::Accept(_)) => {
                let rest = [self.dialogue.rest(), unread.to_vec(), unsent.iter().flatten().copied().collect()].concat();
                self.see(Event::Rest(rest));
                return false;
            }
            None => return false,
        }
        true
    }

    fn see(&mut self, event: Event) {
        self.flush();
        self.events.push(event);
    }

    fn fault(&mut self, fault: &'static str) {
        self.see(Event::Fault(fault));
    }

    fn flush(&mut self) {
        let said = std::mem::take(&mut self.said);
        for line in said.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\r\n") {
                Some(line) => self.events.push(Event::Says(line.to_vec())),
                None => self.events.push(Event::Fault("a line that does not end with CR LF")),
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Says(line) => write!(f, "`S: {}`", line.escape_ascii()),
            Event::StartTls => write!(f, "`! starttls`"),
            Event::LogOn { user, password, authorize_as, tag } => {
                write!(f, "`! logon {} {}", user.escape_ascii(), password.escape_ascii())?;
                write!(f, " {}", authorize_as.as_deref().unwrap_or(b"-").escape_ascii())?;
                write!(f, " {}`", tag.escape_ascii())
            }
            Event::Ntlm(message) => write!(f, "`! ntlm {}`", BASE64_STANDARD.encode(message)),
            Event::Rest(rest) => write!(f, "`! rest {}`", rest.escape_ascii()),
            Event::End(end) => write!(f, "`! end {end}`"),
            Event::Turn => write!(f, "the client's turn"),
            Event::Fault(fault) => write!(f, "{fault}"),
        }
    }
}

// The suite itself

/// Says every line again in capitals, `TLS`, `BYE` and `LOGON` excepted.
struct Parrot {
    heard: Vec<u8>,
    is_cut: bool,
    fault: Option<&'static str>,
}

impl Dialogue for Parrot {
    fn greeting(&self) -> Vec<u8> {
        b"HELLO\r\n".into()
    }

    fn receive(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= INPUT_MAX_BYTES, "more than is ever read at a time");
        self.is_cut |= !bytes.ends_with(b"\n");
        self.heard.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Step {
        let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') else { return Step::Read };
        let after = self.heard.split_off(end + 1);
        let line = std::mem::replace(&mut self.heard, after).to_ascii_uppercase();
        match &line[..] {
            b"TLS\r\n" => Step::StartTls(line),
            b"BYE\r\n" => Step::End(line, super::End::Goodbye),
            b"LOGON\r\n" => Step::LogOn(super::Logon {
                user: b"ana".into(),
                password: crate::secret::Secret::new(*b"Pass-word1"),
                authorize_as: None,
                way: super::Way::Command,
                tag: Vec::new(),
            }),
            _ if self.fault == Some("babbles") => {
                self.heard.splice(..0, *b"\n");
                Step::Send(line)
            }
            _ if self.fault == Some("minds cuts") && self.is_cut => Step::Send(b"WHAT?\r\n".into()),
            _ => Step::Send(line),
        }
    }

    fn tls_has_begun(&mut self) {
        if self.fault != Some("keeps what came in clear") {
            self.heard.clear();
        }
    }

    fn challenge(&mut self, _message: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn refuse(&mut self, words: &Words) -> Vec<u8> {
        [words.text.as_bytes(), b"\r\n"].concat()
    }

    fn tag(&self) -> &[u8] {
        b""
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.heard)
    }
}

fn parrot(fault: Option<&'static str>, dialogue: &str) -> Result<(), String> {
    let text = format!("# A parrot\nterms: plain\nS: HELLO\n{dialogue}");
    run("parrot.txt", &text, &|_| Box::new(Parrot { heard: Vec::new(), is_cut: false, fault }))
}

#[test]
fn a_dialogue_that_is_right_passes() {
    for dialogue in [
        "",
        "C: hello\nS: HELLO\nC: you\nS: YOU",
        "C: hello\nC: you\nS: HELLO\nS: YOU",
        "C+: hel\nC: lo\nS: HELLO",
        "C*: 10000 x",
        "C: tls\nC: injected\nS: TLS\n! starttls\nC: hello\nS: HELLO",
        "C: logon\n! logon ana Pass-word1\n! refuse - No.\nS: No.\nC: logon\nC: ano\\x74her\n! logon ana Pass-word1\n\
         ! rest another\\r\\n",
        "C: bye\nC: ignored\nS: BYE\n! end Goodbye",
    ] {
        assert_eq!(parrot(None, dialogue), Ok(()), "{dialogue}");
    }
}

#[test]
fn a_dialogue_that_is_wrong_is_told_by_its_file_and_line() {
    for (dialogue, mistake) in [
        ("C: hello\nS: HELL", "5: as written: expected `S: HELL`, got `S: HELLO`"),
        ("C: hello\nS: HELLO\nS: YOU", "6: as written: expected `S: YOU`, got nothing"),
        ("C: hello\nC: you\nS: HELLO", "6: as written: after this line nothing was expected, got `S: YOU`"),
        ("S: YOU\nC: hello\nS: HELLO", "4: as written: expected `S: YOU`, got the client's turn"),
        (
            "C: logon\n! logon ana wrong\n! rest",
            "5: as written: expected `! logon ana wrong - `, got `! logon ana Pass-word1 - `",
        ),
        ("C: logon\n! logon ana Pass-word1\n! rest x", "6: as written: expected `! rest x`, got `! rest `"),
        ("C: bye\nS: BYE\n! end TooLong", "6: as written: expected `! end TooLong`, got `! end Goodbye`"),
        ("C: tls\nS: TLS", "5: as written: after this line nothing was expected, got `! starttls`"),
    ] {
        assert_eq!(parrot(None, dialogue), Err(format!("parrot.txt:{mistake}")), "{dialogue}");
    }
}

#[test]
fn whoever_minds_where_bytes_are_cut_keeps_what_came_in_clear_or_babbles_is_found_out() {
    let found = |fault, dialogue| parrot(Some(fault), dialogue).expect_err(fault);
    assert_eq!(
        found("minds cuts", "C: hello\nS: HELLO"),
        "parrot.txt:5: byte by byte: expected `S: HELLO`, got `S: WHAT?`"
    );
    assert_eq!(
        found("keeps what came in clear", "C: tls\nC: injected\nS: TLS\n! starttls\nC: hello\nS: HELLO"),
        "parrot.txt:8: as written: expected the client's turn, got `S: INJECTED`"
    );
    assert!(found("babbles", "C: hello\nS: HELLO").starts_with("parrot.txt:5: as written: after this line nothing"));
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    for (text, mistake) in [
        ("C: hello", (1, "the first line must be `# ` and a sentence")),
        ("# Nothing", (1, "there is no line `terms:`")),
        ("# A\nterms: tsl", (2, "`tsl` is no term")),
        ("# A\n\n# remark\nX: y", (4, "`X:` is none of `C:`, `C+:`, `C*:`, `S:`, `!`")),
        ("# A\nC: DOMAIN\\user", (2, "`DOMAIN\\user` has a `\\` that stands for nothing; write `\\\\`")),
        ("# A\nC: \\xg0", (2, "`\\xg0` has a `\\x` without its two digits")),
        ("# A\nC*: x", (2, "write `C*: 1000 x`")),
        ("# A\n! stop", (2, "`! stop` is none of starttls, logon, refuse, rest, ntlm, challenge, end")),
        ("# A\n! rest", (2, "`! logon` and `! ntlm` are each followed by their answer, and only they are")),
        ("# A\n! logon a b\nC: c", (3, "`! logon` and `! ntlm` are each followed by their answer, and only they are")),
        ("# A\n! logon a -", (2, "write `! logon user password`")),
    ] {
        let found = Script::read(text).err();
        assert_eq!(found, Some((mistake.0, mistake.1.to_owned())), "{text}");
    }
}
