//! Kerberos tickets (RFC 4120): what an `AP-REQ` shows, and who its ticket was issued to, if we hold the service's key.

use std::time::{Duration, SystemTime};

use der::{
    Decode as _, Reader as _, Result as DerResult, SliceReader, Tag,
    asn1::{BitStringRef, GeneralizedTime},
};
use picky_krb::crypto::{Cipher, CipherSuite, DecryptWithoutChecksum};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    MailboxName,
    asn1::{application, field, inside, octets, optional, rest, text, whole},
    keytab::{Key, Keytab},
    name::NameError,
};

/// An `AP-REQ` (RFC 4120 section 5.5.1), as sent.
#[derive(PartialEq, Eq)]
pub struct ApReq {
    /// DER.
    pub der: Vec<u8>,
}

/// What an `AP-REQ` says once it is opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// Who the ticket was issued to.
    pub client: MailboxName,
    /// Whether the client bound its authenticator to the TLS channel it sees (`Bnd`, RFC 4121 section 4.1.1.2): a
    /// server that insists on Extended Protection then refuses it, because the edge ends that channel.
    pub channel_bindings: bool,
}

/// Why a ticket proves nothing. Names no part of the message but numbers that select a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// RFC 4120 section 5.
    #[error("the {0} is cut short, or not the DER of RFC 4120")]
    Unreadable(Part),
    /// The keytab has none for this encryption type.
    #[error(
        "the keytab has no key for the ticket's encryption type {etype}; export the service account's keys again, \
         with all its AES types"
    )]
    NoKey {
        /// The ticket's encryption type.
        etype: i32,
    },
    /// An encryption type that is not read here.
    #[error(
        "the {part} is encrypted with type {etype} ({}), and only AES (17, 18) is read; give the service account AES \
         keys (msDS-SupportedEncryptionTypes 24), set its password anew and export the keytab again",
        etype_name(*.etype)
    )]
    EncryptionType {
        /// Where.
        part: Part,
        /// The encryption type.
        etype: i32,
    },
    /// The keys do not fit: the message is forged, or the keytab is older than the account's password.
    #[error(
        "no key of the keytab opens the ticket, whose key version is {}; if the service account's password was \
         changed, export the keytab again", kvno.map_or_else(|| "not given".to_owned(), |kvno| kvno.to_string())
    )]
    WrongKey {
        /// The ticket's key version.
        kvno: Option<u32>,
    },
    /// The sender does not know the ticket's session key.
    #[error("the authenticator was not made with the ticket's session key: whoever sent it does not own the ticket")]
    NotTheOwner,
    /// RFC 4120 section 3.2.3, `KRB_AP_ERR_BADMATCH`.
    #[error("ticket and authenticator name different clients")]
    DifferentClients,
    /// RFC 4120 section 3.2.3, `KRB_AP_ERR_SKEW`.
    #[error("the authenticator's time is {minutes} minutes from ours, 5 are allowed; set both clocks by the domain's")]
    ClockSkew {
        /// How far.
        minutes: u64,
    },
    /// RFC 4120 section 3.2.3, `KRB_AP_ERR_TKT_NYV`.
    #[error("the ticket is not valid yet; if it should be, set the edge's clock by the domain's")]
    NotYetValid,
    /// RFC 4120 section 3.2.3, `KRB_AP_ERR_TKT_EXPIRED`.
    #[error("the ticket has expired; if it should not have, set the edge's clock by the domain's")]
    Expired,
    /// The option `use-session-key` (RFC 4120 section 5.5.1).
    #[error("the ticket is encrypted for a user, not for the service")]
    UserToUser,
    /// Not an account: an enterprise name, a service, an anonymous client (RFC 8062).
    #[error("the ticket's client is no account that a mailbox could have")]
    NoMailboxName,
    /// It is no name in any directory, or could be read as two.
    #[error("the ticket's client: {0}")]
    BadName(#[from] NameError),
}

/// A part of an `AP-REQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    ApReq,
    /// `EncTicketPart` (RFC 4120 section 5.3).
    Ticket,
    /// `Authenticator` (RFC 4120 section 5.5.1).
    Authenticator,
}

impl ApReq {
    /// Reads an `AP-REQ`; `None`: it is none.
    pub(super) fn read(der: &[u8]) -> Option<ApReq> {
        envelope(der).ok().map(|_| ApReq { der: der.to_vec() })
    }
}

/// How far clocks may differ (RFC 4120 section 5.2.3, and the default of every Windows domain).
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);

impl Keytab {
    /// Opens an `AP-REQ` with the service's keys and checks what RFC 4120 section 3.2.3 has a server check, but for
    /// replays: the same bytes prove the same name again for as long as their authenticator is fresh. Passing them on is
    /// safe, because the server behind refuses replays; whoever can copy a message off the client's TLS could also copy
    /// what the edge answers to it.
    ///
    /// A key serves every service name: accounts have one set of keys for all of theirs, and what Windows calls
    /// `HTTP/mail` may stand as `HOST/mail` in the keytab.
    ///
    /// # Errors
    /// When the message proves nothing.
    pub fn open(&self, message: &ApReq, now: SystemTime) -> Result<Opened, TicketError> {
        let Envelope { options, ticket, authenticator } =
            envelope(&message.der).map_err(|_| TicketError::Unreadable(Part::ApReq))?;
        if flag(options, USE_SESSION_KEY) {
            return Err(TicketError::UserToUser);
        }

        let opened = self.open_ticket(ticket)?;
        let ticket = ticket_part(&opened).map_err(|_| TicketError::Unreadable(Part::Ticket))?;
        let session_key = suite(ticket.key_type, Part::Authenticator)?;
        let opened = decrypt(session_key.as_ref(), ticket.key, AUTHENTICATOR_USAGE, authenticator.cipher)
            .filter(|_| authenticator.etype == ticket.key_type)
            .ok_or(TicketError::NotTheOwner)?;
        let authenticator = authenticator_part(&opened).map_err(|_| TicketError::Unreadable(Part::Authenticator))?;

        if !ticket.client.is_same(&authenticator.client) {
            return Err(TicketError::DifferentClients);
        }
        let skew = distance(now, authenticator.time);
        if skew > SKEW_MAX {
            return Err(TicketError::ClockSkew { minutes: skew.as_secs() / 60 });
        }
        if flag(ticket.flags, INVALID) || ticket.start.duration_since(now).is_ok_and(|early| early > SKEW_MAX) {
            return Err(TicketError::NotYetValid);
        }
        if now.duration_since(ticket.end).is_ok_and(|late| late > SKEW_MAX) {
            return Err(TicketError::Expired);
        }
        Ok(Opened { client: ticket.client.mailbox_name()?, channel_bindings: authenticator.channel_bindings })
    }

    fn open_ticket(&self, ticket: Encrypted<'_>) -> Result<Zeroizing<Vec<u8>>, TicketError> {
        let suite = suite(ticket.etype, Part::Ticket)?;
        let mut keys = self.keys_for(ticket.etype, ticket.kvno).peekable();
        keys.peek().ok_or(TicketError::NoKey { etype: ticket.etype })?;
        keys.find_map(|key: &Key| decrypt(suite.as_ref(), key.secret(), TICKET_USAGE, ticket.cipher))
            .ok_or(TicketError::WrongKey { kvno: ticket.kvno })
    }
}

// RFC 4120 section 7.5.1.
const TICKET_USAGE: i32 = 2;
const AUTHENTICATOR_USAGE: i32 = 11;

// RFC 3961 section 8.
pub(super) const AES128: i32 = 17;
pub(super) const AES256: i32 = 18;
const RC4: i32 = 23;

/// How people call an encryption type.
fn etype_name(etype: i32) -> &'static str {
    match etype {
        AES128 => "AES128-CTS-HMAC-SHA1-96",
        AES256 => "AES256-CTS-HMAC-SHA1-96",
        19 | 20 => "AES-CTS-HMAC-SHA2",
        RC4 => "RC4-HMAC",
        1 | 3 => "DES",
        _ => "unknown",
    }
}

fn suite(etype: i32, part: Part) -> Result<Box<dyn Cipher>, TicketError> {
    match etype {
        AES128 => Ok(CipherSuite::Aes128CtsHmacSha196.cipher()),
        AES256 => Ok(CipherSuite::Aes256CtsHmacSha196.cipher()),
        _ => Err(TicketError::EncryptionType { part, etype }),
    }
}

/// The plaintext, if its checksum is right. The crate's own `decrypt` compares checksums in a time that tells how much
/// of one was right.
fn decrypt(suite: &dyn Cipher, key: &[u8], usage: i32, cipher: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let DecryptWithoutChecksum { plaintext, confounder, checksum, ki } =
        suite.decrypt_no_checksum(key, usage, cipher).ok()?;
    let (plaintext, _ki) = (Zeroizing::new(plaintext), Zeroizing::new(ki));
    let checked = Zeroizing::new([confounder.as_slice(), plaintext.as_slice()].concat());
    let expected = suite.encryption_checksum(key, usage, &checked).ok()?;
    bool::from(expected.ct_eq(&checksum)).then_some(plaintext)
}

/// An `AP-REQ` before it is opened.
struct Envelope<'a> {
    options: BitStringRef<'a>,
    ticket: Encrypted<'a>,
    authenticator: Encrypted<'a>,
}

/// `EncryptedData` (RFC 4120 section 5.2.9).
#[derive(Clone, Copy)]
struct Encrypted<'a> {
    etype: i32,
    kvno: Option<u32>,
    cipher: &'a [u8],
}

/// `EncTicketPart`, as far as it is needed.
struct TicketPart<'a> {
    flags: BitStringRef<'a>,
    key_type: i32,
    key: &'a [u8],
    client: Client<'a>,
    start: SystemTime,
    end: SystemTime,
}

/// `Authenticator`, as far as it is needed.
struct AuthenticatorPart<'a> {
    client: Client<'a>,
    channel_bindings: bool,
    time: SystemTime,
}

/// A `PrincipalName` (RFC 4120 section 5.2.2) and its `Realm`.
struct Client<'a> {
    realm: &'a str,
    name_type: i32,
    components: Vec<&'a str>,
}

/// `use-session-key` of `APOptions`.
const USE_SESSION_KEY: usize = 1;
/// `invalid` of `TicketFlags`.
const INVALID: usize = 7;

fn flag(flags: BitStringRef<'_>, number: usize) -> bool {
    flags.bits().nth(number).unwrap_or_default()
}

fn distance(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

impl Client<'_> {
    /// RFC 4120 section 6.2: the type is not part of the name.
    fn is_same(&self, other: &Client<'_>) -> bool {
        self.realm == other.realm && self.components == other.components
    }

    /// An account in its domain (`NT-PRINCIPAL`, RFC 4120 section 6.2). Not an address (`NT-ENTERPRISE`, RFC 6806 section
    /// 5): any trusted realm may write any address there, and a domain controller puts the account in its place anyway.
    fn mailbox_name(&self) -> Result<MailboxName, TicketError> {
        const PRINCIPAL: i32 = 1;

        match (self.name_type, self.components.as_slice()) {
            (PRINCIPAL, [account]) if !self.realm.is_empty() => Ok(MailboxName::of_parts(self.realm, account)?),
            _ => Err(TicketError::NoMailboxName),
        }
    }
}

fn envelope(der: &[u8]) -> DerResult<Envelope<'_>> {
    whole(der, |reader| {
        application(reader, 14, |reader| {
            version(reader, 0)?;
            field(reader, 1, |reader| expect(reader, 14))?; // msg-type
            let options = field(reader, 2, BitStringRef::decode)?;
            let ticket = field(reader, 3, ticket)?;
            let authenticator = field(reader, 4, encrypted)?;
            Ok(Envelope { options, ticket, authenticator })
        })
    })
}

fn ticket<'a>(reader: &mut SliceReader<'a>) -> DerResult<Encrypted<'a>> {
    application(reader, 1, |reader| {
        version(reader, 0)?;
        field(reader, 1, text)?; // realm
        field(reader, 2, principal_name)?; // sname
        field(reader, 3, encrypted)
    })
}

fn encrypted<'a>(reader: &mut SliceReader<'a>) -> DerResult<Encrypted<'a>> {
    inside(reader, Tag::Sequence, |reader| {
        let etype = field(reader, 0, i32::decode)?;
        // A UInt32 that some encode as if it were an Int32.
        let kvno = optional(reader, 1, i64::decode)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its 32 bits, whatever their sign")]
        let kvno = kvno.map(|kvno| kvno as u32);
        Ok(Encrypted { etype, kvno, cipher: field(reader, 2, octets)? })
    })
}

fn ticket_part(der: &[u8]) -> DerResult<TicketPart<'_>> {
    whole(der, |reader| {
        application(reader, 3, |reader| {
            let flags = field(reader, 0, BitStringRef::decode)?;
            let (key_type, key) = field(reader, 1, |reader| {
                inside(reader, Tag::Sequence, |reader| Ok((field(reader, 0, i32::decode)?, field(reader, 1, octets)?)))
            })?;
            let client = client(reader, 2)?;
            field(reader, 4, rest)?; // transited
            let authenticated = field(reader, 5, time)?;
            let start = optional(reader, 6, time)?.unwrap_or(authenticated);
            let end = field(reader, 7, time)?;
            optional(reader, 8, time)?; // renew-till
            optional(reader, 9, rest)?; // caddr
            optional(reader, 10, rest)?; // authorization-data
            Ok(TicketPart { flags, key_type, key, client, start, end })
        })
    })
}

fn authenticator_part(der: &[u8]) -> DerResult<AuthenticatorPart<'_>> {
    whole(der, |reader| {
        application(reader, 2, |reader| {
            version(reader, 0)?;
            let client = client(reader, 1)?;
            let channel_bindings = optional(reader, 3, is_bound)?.unwrap_or_default();
            field(reader, 4, rest)?; // cusec, of a time that may differ by minutes
            let time = field(reader, 5, time)?;
            optional(reader, 6, rest)?; // subkey
            optional(reader, 7, rest)?; // seq-number
            optional(reader, 8, rest)?; // authorization-data
            Ok(AuthenticatorPart { client, channel_bindings, time })
        })
    })
}

/// Whether a checksum is that of RFC 4121 section 4.1.1 and its `Bnd` is not all zeros: four bytes of its length, which
/// is 16, and as many of the hash.
fn is_bound(reader: &mut SliceReader<'_>) -> DerResult<bool> {
    const GSS_API: i32 = 0x8003;

    inside(reader, Tag::Sequence, |reader| {
        let (kind, checksum) = (field(reader, 0, i32::decode)?, field(reader, 1, octets)?);
        let hash = checksum.get(4..20).unwrap_or_default();
        Ok(kind == GSS_API && hash.iter().any(|byte| *byte != 0))
    })
}

/// A realm in the field `[number]`, and the name within it in the next.
fn client<'a>(reader: &mut SliceReader<'a>, number: u32) -> DerResult<Client<'a>> {
    let realm = field(reader, number, text)?;
    let (name_type, components) = field(reader, number + 1, principal_name)?;
    Ok(Client { realm, name_type, components })
}

fn principal_name<'a>(reader: &mut SliceReader<'a>) -> DerResult<(i32, Vec<&'a str>)> {
    inside(reader, Tag::Sequence, |reader| {
        let name_type = field(reader, 0, i32::decode)?;
        let components = field(reader, 1, |reader| {
            inside(reader, Tag::Sequence, |reader| {
                let mut components = Vec::new();
                while !reader.is_finished() {
                    components.push(text(reader)?);
                }
                Ok(components)
            })
        })?;
        Ok((name_type, components))
    })
}

/// `pvno` and its like: Kerberos 5.
fn version(reader: &mut SliceReader<'_>, number: u32) -> DerResult<()> {
    field(reader, number, |reader| expect(reader, 5))
}

fn expect(reader: &mut SliceReader<'_>, number: u8) -> DerResult<()> {
    if u8::decode(reader)? == number { Ok(()) } else { Err(reader.error(Tag::Integer.value_error())) }
}

fn time(reader: &mut SliceReader<'_>) -> DerResult<SystemTime> {
    GeneralizedTime::decode(reader).map(|time| time.to_system_time())
}

impl std::fmt::Debug for ApReq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApReq(..)") // whoever has it could use it
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Part::ApReq => "AP-REQ",
            Part::Ticket => "ticket",
            Part::Authenticator => "authenticator",
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test that cannot go on says why
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::identity::{samples, token::Shows};

    /// When the samples were made, to the minute.
    const THEN: u64 = 1_795_375_319;

    #[test]
    fn a_real_ticket_tells_whom_it_was_issued_to() {
        let ana = || MailboxName::Account { domain: "contoso.com".into(), account: "ana".into() };
        for (sample, client, channel_bindings) in [
            (samples::CURL_KERBEROS_AES256, ana(), false),
            (samples::CURL_KERBEROS_AES128, ana(), false),
            (samples::KERBEROS_BARE, ana(), false),
            (samples::KERBEROS_BOUND, ana(), true),
        ] {
            assert_eq!(keytab().open(&ap_req(sample), at(THEN)), Ok(Opened { client, channel_bindings }));
        }
        let enterprise = keytab().open(&ap_req(samples::KERBEROS_ENTERPRISE), at(THEN));
        assert_eq!(enterprise, Err(TicketError::NoMailboxName));
    }

    #[test]
    fn a_ticket_proves_nothing_at_another_time() {
        let minutes = |minutes: i64| at(THEN.saturating_add_signed(60 * minutes));
        let message = ap_req(samples::KERBEROS_BARE);
        for (now, error) in [
            (minutes(-4), None),
            (minutes(4), None),
            (minutes(-6), Some(TicketError::ClockSkew { minutes: 6 })),
            (minutes(6), Some(TicketError::ClockSkew { minutes: 6 })),
            (UNIX_EPOCH, Some(TicketError::ClockSkew { minutes: THEN / 60 })),
        ] {
            assert_eq!(keytab().open(&message, now).err(), error);
        }
    }

    #[test]
    fn a_ticket_that_begins_later_or_has_ended_proves_nothing_though_its_authenticator_is_fresh() {
        let made = Made::default();
        for (start, end, error) in [
            (THEN - 60, THEN + 60, None),
            (THEN + 299, THEN + 600, None),
            (THEN - 600, THEN - 299, None),
            (THEN + 301, THEN + 600, Some(TicketError::NotYetValid)),
            (THEN - 600, THEN - 301, Some(TicketError::Expired)),
        ] {
            assert_eq!(Made { start, end, ..made }.opened().err(), error, "{start} {end}");
        }
    }

    #[test]
    fn a_ticket_marked_invalid_proves_nothing() {
        assert_eq!(Made { flags: 0x4000_0000, ..Made::default() }.opened().err(), None);
        assert_eq!(Made { flags: 0x0100_0000, ..Made::default() }.opened(), Err(TicketError::NotYetValid));
    }

    #[test]
    fn the_ticket_and_its_authenticator_must_name_the_same_client() {
        for (realm, name) in [("CONTOSO.COM", "bruno"), ("ADATUM.COM", "ana"), ("CONTOSO.COM", "Ana")] {
            let made = Made { authenticator_realm: realm, authenticator_name: name, ..Made::default() };
            assert_eq!(made.opened(), Err(TicketError::DifferentClients), "{realm} {name}");
        }
    }

    #[test]
    fn only_an_account_is_a_name() {
        let named = |name_type, name| {
            let made = Made { name_type, ticket_name: name, authenticator_name: name, ..Made::default() };
            made.opened().map(|opened| opened.client.to_string())
        };
        assert_eq!(named(1, "ana"), Ok("contoso.com\\ana".into()));
        assert_eq!(named(10, "ana@contoso.com"), Err(TicketError::NoMailboxName), "any realm could say so");
        assert_eq!(named(10, "ana"), Err(TicketError::NoMailboxName));
        assert_eq!(named(11, "WELLKNOWN"), Err(TicketError::NoMailboxName));
        assert_eq!(named(2, "ana"), Err(TicketError::NoMailboxName));
        for (name_type, name) in [(1, "carla@contoso.com"), (1, "ADATUM\\carla"), (1, "carla ")] {
            assert_eq!(named(name_type, name), Err(TicketError::BadName(NameError::TwoReadings)), "{name}");
        }
        assert_eq!(named(1, "carla\0"), Err(TicketError::BadName(NameError::ControlCharacter)));
    }

    #[test]
    fn a_ticket_of_a_key_we_do_not_have_is_told_from_one_of_a_kind_we_do_not_read() {
        let rc4 = keytab().open(&ap_req(samples::CURL_KERBEROS_RC4), at(THEN)).expect_err("RC4");
        assert_eq!(rc4, TicketError::EncryptionType { part: Part::Ticket, etype: 23 });
        assert!(rc4.to_string().contains("RC4-HMAC") && rc4.to_string().contains("export the keytab again"), "{rc4}");

        let other = Made { service_key: &[9; 32], ..Made::default() };
        assert_eq!(other.opened(), Err(TicketError::WrongKey { kvno: Some(3) }));
        let only_aes128 = Keytab::parse(&[&[5, 2][..], &samples::keytab_entry(17, 3, &[1; 16])].concat());
        let message = ApReq { der: Made::default().der() };
        let opened = only_aes128.expect("a keytab").open(&message, at(THEN));
        assert_eq!(opened, Err(TicketError::NoKey { etype: 18 }));
    }

    #[test]
    fn the_key_is_found_by_its_version_or_is_the_newest() {
        for kvno in [Some(3), Some(7), None] {
            assert!(Made { kvno, ..Made::default() }.opened().is_ok(), "{kvno:?}");
        }
        // There is a key of this version, and it is another one.
        assert_eq!(Made { kvno: Some(2), ..Made::default() }.opened(), Err(TicketError::WrongKey { kvno: Some(2) }));
    }

    #[test]
    fn whoever_copied_a_ticket_without_its_session_key_is_not_its_owner() {
        let made = Made { authenticator_key: &[8; 32], ..Made::default() };
        assert_eq!(made.opened(), Err(TicketError::NotTheOwner));
    }

    #[test]
    fn a_ticket_for_a_user_is_refused() {
        assert_eq!(Made { options: 0x4000_0000, ..Made::default() }.opened(), Err(TicketError::UserToUser));
    }

    #[test]
    fn a_change_of_any_byte_of_a_real_message_never_changes_its_client() {
        let ApReq { der } = ap_req(samples::KERBEROS_BARE);
        let keytab = keytab();
        let name = keytab.open(&ApReq { der: der.clone() }, at(THEN));
        for place in 0..der.len() {
            let mut changed = der.clone();
            changed[place] ^= 0x15;
            let opened = keytab.open(&ApReq { der: changed }, at(THEN));
            assert!(opened.is_err() || opened == name, "byte {place}");
        }
        for length in 0..der.len() {
            assert!(keytab.open(&ApReq { der: der[..length].to_vec() }, at(THEN)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn neither_debug_nor_errors_show_keys_or_tickets() {
        let message = ap_req(samples::KERBEROS_BARE);
        let shown = format!("{message:?} {:?}", keytab());
        assert!(
            shown.starts_with("ApReq(..) Keytab") && shown.contains("HTTP/mail.contoso.com@CONTOSO.COM"),
            "{shown}"
        );
        assert!(shown.len() < 600, "{shown}");
    }

    fn keytab() -> Keytab {
        Keytab::parse(samples::SERVICE_KEYTAB).expect("a keytab")
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn ap_req(sample: &str) -> ApReq {
        let Shows::Ticket(message) = samples::token(sample).shows else { panic!("no ticket") };
        *message
    }

    /// An `AP-REQ` made by hand, for what no KDC would issue.
    #[derive(Clone, Copy)]
    struct Made<'a> {
        options: u32,
        flags: u32,
        kvno: Option<u8>,
        name_type: u8,
        ticket_name: &'a str,
        authenticator_realm: &'a str,
        authenticator_name: &'a str,
        start: u64,
        end: u64,
        service_key: &'a [u8],
        authenticator_key: &'a [u8],
    }

    impl Default for Made<'_> {
        fn default() -> Self {
            Made {
                options: 0,
                flags: 0,
                kvno: Some(3),
                name_type: 1,
                ticket_name: "ana",
                authenticator_realm: "CONTOSO.COM",
                authenticator_name: "ana",
                start: THEN,
                end: THEN + 600,
                service_key: &[3; 32],
                authenticator_key: &[7; 32],
            }
        }
    }

    impl Made<'_> {
        fn opened(&self) -> Result<Opened, TicketError> {
            let keys = [samples::keytab_entry(18, 2, &[2; 32]), samples::keytab_entry(18, 3, &[3; 32])].concat();
            let keytab = Keytab::parse(&[&[5, 2][..], &keys].concat()).expect("a keytab");
            keytab.open(&ApReq::read(&self.der()).expect("an AP-REQ"), at(THEN))
        }

        fn der(&self) -> Vec<u8> {
            let cipher = CipherSuite::Aes256CtsHmacSha196.cipher();
            let encrypted = |key: &[u8], usage, kvno: Option<u8>, plain: &[u8]| {
                let kvno = kvno.map(|kvno| tlv(0xa1, &integer(kvno))).unwrap_or_default();
                let sealed = cipher.encrypt(key, usage, plain).expect("encrypted");
                tlv(0x30, &[tlv(0xa0, &integer(18)), kvno, tlv(0xa2, &tlv(4, &sealed))].concat())
            };
            let sealed_key = [tlv(0xa0, &integer(18)), tlv(0xa1, &tlv(4, &[7; 32]))].concat();
            let ticket_part = fields(&[
                bits(self.flags),
                tlv(0x30, &sealed_key),
                string("CONTOSO.COM"),
                self.name(self.ticket_name),
                tlv(0x30, &[tlv(0xa0, &integer(1)), tlv(0xa1, &tlv(4, &[]))].concat()),
                time_of(THEN - 3600),
                time_of(self.start),
                time_of(self.end),
            ]);
            let authenticator = [
                tlv(0xa0, &integer(5)),
                tlv(0xa1, &string(self.authenticator_realm)),
                tlv(0xa2, &self.name(self.authenticator_name)),
                tlv(0xa4, &integer(0)),
                tlv(0xa5, &time_of(THEN)),
            ];
            let ticket_part = tlv(0x63, &tlv(0x30, &ticket_part));
            let authenticator = tlv(0x62, &tlv(0x30, &authenticator.concat()));
            let ticket = fields(&[
                integer(5),
                string("CONTOSO.COM"),
                self.name("service"),
                encrypted(self.service_key, TICKET_USAGE, self.kvno, &ticket_part),
            ]);
            let message = fields(&[
                integer(5),
                integer(14),
                bits(self.options),
                tlv(0x61, &tlv(0x30, &ticket)),
                encrypted(self.authenticator_key, AUTHENTICATOR_USAGE, None, &authenticator),
            ]);
            tlv(0x6e, &tlv(0x30, &message))
        }

        fn name(&self, name: &str) -> Vec<u8> {
            tlv(0x30, &fields(&[integer(self.name_type), tlv(0x30, &string(name))]))
        }
    }

    fn fields(values: &[Vec<u8>]) -> Vec<u8> {
        (0xa0..).zip(values).flat_map(|(tag, value)| tlv(tag, value)).collect()
    }

    fn integer(value: u8) -> Vec<u8> {
        tlv(2, &[value])
    }

    fn string(value: &str) -> Vec<u8> {
        tlv(0x1b, value.as_bytes())
    }

    fn bits(value: u32) -> Vec<u8> {
        tlv(3, &[&[0][..], &value.to_be_bytes()].concat())
    }

    fn time_of(seconds: u64) -> Vec<u8> {
        let time = GeneralizedTime::from_unix_duration(Duration::from_secs(seconds)).expect("a time");
        der::Encode::to_der(&time).expect("DER")
    }

    fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
        samples::tlv(tag, value)
    }
}
