//! What a client may not send: fields that only Exchange servers or their front end set, and requests that two servers
//! in a row could read as two different ones.

use std::net::Ipv6Addr;

use http::{HeaderMap, HeaderValue, Version, header};

/// Whether a request field of this name is only ever set by Exchange servers or by the edge, so that one from a client
/// is a forgery and must be removed.
///
/// Names are compared without case and with `_` for `-`: IIS hands fields to programs as `HTTP_X_FEED`, where the two
/// spellings fall together.
///
/// Fields that clients do send stay: `X-AnchorMailbox`, `X-PreferServerAffinity`, `X-PublicFolderMailbox`,
/// `X-OWA-CANARY`. `X-BackEndCookie` and `X-BackEndOverrideCookie` are cookies and no business of this function.
pub fn is_forged(name: &str) -> bool {
    let name = name.as_bytes();
    FORGED_PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|start| same(start, prefix)))
        || FORGED.iter().any(|forged| same(name, forged))
}

fn same(name: &[u8], folded: &str) -> bool {
    name.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }).eq(folded.bytes())
}

/// Whole families, folded. Taken wholesale because a name missed lets a client speak as a server (CVE-2021-26855 came
/// by `X-BEResource`), while a name too many (`X-Benign`) costs a field that no Exchange client sends.
const FORGED_PREFIXES: [&str; 12] = [
    "client-cert",           // RFC 9440: Client-Cert, Client-Cert-Chain
    "msexch",                // msExchProxyUri, msExchLogonMailbox, msExchTargetMailbox
    "ssl-client",            // SSL_CLIENT_CERT, SSL-Client-Subject-DN
    "x-arr-",                // X-ARR-ClientCert, which IIS takes for the client's certificate
    "x-be",                  // X-BEServer, X-BEResource, X-BETarget
    "x-calculatedbetarget",  // and X-CalculatedBETarget-*
    "x-client-cert",         // and X-SSL-Client-*: what proxies tell of a client's certificate
    "x-forwarded",           // X-Forwarded-For, -Host, -Proto: ours alone
    "x-msexch",              // X-MsExchProxyUri
    "x-originalrequesthost", // and X-OriginalRequestHostSchemePort
    "x-owa-proxy",           // X-OWA-ProxyUri, -ProxyVersion, -ProxySid, -ProxyCanary
    "x-ssl-client",
];

/// Single fields, folded.
const FORGED: [&str; 9] = [
    "forwarded", // RFC 7239
    "front-end-https",
    "x-commonaccesstoken",
    "x-feserver",
    "x-isfrombackend",
    "x-isfromcafe",
    "x-real-ip",
    "x-sourcecafeserver",
    "x-wlid-membername",
];

/// Why a request cannot be passed on: two servers in a row could take it for different requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// RFC 9112 section 6.1: a sign of request smuggling.
    #[error("the request has both Content-Length and Transfer-Encoding; send one of them")]
    LengthAndTransferEncoding,
    /// RFC 9112 section 6.3: values that differ, or no number at all.
    #[error("the request has no single Content-Length; send one decimal number")]
    ContentLength,
    /// Anything but `chunked` (RFC 9112 section 6.1): no Exchange client sends it.
    #[error("the request has a Transfer-Encoding other than chunked; send chunked or Content-Length")]
    TransferEncoding,
    /// RFC 9112 section 3.2: none in HTTP/1.1, several, or one that is no host name.
    #[error("the request has no single valid Host; send one host name, with or without a port")]
    Host,
    /// RFC 9110 section 7.6.1: a field named there is taken away on the way, so the server would not see what was judged here.
    #[error(
        "the request's Connection names a field that is not the connection's; send keep-alive, close, te or upgrade"
    )]
    Connection,
    /// RFC 9110 section 11.6.2: which of them the server believes is anybody's guess.
    #[error("the request has several Authorization fields; send one")]
    SeveralAuthorizations,
}

/// Checks the fields by which requests are told apart. HTTP/2 has `:authority` for `Host`, so there it may be missing.
///
/// # Errors
/// The first thing found wrong. The request must be answered 400 and its connection closed.
pub fn check(version: Version, headers: &HeaderMap) -> Result<(), Malformed> {
    let of_length = || headers.get_all(header::CONTENT_LENGTH).iter();
    let of_encoding = || headers.get_all(header::TRANSFER_ENCODING).iter();
    if of_length().next().is_some() && of_encoding().next().is_some() {
        return Err(Malformed::LengthAndTransferEncoding);
    }
    if !of_length().all(is_number) || of_length().zip(of_length().skip(1)).any(|(one, other)| one != other) {
        return Err(Malformed::ContentLength);
    }
    if of_encoding().count() > 1 || !of_encoding().all(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Malformed::TransferEncoding);
    }

    let mut hosts = headers.get_all(header::HOST).iter();
    let valid = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host.as_bytes()),
        (None, _) => version != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    };
    if !valid {
        return Err(Malformed::Host);
    }

    let nominated =
        headers.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_the_connections = |option: &[u8]| {
        let option = option.trim_ascii();
        option.is_empty() || CONNECTION_OPTIONS.iter().any(|known| option.eq_ignore_ascii_case(known.as_bytes()))
    };
    if !nominated.into_iter().all(is_the_connections) {
        return Err(Malformed::Connection);
    }

    match headers.get_all(header::AUTHORIZATION).iter().nth(1) {
        Some(_) => Err(Malformed::SeveralAuthorizations),
        None => Ok(()),
    }
}

/// What clients nominate in `Connection`: options, and fields that are the connection's alone.
const CONNECTION_OPTIONS: [&str; 6] = ["keep-alive", "close", "te", "upgrade", "http2-settings", "proxy-connection"];

/// RFC 9110 section 8.6: digits only. A list such as `5, 5` is refused: the section allows it, and no client sends one.
fn is_number(value: &HeaderValue) -> bool {
    let is_digits = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    is_digits && str::from_utf8(value.as_bytes()).is_ok_and(|digits| digits.parse::<u64>().is_ok())
}

/// A host name or address with or without a port (RFC 9110 section 7.2), in the characters that real ones have.
fn is_host(value: &[u8]) -> bool {
    let Ok(value) = str::from_utf8(value) else { return false };
    let (host_is_valid, port) = if let Some((address, port)) = value.strip_prefix('[').and_then(|v| v.split_once(']')) {
        (address.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = value.split_at(value.find(':').unwrap_or(value.len()));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        (!host.is_empty() && host.bytes().all(is_name), port)
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    host_is_valid && port_is_valid
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn fields_that_only_servers_set_are_forged_in_every_spelling() {
        for name in [
            "X-BEServer",
            "x-beresource",
            "X_BE_Anything",
            "X-BETarget",
            "X-CommonAccessToken",
            "x_commonaccesstoken",
            "X-IsFromCafe",
            "x-isfromcafe",
            "X-IsFromBackend",
            "X-SourceCafeServer",
            "X-OWA-ProxyUri",
            "X_OWA-ProxySid",
            "x-owa_proxycanary",
            "msExchProxyUri",
            "MSEXCHLOGONMAILBOX",
            "X-MsExchProxyUri",
            "X-WLID-MemberName",
            "X_WLID_MemberName",
            "X-OriginalRequestHost",
            "X-OriginalRequestHostSchemePort",
            "X-CalculatedBETarget",
            "X-FEServer",
            "X-Forwarded-For",
            "X_FORWARDED_PROTO",
            "X-Real-IP",
            "Forwarded",
            "Front-End-Https",
            "front_end_https",
            "Client-Cert",
            "X-ARR-ClientCert",
            "X-SSL-Client-Cert",
            "X-SSL-Client-S-DN",
            "SSL_CLIENT_CERT",
            "X-Client-Certificate",
            "X-Forwarded-Client-Cert",
        ] {
            assert!(is_forged(name), "{name}");
        }
    }

    #[test]
    fn fields_that_clients_send_stay() {
        for name in [
            "X-AnchorMailbox",
            "X-PreferServerAffinity",
            "X-PublicFolderMailbox",
            "X-OWA-CANARY",
            "X-OWA-CorrelationId",
            "X-UserContext",
            "X-MS-PolicyKey",
            "MS-ASProtocolVersion",
            "X-RequestType",
            "X-ClientInfo",
            "X-BackEndCookie",
            "X-B",
            "Authorization",
            "Cookie",
            "Host",
            "Forwarded-Not",
            "",
        ] {
            assert!(!is_forged(name), "{name}");
        }
    }

    #[test]
    fn a_request_that_reads_only_one_way_is_passed_on() {
        for fields in [
            &[("host", "mail.contoso.com")][..],
            &[("host", "mail.contoso.com:8443"), ("content-length", "0")],
            &[("host", "[::1]:8443"), ("transfer-encoding", "Chunked")],
            &[("host", "127.0.0.1"), ("content-length", "1073741824"), ("content-length", "1073741824")],
            &[("host", "CAS-LIS-1"), ("authorization", "Basic YW5hOnA=")],
            &[("host", "cas_lis.contoso.com.")],
            &[("host", "h"), ("connection", "Keep-Alive, TE"), ("connection", "close")],
            &[("host", "h"), ("connection", "Upgrade, HTTP2-Settings,")],
        ] {
            assert_eq!(check(Version::HTTP_11, &map(fields)), Ok(()), "{fields:?}");
        }
        assert_eq!(check(Version::HTTP_2, &map(&[])), Ok(()));
        assert_eq!(check(Version::HTTP_10, &map(&[])), Ok(()));
    }

    #[test]
    fn a_request_that_could_be_read_two_ways_is_refused() {
        let host = ("host", "mail.contoso.com");
        for (fields, malformed) in [
            (
                &[host, ("content-length", "5"), ("transfer-encoding", "chunked")][..],
                Malformed::LengthAndTransferEncoding,
            ),
            (&[host, ("content-length", "5"), ("content-length", "6")], Malformed::ContentLength),
            (&[host, ("content-length", "5"), ("content-length", "05")], Malformed::ContentLength),
            (&[host, ("content-length", "5, 5")], Malformed::ContentLength),
            (&[host, ("content-length", "+5")], Malformed::ContentLength),
            (&[host, ("content-length", "0x5")], Malformed::ContentLength),
            (&[host, ("content-length", "")], Malformed::ContentLength),
            (&[host, ("content-length", "99999999999999999999")], Malformed::ContentLength),
            (&[host, ("transfer-encoding", "gzip, chunked")], Malformed::TransferEncoding),
            (&[host, ("transfer-encoding", "xchunked")], Malformed::TransferEncoding),
            (&[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "identity")], Malformed::TransferEncoding),
            (&[host, ("connection", "keep-alive, Authorization")], Malformed::Connection),
            (&[host, ("connection", "close"), ("connection", "x-anchormailbox")], Malformed::Connection),
            (&[host, ("connection", "cookie")], Malformed::Connection),
            (&[], Malformed::Host),
            (&[host, host], Malformed::Host),
            (&[("host", "")], Malformed::Host),
            (&[("host", "a b")], Malformed::Host),
            (&[("host", "ana@contoso.com")], Malformed::Host),
            (&[("host", "contoso.com/owa")], Malformed::Host),
            (&[("host", "contoso.com, evil.example")], Malformed::Host),
            (&[("host", "contoso.com:80a")], Malformed::Host),
            (&[("host", "[::1")], Malformed::Host),
            (&[("host", "[::1]x")], Malformed::Host),
            (&[("host", "[1::2::3]")], Malformed::Host),
            (&[("host", "::1")], Malformed::Host),
            (&[("host", ":80")], Malformed::Host),
            (
                &[host, ("authorization", "Basic YW5hOnA="), ("authorization", "NTLM TlRMTVNTUAAB")],
                Malformed::SeveralAuthorizations,
            ),
        ] {
            assert_eq!(check(Version::HTTP_11, &map(fields)), Err(malformed), "{fields:?}");
        }
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            headers.append(name, value);
        }
        headers
    }
}
