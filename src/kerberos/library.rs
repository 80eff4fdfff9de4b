//! The Kerberos library.
