//! What is told of a logon over POP3 or IMAP4, where it differs from a request of the web.

use std::iter;

use super::{Rules, servers_led_to};
use crate::{
    config::{Listener, MailTls},
    mail::refusal::Denial,
    routing::{Decision, protocol::Protocol, topology::Server},
};

/// Where the protocol is spoken.
pub(super) fn listener_lines(protocol: Protocol, rules: Rules<'_>) -> Vec<String> {
    let listens = |listener: &&Listener| listener.mail.is_some_and(|mail| mail.protocol == protocol);
    let line = |listener: &Listener| {
        let plain = listener.mail.is_some_and(|mail| mail.allow_plain_logon);
        let plain = if plain { "; a password may be sent without TLS" } else { "" };
        format!("{}, {}{plain}", listener.address, listener.speaks())
    };
    let lines: Vec<_> = rules.config.listeners.iter().filter(listens).map(line).collect();
    if lines.is_empty() {
        return vec![format!("none speaks {protocol}, so nobody can log on; [[listener]] protocol = \"{protocol}\"")];
    }
    lines
}

/// How each server that the session may go to is reached.
pub(super) fn server_lines(decision: &Decision, protocol: Protocol, rules: Rules<'_>) -> Vec<String> {
    let config = rules.config;
    let (servers, width) = servers_led_to(decision, rules);
    let lines_of = |server: &&Server| {
        let reached = config.mail.servers(server.version.generation());
        let port = reached.port(protocol);
        let address = match config.resolve.get(&server.fqdn, port) {
            Some(address) => format!("{address} by [resolve]"),
            None => "an address found by DNS".to_owned(),
        };
        let tls = match reached.tls {
            MailTls::None => "without TLS: name and password pass in clear",
            MailTls::StartTls if protocol == Protocol::Pop3 => "TLS by STLS, without which no password is sent",
            MailTls::StartTls => "TLS by STARTTLS, without which no password is sent",
            MailTls::AtOnce => "TLS at once",
        };
        let first = format!("{:width$}  {} port {port}, {address}", server.name, server.fqdn);
        [first, format!("{:width$}  {tls}", "")]
    };
    let by_name = |server: &&Server, name: &str| server.name.eq_ignore_ascii_case(name);
    let ntlm = config.mail.ntlm_server.as_deref().filter(|_| !servers.is_empty()).map(|name| {
        if servers.iter().any(|server| by_name(server, name)) {
            format!("Windows authentication (NTLM) is passed on to {name}")
        } else {
            format!(
                "Windows authentication (NTLM) does not lead here but to {name} (mail.ntlm_server): a password is needed"
            )
        }
    });
    servers.iter().flat_map(lines_of).chain(ntlm).collect()
}

/// What the client is told.
pub(super) fn client_sees(decision: &Decision, protocol: Protocol) -> Vec<String> {
    let wrong = answer(&Denial::WrongPassword, protocol);
    let Some(denial) = Denial::of(decision, protocol) else {
        return vec![
            "what that server says to the same name and password, once the directory has found the password right"
                .into(),
            format!("a wrong password: {wrong}"),
        ];
    };
    if !denial.tells_about_mailbox() {
        return vec![answer(&denial, protocol), "whatever the password is: a wrong one has no other answer".into()];
    }
    let proof = "only after the right password, whoever asks; a wrong one has the answer that an unknown name has:";
    iter::once(answer(&denial, protocol)).chain([proof.to_owned(), wrong]).collect()
}

/// The server's answer without the tag of IMAP4's command.
fn answer(denial: &Denial, protocol: Protocol) -> String {
    let words = denial.words();
    let (no, code) = if protocol == Protocol::Pop3 { ("-ERR", words.pop3_code()) } else { ("NO", words.code) };
    let code = code.map(|code| format!("[{code}] ")).unwrap_or_default();
    format!("{no} {code}{}", words.text)
}
