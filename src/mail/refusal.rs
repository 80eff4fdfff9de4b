//! Why a logon over POP3 or IMAP4 is refused, and in which words: one table. As [`respond`](crate::edge::respond) is the web's.

use super::dialogue::Words;
use crate::{
    directory::Unusable,
    metrics::mail::Logon,
    routing::{Decision, Refusal, protocol::Protocol},
};

/// Why a logon is refused. That a server has refused it is none of these: its words are the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The password is wrong; the name is nobody's, or several people's; or it cannot be read. One answer for all of them.
    WrongPassword,
    /// The password is right, or was not looked at, but nobody may sign in with it.
    AccountUnusable(Unusable),
    /// The mailbox's own site must be connected to.
    ConnectTo {
        /// The server to connect to, as the directory has it.
        host: String,
        /// What the client speaks.
        protocol: Protocol,
    },
    /// A routing rule.
    Routing(Refusal),
    /// The directory did not answer, and the person is not known.
    DirectoryAway,
    /// No server that could take the session takes connections.
    ServerAway,
    /// The server took the connection, but no sign-in came of it, which says nothing about the password.
    ServerFailed,
    /// Too many passwords were wrong.
    TooManyFailedLogons {
        /// After so many seconds they are forgotten.
        retry_after: u16,
    },
    /// The server let them in by Windows authentication, but their mailbox is at another, to which only a password leads.
    PasswordNeeded,
    /// As many as may be wait for the same.
    TooManySessions,
    /// Something went wrong in the edge itself.
    Internal,
}

impl Denial {
    /// Of a decision that leads to no server; `None` for one that does.
    pub fn of(decision: &Decision, protocol: Protocol) -> Option<Denial> {
        match decision {
            Decision::Proxy(..) | Decision::BackEnd(..) => None,
            Decision::ConnectTo(host, _) => Some(Denial::ConnectTo { host: host.clone(), protocol }),
            Decision::Refuse(Refusal::UnknownUser | Refusal::AmbiguousName) => Some(Denial::WrongPassword),
            Decision::Refuse(refusal) => Some(Denial::Routing(*refusal)),
            // Those are the web's.
            Decision::LinkPage(..) | Decision::MovedDevice(..) | Decision::SameHost(..) => Some(Denial::Internal),
        }
    }

    /// The name in the access log.
    pub fn name(&self) -> &'static str {
        match self {
            Denial::WrongPassword | Denial::AccountUnusable(Unusable::AccountLocked) => "wrong-password",
            Denial::AccountUnusable(Unusable::PasswordExpired | Unusable::PasswordMustChange) => "password-expired",
            Denial::AccountUnusable(
                Unusable::AccountDisabled | Unusable::AccountExpired | Unusable::LogonRestricted,
            ) => "account-unusable",
            Denial::ConnectTo { .. } => "other-server",
            Denial::Routing(refusal) => refusal.name(),
            Denial::DirectoryAway => "directory-away",
            Denial::ServerAway => "server-away",
            Denial::ServerFailed => "server-failed",
            Denial::TooManyFailedLogons { .. } => "too-many-failed-logons",
            Denial::PasswordNeeded => "password-needed",
            Denial::TooManySessions => "too-many-sessions",
            Denial::Internal => "internal",
        }
    }

    /// What it is counted as.
    pub fn counted(&self) -> Logon {
        match self {
            Denial::WrongPassword
            | Denial::AccountUnusable(Unusable::AccountLocked)
            | Denial::Routing(Refusal::UnknownUser | Refusal::AmbiguousName) => Logon::WrongPassword,
            Denial::DirectoryAway
            | Denial::ServerAway
            | Denial::ServerFailed
            | Denial::Routing(Refusal::NoneResponding)
            | Denial::Internal => Logon::Failed,
            Denial::AccountUnusable(_)
            | Denial::ConnectTo { .. }
            | Denial::Routing(_)
            | Denial::TooManyFailedLogons { .. }
            | Denial::PasswordNeeded
            | Denial::TooManySessions => Logon::Denied,
        }
    }

    /// Whether it gives away that a mailbox exists, or where: then only whoever has proven who they are may hear it. All
    /// others hear [`Denial::WrongPassword`], or [`Denial::DirectoryAway`] where nothing can be proven now.
    pub fn tells_about_mailbox(&self) -> bool {
        match self {
            Denial::WrongPassword
            | Denial::AccountUnusable(Unusable::AccountLocked)
            | Denial::DirectoryAway
            | Denial::TooManyFailedLogons { .. }
            | Denial::TooManySessions
            | Denial::Internal => false,
            Denial::AccountUnusable(
                Unusable::PasswordExpired
                | Unusable::PasswordMustChange
                | Unusable::AccountDisabled
                | Unusable::AccountExpired
                | Unusable::LogonRestricted,
            )
            | Denial::ConnectTo { .. }
            | Denial::PasswordNeeded
            | Denial::Routing(_)
            | Denial::ServerAway
            | Denial::ServerFailed => true,
        }
    }

    /// What the client is told. Mail programs show it to their users, so it says what *they* can do. The codes are those
    /// of RFC 5530: a program asks for another password only after `AUTHENTICATIONFAILED` and `EXPIRED`.
    pub fn words(&self) -> Words {
        let words = |code, text: &str| Words { code: Some(code), text: text.to_owned() };
        match self {
            // As the edge says by http: that an account is locked Active Directory tells whoever guesses, too.
            Denial::WrongPassword | Denial::AccountUnusable(Unusable::AccountLocked) => words(
                "AUTHENTICATIONFAILED",
                "The user name or the password is not right, or the account is locked. Try again, or ask your \
                 administrator.",
            ),
            Denial::AccountUnusable(Unusable::PasswordExpired | Unusable::PasswordMustChange) => words(
                "EXPIRED",
                "Your password has expired, or must be changed before you first sign in. Change it on a computer of your \
                 organisation, or ask your administrator; then sign in with the new one.",
            ),
            Denial::AccountUnusable(
                Unusable::AccountDisabled | Unusable::AccountExpired | Unusable::LogonRestricted,
            ) => words(
                "AUTHORIZATIONFAILED",
                "Your account is disabled, has expired, or may not be used now. Ask your administrator.",
            ),
            Denial::ConnectTo { host, protocol } => {
                let protocol = if *protocol == Protocol::Pop3 { "POP3" } else { "IMAP" };
                let host = printable(host);
                let text = format!(
                    "This mailbox is at another address. In the settings of your mail program, set the incoming mail \
                     server ({protocol}) to {host}"
                );
                words("CONTACTADMIN", &text)
            }
            Denial::Routing(refusal) => of_refusal(*refusal),
            Denial::DirectoryAway => {
                words("UNAVAILABLE", "The mail service cannot look up mailboxes right now. Try again in a minute.")
            }
            Denial::ServerAway => {
                words("UNAVAILABLE", "The mail servers are not answering right now. Try again in a minute.")
            }
            Denial::ServerFailed => words(
                "UNAVAILABLE",
                "The mail server of your mailbox could not be signed in to. Try again in a minute; if it goes on, tell your \
                 administrator when it happened.",
            ),
            Denial::TooManyFailedLogons { retry_after } => {
                let wait = match retry_after.div_ceil(60) {
                    0 | 1 => "a minute".to_owned(),
                    minutes => format!("{minutes} minutes"),
                };
                let text = format!(
                    "Too many passwords were wrong, for this user name or from where you are. Try again in {wait}."
                );
                words("UNAVAILABLE", &text)
            }
            Denial::PasswordNeeded => words(
                "CANNOT",
                "Windows authentication does not lead to your mailbox. In the settings of your mail program, choose a password \
                 as the method of authentication.",
            ),
            Denial::TooManySessions => {
                words("UNAVAILABLE", "Too many people are signed in right now. Try again in a minute.")
            }
            Denial::Internal => {
                words("SERVERBUG", "The mail service could not sign you in. Tell your administrator when it happened.")
            }
        }
    }
}

/// Of those that need one, the person is proven.
fn of_refusal(refusal: Refusal) -> Words {
    let for_administrators = |text: &str| Words { code: Some("CONTACTADMIN"), text: text.to_owned() };
    match refusal {
        Refusal::UnknownUser | Refusal::AmbiguousName => Denial::WrongPassword.words(),
        Refusal::NoneResponding => Denial::ServerAway.words(),
        Refusal::NoMailbox => for_administrators("Your account has no mailbox. Ask your administrator for one."),
        Refusal::HomeServerUnknown | Refusal::VersionUnknown | Refusal::SiteUnknown => for_administrators(
            "The directory does not say where your mailbox is. Tell your administrator: the entry of your mailbox server \
             needs attention.",
        ),
        Refusal::NoClientAccessServer => for_administrators(
            "Your mailbox is in a site without a Client Access Server, so it cannot be reached from here. Tell your \
             administrator.",
        ),
        Refusal::NoAcceptableVersion => for_administrators(
            "No Client Access Server in your mailbox's site is of your mailbox's version. Tell your administrator (event 46).",
        ),
        // Mail has neither paths nor virtual directories, and every version speaks it; so no rule says these of it.
        Refusal::NotServedLocally
        | Refusal::NotOnThisVersion
        | Refusal::NoVirtualDirectory
        | Refusal::NoInternalUrl
        | Refusal::NoIntegratedAuthentication
        | Refusal::NoSsl => {
            for_administrators("This service is not offered for your mailbox. Ask your administrator for its address.")
        }
    }
}

/// What the directory says, for a line of the protocol: nothing in it ends the line.
fn printable(text: &str) -> String {
    text.chars().filter(|character| matches!(character, '!'..='~')).take(HOST_MAX_BYTES).collect()
}

/// The longest name of DNS.
const HOST_MAX_BYTES: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Rule;

    const UNUSABLE: [Unusable; 6] = [
        Unusable::PasswordExpired,
        Unusable::PasswordMustChange,
        Unusable::AccountLocked,
        Unusable::AccountDisabled,
        Unusable::AccountExpired,
        Unusable::LogonRestricted,
    ];

    fn other_server(host: &str) -> Denial {
        Denial::ConnectTo { host: host.to_owned(), protocol: Protocol::Imap4 }
    }

    fn all() -> Vec<Denial> {
        let mut all = vec![
            Denial::WrongPassword,
            other_server("mail.madrid.contoso.com"),
            other_server(&"x\r\n* OK [".repeat(1000)),
            other_server("correo\u{f1}.contoso.com"),
            Denial::DirectoryAway,
            Denial::ServerAway,
            Denial::ServerFailed,
            Denial::TooManyFailedLogons { retry_after: u16::MAX },
            Denial::PasswordNeeded,
            Denial::TooManySessions,
            Denial::Internal,
        ];
        all.extend(UNUSABLE.map(Denial::AccountUnusable));
        all.extend(Refusal::ALL.map(Denial::Routing));
        all
    }

    #[test]
    fn whatever_the_directory_says_the_words_stay_one_printable_line_of_pop3() {
        for denial in all() {
            assert!(denial.words().pop3_code().is_some(), "{denial:?}");
            let Words { code, text } = denial.words();
            assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{denial:?}: {text}");
            assert!(!text.is_empty() && !text.starts_with('['), "{denial:?}: {text}");
            assert!(code.is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_uppercase())), "{denial:?}");
            // RFC 1939 section 3: 512 octets; "-ERR [SYS/TEMP] " and the line's end are 18.
            assert!(text.len() <= 512 - 18, "{denial:?}: {}", text.len());
        }
    }

    #[test]
    fn whoever_has_proven_nothing_cannot_tell_a_wrong_password_from_an_unknown_name() {
        let wrong = Denial::WrongPassword;
        let as_wrong = [
            Denial::AccountUnusable(Unusable::AccountLocked),
            Denial::Routing(Refusal::UnknownUser),
            Denial::Routing(Refusal::AmbiguousName),
        ];
        for denial in as_wrong {
            assert_eq!(denial.words(), wrong.words(), "{denial:?}");
        }
        for refusal in [Refusal::UnknownUser, Refusal::AmbiguousName] {
            assert_eq!(Denial::of(&Decision::Refuse(refusal), Protocol::Pop3), Some(Denial::WrongPassword));
        }
        for denial in all() {
            let says_more = denial.words() != wrong.words() && denial.words().code != Some("UNAVAILABLE");
            let is_harmless = denial == Denial::Internal;
            assert!(denial.tells_about_mailbox() || !says_more || is_harmless, "{denial:?}");
        }
    }

    #[test]
    fn the_server_to_connect_to_is_named() {
        let decision = Decision::ConnectTo("mail.madrid.contoso.com".to_owned(), Rule::OwnSiteServer);
        for (protocol, name) in [(Protocol::Pop3, "POP3"), (Protocol::Imap4, "IMAP")] {
            let denial = Denial::of(&decision, protocol);
            assert_eq!(denial.as_ref().map(Denial::name), Some("other-server"));
            let text = denial.map(|denial| denial.words().text).unwrap_or_default();
            assert!(text.ends_with(&format!("({name}) to mail.madrid.contoso.com")), "{text}");
        }
    }

    #[test]
    fn only_a_wrong_or_an_old_password_makes_a_program_ask_for_another() {
        let asks = |denial: &Denial| matches!(denial.words().code, Some("AUTHENTICATIONFAILED" | "EXPIRED"));
        for denial in all().iter().filter(|denial| asks(denial)) {
            assert!(
                matches!(denial.name(), "wrong-password" | "password-expired" | "unknown-user" | "ambiguous-name"),
                "{denial:?}"
            );
        }
        for wait in [0, 1, 60] {
            let text = Denial::TooManyFailedLogons { retry_after: wait }.words().text;
            assert!(text.ends_with("Try again in a minute."), "{text}");
        }
        let text = Denial::TooManyFailedLogons { retry_after: 61 }.words().text;
        assert!(text.ends_with("Try again in 2 minutes."), "{text}");
    }
}
