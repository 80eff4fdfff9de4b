//! The edge's half of IMAP4 before the logon (RFC 3501, RFC 9051): greeting, `CAPABILITY`, `STARTTLS`, `LOGIN`,
//! `AUTHENTICATE`, `ID`, `NOOP`, `LOGOUT`.
