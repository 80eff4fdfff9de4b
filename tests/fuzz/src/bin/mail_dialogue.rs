//! Any bytes as what a mail client sends before its logon: wherever the network cuts them, both protocols answer the same,
//! in whole lines that can be printed.
#![no_main]

use firstcas_fuzz::mail::{
    dialogue::{Dialogue, INPUT_MAX_BYTES, Step, Terms, Words},
    imap4::Imap4,
    pop3::Pop3,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [choice, cut, sent @ ..] = bytes else { return };
    let whole = answers(*choice, sent, INPUT_MAX_BYTES);
    let in_pieces = answers(*choice, sent, 1 + usize::from(*cut));
    assert!(whole == in_pieces, "{}\n---\n{}", whole.escape_ascii(), in_pieces.escape_ascii());
});

/// All that is answered and asked for, up to where TLS begins, somebody is let in, or it is over.
fn answers(choice: u8, sent: &[u8], piece_bytes: usize) -> Vec<u8> {
    let chosen = |bit: u8| choice & (1 << bit) != 0;
    let terms = Terms {
        host: "mail.contoso.com".into(),
        is_tls: chosen(1),
        may_start_tls: chosen(2),
        allow_plain_logon: chosen(3),
        offers_ntlm: chosen(4),
        capabilities: ["IDLE".to_owned()].into(),
    };
    let mut dialogue: Box<dyn Dialogue> =
        if chosen(0) { Box::new(Imap4::new(terms)) } else { Box::new(Pop3::new(terms)) };
    let mut answers = dialogue.greeting();
    for (sent_before, piece) in sent.chunks(piece_bytes).scan(0, |end, piece| {
        *end += piece.len();
        Some((*end, piece))
    }) {
        dialogue.receive(piece);
        loop {
            let said = match dialogue.next() {
                Step::Read => break,
                Step::Send(bytes) => bytes,
                Step::StartTls(bytes) | Step::End(bytes, _) => return [answers, in_lines(bytes)].concat(),
                Step::LogOn(logon) => {
                    let whose = logon.authorize_as.unwrap_or_default();
                    answers.extend([logon.user, logon.password.expose().to_vec(), whose].join(&0));
                    assert_eq!(dialogue.tag(), logon.tag);
                    if chosen(5) {
                        return [answers, dialogue.rest(), sent[sent_before..].to_vec()].concat();
                    }
                    dialogue.refuse(&no())
                }
                Step::Ntlm(message) => {
                    answers.extend(message);
                    if chosen(6) { dialogue.challenge(b"NTLMSSP\0\x02") } else { dialogue.refuse(&no()) }
                }
            };
            answers.extend(in_lines(said));
        }
    }
    answers
}

fn no() -> Words {
    Words { code: Some("AUTHENTICATIONFAILED"), text: "No.".to_owned() }
}

fn in_lines(said: Vec<u8>) -> Vec<u8> {
    for line in said.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("a line ends");
        assert!(text.iter().all(|byte| (b' '..=b'~').contains(byte)), "{}", line.escape_ascii());
    }
    said
}
