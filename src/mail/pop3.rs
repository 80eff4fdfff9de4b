//! The edge's half of POP3 before the logon (RFC 1939, RFC 2449, RFC 2595, RFC 5034): greeting, `CAPA`, `STLS`, `USER` and
//! `PASS`, `AUTH`, `NOOP`, `QUIT`.
