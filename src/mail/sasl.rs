//! The SASL mechanisms of a mail client: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login), NTLM ([MS-POP3]). What comes
//! between the lines of either protocol is the same.
