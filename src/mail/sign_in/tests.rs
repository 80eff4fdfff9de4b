//! Dialogues with servers that are texts: `S:` is what the server says, `E:` what the edge says, each a line; `TLS` begins it;
//! and the last line is what came of it. Each is played whole and cut at every byte.

use proptest::prelude::*;

use super::*;
use crate::{mail::dialogue::Way, secret::Secret};

fn logon(user: &[u8], password: &[u8], authorize_as: Option<&[u8]>) -> Logon {
    Logon {
        user: user.to_vec(),
        password: Secret::new(password),
        authorize_as: authorize_as.map(<[u8]>::to_vec),
        way: Way::Command,
        tag: b"a1".to_vec(),
    }
}

fn duarte() -> Logon {
    logon(b"duarte", b"Pass-word1", None)
}

/// In the words of the scripts.
fn told(step: &Step) -> String {
    let words = |words: &[u8]| words.escape_ascii().to_string().replace("\\r\\n", "|").replace("\\\"", "\"");
    match step {
        Step::Read => "reads".into(),
        Step::Send(bytes) => format!("E: {}", words(bytes)),
        Step::StartTls => "TLS".into(),
        Step::Challenge(message) => format!("challenge {}", words(message)),
        Step::SignedIn(said) => format!("signed in: {}", words(said)),
        Step::Refused(said) => format!("refused: {}", words(said)),
        Step::Failed(failure) => format!("failed: {failure}"),
    }
}

/// Plays a script, each of the server's lines in pieces of this many bytes; the first piece is `first` bytes long. Two lines
/// of the server's without one of the edge's between them come at once.
fn play(script: &str, mut sign_in: SignIn, first: usize, piece: usize) -> Result<(), String> {
    let lines: Vec<&str> = script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut at = 0;
    while at < lines.len() {
        if lines[at] == "TLS has begun" {
            sign_in.tls_has_begun();
            at += 1;
            continue;
        }
        if let Some(message) = lines[at].strip_prefix("client: ") {
            sign_in.answer(message.as_bytes());
            at += 1;
            continue;
        }
        let mut said = Vec::new();
        while let Some(line) = lines.get(at).and_then(|line| line.strip_prefix("S:")) {
            said.extend_from_slice(line.strip_prefix(' ').unwrap_or(line).as_bytes());
            said.extend_from_slice(b"\r\n");
            at += 1;
        }
        let mut said = &said[..];
        let mut piece_length = first;
        while !said.is_empty() {
            let (now, later) = said.split_at(piece_length.min(said.len()));
            sign_in.receive(now);
            (said, piece_length) = (later, piece);
            if !said.is_empty() {
                let step = sign_in.next();
                if !matches!(step, Step::Read) {
                    let expected = lines.get(at).copied().unwrap_or_default();
                    return Err(format!("{} before all was said, and not {expected}", told(&step)));
                }
            }
        }
        while let Some(expected) = lines.get(at) {
            let is_ours = ["S:", "TLS has begun", "client: "].iter().all(|start| !expected.starts_with(start));
            if !is_ours {
                break;
            }
            let step = told(&sign_in.next()).trim_end().to_owned();
            if step != *expected {
                return Err(format!("{step}\nand not\n{expected}"));
            }
            at += 1;
        }
        let step = sign_in.next();
        if !matches!(step, Step::Read) {
            return Err(format!("{} besides", told(&step)));
        }
    }
    Ok(())
}

fn plays(script: &str, sign_in: impl Fn() -> SignIn) {
    let longest = script.lines().map(str::len).max().unwrap_or_default() * 3;
    for first in 1..longest {
        play(script, sign_in(), first, usize::MAX).unwrap_or_else(|problem| panic!("cut at {first}: {problem}"));
    }
    play(script, sign_in(), 1, 1).unwrap_or_else(|problem| panic!("byte by byte: {problem}"));
}

fn imap4(logon: Logon) -> SignIn {
    SignIn::imap4(logon, false, false)
}

fn imap4_start_tls(logon: Logon) -> SignIn {
    SignIn::imap4(logon, true, false)
}

fn pop3(logon: Logon) -> SignIn {
    SignIn::pop3(logon, false)
}

#[test]
fn imap4_signs_in_with_the_clients_own_tag_and_passes_on_what_is_said() {
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 IDLE] ready
         E: a1 LOGIN \"duarte\" \"Pass-word1\"|
         S: * CAPABILITY IMAP4rev1 IDLE MOVE
         S: * OK [ALERT] the quota is near
         S: a1 OK done
         signed in: * CAPABILITY IMAP4rev1 IDLE MOVE|* OK [ALERT] the quota is near|a1 OK done|",
        || imap4(duarte()),
    );
}

#[test]
fn imap4_asks_what_is_offered_where_the_greeting_does_not_say_it() {
    plays(
        "S: * OK The Microsoft Exchange IMAP4 service is ready.
         E: e1 CAPABILITY|
         S: * CAPABILITY IMAP4 IMAP4rev1 IDLE
         S: e1 OK CAPABILITY completed.
         E: a1 LOGIN \"duarte\" \"Pass-word1\"|
         S: a1 OK LOGIN completed.
         signed in: a1 OK LOGIN completed.|",
        || imap4(duarte()),
    );
}

#[test]
fn the_edges_own_tags_are_never_the_clients() {
    let of = |tag: &str| SignIn::imap4(Logon { tag: tag.into(), ..duarte() }, false, false);
    plays(
        "S: * OK ready
         E: f1 CAPABILITY|
         S: e1 OK not yours
         failed: it says: e1 OK not yours",
        || of("e1"),
    );
    plays(
        "S: * OK ready
         E: e1 CAPABILITY|
         S: * CAPABILITY IMAP4rev1
         S: e1 OK done
         E: f1 LOGIN \"duarte\" \"Pass-word1\"|
         S: f1 OK done
         signed in: f1 OK done|",
        || of("f1"),
    );
}

#[test]
fn imap4_begins_tls_and_believes_nothing_that_was_said_before() {
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready
         E: e1 STARTTLS|
         S: e1 OK go on
         TLS
         TLS has begun
         E: e2 CAPABILITY|
         S: * CAPABILITY IMAP4rev1
         S: e2 OK done
         E: a1 LOGIN \"duarte\" \"Pass-word1\"|
         S: a1 OK done
         signed in: a1 OK done|",
        || imap4_start_tls(duarte()),
    );
}

#[test]
fn no_password_is_sent_in_clear_where_tls_is_wanted_or_required() {
    plays(
        "S: * OK [CAPABILITY IMAP4rev1] ready
         failed: it does not offer TLS",
        || imap4_start_tls(duarte()),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 STARTTLS] ready
         E: e1 STARTTLS|
         S: e1 BAD what?
         failed: it does not offer TLS",
        || imap4_start_tls(duarte()),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready
         failed: it takes no password without TLS",
        || imap4(duarte()),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1] ready
         E: a1 LOGIN \"duarte\" \"Pass-word1\"|
         S: a1 NO [PRIVACYREQUIRED] not like this
         failed: it takes no password without TLS",
        || imap4(duarte()),
    );
    plays(
        "S: +OK ready
         E: STLS|
         S: -ERR what?
         failed: it does not offer TLS",
        || SignIn::pop3(duarte(), true),
    );
}

#[test]
fn what_comes_in_clear_after_tls_was_agreed_to_ends_it() {
    for (greeting, agreed, is_imap4) in [
        ("* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n", "e1 OK go on\r\n", true),
        ("+OK ready\r\n", "+OK go on\r\n", false),
    ] {
        let begun = || {
            let mut sign_in = if is_imap4 { imap4_start_tls(duarte()) } else { SignIn::pop3(duarte(), true) };
            sign_in.receive(greeting.as_bytes());
            assert!(matches!(sign_in.next(), Step::Send(_)));
            sign_in
        };
        let mut at_once = begun();
        at_once.receive(format!("{agreed}*").as_bytes());
        assert!(matches!(at_once.next(), Step::Failed(Failure::BeforeTls)));
        let mut later = begun();
        later.receive(agreed.as_bytes());
        assert!(matches!(later.next(), Step::StartTls));
        later.receive(b"*");
        assert!(matches!(later.next(), Step::Failed(Failure::BeforeTls)));
    }
}

#[test]
fn what_does_not_fit_in_quotes_goes_as_a_literal_when_the_server_asks_for_it() {
    plays(
        "S: * OK [CAPABILITY IMAP4rev1] ready
         E: a1 LOGIN \"du\\\\\"arte\\\\\\\\\" {3}|
         S: + go on
         E: p\\xe4\\n|
         S: a1 OK done
         signed in: a1 OK done|",
        || imap4(logon(b"du\"arte\\", b"p\xe4\n", None)),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1] ready
         E: a1 LOGIN {2}|
         S: +
         E: \\xc3\\xa4 {2}|
         S: + Ready for additional command text.
         E: \\xc3\\xb6|
         S: a1 OK done
         signed in: a1 OK done|",
        || imap4(logon("ä".as_bytes(), "ö".as_bytes(), None)),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1] ready
         E: a1 LOGIN {2}|
         S: a1 NO not in my house
         refused: a1 NO not in my house|",
        || imap4(logon("ä".as_bytes(), "ö".as_bytes(), None)),
    );
}

#[test]
fn what_a_protocol_cannot_say_is_refused_and_the_server_hears_nothing() {
    for (user, password) in [(&b"du\0arte"[..], &b"p"[..]), (b"duarte", b"p\0")] {
        let mut sign_in = imap4(logon(user, password, None));
        sign_in.receive(b"* OK ready\r\n");
        assert!(told(&sign_in.next()).starts_with("refused: a1 NO [AUTHENTICATIONFAILED] "));
        assert!(matches!(sign_in.next(), Step::Read));
    }
    for (user, password) in [(&b"du\narte"[..], &b"p"[..]), (b"duarte", b"p\r\nDELE 1"), (b"duarte", b"p\0")] {
        let mut sign_in = pop3(logon(user, password, None));
        sign_in.receive(b"+OK ready\r\n");
        assert!(told(&sign_in.next()).starts_with("refused: -ERR [AUTH] "));
        assert!(matches!(sign_in.next(), Step::Read));
    }
}

#[test]
fn whose_mailbox_is_meant_is_said_by_sasl() {
    let logon = || logon(b"admin", b"Pass-word1", Some(b"duarte"));
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready
         E: a1 AUTHENTICATE PLAIN|
         S: +
         E: ZHVhcnRlAGFkbWluAFBhc3Mtd29yZDE=|
         S: a1 OK done
         signed in: a1 OK done|",
        || imap4(logon()),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready
         E: a1 AUTHENTICATE PLAIN ZHVhcnRlAGFkbWluAFBhc3Mtd29yZDE=|
         S: a1 OK done
         signed in: a1 OK done|",
        || imap4(logon()),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1] ready
         refused: a1 NO [AUTHORIZATIONFAILED] the server cannot be told whose mailbox is meant|",
        || imap4(logon()),
    );
    plays(
        "S: +OK ready
         E: AUTH PLAIN|
         S: +
         E: ZHVhcnRlAGFkbWluAFBhc3Mtd29yZDE=|
         S: +OK done
         signed in: +OK done|",
        || pop3(logon()),
    );
    plays(
        "S: +OK ready
         E: AUTH PLAIN|
         S: -ERR what?
         refused: -ERR [SYS/PERM] the server cannot be told whose mailbox is meant|",
        || pop3(logon()),
    );
}

#[test]
fn a_server_without_login_is_told_by_sasl() {
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=PLAIN] ready
         E: a1 AUTHENTICATE PLAIN|
         S: +
         E: AGR1YXJ0ZQBQYXNzLXdvcmQx|
         S: a1 OK done
         signed in: a1 OK done|",
        || SignIn::imap4(duarte(), false, true),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 LOGINDISABLED] ready
         failed: it does not offer LOGIN or AUTHENTICATE PLAIN",
        || SignIn::imap4(duarte(), false, true),
    );
}

#[test]
fn a_refusal_comes_in_the_servers_own_words_without_the_password() {
    plays(
        "S: * OK [CAPABILITY IMAP4rev1] ready
         E: a1 LOGIN \"duarte\" \"Pass-word1\"|
         S: * NO think of it
         S: a1 NO [UNAVAILABLE] the store of duarte is away, Pass-word1 or not, UGFzcy13b3JkMQ==
         refused: a1 NO [UNAVAILABLE] the store of duarte is away, *** or not, ***|",
        || imap4(duarte()),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1] ready
         E: a1 LOGIN \"duarte\" \"NO\"|
         S: a1 NO NO
         refused: a1 NO ***|",
        || imap4(logon(b"duarte", b"NO", None)),
    );
    plays(
        "S: +OK ready
         E: USER duarte|
         S: +OK
         E: PASS Pass-word1|
         S: -ERR Logon failure: bad password Pass-word1.
         refused: -ERR Logon failure: bad password ***.|",
        || pop3(duarte()),
    );
    plays(
        "S: +OK ready
         E: USER duarte|
         S: -ERR [AUTH] no such user
         refused: -ERR [AUTH] no such user|",
        || pop3(duarte()),
    );
}

#[test]
fn what_is_no_answer_says_nothing_about_the_password() {
    for (script, of) in [
        ("S: * PREAUTH welcome\nfailed: it says: * PREAUTH welcome", imap4 as fn(Logon) -> SignIn),
        ("S: * BYE too many\nfailed: it says: * BYE too many", imap4),
        ("S: HTTP/1.1 400 Bad Request\nfailed: it says: HTTP/1.1 400 Bad Request", imap4),
        ("S: * OK hi\nE: e1 CAPABILITY|\nS: e1 BAD what?\nfailed: it says: e1 BAD what?", imap4),
        ("S: * OK hi\nE: e1 CAPABILITY|\nS: * BYE gone\nfailed: it says: * BYE gone", imap4),
        ("S: -ERR too many\nfailed: it says: -ERR too many", pop3),
        ("S: +OKAY\nfailed: it says: +OKAY", pop3),
    ] {
        plays(script, || of(duarte()));
    }
    let login = "S: * OK [CAPABILITY IMAP4rev1] hi\nE: a1 LOGIN \"duarte\" \"Pass-word1\"|\n";
    for (answer, outcome) in [
        ("a1 BAD what is Pass-word1?", "a1 BAD what is ***?"),
        ("* BYE Pass-word1", "* BYE ***"),
        ("e1 OK done", "e1 OK done"),
        ("A1 OK done", "A1 OK done"),
        ("+ more", "+ more"),
        ("", ""),
    ] {
        plays(&format!("{login}S: {answer}\nfailed: it answers a logon by: {outcome}"), || imap4(duarte()));
    }
    plays("S: +OK\nE: USER duarte|\nS: +\nfailed: it answers a logon by: +", || pop3(duarte()));
}

#[test]
fn windows_authentication_is_passed_on_message_by_message() {
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 AUTH=NTLM] ready
         E: a1 AUTHENTICATE NTLM|
         S: +
         E: Zmlyc3Q=|
         S: + c2Vjb25k
         challenge second
         client: third
         E: dGhpcmQ=|
         S: a1 OK done
         signed in: a1 OK done|",
        || SignIn::imap4_ntlm(b"first".to_vec(), b"a1".to_vec(), false, false),
    );
    plays(
        "S: +OK ready
         E: AUTH NTLM|
         S: +
         E: Zmlyc3Q=|
         S: + c2Vjb25k
         challenge second
         client: third
         E: dGhpcmQ=|
         S: -ERR Logon failure
         refused: -ERR Logon failure|",
        || SignIn::pop3_ntlm(b"first".to_vec(), false),
    );
    plays(
        "S: +OK ready
         E: AUTH NTLM|
         S: -ERR Protocol error. Connection is closed
         failed: it does not offer NTLM",
        || SignIn::pop3_ntlm(b"first".to_vec(), false),
    );
    plays(
        "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready
         failed: it does not offer NTLM",
        || SignIn::imap4_ntlm(b"first".to_vec(), b"a1".to_vec(), false, false),
    );
}

#[test]
fn what_comes_after_the_logon_is_the_clients_however_it_was_cut() {
    let mut sign_in = pop3(duarte());
    sign_in.receive(b"+OK ready\r\n");
    assert_eq!(told(&sign_in.next()), "E: USER duarte|");
    sign_in.receive(b"+OK\r\n");
    assert_eq!(told(&sign_in.next()), "E: PASS Pass-word1|");
    sign_in.receive(b"+OK in\r\n\xff\0later, without an end");
    assert_eq!(told(&sign_in.next()), "signed in: +OK in|\\xff\\x00later, without an end");
}

#[test]
fn what_a_server_offers_is_what_it_said_last() {
    let mut sign_in = imap4(duarte());
    assert_eq!(sign_in.capabilities(), None);
    for (said, offered) in [
        ("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n", "IMAP4rev1 AUTH=PLAIN"),
        ("* CAPABILITY IMAP4rev1 IDLE\r\n", "IMAP4rev1 IDLE"),
        ("a1 OK [capability IMAP4rev1 MOVE] done\r\n", "IMAP4rev1 MOVE"),
    ] {
        sign_in.receive(said.as_bytes());
        let _ = sign_in.next();
        assert_eq!(sign_in.capabilities().expect("it said").join(" "), offered);
    }
}

#[test]
fn a_server_that_never_ends_a_line_or_never_ends_is_left() {
    let mut endless = imap4(duarte());
    let mut step = Step::Read;
    for _ in 0..LINE_MAX_BYTES {
        assert!(matches!(step, Step::Read));
        endless.receive(b"*");
        step = endless.next();
    }
    assert_eq!(told(&step), format!("failed: {}", Failure::TooLong(LINE_MAX_BYTES)));
    let mut talker = imap4(duarte());
    talker.receive(b"* OK [CAPABILITY IMAP4rev1] ready\r\n");
    assert!(matches!(talker.next(), Step::Send(_)));
    let line = [b"* OK ", &b"x".repeat(1000)[..], b"\r\n"].concat();
    let ended = (0..HEARD_MAX_BYTES).step_by(line.len()).any(|_| {
        talker.receive(&line);
        matches!(talker.next(), Step::Failed(Failure::TooLong(HEARD_MAX_BYTES)))
    });
    assert!(ended);
}

#[test]
fn debug_of_a_step_shows_no_password() {
    let shown = format!("{:?}", [Step::Send(b"PASS Pass-word1".to_vec()), Step::SignedIn(b"Pass-word1".to_vec())]);
    assert!(!shown.contains("Pass-word1") && !shown.contains("80, 97"), "{shown}");
}

/// What a server may say, sense and nonsense.
fn said() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] = &[
        "* OK ",
        "* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN AUTH=NTLM SASL-IR] hi\r\n",
        "* CAPABILITY IMAP4rev1 LOGINDISABLED",
        "e1 OK done\r\n",
        "e2 OK done\r\n",
        "a1 OK [CAPABILITY A] done\r\n",
        "a1 NO [PRIVACYREQUIRED] no\r\n",
        "a1 NO Pass-word1\r\n",
        "a1 BAD\r\n",
        "+ c2Vjb25k\r\n",
        "+\r\n",
        "+OK\r\n",
        "+OK ",
        "-ERR no\r\n",
        "* BYE\r\n",
        "[",
        "]",
        " ",
        "\r\n",
        "\r",
        "\n",
        "Pass-word1",
    ];
    let piece = prop_oneof![
        8 => proptest::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => (0..LINE_MAX_BYTES + 2).prop_map(|length| vec![b'x'; length]),
    ];
    let greeting = proptest::sample::select(
        &["", "* OK [CAPABILITY IMAP4rev1 AUTH=NTLM] hi\r\n", "* OK hi\r\n", "+OK hi\r\n"][..],
    );
    (greeting, proptest::collection::vec(piece, 0..20))
        .prop_map(|(greeting, rest)| [greeting.as_bytes(), &rest.concat()].concat())
}

/// All that comes of it: every step, and the rest of what was said with the last.
fn outcome(
    mut sign_in: SignIn,
    knows_password: bool,
    said: &[u8],
    pieces: &mut impl Iterator<Item = usize>,
) -> Vec<String> {
    let (mut steps, mut rest) = (Vec::new(), said);
    loop {
        let step = sign_in.next();
        assert!(sign_in.input.len() <= LINE_MAX_BYTES + 4096);
        match &step {
            Step::Read if rest.is_empty() => return steps,
            Step::Read => {
                let (now, later) = rest.split_at(pieces.next().unwrap_or(4096).clamp(1, 4096).min(rest.len()));
                sign_in.receive(now);
                rest = later;
                continue;
            }
            Step::SignedIn(words) => {
                steps.push(told(&Step::SignedIn([words, rest].concat())));
                return steps;
            }
            Step::Send(_) => {}
            Step::StartTls => sign_in.tls_has_begun(),
            Step::Challenge(_) => sign_in.answer(b"third"),
            Step::Refused(words) => assert!(!knows_password || !words.windows(10).any(|part| part == b"Pass-word1")),
            Step::Failed(failure) => {
                let told = failure.to_string();
                assert!(!knows_password || !told.contains("Pass-word1"));
                assert!(told.len() < 300 && told.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            }
        }
        let is_over = matches!(step, Step::Refused(_) | Step::Failed(_));
        steps.push(told(&step));
        if is_over {
            assert!(matches!(sign_in.next(), Step::Read));
            return steps;
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_server_says_comes_to_the_same_however_it_is_cut(
        said in said(),
        pieces in proptest::collection::vec(1..200usize, 0..40),
        is_pop3: bool,
        is_ntlm: bool,
        delegates: bool,
    ) {
        let delegating = || logon(b"duarte", b"Pass-word1", delegates.then_some(b"bruno"));
        let sign_in = || match (is_pop3, is_ntlm) {
            (true, true) => SignIn::pop3_ntlm(b"first".to_vec(), false),
            (false, true) => SignIn::imap4_ntlm(b"first".to_vec(), b"a1".to_vec(), false, false),
            (true, false) => pop3(delegating()),
            (false, false) => imap4(delegating()),
        };
        let whole = outcome(sign_in(), !is_ntlm, &said, &mut std::iter::empty());
        prop_assert_eq!(outcome(sign_in(), !is_ntlm, &said, &mut pieces.into_iter()), whole);
    }

    #[test]
    fn nothing_a_server_says_before_tls_breaks_it(said in said(), pieces in proptest::collection::vec(1..200usize, 0..40), is_pop3: bool) {
        let sign_in = if is_pop3 { SignIn::pop3(duarte(), true) } else { imap4_start_tls(duarte()) };
        outcome(sign_in, true, &said, &mut pieces.into_iter());
    }
}
