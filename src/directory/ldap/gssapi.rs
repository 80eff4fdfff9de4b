//! Sign-in by Kerberos (SASL GSSAPI, RFC 4752) with the keytab that the environment names.

use std::{thread, time::Duration};

use ldap3::{Ldap, LdapError};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};

/// Why a sign-in failed.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Kerberos gave no ticket, or the server's answer to it was not genuine.
    #[error("Kerberos: {problem}; {cure}")]
    Kerberos {
        /// What the Kerberos library said.
        problem: String,
        /// What to do.
        cure: &'static str,
    },
    /// The server refused the ticket.
    #[error("the server refused the Kerberos sign-in; {cure}")]
    Refused {
        /// What it answered.
        #[source]
        source: LdapError,
        /// What to do.
        cure: &'static str,
    },
    /// The connection broke.
    #[error("the connection broke during the Kerberos sign-in")]
    Broken(#[source] LdapError),
    /// Without TLS the whole connection would be sealed by Kerberos, and the LDAP library (ldap3 0.12.1) loses entries
    /// of sealed answers: what follows another message within one sealed frame, once the next frame has begun to come.
    #[error("a Kerberos sign-in needs TLS; write ldaps:// or start_tls = true")]
    WithoutTls,
    /// Neither a ticket nor an answer came in time.
    #[error(
        "no Kerberos sign-in within {} ms; see that a key distribution center (port 88, UDP and TCP) of the realm in \
         /etc/krb5.conf answers",
        .after.as_millis()
    )]
    TimedOut {
        /// How long there was.
        after: Duration,
    },
}

/// Binds with the first key of the keytab, at the server of this host name: its principal is `ldap/HOST`. The bind is
/// bound to the TLS channel (`tls-server-end-point`, RFC 5929 section 4).
///
/// The Kerberos library blocks while it asks for tickets, for 27 seconds where the only key distribution center is mute,
/// so that the bind has a thread of its own, which may outlive this call. There is one at a time: those who wait find
/// the ticket that the one before got, even after it was given up.
pub async fn bind(ldap: &Ldap, host: &str, patience: Duration) -> Result<(), SignInError> {
    let deadline = Instant::now() + patience;
    let late = move |_| SignInError::TimedOut { after: patience };
    let mut ldap = ldap.clone();
    let certificate = timeout_at(deadline, ldap.get_peer_certificate()).await.map_err(late)?;
    if certificate.map_err(SignInError::Broken)?.is_none() {
        return Err(SignInError::WithoutTls);
    }
    let turn = timeout_at(deadline, TURNS.acquire()).await.map_err(late)?;
    let (done, outcome) = oneshot::channel();
    let host = host.to_owned();
    let sign_in = move || {
        let _turn = turn;
        let result = tokio::runtime::Builder::new_current_thread().enable_time().build().map(|runtime| {
            // By then its caller has gone, and only this thread would hold the connection open.
            runtime.block_on(async { timeout(patience, ldap.sasl_gssapi_bind(&host)).await })
        });
        let _ = done.send(match result {
            Ok(Ok(result)) => result.and_then(ldap3::LdapResult::success).map(drop).map_err(sign_in_error),
            Ok(Err(elapsed)) => Err(late(elapsed)),
            Err(error) => Err(SignInError::Broken(error.into())),
        });
    };
    let broken = |error: std::io::Error| SignInError::Broken(error.into());
    thread::Builder::new().name("kerberos".to_owned()).spawn(sign_in).map_err(broken)?;
    match timeout_at(deadline, outcome).await.map_err(late)? {
        Ok(result) => result,
        Err(_) => Err(SignInError::TimedOut { after: patience }),
    }
}

fn sign_in_error(error: LdapError) -> SignInError {
    if let LdapError::GssapiOperationError(problem) = error {
        let known = CURES.iter().find(|(said, _)| problem.contains(said));
        return SignInError::Kerberos { cure: known.map_or(ELSE, |(_, cure)| cure), problem };
    }
    let LdapError::LdapResult { result } = &error else { return SignInError::Broken(error) };
    let cure = if result.rc == STRONGER_AUTH_REQUIRED {
        "Samba takes it over TLS only with `ldap server require strong auth = allow_sasl_over_tls`"
    } else {
        "see that its clock is right, and that nothing opens the TLS connection between the edge and it"
    };
    SignInError::Refused { source: error, cure }
}

static TURNS: Semaphore = Semaphore::const_new(1);

/// What MIT Kerberos 1.20 says, and what to do.
const CURES: [(&str, &str); 10] = [
    ("No Kerberos credentials available", "see that the edge may read bind_keytab and `klist -kt` shows a key in it"),
    ("Preauthentication failed", "the keytab has an old key of its account; export it again"),
    ("Server not found", "write the server's host name as in Active Directory, not an address or an alias"),
    ("not found in Kerberos database", "the realm has no such account; export the keytab again"),
    (
        "Cannot find KDC",
        "name the realm's key distribution centers in /etc/krb5.conf, or let DNS do so (dns_lookup_kdc)",
    ),
    ("Cannot contact any KDC", "see that one runs and port 88 (UDP and TCP) is open to it"),
    ("Clock skew", "set the clock of this machine by the domain's; five minutes are allowed"),
    ("Ticket expired", "set the clock of this machine by the domain's, and ticket_lifetime in /etc/krb5.conf to hours"),
    ("revoked", "the keytab's account is disabled or locked; enable it"),
    ("encryption type", "export the keytab again, with AES keys"),
];
const ELSE: &str = "KRB5_TRACE=/dev/stderr in the environment shows every step";
/// RFC 4511 section 4.1.9.
const STRONGER_AUTH_REQUIRED: u32 = 8;

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use super::*;

    /// As heard from MIT Kerberos 1.20 and a Samba domain controller.
    #[test]
    fn what_the_kerberos_library_says_comes_with_its_cure() {
        for (said, cure) in [
            (
                "unavailable or inaccessible (No Kerberos credentials available (default cache: MEMORY:firstcas))",
                "klist",
            ),
            ("or inaccessible (Preauthentication failed)", "old key"),
            ("or inaccessible (Client 'stranger@CONTOSO.COM' not found in Kerberos database)", "no such account"),
            ("more information (Server not found in Kerberos database)", "not an address or an alias"),
            ("or inaccessible (Cannot find KDC for realm \"ELSEWHERE.COM\")", "/etc/krb5.conf"),
            ("or inaccessible (Cannot contact any KDC for realm 'CONTOSO.COM')", "port 88"),
            ("or inaccessible (Clock skew too great)", "clock"),
            ("something new", "KRB5_TRACE"),
        ] {
            let error = sign_in_error(LdapError::GssapiOperationError(said.to_owned())).to_string();
            assert!(error.contains(said) && error.contains(cure), "{error}");
        }
    }
}
