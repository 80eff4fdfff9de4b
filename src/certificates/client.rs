//! Who a client certificate is for: the user principal name in it, as Active Directory's own authority writes it.
//!
//! An e-mail address in a certificate names nobody here. Authorities put in what was asked for, or prove only that mail
//! reaches it; and an address may be that of one person's mailbox and of another's account.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::{
    Decode,
    asn1::{ContextSpecific, Utf8StringRef},
};
use x509_parser::{
    oid_registry::{Oid, asn1_rs::oid},
    prelude::{FromDer, GeneralName, X509Certificate},
};

use crate::identity::MailboxName;

/// What a believed client certificate says.
pub struct ClientCertificate {
    user: Result<MailboxName, NoUser>,
    not_after: SystemTime,
}

/// Why a certificate proves nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoUser {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable,
    /// It has no user principal name.
    #[error("it has no user principal name in its alternative names")]
    Absent,
    /// It has several.
    #[error("it has several user principal names")]
    Several,
    /// It is no `user@domain`.
    #[error("its user principal name is not of the form user@domain")]
    NotAddress,
    /// An authority is not believed any more.
    #[error("an authority that it was believed by when its connection began is not believed any more")]
    AuthorityGone,
    /// It was valid when the connection began.
    #[error("it has ended since its connection began")]
    Ended,
}

impl ClientCertificate {
    /// Reads a certificate in DER. That it is believed has been found out before.
    pub fn read(der: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return ClientCertificate { user: Err(NoUser::Unreadable), not_after: UNIX_EPOCH };
        };
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        ClientCertificate { user: user(&certificate), not_after: UNIX_EPOCH + Duration::from_secs(seconds) }
    }

    /// Whom it proves now.
    pub fn proves(&self, now: SystemTime) -> Result<&MailboxName, NoUser> {
        let name = self.user.as_ref().map_err(|why| *why)?;
        if now <= self.not_after { Ok(name) } else { Err(NoUser::Ended) }
    }
}

/// Whether a certificate, in DER, says that clients may prove themselves by it. One that says nothing about its use was
/// not meant for anything in particular, and so not for this.
pub fn is_for_clients(der: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    certificate.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.client_auth)
}

fn user(certificate: &X509Certificate<'_>) -> Result<MailboxName, NoUser> {
    let alternative = certificate.subject_alternative_name().map_err(|_| NoUser::Unreadable)?.ok_or(NoUser::Absent)?;
    let mut names = alternative.value.general_names.iter().filter_map(|name| match name {
        GeneralName::OtherName(kind, value) if *kind == USER_PRINCIPAL_NAME => Some(value),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::DNSName(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    });
    let value = names.next().ok_or(NoUser::Absent)?;
    if names.next().is_some() {
        return Err(NoUser::Several);
    }
    let name = <ContextSpecific<Utf8StringRef<'_>> as Decode<'_>>::from_der(value).map_err(|_| NoUser::Unreadable)?;
    if name.tag_number.value() != 0 {
        return Err(NoUser::Unreadable);
    }
    match MailboxName::of_parts("", name.value.as_str()) {
        Ok(name @ MailboxName::Address(_)) => Ok(name),
        Ok(MailboxName::Account { .. } | MailboxName::Bare(_) | MailboxName::Guid(_)) | Err(_) => {
            Err(NoUser::NotAddress)
        }
    }
}

/// szOID_NT_PRINCIPAL_NAME ([MS-WCCE] 2.2.2.7.7.4 and KB 258605).
const USER_PRINCIPAL_NAME: Oid<'static> = oid!(1.3.6.1.4.1.311.20.2.3);

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, OtherNameValue, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>, uses: Vec<ExtendedKeyUsagePurpose>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages = uses;
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec()
    }

    fn upn(name: &str) -> SanType {
        SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], OtherNameValue::Utf8String(name.to_owned())))
    }

    fn email(name: &str) -> SanType {
        SanType::Rfc822Name(name.try_into().expect("ASCII"))
    }

    #[test]
    fn a_certificate_proves_its_one_user_principal_name_and_nothing_else_in_it() {
        for (names, proves) in [
            (vec![upn("Ana@Contoso.com")], Ok("ana@contoso.com")),
            (vec![email("carla@contoso.com"), upn("ana@contoso.com")], Ok("ana@contoso.com")),
            (vec![upn("ana@contoso.com"), upn("carla@contoso.com")], Err(NoUser::Several)),
            (vec![email("ana@contoso.com")], Err(NoUser::Absent)),
            (
                vec![SanType::OtherName((
                    vec![1, 3, 6, 1, 5, 2, 2],
                    OtherNameValue::Utf8String("ana@contoso.com".into()),
                ))],
                Err(NoUser::Absent),
            ),
            (vec![], Err(NoUser::Absent)),
            (vec![upn("ana")], Err(NoUser::NotAddress)),
            (vec![upn("CONTOSO\\ana")], Err(NoUser::NotAddress)),
            (vec![upn("smtp:ana@contoso.com")], Err(NoUser::NotAddress)),
            (vec![upn("ana@contoso.com ")], Err(NoUser::NotAddress)),
            (vec![upn("ana@contoso.com\0.evil")], Err(NoUser::NotAddress)),
            (vec![upn("0a1b2c3d-0000-1111-2222-333344445555@contoso.com")], Err(NoUser::NotAddress)),
            (vec![upn("")], Err(NoUser::NotAddress)),
        ] {
            let certificate = ClientCertificate::read(&certificate(names, vec![]));
            let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            let proven = certificate.proves(now).map(ToString::to_string);
            assert_eq!(proven, proves.map(str::to_owned));
        }
    }

    #[test]
    fn it_proves_nobody_once_it_has_ended() {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![upn("ana@contoso.com")];
        params.not_after = rcgen::date_time_ymd(2030, 6, 15);
        let der = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec();
        let end = SystemTime::from(params.not_after);
        let certificate = ClientCertificate::read(&der);
        assert!(certificate.proves(end).is_ok());
        assert!(certificate.proves(end + Duration::from_secs(1)) == Err(NoUser::Ended));
    }

    #[test]
    fn only_a_certificate_that_says_so_is_for_clients() {
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, EmailProtection, ServerAuth};
        for (uses, is_it) in [
            (vec![ClientAuth], true),
            (vec![ServerAuth, ClientAuth], true),
            (vec![ServerAuth], false),
            (vec![EmailProtection], false),
            (vec![Any], false),
            (vec![], false),
        ] {
            assert_eq!(is_for_clients(&certificate(vec![], uses.clone())), is_it, "{uses:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_proves_nobody() {
        let whole = certificate(vec![upn("ana@contoso.com")], vec![ExtendedKeyUsagePurpose::ClientAuth]);
        for cut in 0..whole.len() {
            let part = whole.get(..cut).expect("a part");
            assert!(ClientCertificate::read(part).proves(UNIX_EPOCH) == Err(NoUser::Unreadable), "{cut}");
            assert!(!is_for_clients(part), "{cut}");
        }
    }

    #[test]
    fn a_damaged_name_is_read_as_another_or_not_at_all() {
        let whole = certificate(vec![upn("ana@contoso.com")], vec![]);
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for place in 0..whole.len() {
            for bits in [0x01, 0x20, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[place] ^= bits;
                if let Ok(name) = ClientCertificate::read(&damaged).proves(now) {
                    assert!(matches!(name, MailboxName::Address(_)));
                }
            }
        }
    }
}
