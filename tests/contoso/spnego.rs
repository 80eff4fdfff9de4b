//! SPNEGO (RFC 4178, [MS-SPNG]): the envelope that says which mechanism the token inside belongs to.

use picky_asn1::wrapper::{
    Asn1SequenceOf, ExplicitContextTag0, ExplicitContextTag1, ExplicitContextTag2, ObjectIdentifierAsn1,
    OctetStringAsn1, Optional,
};
use picky_asn1_der::Asn1RawDer;
use picky_asn1_x509::oids;
use picky_krb::gss_api::{ApplicationTag0, GssApiNegInit, NegTokenInit, NegTokenTarg, NegTokenTarg1};

/// A mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// [MS-NLMP].
    Ntlm,
    /// RFC 4121.
    Kerberos,
    /// The same under the number that Windows 2000 gave it by mistake.
    MicrosoftKerberos,
}

/// How a negotiation stands (`negState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NegState {
    /// It is over, and the client is in.
    AcceptCompleted = 0,
    /// The client goes on.
    AcceptIncomplete = 1,
}

/// What an envelope from a client holds.
pub struct Opened {
    /// The mechanism's own token; `None`: the client waits to hear which mechanism it shall be.
    pub token: Option<Vec<u8>>,
    /// Whether NTLM is among the mechanisms of a first envelope.
    pub offers_ntlm: bool,
}

impl Mechanism {
    fn oid(self) -> ObjectIdentifierAsn1 {
        ObjectIdentifierAsn1(match self {
            Mechanism::Ntlm => oids::ntlm_ssp(),
            Mechanism::Kerberos => oids::krb5(),
            Mechanism::MicrosoftKerberos => oids::ms_krb5(),
        })
    }
}

/// Opens a client's envelope; `None`: it is none.
pub fn open(envelope: &[u8]) -> Option<Opened> {
    match envelope.first()? {
        0x60 => {
            let mut sequence = envelope.to_vec();
            sequence[0] = 0x30; // [APPLICATION 0] IMPLICIT SEQUENCE (RFC 2743 section 3.1)
            let first: GssApiNegInit = picky_asn1_der::from_bytes(&sequence).ok()?;
            if first.oid.0 != oids::spnego() {
                return None;
            }
            let inner = first.neg_token_init.0;
            let mechanisms = inner.mech_types.0.map(|mechanisms| mechanisms.0.0).unwrap_or_default();
            Some(Opened {
                token: inner.mech_token.0.map(|token| content(token.0)),
                offers_ntlm: mechanisms.contains(&Mechanism::Ntlm.oid()),
            })
        }
        0xa1 => {
            let further: NegTokenTarg1 = picky_asn1_der::from_bytes(envelope).ok()?;
            let token = further.0.response_token.0.map(|token| content(token.0));
            Some(Opened { token, offers_ntlm: false })
        }
        _ => None,
    }
}

/// A client's first envelope, `NegTokenInit`, in the framing of RFC 2743.
pub fn first(mechanisms: &[Mechanism], token: &[u8]) -> Vec<u8> {
    let mechanisms = mechanisms.iter().map(|mechanism| mechanism.oid()).collect();
    encode(&ApplicationTag0(GssApiNegInit {
        oid: ObjectIdentifierAsn1(oids::spnego()),
        neg_token_init: ExplicitContextTag0(NegTokenInit {
            mech_types: Optional(Some(ExplicitContextTag0(Asn1SequenceOf(mechanisms)))),
            req_flags: Optional(None),
            mech_token: Optional(Some(ExplicitContextTag2(OctetStringAsn1(token.to_vec())))),
            mech_list_mic: Optional(None),
        }),
    }))
}

/// A further envelope, `NegTokenResp`; a client's has neither state nor mechanism.
pub fn further(state: Option<NegState>, mechanism: Option<Mechanism>, token: Option<&[u8]>) -> Vec<u8> {
    encode(&ExplicitContextTag1(NegTokenTarg {
        neg_result: Optional(state.map(|state| ExplicitContextTag0(Asn1RawDer(vec![0x0a, 1, state as u8])))),
        supported_mech: Optional(mechanism.map(|mechanism| ExplicitContextTag1(mechanism.oid()))),
        response_token: Optional(token.map(|token| ExplicitContextTag2(OctetStringAsn1(token.to_vec())))),
        mech_list_mic: Optional(None),
    }))
}

/// An octet string's bytes. picky-asn1-der leaves the string's own tag in front of them where two absent fields come
/// before it; no token begins with that tag.
fn content(string: OctetStringAsn1) -> Vec<u8> {
    let has_tag = string.0.first() == Some(&0x04);
    let inner = has_tag.then(|| picky_asn1_der::from_bytes::<OctetStringAsn1>(&string.0).ok()).flatten();
    inner.unwrap_or(string).0
}

#[allow(clippy::expect_used)] // a Vec takes every byte, and the values are this file's own
fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    picky_asn1_der::to_vec(value).expect("these types can be written")
}
