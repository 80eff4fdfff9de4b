//! The token of `Authorization: Negotiate` (RFC 4559 section 4): a Kerberos token in its SPNEGO envelope.
