//! By what a request is found again in the logs of everybody who had to do with it.
//!
//! `traceparent` and `tracestate` (W3C Trace Context) pass as they come: the edge takes no part in a trace, and a part that
//! takes none leaves them alone, well-formed or not.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::sender::Sender;

/// Sent to the server and with the answer, and shown on the edge's own pages.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's number: a trusted proxy's, else one of the edge's own. Of several the last is the proxy's; those before
/// may be its client's.
pub(super) fn request_id(sender: Sender, headers: &HeaderMap) -> String {
    let last = headers.get_all(REQUEST_ID).iter().next_back();
    let given = last.filter(|id| sender.is_passed_on && is_plain(id)).and_then(|id| id.to_str().ok());
    given.map_or_else(|| format!("{:032x}", fastrand::u128(..)), str::to_owned)
}

/// The trace that the request is a part of (W3C Trace Context, section 3.2): version, trace, parent, flags.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let [version, trace, parent, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_something = |text: &str| text.bytes().any(|byte| byte != b'0');
    let is_valid = is_hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && is_hex(trace, 32)
        && is_something(trace)
        && is_hex(parent, 16)
        && is_something(parent)
        && is_hex(flags, 2);
    is_valid.then_some(trace)
}

/// Short, and of letters that mean nothing to anybody.
fn is_plain(id: &HeaderValue) -> bool {
    const LENGTH_MAX: usize = 128;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (1..=LENGTH_MAX).contains(&id.len()) && id.as_bytes().iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or(HeaderValue::from_static(""));
        [(HeaderName::from_static(name), value)].into_iter().collect()
    }

    #[test]
    fn only_a_trusted_proxy_numbers_requests() {
        let trusted = Sender { is_passed_on: true, ..Sender::default() };
        assert_eq!(request_id(trusted, &with("x-request-id", "7f-A_b.c:1")), "7f-A_b.c:1");
        for (sender, id) in
            [(Sender::default(), "7f"), (trusted, ""), (trusted, "a b"), (trusted, "<b>"), (trusted, &"x".repeat(129))]
        {
            let made = request_id(sender, &with("x-request-id", id));
            assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}: {made}");
        }
        assert_ne!(request_id(trusted, &HeaderMap::new()), request_id(trusted, &HeaderMap::new()));
    }

    #[test]
    fn of_several_numbers_the_last_is_the_proxys() {
        let trusted = Sender { is_passed_on: true, ..Sender::default() };
        let mut headers = with("x-request-id", "the-clients");
        headers.append(REQUEST_ID, HeaderValue::from_static("the-proxys"));
        assert_eq!(request_id(trusted, &headers), "the-proxys");
    }

    #[test]
    fn a_trace_is_read_from_a_valid_traceparent_only() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (value, is_valid) in [
            (format!("00-{TRACE}-00f067aa0ba902b7-01"), true),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-will-be-like"), true),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01"), true),
            (format!("00-{TRACE}-00f067aa0ba902b7-01-more"), false),
            (format!("ff-{TRACE}-00f067aa0ba902b7-01"), false),
            (format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()), false),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), false),
            (format!("00-{TRACE}-0000000000000000-01"), false),
            (format!("00-{TRACE}-00f067aa0ba902b7"), false),
            (format!("00-{TRACE}1-00f067aa0ba902b7-01"), false),
            (String::new(), false),
        ] {
            assert_eq!(trace_id(&with("traceparent", &value)), is_valid.then_some(TRACE), "{value}");
        }
    }
}
