//! Kerberos: makes the service tickets that a KDC of Contoso's would give out, judges them and those of a real one as its
//! servers do, and writes the keytab that an edge in front is configured with (RFC 4120, RFC 4121, [MS-KILE]).
//!
//! It judges by itself and not with the edge's `identity::kerberos`, so that the two check each other.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use picky_asn1::{
    bit_string::BitString,
    date::GeneralizedTime,
    restricted_string::Ia5String,
    wrapper::{
        Asn1SequenceOf, BitStringAsn1, ExplicitContextTag0, ExplicitContextTag1, ExplicitContextTag2,
        ExplicitContextTag3, ExplicitContextTag4, ExplicitContextTag5, ExplicitContextTag6, ExplicitContextTag7,
        GeneralStringAsn1, GeneralizedTimeAsn1, IntegerAsn1, ObjectIdentifierAsn1, OctetStringAsn1, Optional,
    },
};
use picky_asn1_x509::oids;
use picky_krb::{
    constants::{
        etypes::AES256_CTS_HMAC_SHA1_96,
        gss_api::{AP_REQ_TOKEN_ID, AUTHENTICATOR_CHECKSUM_TYPE},
        key_usages::{AP_REQ_AUTHENTICATOR, TICKET_REP},
        types::{AP_REQ_MSG_TYPE, NT_PRINCIPAL, NT_SRV_INST},
    },
    crypto::CipherSuite,
    data_types::{
        Authenticator, AuthenticatorInner, Checksum, EncTicketPart, EncTicketPartInner, EncryptedData, EncryptionKey,
        PrincipalName, Ticket as KerberosTicket, TicketInner, TransitedEncoding,
    },
    gss_api::{ApplicationTag0, KrbMessage},
    messages::{ApReq, ApReqInner},
};
use time::OffsetDateTime;

use super::spnego::{self, Mechanism};

/// A service ticket for `HTTP/mail.contoso.com@CONTOSO.COM` and its owner's use of it. Every part can be made wrong.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Its owner, without the realm.
    pub user: String,
    /// Whom the authenticator names.
    pub authenticator_user: String,
    /// The owner's realm.
    pub realm: String,
    /// The service it is for, without the realm.
    pub service: String,
    /// The key it is sealed with.
    pub service_key: [u8; 32],
    /// The authenticator's time.
    pub made: OffsetDateTime,
    /// Its end.
    pub ends: OffsetDateTime,
}

impl Ticket {
    /// A good one.
    pub fn of(user: &str) -> Self {
        let made = OffsetDateTime::now_utc();
        Ticket {
            user: user.to_owned(),
            authenticator_user: user.to_owned(),
            realm: REALM.to_owned(),
            service: SERVICE.to_owned(),
            service_key: SERVICE_KEY,
            made,
            ends: made + LIFE,
        }
    }

    /// The `AP-REQ` in its GSS framing (RFC 4121 section 4.1), as a client sends it.
    #[allow(clippy::expect_used)] // a Vec takes every byte, and the values are this file's own
    pub fn token(&self) -> Vec<u8> {
        let session_key = random_key();
        let ticket = EncTicketPart::from(EncTicketPartInner {
            flags: ExplicitContextTag0(flags(FORWARDABLE_PREAUTHENTICATED)),
            key: ExplicitContextTag1(EncryptionKey {
                key_type: ExplicitContextTag0(number(AES256)),
                key_value: ExplicitContextTag1(OctetStringAsn1(session_key.to_vec())),
            }),
            crealm: ExplicitContextTag2(text(&self.realm)),
            cname: ExplicitContextTag3(name(NT_PRINCIPAL, &self.user)),
            transited: ExplicitContextTag4(TransitedEncoding {
                tr_type: ExplicitContextTag0(number(0)),
                contents: ExplicitContextTag1(OctetStringAsn1(Vec::new())),
            }),
            auth_time: ExplicitContextTag5(time(self.ends - LIFE)),
            starttime: Optional(Some(ExplicitContextTag6(time(self.ends - LIFE)))),
            endtime: ExplicitContextTag7(time(self.ends)),
            renew_till: Optional(None),
            caddr: Optional(None),
            authorization_data: Optional(None),
        });
        let authenticator = Authenticator::from(AuthenticatorInner {
            authenticator_vno: ExplicitContextTag0(number(5)),
            crealm: ExplicitContextTag1(text(&self.realm)),
            cname: ExplicitContextTag2(name(NT_PRINCIPAL, &self.authenticator_user)),
            cksum: Optional(Some(ExplicitContextTag3(Checksum {
                cksumtype: ExplicitContextTag0(IntegerAsn1::from_bytes_be_signed(AUTHENTICATOR_CHECKSUM_TYPE.to_vec())),
                checksum: ExplicitContextTag1(OctetStringAsn1(no_channel_bindings())),
            }))),
            cusec: ExplicitContextTag4(number(0)),
            ctime: ExplicitContextTag5(time(self.made)),
            subkey: Optional(None),
            seq_number: Optional(Some(ExplicitContextTag7(number(1)))),
            authorization_data: Optional(None),
        });
        let ticket = KerberosTicket::from(TicketInner {
            tkt_vno: ExplicitContextTag0(number(5)),
            realm: ExplicitContextTag1(text(REALM)),
            sname: ExplicitContextTag2(name(NT_SRV_INST, &self.service)),
            enc_part: ExplicitContextTag3(sealed(&self.service_key, TICKET_REP, Some(KEY_VERSION), &ticket)),
        });
        let request = ApReq::from(ApReqInner {
            pvno: ExplicitContextTag0(number(5)),
            msg_type: ExplicitContextTag1(number(AP_REQ_MSG_TYPE)),
            ap_options: ExplicitContextTag2(flags([0; 4])),
            ticket: ExplicitContextTag3(ticket),
            authenticator: ExplicitContextTag4(sealed(&session_key, AP_REQ_AUTHENTICATOR, None, &authenticator)),
        });
        let framed = ApplicationTag0(KrbMessage {
            krb5_oid: ObjectIdentifierAsn1(oids::krb5()),
            krb5_token_id: AP_REQ_TOKEN_ID,
            krb_msg: request,
        });
        picky_asn1_der::to_vec(&framed).expect("these types can be written")
    }

    /// The same inside SPNEGO, as Windows and browsers send it.
    pub fn spnego_token(&self) -> Vec<u8> {
        let mechanisms = [Mechanism::MicrosoftKerberos, Mechanism::Kerberos, Mechanism::Ntlm];
        spnego::first(&mechanisms, &self.token())
    }
}

/// What takes tickets: the keys that open them, and what it has been shown. A server takes those for `HTTP/<itself>`,
/// sealed with the keytab's key of that name, and those for [`SERVICE`].
#[derive(Default)]
pub struct Acceptor {
    keys: RwLock<HashMap<KeyName, Vec<u8>>>,
    /// Authenticators, by hash (RFC 4120 section 3.2.3, the replay cache).
    seen: Mutex<HashSet<blake3::Hash>>,
    replays: AtomicU64,
    accepted: AtomicU64,
}

/// Principal and key version.
type KeyName = (String, u32);

/// A token that counts.
struct Judged {
    /// As `user@REALM`.
    client: String,
    authenticator: blake3::Hash,
}

impl Acceptor {
    /// Opens tickets with the keys of this keytab from now on, and with none of an earlier one.
    pub fn use_keytab(&self, keytab: &[u8]) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys(keytab).unwrap_or_default();
    }

    /// Whose ticket this token uses, at the server of this name. A token that was used already is nobody's.
    pub fn judge(&self, token: &[u8], fqdn: &str) -> Option<String> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let own = format!("HTTP/{fqdn}@{REALM}");
        let judged = judge_by(token, |name| match keys.get(name) {
            Some(key) if name.0.eq_ignore_ascii_case(&own) => Some(key.clone()),
            Some(_) | None => service_key(name),
        })?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_LIMIT {
            seen.clear();
        }
        if !seen.insert(judged.authenticator) {
            self.replays.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Some(judged.client)
    }

    /// Tokens that came a second time.
    pub fn replays(&self) -> u64 {
        self.replays.load(Ordering::Relaxed)
    }

    /// Tokens that were good.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Whose ticket for [`SERVICE`] this token uses, as `user@REALM`; `None`: nobody's that counts here and now.
pub fn judge(token: &[u8]) -> Option<String> {
    judge_by(token, service_key).map(|judged| judged.client)
}

fn service_key(name: &KeyName) -> Option<Vec<u8>> {
    (name.0 == format!("{SERVICE}@{REALM}")).then(|| SERVICE_KEY.to_vec())
}

/// RFC 4120 section 3.2.3, but for replays.
fn judge_by(token: &[u8], key: impl Fn(&KeyName) -> Option<Vec<u8>>) -> Option<Judged> {
    let request = KrbMessage::<ApReq>::decode_application_krb_message(token).ok()?.0;
    if request.krb5_oid.0 != oids::krb5() || request.krb5_token_id != AP_REQ_TOKEN_ID {
        return None;
    }
    let request = request.krb_msg.0;
    let ticket = request.ticket.0.0;
    let service = format!("{}@{}", joined(&ticket.sname.0), ticket.realm.0.0);
    let version = ticket.enc_part.0.kvno.0.as_ref().map(|version| version.0.as_unsigned_bytes_be());
    let version = version.unwrap_or_default().iter().fold(0, |version, byte| version << 8 | u32::from(*byte));
    let key = key(&(service, version))?;
    let ticket: EncTicketPart = opened(&key, TICKET_REP, &ticket.enc_part.0)?;
    let ticket = ticket.0;
    let session_key = &ticket.key.0.key_value.0.0;
    let shown = blake3::hash(&request.authenticator.0.cipher.0.0);
    let authenticator: Authenticator = opened(session_key, AP_REQ_AUTHENTICATOR, &request.authenticator.0)?;
    let authenticator = authenticator.0;
    if ticket.cname.0 != authenticator.cname.0 || ticket.crealm.0 != authenticator.crealm.0 {
        return None;
    }
    let now = OffsetDateTime::now_utc();
    let at = |time: &GeneralizedTime| OffsetDateTime::try_from(time.clone()).ok();
    let starts = ticket.starttime.0.map_or(ticket.auth_time.0.0, |starts| starts.0.0);
    let in_time = at(&starts)? <= now + SKEW && now - SKEW <= at(&ticket.endtime.0.0)?;
    let fresh = (at(&authenticator.ctime.0.0)? - now).abs() <= SKEW;
    let client = || format!("{}@{}", joined(&ticket.cname.0), ticket.crealm.0.0);
    (in_time && fresh).then(|| Judged { client: client(), authenticator: shown })
}

/// The AES-256 keys of a keytab (MIT's format 0x502), read apart from the edge's own reading of one.
fn keys(keytab: &[u8]) -> Option<HashMap<KeyName, Vec<u8>>> {
    fn take<'k>(rest: &mut &'k [u8], length: usize) -> Option<&'k [u8]> {
        rest.split_off(..length)
    }
    fn short(rest: &mut &[u8]) -> Option<usize> {
        Some(u16::from_be_bytes(take(rest, 2)?.try_into().ok()?).into())
    }
    fn counted<'k>(rest: &mut &'k [u8]) -> Option<&'k [u8]> {
        let length = short(rest)?;
        take(rest, length)
    }
    let mut rest = keytab.strip_prefix(&[5, 2])?;
    let mut keys = HashMap::new();
    while !rest.is_empty() {
        let length = i32::from_be_bytes(take(&mut rest, 4)?.try_into().ok()?);
        let entry = &mut take(&mut rest, usize::try_from(length.unsigned_abs()).ok()?)?;
        if length <= 0 {
            continue; // a deleted entry
        }
        let components = short(entry)?;
        let realm = String::from_utf8_lossy(counted(entry)?);
        let names = (0..components).map(|_| counted(entry).map(String::from_utf8_lossy));
        let names = names.collect::<Option<Vec<_>>>()?.join("/");
        take(entry, 9)?; // the name's type, the time, the version's low byte
        let is_aes256 = short(entry)? == usize::from(AES256);
        let key = counted(entry)?.to_vec();
        let version = u32::from_be_bytes(take(entry, 4)?.try_into().ok()?);
        if is_aes256 {
            keys.insert((format!("{names}@{realm}"), version), key);
        }
    }
    Some(keys)
}

/// The keytab with the service's key, as `ktutil` writes it (MIT's format 0x502).
pub fn keytab() -> Vec<u8> {
    keytab_with(SERVICE_KEY)
}

/// A keytab with another key in its place.
pub fn keytab_with(key: [u8; 32]) -> Vec<u8> {
    fn counted(bytes: &[u8]) -> Vec<u8> {
        #[allow(clippy::cast_possible_truncation)] // the constants of this file
        let length = (bytes.len() as u16).to_be_bytes();
        [&length, bytes].concat()
    }
    let components: Vec<_> = SERVICE.split('/').collect();
    #[allow(clippy::cast_possible_truncation)] // two
    let mut entry = (components.len() as u16).to_be_bytes().to_vec();
    entry.extend(counted(REALM.as_bytes()));
    for component in components {
        entry.extend(counted(component.as_bytes()));
    }
    entry.extend(u32::from(NT_PRINCIPAL).to_be_bytes());
    entry.extend([0; 4]); // when it was written
    entry.push(KEY_VERSION);
    entry.extend(u16::from(AES256).to_be_bytes());
    entry.extend(counted(&key));
    entry.extend(u32::from(KEY_VERSION).to_be_bytes());
    #[allow(clippy::cast_possible_truncation)] // about a hundred
    let length = (entry.len() as u32).to_be_bytes();
    [&[5, 2][..], &length, &entry].concat()
}

#[allow(clippy::expect_used)] // the keys are of the cipher's length
fn sealed(key: &[u8], usage: i32, version: Option<u8>, content: &impl serde::Serialize) -> EncryptedData {
    let content = picky_asn1_der::to_vec(content).expect("these types can be written");
    let cipher = CipherSuite::Aes256CtsHmacSha196.cipher().encrypt(key, usage, &content).expect("a key of 32 bytes");
    EncryptedData {
        etype: ExplicitContextTag0(number(AES256)),
        kvno: Optional(version.map(|version| ExplicitContextTag1(number(version)))),
        cipher: ExplicitContextTag2(OctetStringAsn1(cipher)),
    }
}

fn opened<T: serde::de::DeserializeOwned>(key: &[u8], usage: i32, sealed: &EncryptedData) -> Option<T> {
    if sealed.etype.0 != number(AES256) || key.len() != SERVICE_KEY.len() {
        return None;
    }
    let content = CipherSuite::Aes256CtsHmacSha196.cipher().decrypt(key, usage, &sealed.cipher.0.0).ok()?;
    picky_asn1_der::from_bytes(&content).ok()
}

/// RFC 4121 section 4.1.1: the length of the bindings, sixteen zeros for none, no flags.
fn no_channel_bindings() -> Vec<u8> {
    [&16_u32.to_le_bytes()[..], &[0; 16], &[0; 4]].concat()
}

fn joined(name: &PrincipalName) -> String {
    name.name_string.0.0.iter().map(|part| part.0.to_string()).collect::<Vec<_>>().join("/")
}

fn name(kind: u8, name: &str) -> PrincipalName {
    PrincipalName {
        name_type: ExplicitContextTag0(number(kind)),
        name_string: ExplicitContextTag1(Asn1SequenceOf(name.split('/').map(text).collect())),
    }
}

#[allow(clippy::expect_used)] // names in a test are ASCII
fn text(text: &str) -> GeneralStringAsn1 {
    GeneralStringAsn1::from(Ia5String::from_string(text.to_owned()).expect("ASCII"))
}

fn time(time: OffsetDateTime) -> GeneralizedTimeAsn1 {
    GeneralizedTimeAsn1::from(GeneralizedTime::from(time))
}

fn number(number: u8) -> IntegerAsn1 {
    IntegerAsn1::from_bytes_be_unsigned(vec![number])
}

fn flags(bytes: [u8; 4]) -> BitStringAsn1 {
    BitStringAsn1::from(BitString::with_bytes(bytes.to_vec()))
}

fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    // The system's source of random bytes does not fail on any machine that runs the tests.
    let _ = rustls::crypto::ring::default_provider().secure_random.fill(&mut key);
    key
}

/// The realm of the organisation.
pub const REALM: &str = "CONTOSO.COM";
/// The service that all of Contoso's Client Access Servers answer for, as with an Alternate Service Account.
pub const SERVICE: &str = "HTTP/mail.contoso.com";
/// The service's key; any 32 bytes are one.
const SERVICE_KEY: [u8; 32] = *b"the key of HTTP/mail.contoso.com";
/// Not 1, which is what one gets by forgetting it.
const KEY_VERSION: u8 = 3;
#[allow(clippy::cast_possible_truncation)] // 18
const AES256: u8 = AES256_CTS_HMAC_SHA1_96 as u8;
/// Bits 1 and 10 of `TicketFlags` (RFC 4120 section 5.3).
const FORWARDABLE_PREAUTHENTICATED: [u8; 4] = [0x40, 0x20, 0, 0];
/// As Active Directory gives out by default.
const LIFE: Duration = Duration::from_secs(10 * 60 * 60);
/// A load test goes on; beyond, the memory starts over.
const SEEN_LIMIT: usize = 1_000_000;
/// As Windows allows by default.
const SKEW: Duration = Duration::from_secs(5 * 60);
