//! How people log on to POP3 and IMAP4: the ways to name oneself, and to name another's mailbox with it.
//!
//! Exchange takes, besides what it takes over HTTP, `domain/user/mailbox` and `user@domain/mailbox` ([MS-OXIMAP4] section
//! 2.2.2), in which the mailbox is an alias or a UPN: with them a delegate opens a shared mailbox, and somebody whose
//! alias is not his account's name opens his own. `domain/user` is therefore an account here, which it is
//! [nowhere else](MailboxName::parse). Its documents and its users write backslashes as well.

use std::borrow::Cow;

use super::name::{MailboxName, NameError};

/// Who logs on, and whose mailbox is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogonName {
    /// Whose password is given.
    pub user: MailboxName,
    /// The mailbox, where the client has named one apart.
    pub mailbox: Option<MailboxName>,
}

/// Why a logon names nobody. Never quotes the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogonNameError {
    /// The user cannot be a name in any directory.
    #[error("{0}")]
    User(NameError),
    /// The mailbox cannot be one.
    #[error("the mailbox that is wanted: {0}")]
    Mailbox(NameError),
    /// `a/b/c/d`, `a/b@c/d/e`.
    #[error("the name has too many slashes; write DOMAIN/user/mailbox or user@domain/mailbox")]
    TooManyParts,
    /// One in the name, another as SASL's authorization identity.
    #[error("two mailboxes are wanted, one in the name and one as the authorization identity")]
    TwoMailboxes,
}

impl LogonName {
    /// Reads a name, and the authorization identity of SASL where there is one (RFC 4616): the mailbox that is wanted.
    ///
    /// The bytes are UTF-8, else Latin-1, as [`MailboxName::parse_bytes`] reads them. A name without a slash, whose one
    /// backslash stands behind a domain, is what that says.
    ///
    /// # Errors
    /// When either cannot be a name in any directory, or they want two mailboxes.
    pub fn parse(name: &[u8], authorize_as: Option<&[u8]>) -> Result<LogonName, LogonNameError> {
        if name.len() > NAME_MAX_BYTES {
            return Err(LogonNameError::User(NameError::TooLong));
        }
        let text = str::from_utf8(name)
            .map_or_else(|_| Cow::Owned(name.iter().copied().map(char::from).collect()), Cow::Borrowed);
        let named = named(&text)?;
        let Some(authorize_as) = authorize_as else { return Ok(named) };

        let mailbox = MailboxName::parse_bytes(authorize_as).map_err(LogonNameError::Mailbox)?;
        match named {
            LogonName { mailbox: Some(other), .. } if other != mailbox => Err(LogonNameError::TwoMailboxes),
            // The user by the same name is no mailbox apart.
            LogonName { user, .. } if user == mailbox => Ok(LogonName { user, mailbox: None }),
            LogonName { user, .. } => Ok(LogonName { user, mailbox: Some(mailbox) }),
        }
    }
}

fn named(text: &str) -> Result<LogonName, LogonNameError> {
    // An address is one part, an account two; what comes after either is the mailbox.
    let starts_with_address = text.split(SEPARATORS).next().is_some_and(|first| first.contains('@'));
    let mut separators = text.match_indices(SEPARATORS);
    let before_mailbox = if starts_with_address { separators.next() } else { separators.nth(1) };
    let (user_text, mailbox) = match before_mailbox {
        Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    if mailbox.is_some_and(|mailbox| mailbox.contains(SEPARATORS)) {
        return Err(LogonNameError::TooManyParts);
    }
    let user = user(&user_text.replace('/', "\\"))?;
    let mailbox = mailbox.map(MailboxName::parse).transpose().map_err(LogonNameError::Mailbox)?;
    Ok(LogonName { mailbox: mailbox.filter(|mailbox| *mailbox != user), user })
}

fn user(text: &str) -> Result<MailboxName, LogonNameError> {
    MailboxName::parse(text).map_err(LogonNameError::User)
}

const SEPARATORS: [char; 2] = ['/', '\\'];
/// A user, a slash and a mailbox.
const NAME_MAX_BYTES: usize = 2 * MailboxName::LENGTH_MAX_BYTES + 1;

#[cfg(test)]
#[allow(clippy::expect_used)] // a test that cannot go on says why
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_way_to_name_oneself_and_a_mailbox_is_read() {
        let ana = || MailboxName::Account { domain: "contoso".into(), account: "ana".into() };
        let ana_at = || MailboxName::Address("ana@contoso.com".into());
        let projects = || Some(MailboxName::Bare("projects".into()));
        let projects_at = || Some(MailboxName::Address("projects@contoso.com".into()));
        for (text, user, mailbox) in [
            ("ana", MailboxName::Bare("ana".into()), None),
            ("Ana@Contoso.com", ana_at(), None),
            ("CONTOSO\\Ana", ana(), None),
            ("CONTOSO/Ana", ana(), None),
            ("CONTOSO/ana@contoso.com", ana_at(), None),
            // The four formats of [MS-OXIMAP4] section 2.2.2, and the same with backslashes.
            ("CONTOSO/ana/projects", ana(), projects()),
            ("CONTOSO/ana/projects@contoso.com", ana(), projects_at()),
            ("ana@contoso.com/projects", ana_at(), projects()),
            ("ana@contoso.com/Projects@contoso.com", ana_at(), projects_at()),
            ("CONTOSO\\ana\\projects", ana(), projects()),
            ("CONTOSO\\ana/projects", ana(), projects()),
            ("CONTOSO/ana\\projects", ana(), projects()),
            ("ana@contoso.com\\projects", ana_at(), projects()),
            ("ana@contoso.com\\projects@contoso.com", ana_at(), projects_at()),
            // A mailbox that is the user's own name is no mailbox apart.
            ("ana@contoso.com/ANA@contoso.com", ana_at(), None),
            ("CONTOSO/ana/ana", ana(), Some(MailboxName::Bare("ana".into()))),
        ] {
            assert_eq!(LogonName::parse(text.as_bytes(), None), Ok(LogonName { user, mailbox }), "{text}");
        }
    }

    #[test]
    fn an_authorization_identity_is_the_mailbox() {
        let ana = MailboxName::Address("ana@contoso.com".into());
        for (name, authorize_as, mailbox) in [
            ("ana@contoso.com", "projects", Ok(Some("projects"))),
            ("ana@contoso.com", "CONTOSO\\projects", Ok(Some("CONTOSO\\projects"))),
            ("ana@contoso.com", "ANA@contoso.com", Ok(None)),
            ("ana@contoso.com/projects", "Projects", Ok(Some("projects"))),
            ("ana@contoso.com/projects", "board", Err(LogonNameError::TwoMailboxes)),
            ("ana@contoso.com", "", Err(LogonNameError::Mailbox(NameError::Empty))),
            ("ana@contoso.com", "a:b", Err(LogonNameError::Mailbox(NameError::Colon))),
        ] {
            let expected = mailbox.map(|mailbox| LogonName {
                user: ana.clone(),
                mailbox: mailbox.map(|mailbox| mailbox.parse().expect("a name")),
            });
            assert_eq!(
                LogonName::parse(name.as_bytes(), Some(authorize_as.as_bytes())),
                expected,
                "{name} {authorize_as}"
            );
        }
    }

    #[test]
    fn what_can_be_no_logon_says_what_is_wrong_with_it() {
        for (text, error) in [
            ("", LogonNameError::User(NameError::Empty)),
            ("/", LogonNameError::User(NameError::HalfMissing)),
            ("//", LogonNameError::User(NameError::HalfMissing)),
            ("/ana", LogonNameError::User(NameError::HalfMissing)),
            ("CONTOSO/", LogonNameError::User(NameError::HalfMissing)),
            ("CONTOSO//projects", LogonNameError::User(NameError::HalfMissing)),
            ("CONTOSO/ana/", LogonNameError::Mailbox(NameError::Empty)),
            ("ana@contoso.com/", LogonNameError::Mailbox(NameError::Empty)),
            ("ana@/projects", LogonNameError::User(NameError::HalfMissing)),
            ("CONTOSO/ana/projects/archive", LogonNameError::TooManyParts),
            ("CONTOSO\\ana\\projects\\archive", LogonNameError::TooManyParts),
            ("ana@contoso.com/projects/archive", LogonNameError::TooManyParts),
            ("CONTOSO/ana/pro:jects", LogonNameError::Mailbox(NameError::Colon)),
            ("CONTOSO/ana/projects\r\n", LogonNameError::Mailbox(NameError::ControlCharacter)),
            ("CONTOSO/a\nna/projects", LogonNameError::User(NameError::ControlCharacter)),
        ] {
            assert_eq!(LogonName::parse(text.as_bytes(), None), Err(error), "{text:?}");
        }
        let long = |length| LogonName::parse(&vec![b'a'; length], None);
        assert_eq!(long(1024).map(|name| name.mailbox), Ok(None));
        assert_eq!(long(1025), Err(LogonNameError::User(NameError::TooLong)));
        assert_eq!(long(100_000), Err(LogonNameError::User(NameError::TooLong)));
        let both = [&[b'a'; 500][..], b"/", &[b'b'; 523], b"/", &[b'c'; 1024]].concat();
        assert!(LogonName::parse(&both, None).is_ok());
        assert_eq!(
            LogonName::parse(b"CONTOSO/\xc9lodie/b\xe9b\xe9", None),
            LogonName::parse("CONTOSO/élodie/bébé".as_bytes(), None)
        );
    }

    proptest! {
        #[test]
        fn a_name_without_a_slash_is_what_it_is_everywhere(
            name in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), "[a-zé@ :.]{0,9}\\\\?[a-zé@ :.]{0,9}".prop_map(String::into_bytes)],
        ) {
            let parts: Vec<_> = name.split(|byte| *byte == b'\\').collect();
            let is_plain = parts.len() == 1 || parts.len() == 2 && !parts[0].contains(&b'@');
            prop_assume!(is_plain && !name.contains(&b'/'));
            let everywhere = MailboxName::parse_bytes(&name)
                .map(|user| LogonName { user, mailbox: None })
                .map_err(LogonNameError::User);
            prop_assert_eq!(LogonName::parse(&name, None), everywhere);
        }

        #[test]
        fn no_bytes_make_it_panic_or_let_a_separator_through(
            name in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), "[aé/@:.\\\\ ]{0,12}".prop_map(String::into_bytes)],
            authorize_as in prop::option::of(prop::collection::vec(any::<u8>(), 0..12)),
        ) {
            if let Ok(LogonName { user, mailbox }) = LogonName::parse(&name, authorize_as.as_deref()) {
                let shown = user.to_string();
                prop_assert!(!shown.contains('/') && shown.matches('\\').count() < 2);
                prop_assert!(mailbox.is_none_or(|mailbox| mailbox != user));
            }
        }
    }
}
