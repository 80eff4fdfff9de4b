//! The mailbox a request names apart from its credential.

use percent_encoding::percent_decode_str;

use super::{Facts, MailboxName, Target, TargetSource, activesync, parameter};
use crate::routing::protocol::Protocol;

/// The target mailbox a request names, if it names one.
///
/// What the URL names comes first, because it is what the server will open. `X-AnchorMailbox` comes next: it says where
/// to go and is not looked at after that. `ActiveSync`'s `User=` is the weakest, a hint that even the credential beats
/// ([`Identity::routing_name`](super::Identity::routing_name)). What cannot be read as a name is passed over, since all
/// it could do is route.
pub fn target(facts: &Facts<'_>) -> Option<Target> {
    let found = |source| move |name| Target { name, source };
    url(facts)
        .or_else(|| anchor_mailbox(facts.anchor_mailbox?).map(found(TargetSource::AnchorMailbox)))
        .or_else(|| activesync_user(facts).map(found(TargetSource::ActiveSyncUser)))
}

/// The mailbox in a path or query that has a place for one.
fn url(facts: &Facts<'_>) -> Option<Target> {
    let (name, source) = match facts.protocol {
        Protocol::Owa | Protocol::Ecp => (explicit_logon(facts.path)?, TargetSource::ExplicitLogon),
        Protocol::LegacyOwa => (legacy_explicit_logon(facts.path)?, TargetSource::ExplicitLogon),
        Protocol::Mapi => (mapi_mailbox(facts.query?)?, TargetSource::MapiMailboxId),
        Protocol::OutlookAnywhere => (rpc_mailbox(facts.query?)?, TargetSource::RpcProxy),
        Protocol::Root
        | Protocol::ActiveSync
        | Protocol::Ews
        | Protocol::Autodiscover
        | Protocol::Oab
        | Protocol::Pop3
        | Protocol::Imap4
        | Protocol::Opened => return None,
    };
    Some(Target { name, source })
}

/// `/owa/ana@contoso.com/...`: any SMTP address of the mailbox (Exchange 2007 Help, "How to Open Another User's Mailbox").
/// Every other second segment of `/owa` (`auth`, `8.3.83.2`, `ev.owa`) has no `@`.
fn explicit_logon(path: &str) -> Option<MailboxName> {
    with_at_sign(second_segment(path)?)
}

/// `/exchange/ana/...`: the alias or the SMTP local part (KB 812220), or a whole address. Below `/public` and `/exchweb`
/// there are public folders and pictures, no mailboxes.
fn legacy_explicit_logon(path: &str) -> Option<MailboxName> {
    let first = path.trim_start_matches('/').split('/').next()?;
    if !first.eq_ignore_ascii_case("exchange") {
        return None;
    }
    MailboxName::parse(second_segment(path)?).ok()
}

/// `/mapi/emsmdb/?MailboxId=<guid>@<domain>` ([MS-OXDSCLI] 4.4).
fn mapi_mailbox(query: &str) -> Option<MailboxName> {
    only_guid(with_at_sign(str::from_utf8(&parameter(query, "MailboxId")?).ok()?))
}

/// `/rpc/rpcproxy.dll?<guid>@<domain>:6001` of Exchange 2013 and later. Before, a server stood in that place
/// (`?mbx-lis.contoso.com:6001`): it names no mailbox, and no client byte chooses a server.
fn rpc_mailbox(query: &str) -> Option<MailboxName> {
    let query = percent_decode_str(query).decode_utf8().ok()?;
    let (endpoint, _port) = query.rsplit_once(':')?;
    only_guid(with_at_sign(endpoint))
}

/// `X-AnchorMailbox: ana@contoso.com`, or `<guid>@<domain>`. Other kinds of anchor (`SID:S-1-5-..`) name nobody here.
fn anchor_mailbox(value: &[u8]) -> Option<MailboxName> {
    let name = MailboxName::parse_bytes(value).ok()?;
    matches!(name, MailboxName::Address(_) | MailboxName::Guid(_)).then_some(name)
}

fn activesync_user(facts: &Facts<'_>) -> Option<MailboxName> {
    (facts.protocol == Protocol::ActiveSync).then_some(facts.query?).and_then(activesync::user)
}

fn second_segment(path: &str) -> Option<&str> {
    path.trim_start_matches('/').split('/').nth(1).filter(|segment| !segment.is_empty())
}

fn with_at_sign(text: &str) -> Option<MailboxName> {
    text.contains('@').then(|| MailboxName::parse(text).ok()).flatten()
}

fn only_guid(name: Option<MailboxName>) -> Option<MailboxName> {
    name.filter(|name| matches!(name, MailboxName::Guid(_)))
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test that cannot go on says why
mod tests {
    use super::{super::identify, *};

    #[test]
    fn each_protocol_names_its_mailbox_in_its_own_place() {
        use TargetSource::{ActiveSyncUser, ExplicitLogon, MapiMailboxId, RpcProxy};
        let guid = "4c1f053e-9ad2-4b47-8e6f-0123456789ab";
        for (request, target) in [
            ("/owa/ana@contoso.com", Some(("ana@contoso.com", ExplicitLogon))),
            ("/owa/Ana@Contoso.com/", Some(("ana@contoso.com", ExplicitLogon))),
            ("/OWA/ana@contoso.com/?cmd=contents&f=Calendar", Some(("ana@contoso.com", ExplicitLogon))),
            ("/owa/ana@contoso.com/ev.owa?oeh=1&ns=MsgVwList", Some(("ana@contoso.com", ExplicitLogon))),
            ("/owa", None),
            ("/owa/", None),
            ("/owa//ana@contoso.com/", None),
            ("/owa/?cmd=contents&User=ana@contoso.com", None),
            ("/owa/auth/logon.aspx?url=https://mail.contoso.com/owa/&reason=0", None),
            ("/owa/8.3.83.2/themes/base/logon.css", None),
            ("/owa/ev.owa?oeh=1&ns=PendingRequest&ev=PendingNotificationRequest", None),
            ("/owa/contoso.com/", None),
            ("/owa/auth/ana@contoso.com", None),
            ("/ecp/ana@contoso.com/?p=PersonalSettings", Some(("ana@contoso.com", ExplicitLogon))),
            ("/ecp/default.aspx", None),
            ("/exchange/ana", Some(("ana", ExplicitLogon))),
            ("/exchange/duarte/Inbox/?Cmd=contents", Some(("duarte", ExplicitLogon))),
            ("/Exchange/Ana@contoso.com/Inbox/Re%20x.EML", Some(("ana@contoso.com", ExplicitLogon))),
            ("/exchange/", None),
            ("/exchange/?Cmd=logoff", None),
            ("/public/ana/", None),
            ("/exchweb/img/logo.gif", None),
            ("/mapi/emsmdb/?MailboxId=4C1F053E-9AD2-4B47-8E6F-0123456789AB@contoso.com", Some((guid, MapiMailboxId))),
            ("/mapi/nspi/?mailboxid=4c1f053e-9ad2-4b47-8e6f-0123456789ab%40contoso.com", Some((guid, MapiMailboxId))),
            ("/mapi/emsmdb/?MailboxId=ana@contoso.com", None),
            ("/mapi/emsmdb/?useMailboxOfAuthenticatedUser=true", None),
            ("/mapi/emsmdb/", None),
            ("/rpc/rpcproxy.dll?4c1f053e-9ad2-4b47-8e6f-0123456789ab@contoso.com:6001", Some((guid, RpcProxy))),
            ("/rpc/rpcproxy.dll?4c1f053e-9ad2-4b47-8e6f-0123456789ab%40contoso.com%3a6004", Some((guid, RpcProxy))),
            ("/rpc/rpcproxy.dll?mbx-lis.contoso.com:6001", None),
            ("/rpc/rpcproxy.dll?MBX-LIS:593", None),
            ("/rpc/rpcproxy.dll?ana@contoso.com:6001", None),
            ("/rpc/rpcproxy.dll", None),
            ("/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla&DeviceId=d", Some(("carla", ActiveSyncUser))),
            ("/Microsoft-Server-ActiveSync/default.eas?User=CONTOSO%5Cana", Some(("contoso\\ana", ActiveSyncUser))),
            ("/Microsoft-Server-ActiveSync?jAAJBAp2MTQwRGV2aWNlAApTbWFydFBob25l", None),
            ("/Microsoft-Server-ActiveSync", None),
            ("/EWS/Exchange.asmx?User=ana", None),
            ("/autodiscover/autodiscover.json?Email=ana@contoso.com&Protocol=EWS", None),
            ("/OAB/ana@contoso.com/oab.xml", None),
            ("/", None),
        ] {
            let named = target_of(request, None).map(|target| (target.name.to_string(), target.source));
            assert_eq!(named.as_ref().map(|(name, source)| (name.as_str(), *source)), target, "{request}");
        }
    }

    #[test]
    fn an_anchor_is_an_address_or_a_mailbox_guid() {
        let guid = "4c1f053e-9ad2-4b47-8e6f-0123456789ab";
        for (anchor, name) in [
            (&b"Ana@contoso.com"[..], Some("ana@contoso.com")),
            (b" smtp:ana@contoso.com", Some("ana@contoso.com")),
            (b"4C1F053E-9AD2-4B47-8E6F-0123456789AB@contoso.com", Some(guid)),
            (b"ana", None),
            (b"CONTOSO\\ana", None),
            (b"SID:S-1-5-21-1-2-3-1104@contoso.com", None),
            (b"mbx-lis.contoso.com:444", None),
            (b"ana@contoso.com\0", None),
            (b"", None),
        ] {
            let target = target_of("/EWS/Exchange.asmx", Some(anchor));
            let expected = name.map(|name| (name.to_owned(), TargetSource::AnchorMailbox));
            assert_eq!(target.map(|target| (target.name.to_string(), target.source)), expected, "{anchor:?}");
        }
    }

    #[test]
    fn the_url_beats_the_anchor_and_the_anchor_beats_the_activesync_user() {
        let anchor = Some(&b"elsa@contoso.com"[..]);
        for (request, source) in [
            ("/owa/ana@contoso.com/", TargetSource::ExplicitLogon),
            ("/owa/auth/logon.aspx", TargetSource::AnchorMailbox),
            ("/Microsoft-Server-ActiveSync?User=ana&Cmd=Sync", TargetSource::AnchorMailbox),
        ] {
            assert_eq!(target_of(request, anchor).expect("a target").source, source, "{request}");
        }
    }

    #[test]
    fn the_target_routes_unless_it_is_only_the_activesync_user() {
        for (request, signed_in, name) in [
            ("/owa/", Some("ana"), Some("ana")),
            ("/owa/bruno@contoso.com/", Some("ana"), Some("bruno@contoso.com")),
            ("/owa/bruno@contoso.com/", None, Some("bruno@contoso.com")),
            ("/Microsoft-Server-ActiveSync?User=bruno&Cmd=Ping", Some("ana"), Some("ana")),
            ("/Microsoft-Server-ActiveSync?User=bruno&Cmd=Ping", None, Some("bruno")),
            ("/EWS/Exchange.asmx", None, None),
            ("/owa/", None, None),
        ] {
            let signed_in = signed_in.map(|name| MailboxName::Bare(name.into()));
            let identity = identify(&facts(request));
            let routed = identity.routing_name(signed_in.as_ref()).map(ToString::to_string);
            assert_eq!(routed.as_deref(), name, "{request} {signed_in:?}");
        }
    }

    fn target_of(request: &str, anchor_mailbox: Option<&[u8]>) -> Option<Target> {
        target(&Facts { anchor_mailbox, ..facts(request) })
    }

    fn facts(request: &str) -> Facts<'_> {
        let (path, query) = request.split_once('?').map_or((request, None), |(path, query)| (path, Some(query)));
        let protocol = Protocol::of_path(path).expect("a path of Exchange's");
        Facts { protocol, path, query, authorization: None, anchor_mailbox: None }
    }
}
