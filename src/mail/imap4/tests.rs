//! For any bytes, cut anywhere. What a client and the edge say to each other stands in `tests/dialogues/imap4`.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn any_bytes_cut_anywhere_give_the_same_steps(
        bytes in client_bytes(), cuts in proptest::collection::vec(1..400_usize, 0..40), terms in terms()
    ) {
        prop_assert_eq!(steps(&terms, &bytes, &cuts), steps(&terms, &bytes, &[]));
    }

    #[test]
    fn what_is_kept_is_bounded(bytes in client_bytes(), times in 1..400_usize, terms in terms()) {
        let mut dialogue = Imap4::new(terms);
        for part in bytes.repeat(times).chunks(INPUT_MAX_BYTES) {
            dialogue.receive(part);
            prop_assert!(kept(&dialogue) <= KEPT_MAX_BYTES);
            while go_on(&mut dialogue).is_some() {}
            prop_assert!(kept(&dialogue) <= KEPT_MAX_BYTES);
        }
    }
}

#[test]
fn whoever_sends_on_while_its_logon_is_judged_is_ended() {
    let mut dialogue = Imap4::new(terms_of(true, false, false));
    dialogue.receive(b"a LOGIN duarte Pass-word1\r\n");
    assert!(matches!(dialogue.next(), Step::LogOn(_)));
    for _ in 0..100 {
        dialogue.receive(&[b'x'; INPUT_MAX_BYTES]);
        assert!(kept(&dialogue) <= KEPT_MAX_BYTES);
    }
    dialogue.refuse(&Words { code: None, text: "No.".to_owned() });
    assert!(matches!(dialogue.next(), Step::End(_, End::TooLong)));
    assert!(matches!(dialogue.next(), Step::Read));
}

#[test]
fn a_dialogue_that_is_called_out_of_turn_does_not_panic() {
    let mut dialogue = Imap4::new(terms_of(true, true, true));
    dialogue.refuse(&Words { code: None, text: "No.".to_owned() });
    dialogue.receive(b"a LOGOUT\r\n");
    assert!(matches!(dialogue.next(), Step::End(_, End::Goodbye)));
    dialogue.challenge(b"x");
    dialogue.receive(b"a NOOP\r\n");
    assert!(matches!(dialogue.next(), Step::Read));
    assert_eq!(dialogue.rest(), b"");
}

#[test]
fn a_password_is_not_in_the_debug_text_of_any_step() {
    let mut dialogue = Imap4::new(terms_of(true, false, false));
    for command in [&b"a LOGIN duarte Pass-word1\r\n"[..], b"a AUTHENTICATE PLAIN AGR1YXJ0ZQBQYXNzLXdvcmQx\r\n"] {
        dialogue.receive(command);
        let step = format!("{:?}", dialogue.next());
        assert!(step.starts_with("Logon {"), "{step}");
        let bytes = format!("{:?}", b"Pass");
        assert!(!step.contains("Pass") && !step.contains(bytes.trim_matches(['[', ']'])), "{step}");
        dialogue.refuse(&Words { code: None, text: "No.".to_owned() });
    }
}

/// Everything that it says and asks for, in order, answered the same every time. After each cut it says all it can.
fn steps(terms: &Terms, bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut dialogue = Imap4::new(terms.clone());
    let mut steps = Vec::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter();
    while !rest.is_empty() {
        let length = cuts.next().copied().unwrap_or(INPUT_MAX_BYTES);
        let (part, after) = rest.split_at(length.min(rest.len()));
        dialogue.receive(part);
        rest = after;
        while let Some(step) = go_on(&mut dialogue) {
            if step.starts_with("StartTls") {
                // What is cut off and what is not come to the same only up to here: the rest is thrown away, or is TLS.
                steps.push(step);
                return steps;
            }
            steps.push(step);
        }
    }
    steps.push(dialogue.rest().escape_ascii().to_string());
    steps
}

/// One step and the answer to it, as text; `None` if more bytes are wanted.
fn go_on(dialogue: &mut Imap4) -> Option<String> {
    let step = dialogue.next();
    let mut told = format!("{step:?}");
    let answer = match step {
        Step::Read => return None,
        Step::LogOn(logon) => {
            told.push_str(&logon.password.expose().escape_ascii().to_string());
            dialogue.refuse(&Words { code: None, text: "No.".to_owned() })
        }
        Step::Ntlm(message) => dialogue.challenge(&message),
        Step::StartTls(_) => {
            dialogue.tls_has_begun();
            Vec::new()
        }
        Step::Send(_) | Step::End(..) => Vec::new(),
    };
    told.push_str(&answer.escape_ascii().to_string());
    Some(told)
}

/// What it keeps of what has come.
fn kept(dialogue: &Imap4) -> usize {
    let of = |command: &Command| {
        let arguments = command.arguments.iter().flatten();
        arguments.map(|argument| argument.expose().len()).sum::<usize>() + command.tag.as_ref().map_or(0, Vec::len)
    };
    dialogue.input.capacity()
        + dialogue.tag.capacity()
        + match &dialogue.state {
            State::Line(Line::Rest(command)) | State::Literal(command, _) => of(command),
            State::Line(Line::First | Line::Sasl(_))
            | State::Judged
            | State::PassedOn(_)
            | State::BeginsTls
            | State::Ending(_)
            | State::Over => 0,
        }
}

/// Bytes that say something: pieces of commands, and noise between them.
fn client_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => proptest::sample::select(PIECES.to_vec()).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => (any::<u8>(), 1..9000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

fn terms() -> impl Strategy<Value = Terms> {
    any::<[bool; 3]>()
        .prop_map(|[is_tls, allow_plain_logon, offers_ntlm]| terms_of(is_tls, allow_plain_logon, offers_ntlm))
}

fn terms_of(is_tls: bool, allow_plain_logon: bool, offers_ntlm: bool) -> Terms {
    Terms {
        host: "mail.contoso.com".into(),
        is_tls,
        may_start_tls: true,
        allow_plain_logon,
        offers_ntlm,
        capabilities: ["IDLE".to_owned()].into(),
    }
}

const PIECES: [&[u8]; 36] = [
    b"a1 ",
    b"A2 ",
    b"a LOGIN ",
    b"login ",
    b"duarte ",
    b"\"CONTOSO\\duarte\" ",
    b"Pass-word1\r\n",
    b" \"p\xe9\"",
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\"",
    b"\\",
    b"{6}\r\n",
    b"{6+}\r\n",
    b"{0+}\r\n",
    b"{4096+}\r\n",
    b"{4097}\r\n",
    b"{4294967296}\r\n",
    b" {1}\r\n",
    b"a AUTHENTICATE PLAIN",
    b"a AUTHENTICATE LOGIN",
    b"a AUTHENTICATE NTLM",
    b" AGR1YXJ0ZQBQYXNzLXdvcmQx\r\n",
    b"\r\nAGR1YXJ0ZQBQYXNzLXdvcmQx\r\n",
    b"ZHVhcnRl\r\n",
    b"*\r\n",
    b"a STARTTLS\r\n",
    b"a CAPABILITY\r\n",
    b"a LOGOUT\r\n",
    b"a ID (",
    b"a SELECT INBOX\r\n",
    b"\0",
];

/// A line and what is read at a time, twice as much for the vector's growth; beside it a command.
const KEPT_MAX_BYTES: usize = 2 * (LINE_MAX_BYTES + INPUT_MAX_BYTES) + 2 * LINE_MAX_BYTES + 2 * LITERAL_MAX_BYTES;
