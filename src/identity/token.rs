//! Messages of the schemes that authenticate the connection (RFC 4559): what they show, and where they stand in the
//! handshake. Nothing here proves anything; a server's judgement or a service key ([`Keytab`](super::keytab::Keytab))
//! does.
//!
//! A message is read by what it is, not by the scheme it came with, as servers read it. Where a server could read
//! another person in it than we do, it is unreadable: the server judges it all the same, but we build nothing upon it.

use base64::Engine as _;
use der::asn1::ObjectIdentifier;

use super::{
    authorization::BASE64,
    kerberos::ApReq,
    ntlm::{self, Authenticate, MessageType, message_type},
    spnego,
};

/// One `Authorization` field of a connection-bound scheme.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    /// Where it stands in the handshake.
    pub leg: Leg,
    /// What it shows of who asks.
    pub shows: Shows,
}

/// A message's place in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// It begins one: an NTLM `NEGOTIATE_MESSAGE`, a SPNEGO `NegTokenInit`, a bare Kerberos `AP-REQ`; and whatever is
    /// none of these nor of the next.
    First,
    /// It answers a challenge, and means something only to the server, and on the connection, that gave it: an NTLM
    /// `AUTHENTICATE_MESSAGE`, a SPNEGO `NegTokenResp`; be it readable or not.
    Next,
}

/// What a message shows of who asks.
#[derive(Debug, PartialEq, Eq)]
pub enum Shows {
    /// Nothing yet.
    Nothing,
    /// An NTLM `AUTHENTICATE_MESSAGE`, alone or inside SPNEGO.
    Account(Box<Authenticate>),
    /// A Kerberos ticket, alone or inside SPNEGO.
    Ticket(Box<ApReq>),
    /// Bytes that are none of these. They are the server's to judge.
    Unreadable(UnreadableToken),
}

/// Why a token could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableToken {
    /// RFC 4559 section 4.1: a token is base64.
    #[error("the token is not base64")]
    NotBase64,
    /// More than [`LENGTH_MAX_BYTES`].
    #[error("the token is longer than {LENGTH_MAX_BYTES} bytes, which no Windows makes")]
    TooLong,
    /// A comma (RFC 9110 section 11.2): which of the credentials the server takes is anybody's guess.
    #[error("there is a comma in the token, as if the field had several credentials")]
    SeveralCredentials,
    /// Neither `NTLMSSP` nor a frame of GSS-API.
    #[error("the token is neither NTLM's nor SPNEGO's nor Kerberos'")]
    UnknownForm,
    /// [MS-NLMP] 2.2.1: cut short, of a type that no client sends, or with fields outside it or upon each other.
    #[error("the NTLM message is cut short, its fields lie outside it or upon each other, or no client sends its kind")]
    Ntlm,
    /// RFC 4178 section 4.2: not the DER of a `NegTokenInit` or `NegTokenResp`, or with bytes behind it.
    #[error("the SPNEGO token is cut short, or not the DER of RFC 4178")]
    Spnego,
    /// RFC 4120 section 5.5.1: not the DER of an `AP-REQ`, or with bytes behind it.
    #[error("the Kerberos token is cut short, or not the DER of an AP-REQ")]
    Kerberos,
    /// RFC 4178 section 4.2.1: the token inside is for the mechanism that is listed first.
    #[error("the SPNEGO token has another mechanism's token inside than it lists first")]
    OtherMechanism,
}

/// The longest token that is looked at: a Kerberos ticket grows with the groups its user is in, and no Windows takes or
/// makes a token beyond 65,535 bytes (`MaxTokenSize`, KB 327825).
pub const LENGTH_MAX_BYTES: usize = 65_535;

/// Reads the token of an `Authorization` field, from its base64.
pub(super) fn read(base64: &[u8]) -> Token {
    if base64.is_empty() {
        return Token { leg: Leg::First, shows: Shows::Nothing };
    }
    match decode(base64) {
        Ok(message) => Token { leg: leg(&message), shows: shows(&message).unwrap_or_else(Shows::Unreadable) },
        Err(why) => Token { leg: Leg::First, shows: Shows::Unreadable(why) },
    }
}

fn decode(base64: &[u8]) -> Result<Vec<u8>, UnreadableToken> {
    if base64.len() > LENGTH_MAX_BYTES.div_ceil(3) * 4 {
        return Err(UnreadableToken::TooLong);
    }
    BASE64.decode(base64).map_err(|_| UnreadableToken::NotBase64)
}

fn leg(message: &[u8]) -> Leg {
    match (message_type(message), message.first()) {
        (Some(MessageType::Authenticate), _) | (None, Some(&spnego::RESPONSE)) => Leg::Next,
        (Some(MessageType::Negotiate | MessageType::Challenge) | None, _) => Leg::First,
    }
}

fn shows(message: &[u8]) -> Result<Shows, UnreadableToken> {
    match message.first() {
        Some(&spnego::FRAME) => match spnego::frame(message).map_err(|_| UnreadableToken::Spnego)? {
            (spnego::SPNEGO, inner) => in_init(inner),
            (spnego::KERBEROS | spnego::KERBEROS_OF_WINDOWS_2000, _) => kerberos(message),
            _ => Err(UnreadableToken::UnknownForm),
        },
        Some(&spnego::RESPONSE) => match spnego::response(message).map_err(|_| UnreadableToken::Spnego)? {
            None => Ok(Shows::Nothing),
            Some(token) if token.starts_with(ntlm::SIGNATURE) => ntlm(token),
            Some(token) => kerberos(token),
        },
        _ if message.starts_with(ntlm::SIGNATURE) => ntlm(message),
        _ => Err(UnreadableToken::UnknownForm),
    }
}

fn in_init(token: &[u8]) -> Result<Shows, UnreadableToken> {
    let spnego::Init { mechanism, token } = spnego::init(token).map_err(|_| UnreadableToken::Spnego)?;
    let Some(token) = token else { return Ok(Shows::Nothing) };
    let is_ntlm = token.starts_with(ntlm::SIGNATURE);
    match mechanism {
        spnego::NTLM if is_ntlm && message_type(token) == Some(MessageType::Negotiate) => ntlm(token),
        spnego::NTLM if is_ntlm => Err(UnreadableToken::Ntlm),
        spnego::KERBEROS | spnego::KERBEROS_OF_WINDOWS_2000 if !is_ntlm => kerberos(token),
        spnego::NTLM | spnego::KERBEROS | spnego::KERBEROS_OF_WINDOWS_2000 => Err(UnreadableToken::OtherMechanism),
        _ => Ok(Shows::Nothing), // such as NEGOEX's, which shows no name either
    }
}

fn ntlm(message: &[u8]) -> Result<Shows, UnreadableToken> {
    match message_type(message) {
        // Its flags are the least that every version has.
        Some(MessageType::Negotiate) if message.len() >= 16 => Ok(Shows::Nothing),
        Some(MessageType::Authenticate) => {
            Authenticate::read(message).map(Box::new).map(Shows::Account).ok_or(UnreadableToken::Ntlm)
        }
        Some(MessageType::Negotiate | MessageType::Challenge) | None => Err(UnreadableToken::Ntlm),
    }
}

/// A framed token (RFC 4121 section 4.1), or an `AP-REQ` without the frame.
fn kerberos(token: &[u8]) -> Result<Shows, UnreadableToken> {
    const AP_REQ: &[u8] = &[1, 0]; // RFC 4121 section 4.1

    let message = match token.first() {
        Some(&spnego::FRAME) => {
            let (mechanism, token) = spnego::frame(token).map_err(|_| UnreadableToken::Kerberos)?;
            token.strip_prefix(AP_REQ).filter(|_| is_kerberos(mechanism)).ok_or(UnreadableToken::Kerberos)?
        }
        _ => token,
    };
    ApReq::read(message).map(Box::new).map(Shows::Ticket).ok_or(UnreadableToken::Kerberos)
}

fn is_kerberos(mechanism: ObjectIdentifier) -> bool {
    matches!(mechanism, spnego::KERBEROS | spnego::KERBEROS_OF_WINDOWS_2000)
}

/// What one value of a `WWW-Authenticate` field means for the connection it came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A scheme that is bound to requests: `Basic`, `Bearer`.
    PerRequest,
    /// A connection-bound scheme is offered.
    Offer,
    /// A handshake is under way on the connection, or has just ended on it. `Some`: the token is, or holds, an NTLM
    /// `CHALLENGE_MESSAGE`.
    Token(Option<ntlm::Challenge>),
}

/// Reads one value of a `WWW-Authenticate` field. Of several challenges in it (RFC 9110 section 11.6.1) the one counts
/// that says the most: a token before an offer, an offer before a scheme that is bound to requests.
pub fn challenge(value: &[u8]) -> Challenge {
    let mut result = Challenge::PerRequest;
    for element in elements(value) {
        let end_of_scheme = element.iter().position(u8::is_ascii_whitespace).unwrap_or(element.len());
        let (scheme, rest) = element.split_at(end_of_scheme);
        let rest = rest.trim_ascii_start();
        let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
        if is("Basic") || is("Bearer") || scheme.contains(&b'=') || rest.starts_with(b"=") {
            continue; // bound to requests, or a parameter of the challenge before it
        }
        if !rest.is_empty() && !is_parameter(rest) {
            return Challenge::Token(decode(rest).ok().and_then(|message| ntlm_challenge(&message)));
        }
        result = Challenge::Offer;
    }
    result
}

/// A token's only `=` are its last characters (`token68`, RFC 9110 section 11.2).
fn is_parameter(text: &[u8]) -> bool {
    text.iter().skip_while(|byte| **byte != b'=').any(|byte| *byte != b'=')
}

/// The elements of a list. A comma in a quoted string separates none, unless a quote stays open: then rather a
/// challenge too many than one overlooked.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let stays_open = value.iter().fold(false, |is_open, byte| is_open ^ (*byte == b'"'));
    let mut is_quoted = false;
    let is_comma = move |byte: &u8| {
        is_quoted ^= *byte == b'"' && !stays_open;
        *byte == b',' && !is_quoted
    };
    value.split(is_comma).map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

fn ntlm_challenge(message: &[u8]) -> Option<ntlm::Challenge> {
    match message.first() {
        Some(&spnego::RESPONSE) => ntlm::Challenge::read(spnego::response(message).ok()??),
        _ => ntlm::Challenge::read(message),
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    use super::*;
    use crate::identity::samples::{self, authenticate, message, tlv, token, token_of, utf_16};

    const SPNEGO: &[u8] = b"\x06\x06\x2b\x06\x01\x05\x05\x02";
    const KERBEROS: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02";
    const KERBEROS_OF_WINDOWS: &[u8] = b"\x06\x09\x2a\x86\x48\x82\xf7\x12\x01\x02\x02";
    const NTLM: &[u8] = b"\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x0a";
    const NEGOEX: &[u8] = b"\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x1e";
    const TYPE_1: &[u8] = b"NTLMSSP\0\x01\0\0\0\x07\x82\x08\xa2";

    #[test]
    fn real_messages_stand_where_they_should_and_show_what_they_have() {
        for (sample, leg, shows) in [
            (samples::CURL_NTLM_1, Leg::First, "nothing"),
            (samples::PYSPNEGO_1, Leg::First, "nothing"),
            (samples::PYSPNEGO_BOUND_1, Leg::First, "nothing"),
            (samples::PYSPNEGO_NEGOTIATE_1, Leg::First, "nothing"),
            (samples::CURL_NTLM_3, Leg::Next, "account"),
            (samples::CURL_NTLM_OEM, Leg::Next, "account"),
            (samples::PYSPNEGO_3, Leg::Next, "account"),
            (samples::PYSPNEGO_NEGOTIATE_3, Leg::Next, "account"),
            (samples::CURL_KERBEROS_AES256, Leg::First, "ticket"),
            (samples::CURL_KERBEROS_RC4, Leg::First, "ticket"),
            (samples::KERBEROS_BARE, Leg::First, "ticket"),
        ] {
            let token = token(sample);
            assert_eq!((token.leg, kind(&token)), (leg, shows), "{sample}");
        }
    }

    #[test]
    fn a_message_means_the_same_whatever_its_scheme_is_called() {
        for scheme in ["NTLM", "negotiate", "Nego2", "KERBEROS"] {
            for sample in samples::ALL {
                let (_, base64) = sample.split_once(' ').unwrap();
                assert_eq!(token(&format!("{scheme} {base64}")), token(sample));
            }
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        use UnreadableToken as Why;
        for (sent, why) in [
            ("NTLM not base64", Why::NotBase64),
            ("NTLM TlRMTVNTUAAB====", Why::NotBase64),
            ("NTLM TlRMTVNT UAAB", Why::NotBase64),
            ("NTLM TlRMTVNTUAABAAAAB4IIog==, Basic YTpi", Why::SeveralCredentials),
            ("Negotiate YII=,", Why::SeveralCredentials),
            ("Basic YTpi, NTLM TlRMTVNTUAAB", Why::SeveralCredentials),
            ("Negotiate AAAA", Why::UnknownForm),
            ("NTLM TlRMTVNTUAAB", Why::Ntlm),
            ("Negotiate YII=", Why::Spnego),
            ("Negotiate oYI=", Why::Spnego),
        ] {
            assert_eq!(token(sent), unreadable(Leg::First.or_next(sent == "Negotiate oYI="), why), "{sent}");
        }
        assert_eq!(token("Negotiate"), Token { leg: Leg::First, shows: Shows::Nothing });
    }

    #[test]
    fn the_longest_token_is_read_and_a_longer_one_is_not() {
        let response = |length| tlv(0xa1, &tlv(0x30, &tlv(0xa2, &tlv(4, &vec![0; length]))));
        let longest = response(LENGTH_MAX_BYTES - 16);
        assert_eq!(longest.len(), LENGTH_MAX_BYTES);
        assert_eq!(token_of(&longest), unreadable(Leg::Next, UnreadableToken::Kerberos));
        let longer = [&longest[..], &[0; 4]].concat();
        assert_eq!(token_of(&longer), unreadable(Leg::First, UnreadableToken::TooLong));
        assert_eq!(token_of(&vec![b'N'; 200_000]), unreadable(Leg::First, UnreadableToken::TooLong));
    }

    #[test]
    fn spnego_shows_what_is_inside_and_only_of_the_mechanism_it_lists_first() {
        let ap_req = message(samples::KERBEROS_BARE);
        let type_3 = authenticate(1, &utf_16("CONTOSO"), &utf_16("carla"));
        let ap_req_alone = &ap_req[17..];
        assert_eq!(ap_req_alone[0], 0x6e);
        for (mechanisms, inner, shows) in [
            (&[NTLM][..], TYPE_1, "nothing"),
            (&[NEGOEX, NTLM], b"NEGOEXTS", "nothing"),
            (&[KERBEROS, NTLM], &ap_req, "ticket"),
            (&[KERBEROS_OF_WINDOWS, KERBEROS, NEGOEX, NTLM], &ap_req, "ticket"),
            (&[KERBEROS], ap_req_alone, "ticket"),
            (&[NTLM, KERBEROS], &ap_req, "other mechanism"),
            (&[KERBEROS, NTLM], TYPE_1, "other mechanism"),
            (&[NEGOEX, KERBEROS], &ap_req, "nothing"),
            // It answers a challenge, and there was none.
            (&[NTLM], &type_3, "ntlm"),
            (&[NTLM], b"NTLMSSP\0", "ntlm"),
            (&[KERBEROS], b"", "kerberos"),
        ] {
            let token = token_of(&init(mechanisms, inner));
            assert_eq!((token.leg, kind(&token)), (Leg::First, shows), "{mechanisms:?}");
        }
        for (inner, shows) in [(&type_3[..], "account"), (TYPE_1, "nothing"), (&ap_req, "ticket"), (b"x", "kerberos")] {
            let token = token_of(&tlv(0xa1, &tlv(0x30, &tlv(0xa2, &tlv(4, inner)))));
            assert_eq!((token.leg, kind(&token)), (Leg::Next, shows));
        }
    }

    #[test]
    fn spnego_that_two_readers_could_read_differently_is_unreadable() {
        let type_3 = tlv(0xa2, &tlv(4, &authenticate(1, &utf_16("CONTOSO"), &utf_16("carla"))));
        let other = tlv(0xa2, &tlv(4, &authenticate(1, &utf_16("CONTOSO"), &utf_16("bruno"))));
        let state = tlv(0xa0, &tlv(10, &[1]));
        let mechanism = tlv(0xa1, NTLM);
        let response = |fields: &[&[u8]]| tlv(0xa1, &tlv(0x30, &fields.concat()));
        let good = response(&[&state, &mechanism, &type_3]);
        assert_eq!(kind(&token_of(&good)), "account");

        let non_minimal = [&[0xa1, 0x83, 0][..], &good[2..]].concat();
        let mut indefinite = [&[0xa1, 0x80], &good[4..], &[0, 0]].concat();
        for (why, message) in [
            ("two response tokens", response(&[&state, &type_3, &other])),
            ("the same one twice", response(&[&type_3, &type_3])),
            ("fields out of order", response(&[&type_3, &state])),
            ("a field of no meaning", response(&[&type_3, &tlv(0xa7, &[])])),
            ("bytes behind the token", [&good[..], b"\0"].concat()),
            ("a token behind the token", [&good[..], &good].concat()),
            ("bytes behind the sequence", tlv(0xa1, &[tlv(0x30, &type_3), tlv(0x30, &other)].concat())),
            ("bytes behind the octets", response(&[&tlv(0xa2, &[tlv(4, TYPE_1), tlv(4, TYPE_1)].concat())])),
            ("a length that is longer than it need be", non_minimal),
            ("an indefinite length", std::mem::take(&mut indefinite)),
            ("octets in pieces", response(&[&tlv(0xa2, &tlv(0x24, &tlv(4, TYPE_1)))])),
        ] {
            assert_eq!(token_of(&message), unreadable(Leg::Next, UnreadableToken::Spnego), "{why}");
        }
        let first = init(&[NTLM], TYPE_1);
        assert_eq!(kind(&token_of(&[&first[..], b"\0"].concat())), "spnego");
    }

    #[test]
    fn a_message_cut_short_anywhere_names_nobody() {
        for sample in samples::ALL {
            let message = message(sample);
            for length in 0..message.len() {
                let token = token_of(&message[..length]);
                assert!(
                    matches!(token.shows, Shows::Unreadable(_) | Shows::Nothing),
                    "{length} of {sample}: {token:?}"
                );
            }
        }
    }

    #[test]
    fn nesting_without_end_costs_no_stack() {
        for tag in [0x30, 0x60, 0x61, 0x6e, 0xa0, 0xa1, 0xa2] {
            let mut nested = Vec::new();
            while nested.len() < LENGTH_MAX_BYTES - 8 {
                nested = tlv(tag, &nested);
            }
            assert!(matches!(token_of(&nested).shows, Shows::Unreadable(_)));
            assert!(matches!(token_of(&init(&[KERBEROS], &nested[..60_000])).shows, Shows::Unreadable(_)));
            let flat = vec![tag; LENGTH_MAX_BYTES];
            assert!(matches!(token_of(&flat).shows, Shows::Unreadable(_)));
        }
        let mechanisms = vec![KERBEROS; 5_000];
        assert_eq!(kind(&token_of(&init(&mechanisms, b""))), "kerberos");
    }

    #[test]
    fn a_challenge_is_what_its_strongest_part_is() {
        let ntlm = |unicode| Challenge::Token(Some(ntlm::Challenge { unicode }));
        for (value, meaning) in [
            ("Basic realm=\"Contoso\"", Challenge::PerRequest),
            ("Basic realm=\"mail, NTLM\", charset=\"UTF-8\"", Challenge::PerRequest),
            ("Basic realm = \"x\"", Challenge::PerRequest),
            (
                "Bearer client_id=\"a\", trusted_issuers=\"00000002@*\", authorization_uri=\"https://x/\"",
                Challenge::PerRequest,
            ),
            ("", Challenge::PerRequest),
            ("NTLM", Challenge::Offer),
            ("negotiate", Challenge::Offer),
            ("Nego2", Challenge::Offer),
            ("Digest realm=\"x\", nonce=\"y==\"", Challenge::Offer),
            ("Basic realm=\"x\", NTLM", Challenge::Offer),
            ("Basic realm=\"mail, NTLM", Challenge::Offer),
            ("Negotiate, NTLM, Basic realm=\"x\"", Challenge::Offer),
            ("Negotiate oRQwEg==", Challenge::Token(None)),
            ("Negotiate ???", Challenge::Token(None)),
            ("Newfangled abc=", Challenge::Token(None)),
            ("Basic realm=\"x\", Negotiate oRQwEg==", Challenge::Token(None)),
            (samples::CHALLENGE_UNICODE, ntlm(true)),
            (samples::CHALLENGE_OEM, ntlm(false)),
            (samples::CHALLENGE_PYSPNEGO, ntlm(true)),
            (samples::CHALLENGE_PYSPNEGO_END, Challenge::Token(None)),
            (samples::CURL_NTLM_3, Challenge::Token(None)),
        ] {
            assert_eq!(challenge(value.as_bytes()), meaning, "{value}");
        }
    }

    #[test]
    fn nothing_of_a_ticket_is_in_the_debug_text() {
        let shown = format!("{:?}", token(samples::KERBEROS_BARE));
        assert_eq!(shown, "Token { leg: First, shows: Ticket(ApReq(..)) }");
    }

    proptest! {
        #[test]
        fn a_changed_message_neither_panics_nor_shows_a_name_unfit_for_a_log(
            sample in prop::sample::select(samples::ALL),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = message(sample);
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Shows::Account(read) = token_of(&bytes).shows {
                let name = read.user.map(|user| user.to_string()).unwrap_or_default();
                prop_assert!(!name.contains(char::is_control) && !read.workstation.contains(char::is_control));
            }
        }

        #[test]
        fn any_challenge_is_read(value in prop::collection::vec(any::<u8>(), 0..100)) {
            challenge(&value);
            challenge(&[b"Negotiate ", BASE64_STANDARD.encode(&value).as_bytes()].concat());
        }
    }

    impl Leg {
        fn or_next(self, is_next: bool) -> Leg {
            if is_next { Leg::Next } else { self }
        }
    }

    fn init(mechanisms: &[&[u8]], inner: &[u8]) -> Vec<u8> {
        let types = tlv(0xa0, &tlv(0x30, &mechanisms.concat()));
        let init = tlv(0xa0, &tlv(0x30, &[types, tlv(0xa2, &tlv(4, inner))].concat()));
        tlv(0x60, &[SPNEGO, &init].concat())
    }

    fn unreadable(leg: Leg, why: UnreadableToken) -> Token {
        Token { leg, shows: Shows::Unreadable(why) }
    }

    fn kind(token: &Token) -> &'static str {
        match &token.shows {
            Shows::Nothing => "nothing",
            Shows::Account(_) => "account",
            Shows::Ticket(_) => "ticket",
            Shows::Unreadable(UnreadableToken::OtherMechanism) => "other mechanism",
            Shows::Unreadable(UnreadableToken::Ntlm) => "ntlm",
            Shows::Unreadable(UnreadableToken::Spnego) => "spnego",
            Shows::Unreadable(UnreadableToken::Kerberos) => "kerberos",
            Shows::Unreadable(_) => "unreadable",
        }
    }
}
