//! The client protocols: which one a URL path belongs to, and which virtual directory serves it.

use std::{fmt, str::FromStr};

/// A client protocol: of the web, told by the first segment of the URL path, or of mail, told by the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `/`: the bare name typed into a browser.
    Root,
    /// `/owa`: Outlook Web Access of Exchange 2007 and later.
    Owa,
    /// `/exchange`, `/public`, `/exchweb`: Outlook Web Access and `WebDAV` of Exchange 2000 and 2003.
    LegacyOwa,
    /// `/ecp`: the Exchange Control Panel of 2010 and later.
    Ecp,
    /// `/Microsoft-Server-ActiveSync`: Exchange `ActiveSync`.
    ActiveSync,
    /// `/EWS`: Exchange Web Services, and the Availability service, which lives at the same address.
    Ews,
    /// `/Autodiscover`.
    Autodiscover,
    /// `/OAB`: the offline address book.
    Oab,
    /// `/rpc`: Outlook Anywhere.
    OutlookAnywhere,
    /// `/mapi`: MAPI over HTTP of Exchange 2013 SP1 and later.
    Mapi,
    /// POP3.
    Pop3,
    /// IMAP4.
    Imap4,
    /// A path that the configuration opened by name; served by the local pool.
    Opened,
}

/// A kind of virtual directory object, by its LDAP class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VirtualDirectoryKind {
    /// `msExchOWAVirtualDirectory` of `/owa`.
    Owa,
    /// `msExchECPVirtualDirectory`.
    Ecp,
    /// `msExchMobileVirtualDirectory`.
    ActiveSync,
    /// `msExchWebServicesVirtualDirectory`.
    Ews,
    /// `msExchAutoDiscoverVirtualDirectory`.
    Autodiscover,
    /// `msExchOABVirtualDirectory`.
    Oab,
    /// `msExchRpcHttpVirtualDirectory`.
    OutlookAnywhere,
    /// `msExchMapiVirtualDirectory`.
    Mapi,
}

impl VirtualDirectoryKind {
    /// How many kinds there are; the size of a table indexed by kind.
    pub const COUNT: usize = 8;
}

impl Protocol {
    /// Every protocol of Exchange's, in the order `--help` lists them.
    pub const ALL: [Protocol; 12] = [
        Protocol::Root,
        Protocol::Owa,
        Protocol::LegacyOwa,
        Protocol::Ecp,
        Protocol::ActiveSync,
        Protocol::Ews,
        Protocol::Autodiscover,
        Protocol::Oab,
        Protocol::OutlookAnywhere,
        Protocol::Mapi,
        Protocol::Pop3,
        Protocol::Imap4,
    ];

    /// Whether it is POP3 or IMAP4, which have neither paths nor virtual directories.
    pub fn is_mail(self) -> bool {
        matches!(self, Protocol::Pop3 | Protocol::Imap4)
    }

    /// The protocol of a percent-decoded URL path. IIS compares paths without case, so this does too.
    /// `None`: a path that no Exchange client protocol uses.
    pub fn of_path(path: &str) -> Option<Protocol> {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let is = |name: &str| first.eq_ignore_ascii_case(name);
        Some(match first {
            "" => Protocol::Root,
            _ if is("owa") => Protocol::Owa,
            _ if is("exchange") || is("public") || is("exchweb") => Protocol::LegacyOwa,
            _ if is("ecp") => Protocol::Ecp,
            _ if is("Microsoft-Server-ActiveSync") => Protocol::ActiveSync,
            _ if is("EWS") => Protocol::Ews,
            _ if is("Autodiscover") => Protocol::Autodiscover,
            _ if is("OAB") => Protocol::Oab,
            _ if is("rpc") => Protocol::OutlookAnywhere,
            _ if is("mapi") => Protocol::Mapi,
            _ => return None,
        })
    }

    /// The virtual directory whose URLs and authentication methods speak for this protocol.
    pub fn virtual_directory(self) -> Option<VirtualDirectoryKind> {
        match self {
            Protocol::Owa => Some(VirtualDirectoryKind::Owa),
            Protocol::Ecp => Some(VirtualDirectoryKind::Ecp),
            Protocol::ActiveSync => Some(VirtualDirectoryKind::ActiveSync),
            Protocol::Ews => Some(VirtualDirectoryKind::Ews),
            Protocol::Autodiscover => Some(VirtualDirectoryKind::Autodiscover),
            Protocol::Oab => Some(VirtualDirectoryKind::Oab),
            Protocol::OutlookAnywhere => Some(VirtualDirectoryKind::OutlookAnywhere),
            Protocol::Mapi => Some(VirtualDirectoryKind::Mapi),
            Protocol::Root | Protocol::LegacyOwa | Protocol::Pop3 | Protocol::Imap4 | Protocol::Opened => None,
        }
    }

    /// Whether where the mailbox lives makes a difference. Where it does not, the directory is not asked.
    pub fn asks_for_mailbox(self) -> bool {
        match self {
            Protocol::Owa
            | Protocol::LegacyOwa
            | Protocol::Ecp
            | Protocol::ActiveSync
            | Protocol::Ews
            | Protocol::Mapi
            | Protocol::Pop3
            | Protocol::Imap4 => true,
            Protocol::Root | Protocol::Autodiscover | Protocol::Oab | Protocol::OutlookAnywhere | Protocol::Opened => {
                false
            }
        }
    }

    /// The name used in the config, the access log, metrics and `explain --protocol`.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Root => "root",
            Protocol::Owa => "owa",
            Protocol::LegacyOwa => "exchange",
            Protocol::Ecp => "ecp",
            Protocol::ActiveSync => "activesync",
            Protocol::Ews => "ews",
            Protocol::Autodiscover => "autodiscover",
            Protocol::Oab => "oab",
            Protocol::OutlookAnywhere => "rpc",
            Protocol::Mapi => "mapi",
            Protocol::Pop3 => "pop3",
            Protocol::Imap4 => "imap4",
            Protocol::Opened => "opened",
        }
    }

    /// The path of its virtual directory, such as `/owa`.
    pub fn directory_path(self) -> &'static str {
        let path = self.default_path();
        let end = path.match_indices('/').nth(1).map_or(path.len(), |(second_slash, _)| second_slash);
        path.get(..end).unwrap_or(path)
    }

    /// The path a client of this protocol asks for when nothing more is known. The protocols of mail have none.
    pub fn default_path(self) -> &'static str {
        match self {
            Protocol::Root | Protocol::Opened => "/",
            Protocol::Owa => "/owa/",
            Protocol::LegacyOwa => "/exchange/",
            Protocol::Ecp => "/ecp/",
            Protocol::ActiveSync => "/Microsoft-Server-ActiveSync",
            Protocol::Ews => "/EWS/Exchange.asmx",
            Protocol::Autodiscover => "/Autodiscover/Autodiscover.xml",
            Protocol::Oab => "/OAB/",
            Protocol::OutlookAnywhere => "/rpc/rpcproxy.dll",
            Protocol::Mapi => "/mapi/emsmdb/",
            Protocol::Pop3 | Protocol::Imap4 => "",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        // Availability is an operation of EWS, at the same URL; people ask for it by its own name.
        let name = if name == "availability" { "ews" } else { name };
        Protocol::ALL.into_iter().find(|protocol| protocol.name() == name).ok_or_else(|| {
            let names: Vec<_> = Protocol::ALL.iter().map(|protocol| protocol.name()).collect();
            format!("unknown protocol `{name}`; use one of {}, availability", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_told_by_the_first_path_segment_without_case() {
        for (path, protocol) in [
            ("/", Some(Protocol::Root)),
            ("", Some(Protocol::Root)),
            ("/OWA", Some(Protocol::Owa)),
            ("/owa/auth/logon.aspx", Some(Protocol::Owa)),
            ("/exchweb/bin/auth/owaauth.dll", Some(Protocol::LegacyOwa)),
            ("/microsoft-server-activesync/default.eas", Some(Protocol::ActiveSync)),
            ("/ews/exchange.asmx", Some(Protocol::Ews)),
            ("/RPC/rpcproxy.dll", Some(Protocol::OutlookAnywhere)),
            ("/owalike", None),
            ("/PowerShell", None),
            ("/exadmin", None),
        ] {
            assert_eq!(Protocol::of_path(path), protocol, "{path}");
        }
    }

    #[test]
    fn the_directory_path_is_the_first_segment() {
        let paths = Protocol::ALL.map(Protocol::directory_path);
        assert_eq!(
            paths,
            [
                "/",
                "/owa",
                "/exchange",
                "/ecp",
                "/Microsoft-Server-ActiveSync",
                "/EWS",
                "/Autodiscover",
                "/OAB",
                "/rpc",
                "/mapi",
                "",
                ""
            ]
        );
    }

    #[test]
    fn every_protocol_is_found_by_its_own_name_and_path() {
        for protocol in Protocol::ALL {
            assert_eq!(protocol.name().parse(), Ok(protocol));
            assert!(protocol.is_mail() || Protocol::of_path(protocol.default_path()) == Some(protocol));
        }
    }
}
