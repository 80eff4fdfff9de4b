//! Any bytes as the token of a connection-bound scheme, and as a challenge: what is shown is a part of them, and stands
//! where its kind stands.
#![no_main]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use firstcas_fuzz::identity::{
    Credential,
    authorization::credential,
    token::{Challenge, Leg, Shows, challenge},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let sent = format!("Negotiate {}", BASE64_STANDARD.encode(bytes));
    let Credential::ConnectionBound(token) = credential(sent.as_bytes()) else { panic!("Negotiate is bound") };
    match token.shows {
        Shows::Account(_) => assert_eq!(token.leg, Leg::Next),
        Shows::Ticket(ap_req) => assert!(bytes.ends_with(&ap_req.der) || token.leg == Leg::Next),
        Shows::Nothing | Shows::Unreadable(_) => {}
    }
    let answered = challenge(sent.as_bytes());
    assert_eq!(answered == Challenge::Offer, bytes.is_empty());
    challenge(bytes);
    credential(bytes);
});
