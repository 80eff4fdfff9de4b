//! What the edge needs of the Kerberos library: credentials of users, and tokens for servers.
//!
//! Every call may wait for a key distribution centre, for up to half a minute, so each is made on a thread that may wait.

#[cfg(feature = "gssapi")]
pub use gssapi::Credential;
#[cfg(not(feature = "gssapi"))]
pub use without::Credential;

#[cfg(feature = "gssapi")]
mod gssapi {
    use std::{str, time::Duration};

    use libgssapi::{
        context::{ClientCtx, CtxFlags, SecurityContext as _},
        credential::{Cred, CredUsage},
        error::Error,
        name::Name,
        oid::{GSS_MECH_KRB5, GSS_NT_KRB5_PRINCIPAL, Oid, OidSet},
    };

    use super::super::KerberosError;
    use crate::secret::Secret;

    /// A user's ticket-granting ticket, or what stands for it, and the tickets that were got by it.
    pub struct Credential(Cred);

    impl Credential {
        /// The user's own, by their password (RFC 4120 section 3.1).
        pub fn by_password(principal: &str, password: &Secret) -> Result<Self, KerberosError> {
            let password = password_text(password.expose())?;
            let name = name(principal)?;
            let credential =
                Cred::acquire_with_password(Some(&name), &password, None, CredUsage::Initiate, Some(&kerberos()?));
            credential.map(Credential).map_err(|error| Code::of(error).of_user(error))
        }

        /// A user's, got by this one of the edge's account: S4U2Self ([MS-SFU] 3.2.5.1).
        pub fn delegated(&self, principal: &str) -> Result<Self, KerberosError> {
            let credential = self.0.impersonate(&name(principal)?, None, CredUsage::Initiate, Some(&kerberos()?));
            credential.map(Credential).map_err(|error| Code::of(error).of_user(error))
        }

        /// The edge's account itself, whose keys are in the keytab that the environment names.
        pub fn of_account(account: &str) -> Result<Self, KerberosError> {
            let own = Cred::acquire(Some(&name(account)?), None, CredUsage::Initiate, Some(&kerberos()?));
            own.map(Credential).map_err(|error| Code::of(error).of_own_account(error))
        }

        /// A new token for a service such as `HTTP/cas-opo-1.contoso.com`: a GSS-API token of one leg (RFC 4121 section
        /// 4.1), and for how long the ticket in it is good. Nobody may use it twice.
        pub fn token(&self, service: &str) -> Result<(Vec<u8>, Duration), KerberosError> {
            // An empty realm: whichever the user's own key distribution centre refers to (RFC 6806 section 8).
            let service_name = name(&format!("{service}@"))?;
            let mut context =
                ClientCtx::new(Some(self.0.clone()), service_name, CtxFlags::empty(), Some(&GSS_MECH_KRB5));
            match context.step(None, None) {
                Ok(Some(token)) => Ok((token.to_vec(), context.lifetime().map_err(other)?)),
                Ok(None) => Err(KerberosError::Other("it gave no token".into())),
                Err(error) => Err(Code::of(error).of_service(error, service)),
            }
        }

        /// How long it is good for.
        pub fn lifetime(&self) -> Result<Duration, KerberosError> {
            self.0.lifetime().map_err(other)
        }
    }

    fn kerberos() -> Result<OidSet, KerberosError> {
        let mut mechanisms = OidSet::new().map_err(other)?;
        mechanisms.add(&KERBEROS).map_err(other)?;
        Ok(mechanisms)
    }

    static KERBEROS: Oid = GSS_MECH_KRB5;

    fn name(principal: &str) -> Result<Name, KerberosError> {
        Name::new(principal.as_bytes(), Some(&GSS_NT_KRB5_PRINCIPAL)).map_err(other)
    }

    /// A password in Latin-1, as older browsers send it, is known by not being UTF-8 (RFC 7617 appendix B.3).
    fn password_text(password: &[u8]) -> Result<String, KerberosError> {
        if password.is_empty() || password.contains(&0) {
            return Err(KerberosError::WrongPassword); // the library takes what is before the zero byte
        }
        Ok(str::from_utf8(password).map_or_else(|_| password.iter().copied().map(char::from).collect(), str::to_owned))
    }

    fn other(error: Error) -> KerberosError {
        KerberosError::Other(error.to_string())
    }

    /// The error of the protocol, or of the library, that is behind an error of GSS-API: a code of krb5's error table.
    #[derive(Clone, Copy)]
    struct Code(i32);

    impl Code {
        fn of(error: Error) -> Self {
            const TABLE: i32 = -1_765_328_384; // ERROR_TABLE_BASE_krb5
            Code(error.minor.cast_signed().wrapping_sub(TABLE))
        }

        /// Asked for a credential of the user.
        fn of_user(self, error: Error) -> KerberosError {
            match self.0 {
                C_PRINCIPAL_UNKNOWN => KerberosError::UnknownAccount,
                PREAUTH_FAILED | BAD_INTEGRITY => KerberosError::WrongPassword,
                KEY_EXPIRED => KerberosError::PasswordExpired,
                CLIENT_REVOKED | NAME_EXPIRED | POLICY => KerberosError::AccountUnusable,
                S_PRINCIPAL_UNKNOWN | BAD_OPTION => KerberosError::NotForUser, // S4U2Self alone
                _ => self.of_any(error),
            }
        }

        fn of_own_account(self, error: Error) -> KerberosError {
            let of_any = self.of_any(error);
            match matches!(of_any, KerberosError::ClockSkew | KerberosError::Away(_)) {
                true => of_any,
                false => KerberosError::OwnAccount(error.to_string()),
            }
        }

        /// Asked for a ticket for a service.
        fn of_service(self, error: Error, service: &str) -> KerberosError {
            match self.0 {
                S_PRINCIPAL_UNKNOWN | PRINCIPAL_NOT_UNIQUE => KerberosError::NoServicePrincipalName(service.to_owned()),
                POLICY | BAD_OPTION => KerberosError::DelegationNotAllowed(service.to_owned()),
                KEY_EXPIRED => KerberosError::PasswordExpired,
                CLIENT_REVOKED | NAME_EXPIRED => KerberosError::AccountUnusable,
                _ => self.of_any(error),
            }
        }

        fn of_any(self, error: Error) -> KerberosError {
            match self.0 {
                AP_ERR_SKEW => KerberosError::ClockSkew,
                REALM_UNKNOWN | KDC_UNREACHABLE | REALM_CANNOT_RESOLVE => KerberosError::Away(error.to_string()),
                _ => other(error),
            }
        }
    }

    // RFC 4120 section 7.5.9.
    const NAME_EXPIRED: i32 = 1;
    const C_PRINCIPAL_UNKNOWN: i32 = 6;
    const S_PRINCIPAL_UNKNOWN: i32 = 7;
    const PRINCIPAL_NOT_UNIQUE: i32 = 8;
    const POLICY: i32 = 12;
    const BAD_OPTION: i32 = 13;
    const CLIENT_REVOKED: i32 = 18;
    const KEY_EXPIRED: i32 = 23;
    const PREAUTH_FAILED: i32 = 24;
    const BAD_INTEGRITY: i32 = 31;
    const AP_ERR_SKEW: i32 = 37;
    // The library's own.
    const REALM_UNKNOWN: i32 = 154;
    const KDC_UNREACHABLE: i32 = 156;
    const REALM_CANNOT_RESOLVE: i32 = 220;

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_password_that_the_library_would_cut_short_is_wrong() {
            for password in [&b""[..], b"\0", b"Pass-word1\0", b"Pass-word1\0more"] {
                assert_eq!(password_text(password), Err(KerberosError::WrongPassword), "{password:?}");
            }
        }

        #[test]
        fn a_password_is_utf_8_or_else_latin_1() {
            assert_eq!(password_text(b"Pass-word1").as_deref(), Ok("Pass-word1"));
            assert_eq!(password_text("pässwörd".as_bytes()).as_deref(), Ok("pässwörd"));
            assert_eq!(password_text(b"p\xe4ssw\xf6rd").as_deref(), Ok("pässwörd"));
        }
    }
}

/// Without the library there is no `[sign_in]` either: the configuration refuses it.
#[cfg(not(feature = "gssapi"))]
mod without {
    use std::time::Duration;

    use super::super::KerberosError;
    use crate::secret::Secret;

    /// Nobody's.
    pub enum Credential {}

    impl Credential {
        /// Fails.
        pub fn by_password(_: &str, _: &Secret) -> Result<Self, KerberosError> {
            Err(KerberosError::Other("it is not there".into()))
        }

        /// Fails.
        pub fn of_account(_: &str) -> Result<Self, KerberosError> {
            Err(KerberosError::Other("it is not there".into()))
        }

        /// Never called.
        pub fn delegated(&self, _: &str) -> Result<Self, KerberosError> {
            match *self {}
        }

        /// Never called.
        pub fn token(&self, _: &str) -> Result<(Vec<u8>, Duration), KerberosError> {
            match *self {}
        }

        /// Never called.
        pub fn lifetime(&self) -> Result<Duration, KerberosError> {
            match *self {}
        }
    }
}
