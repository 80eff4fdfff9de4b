//! The PROXY protocol: a layer-4 balancer's first bytes, which say whose connection it passes on
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, versions 1 and 2).

use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why the first bytes are no header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Something else came.
    #[error("it does not begin with a PROXY protocol header")]
    Missing,
    /// It is longer than any balancer's.
    #[error("its PROXY protocol header is longer than {LENGTH_MAX_BYTES} bytes")]
    TooLong,
    /// It cannot be read.
    #[error("its PROXY protocol header cannot be read")]
    Malformed,
    /// The connection ended, or failed, before it was complete.
    #[error("it ended before its PROXY protocol header did")]
    Broken(#[from] std::io::Error),
}

/// Reads the header, and not a byte more: what follows is TLS or HTTP, and somebody else's. `None`: the balancer speaks for
/// itself, as in its health checks.
///
/// # Errors
/// There is none, or none that can be read.
pub async fn read(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut bytes = vec![0; v2::PROTOCOL_PREFIX.len()];
    stream.read_exact(&mut bytes).await?;
    if bytes == v2::PROTOCOL_PREFIX {
        return binary(bytes, stream).await;
    }
    if !bytes.starts_with(b"PROXY ") {
        return Err(HeaderError::Missing);
    }
    while !bytes.ends_with(b"\n") {
        if bytes.len() == LINE_MAX_BYTES {
            return Err(HeaderError::Malformed);
        }
        bytes.push(stream.read_u8().await?);
    }
    let header = v1::Header::try_from(bytes.as_slice()).map_err(|_| HeaderError::Malformed)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn binary(
    mut bytes: Vec<u8>,
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
) -> Result<Option<SocketAddr>, HeaderError> {
    bytes.resize(START_BYTES, 0);
    stream.read_exact(&mut bytes[v2::PROTOCOL_PREFIX.len()..]).await?;
    let rest = u16::from_be_bytes([bytes[START_BYTES - 2], bytes[START_BYTES - 1]]);
    let length = START_BYTES + usize::from(rest);
    if length > LENGTH_MAX_BYTES {
        return Err(HeaderError::TooLong);
    }
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[START_BYTES..]).await?;
    let header = v2::Header::try_from(bytes.as_slice()).map_err(|_| HeaderError::Malformed)?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(of)) => Some((of.source_address, of.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(of)) => Some((of.source_address, of.source_port).into()),
        (v2::Command::Local, _) | (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
    })
}

/// Section 2.2: signature, version and command, family, and the length of what follows.
const START_BYTES: usize = 16;

/// Section 2.1: "so a 108-byte buffer is always enough to store all the line and a trailing zero".
const LINE_MAX_BYTES: usize = 107;

/// Section 2.2: what fits into the smallest packet that every host must take, and so what senders stay below.
const LENGTH_MAX_BYTES: usize = 536;

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read of these bytes, and how many of them are left.
    fn of(bytes: &[u8]) -> (Result<Option<SocketAddr>, HeaderError>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut rest = bytes;
        let read = runtime.block_on(read(&mut rest));
        (read, rest.len())
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).expect("short").to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, addresses].concat()
    }

    #[test]
    fn a_header_says_whose_connection_it_is_and_not_a_byte_more_is_read() {
        let v4 = [198, 51, 100, 7, 10, 0, 0, 1, 0x80, 0, 0x01, 0xbb];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        v6[32..34].copy_from_slice(&[0x80, 0]);
        let with_crc = [&v4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        for (header, client) in [
            (b"PROXY TCP4 198.51.100.7 10.0.0.1 32768 443\r\n".to_vec(), Some("198.51.100.7:32768")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 32768 443\r\n".to_vec(), Some("[2001:db8::1]:32768")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(), None),
            (v2(1, 0x11, &v4), Some("198.51.100.7:32768")),
            (v2(1, 0x11, &with_crc), Some("198.51.100.7:32768")),
            (v2(1, 0x21, &v6), Some("[2001:db8::1]:32768")),
            (v2(0, 0x11, &v4), None),
            (v2(0, 0, &[]), None),
            (v2(1, 0, &[]), None),
        ] {
            let rest = b"GET / HTTP/1.1\r\n\r\n";
            let (read, left) = of(&[&header[..], rest].concat());
            let client = client.map(|client| client.parse().expect("an address"));
            assert_eq!(read.expect("a header"), client, "{}", header.escape_ascii());
            assert_eq!(left, rest.len(), "{}", header.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 32768 443\n",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 99999 443\r\n",
            b"PROXY TCP4 2001:db8::1 10.0.0.1 1 443\r\n",
            b"PROXY TCP9 198.51.100.7 10.0.0.1 1 443\r\n",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 1\r\n",
            b"proxy UNKNOWN\r\n",
            b"PROXY UNKN",
            b"",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
            &v2(1, 0x11, &[1, 2, 3]),
            &v2(7, 0x11, &[0; 12]),
            &v2(1, 0x11, &[0; 12])[..20],
            &v2(0, 0, &[0; 521]),
        ] {
            assert!(of(bytes).0.is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn no_more_is_read_than_a_header_may_have() {
        for endless in [b"PROXY UNKNOWN ".to_vec(), v2(1, 0x11, &[0; 530])] {
            let bytes = [&endless[..], &[b'x'; 4096]].concat();
            let (read, left) = of(&bytes);
            assert!(read.is_err() && bytes.len() - left <= 107, "{} were read", bytes.len() - left);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(start in 0_usize..3, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let start = [&b""[..], b"PROXY ", v2::PROTOCOL_PREFIX][start];
            let _ = of(&[start, &bytes].concat());
        }
    }
}
