#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may fail by panicking

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SAMPLE: &str = include_str!("../../../conf/firstcas.toml");

/// A directory with every file that the sample names.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(TempDir::new().unwrap());
        let (certificate, key) = self_signed();
        for (name, contents) in [
            ("conf/contoso.ldif", "dn: DC=contoso,DC=com\n"),
            ("state/demo/edge.pem", certificate.as_str()),
            ("state/demo/edge.key", key.as_str()),
            ("state/demo/ca.pem", certificate.as_str()),
            ("ca.pem", certificate.as_str()),
            ("password", "Pass-word1\r\nnot this line\n"),
            ("affinity-keys", &format!("{}=\n\n{}=\n", "A".repeat(43), "B".repeat(42) + "A")),
        ] {
            place.write(name, contents);
        }
        fs::write(place.path("http.keytab"), keytab_of(&[&["HTTP", "mail.contoso.com"]])).unwrap();
        let edge = keytab_of(&[&["HTTP", "edge.contoso.com"], &["firstcas"], &["another"]]);
        fs::write(place.path("firstcas.keytab"), edge).unwrap();
        place
    }

    fn write(&self, name: &str, contents: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            working_directory: self.0.path().to_owned(),
            variable: |name| (name == "BIND").then(|| "from the environment".to_owned()),
        }
    }

    fn read(&self, text: &str) -> Result<Config, ConfigErrors> {
        read(Path::new("test.toml"), text, &self.surroundings())
    }

    /// A configuration that is good but for these lines.
    fn with(&self, lines: &str) -> Result<Config, ConfigErrors> {
        self.read(&format!("directory.ldif = 'conf/contoso.ldif'\nlistener = [{{ address = '127.0.0.1:0' }}]\n{lines}"))
    }

    /// The places and problems of these lines.
    fn mistakes(&self, lines: &str) -> Vec<String> {
        let errors = self.with(lines).expect_err("a mistake");
        errors.mistakes.iter().map(|mistake| format!("{} | {}", mistake.place, mistake.problem)).collect()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

/// A keytab with one AES256 key of each name ("The Kerberos Keytab Binary File Format", MIT Kerberos documentation).
fn keytab_of(names: &[&[&str]]) -> Vec<u8> {
    let length = |of: usize| u16::try_from(of).unwrap().to_be_bytes();
    let text = |text: &str| [&length(text.len())[..], text.as_bytes()].concat();
    let mut keytab = vec![5, 2];
    for name in names {
        let components: Vec<u8> = name.iter().flat_map(|component| text(component)).collect();
        let principal = [&length(name.len())[..], &text("CONTOSO.COM"), &components].concat();
        let key = [&[0, 0, 0, 1, 0, 0, 0, 0, 3, 0, 18, 0, 32][..], &[7; 32]].concat();
        let entry = [principal, key].concat();
        keytab.extend(u32::try_from(entry.len()).unwrap().to_be_bytes());
        keytab.extend(entry);
    }
    keytab
}

fn self_signed() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["mail.contoso.com".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// The sample with every commented option taken into use.
fn uncommented() -> String {
    let option = |line: &&str| line.strip_prefix('#').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(' '));
    SAMPLE.lines().map(|line| if option(&line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_sample_file_loads_as_it_is_shipped() {
    let place = Place::new();
    let config = place.read(SAMPLE).unwrap();

    let addresses: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    let ports = [8080, 8443, 8143, 8993, 8110, 8995];
    assert_eq!(addresses, ports.map(|port| format!("127.0.0.1:{port}")));
    let speak: Vec<_> = config.listeners.iter().map(Listener::speaks).collect();
    let mail = ["imap4 with TLS by command", "imap4 over TLS", "pop3 with TLS by command", "pop3 over TLS"];
    assert_eq!(speak, [&["plain http", "https"][..], &mail].concat());
    let tls = config.listeners[1].tls.as_ref().unwrap();
    assert_eq!(tls.certificates[0].certificate, place.path("state/demo/edge.pem"));
    assert_eq!((tls.certificates.len(), &tls.clients), (1, &None));
    assert!(!tls.http2);
    assert!(matches!(&config.directory, Directory::Ldif(path) if *path == place.path("conf/contoso.ldif")));
    assert_eq!(config.routing.local_site.as_deref(), Some("Lisbon"));
    assert_eq!(config.resolve.get("CAS-OPO-2.contoso.com", 443), Some("127.0.2.2:10443".parse().unwrap()));
    assert_eq!(config.resolve.get("ex03-opo.contoso.com", 80), Some("127.0.2.3:10080".parse().unwrap()));
    assert_eq!(config.upstream.tls.trust, Trust::CertificateAuthorities(place.path("state/demo/ca.pem")));
    assert_eq!(config.timeouts.server(Protocol::ActiveSync), Duration::from_secs(65 * 60));
    assert_eq!(config.limits.body_bytes(Protocol::OutlookAnywhere), 2 << 30);
}

#[test]
fn the_defaults_named_in_the_sample_are_the_defaults_in_force() {
    let place = Place::new();
    let only_active = place.read(SAMPLE).unwrap();
    // Taking the comments off options that repeat their default must change nothing.
    let numbers = uncommented();
    let of = |title: &str| numbers.split(title).nth(1).expect(title).split("# ----").next().unwrap();
    let from = |title: &str| of(title).replace("\nkey", "\n#").replace("\naccount", "\n#").replace("\nevents", "\n#");
    for title in ["[cache]", "[health]", "[timeouts]", "[limits]", "[pins]", "[log]"] {
        let table = format!("{title}{}", from(title));
        let explicit = place.with(&table).unwrap();
        assert_eq!(format!("{:?}", explicit.cache), format!("{:?}", only_active.cache));
        assert_eq!(explicit.health, only_active.health);
        assert_eq!(explicit.timeouts, only_active.timeouts);
        assert_eq!(explicit.limits, only_active.limits);
        assert_eq!(explicit.pins, only_active.pins);
        assert_eq!(explicit.log, only_active.log);
    }
    let mail = from("[mail]").replace("\nntlm_server", "\n#").replace("\nhost", "\n#");
    let listener = "[[listener]]\naddress = '127.0.0.1:0'\nprotocol = 'imap4'\nallow_plain_logon = true\n";
    let explicit = place.read(&format!("directory.ldif = 'conf/contoso.ldif'\n{listener}[mail]{mail}")).unwrap();
    assert_eq!((&explicit.mail, explicit.listeners[0].mail.unwrap().allow_plain_logon), (&only_active.mail, true));
    let explicit = place.with(&format!("[upstream]{}", from("[upstream]").split("\n[sites.").next().unwrap())).unwrap();
    assert_eq!(format!("{:?}", explicit.upstream), format!("{:?}", only_active.upstream));
}

#[test]
fn what_the_edge_offers_itself_is_not_promised_of_servers() {
    let place = Place::new();
    let listener = "[[listener]]\naddress = '127.0.0.1:0'\nprotocol = 'pop3'\nallow_plain_logon = true\n";
    let read = |capability| {
        let mail = format!("[mail]\npop3_capabilities = ['TOP', '{capability}']\n");
        place.read(&format!("directory.ldif = 'conf/contoso.ldif'\n{listener}{mail}"))
    };
    assert_eq!(*read("UIDL").unwrap().mail.pop3_capabilities, ["TOP", "UIDL"]);
    for own in ["USER", "SASL", "STLS", "RESP-CODES", "auth-resp-code"] {
        let errors = read(own).expect_err("it is the edge's");
        assert!(errors.to_string().contains(&format!("the edge says itself whether there is {own}")), "{errors}");
    }
}

#[test]
fn events_go_to_one_place_besides_the_log_or_to_several() {
    let place = Place::new();
    let events = |written| place.with(&format!("log.events = {written}")).map(|config| config.log.events);
    assert_eq!(events("'syslog'").unwrap(), [EventOutlet::Syslog]);
    assert_eq!(events("'journald'").unwrap(), [EventOutlet::Journald]);
    assert_eq!(events("['journald', 'syslog']").unwrap(), [EventOutlet::Journald, EventOutlet::Syslog]);
    assert_eq!(events("['syslog', 'syslog']").unwrap(), [EventOutlet::Syslog]);
    assert_eq!(events("[]").unwrap(), []);
    assert_eq!(events("'kafka'").unwrap_err().mistakes[0].problem, "events cannot go to `kafka`");
}

#[test]
fn the_sample_file_loads_with_every_commented_option_in_use() {
    let place = Place::new();
    let mut text = uncommented();
    for absent in ["/etc/firstcas/contoso-ca.pem", "/etc/firstcas/porto-ca.pem"] {
        assert!(text.contains(absent));
        text = text.replace(absent, "ca.pem");
    }
    text = text.replace("/etc/firstcas/bind-password", "password");
    text = text
        .replace("/etc/firstcas/affinity-keys", "affinity-keys")
        .replace("/etc/firstcas/logon-keys", "affinity-keys");
    text = text
        .replace("/etc/firstcas/http.keytab", "http.keytab")
        .replace("/etc/firstcas/firstcas.keytab", "firstcas.keytab");
    text = text.replace("/var/lib/firstcas", ".");
    text = text
        .replace("/etc/firstcas/client-ca.pem", "ca.pem")
        .replace("/etc/firstcas/mail.contoso.com-rsa.", "state/demo/edge.");

    let errors = place.read(&text).expect_err("three pairs of which only one can be");
    let problems: Vec<_> = errors.mistakes.iter().map(|mistake| mistake.problem.as_str()).collect();
    assert_eq!(problems[0], "the directory is either a file or LDAP servers", "{errors}");
    assert!(problems.contains(&"the servers of contoso.com are found by DNS"), "{errors}");
    assert!(problems.contains(&"the keytab has the account and its key"), "{errors}");
    let without = |text: &str, keys: &[&str]| {
        let kept = text.lines().filter(|line| !keys.iter().any(|key| line.starts_with(&format!("{key} ="))));
        kept.collect::<Vec<_>>().join("\n")
    };
    let found = without(&text, &["ldif", "urls", "global_catalogs", "bind_keytab"]);
    let found = found.split("[[directory.account_forest]]").next().unwrap();
    let config = place
        .read(&format!(
            "listener = [{{ address = '127.0.0.1:0' }}]\n[directory]{}",
            found.split("[directory]").nth(1).unwrap()
        ))
        .unwrap();
    let Directory::Ldap { forest, .. } = &config.directory else { panic!("LDAP servers") };
    assert!(matches!(&forest.servers, ldap::Where::Found { domain, site: Some(site), dns_servers, .. }
        if domain == "contoso.com" && site == "Lisbon" && dns_servers.len() == 2));
    text = without(&text, &["domain", "site", "dns_servers", "bind_keytab"]);

    let config = place.read(&text.replace("ldif = \"conf/contoso.ldif\"", "")).unwrap();
    let Directory::Ldap { forest, account_forests } = &config.directory else { panic!("LDAP servers") };
    let ldap::Where::Listed { domain_controllers, global_catalogs } = &forest.servers else { panic!("a list") };
    assert_eq!((domain_controllers.len(), global_catalogs.len(), account_forests.len()), (2, 2, 1));
    assert!(matches!(&forest.account, ldap::Account::Password { password, .. } if password.expose() == b"Pass-word1"));
    assert_eq!(config.sites["porto"].trust, Trust::CertificateAuthorities(place.path("ca.pem")));
    assert!(config.sites["porto"].allow_tls_1_0);
    assert!(matches!(&config.sites["braga"].trust, Trust::Fingerprints(prints) if prints[0][0] == 0xe3));
    assert_eq!(config.sites["faro"].trust, Trust::Anything);
    assert_eq!(config.routing.open_paths, ["powershell"]);
    assert_eq!(config.resolve.get("cas-far-1.contoso.com", 8443), Some("10.5.0.11:8443".parse().unwrap()));
    assert!(config.listeners[0].redirect_to_https.is_some());
    assert_eq!(config.affinity.keys.len(), 2);
    assert_eq!(config.keytab.as_ref().unwrap().keys().len(), 1);
    assert_eq!(config.client_keytab(), Some(&*place.path("firstcas.keytab")));
    let forms = config.listeners.iter().map(|listener| listener.logon_form);
    assert_eq!(forms.collect::<Vec<_>>(), [false, true, false, false, false, false]);
    let mail: Vec<_> = config.listeners.iter().filter_map(|listener| listener.mail).collect();
    assert_eq!(mail.iter().map(|mail| mail.start_tls).collect::<Vec<_>>(), [true, false, true, false]);
    assert_eq!(config.mail.host.as_deref(), Some("mail.contoso.com"));
    assert_eq!(config.mail.ntlm_server.as_deref(), Some("ex03-lis"));
    assert_eq!((config.logon_form.keys.len(), config.logon_form.user_name), (2, UserName::WithDomain));
    assert_eq!(config.logon_form.default_domain.as_deref(), Some("CONTOSO"));
}

#[test]
fn a_logon_form_needs_https() {
    let place = Place::new();
    let listener = |further: &str| {
        let listener = format!("listener = [{{ address = '127.0.0.1:0', logon_form = true, {further} }}]");
        place.read(&format!("directory.ldif = 'conf/contoso.ldif'\n{listener}\n"))
    };
    for good in
        ["tls = { certificate = 'state/demo/edge.pem', key = 'state/demo/edge.key' }", "trusted_proxies = ['10.0.0.1']"]
    {
        assert!(listener(good).unwrap().listeners[0].logon_form, "{good}");
    }
    for bad in ["", "proxy_protocol = true, trusted_proxies = ['10.0.0.1']"] {
        let errors = listener(bad).expect_err("nobody could see it");
        assert!(errors.to_string().contains("listener[1].logon_form: passwords and cookies would cross"), "{errors}");
    }
}

#[test]
fn a_logon_lasts_no_shorter_than_its_time_outs() {
    let place = Place::new();
    let day = Duration::from_secs(24 * 60 * 60);
    let form = |lines: &str| place.with(&format!("[logon_form]\n{lines}")).map(|config| config.logon_form);
    let by_default = form("").unwrap();
    assert_eq!(by_default, place.with("").unwrap().logon_form, "an empty table changes nothing");
    let times = (by_default.public_timeout, by_default.private_timeout, by_default.lifetime);
    assert_eq!(times, (Duration::from_secs(15 * 60), day, day * 7));
    assert_eq!(form("private_timeout = '20d'").unwrap().lifetime, day * 20);
    assert_eq!(form("user_name = 'email'").unwrap().user_name, UserName::Email);
    for (lines, mistake) in [
        ("public_timeout = '2d'\nprivate_timeout = '1d'", "public_timeout | whoever uses a computer of others"),
        ("lifetime = '12h'", "lifetime | a logon would end before private_timeout"),
        ("public_timeout = '5s'", "public_timeout | `5s` is out of range"),
        ("user_name = 'upn'", "user_name | `upn` is not known"),
        ("default_domain = 'CONTOSO\\'", "default_domain | `CONTOSO\\` is no domain"),
        ("key_file = 'password'", "key_file | line 1 of"),
    ] {
        let mistakes = place.mistakes(&format!("[logon_form]\n{lines}"));
        assert!(mistakes[0].contains(&format!("logon_form.{mistake}")), "{mistakes:?}");
    }
}

#[test]
fn every_mistake_is_reported_in_the_order_of_the_file_with_line_and_column() {
    let place = Place::new();
    let errors = place
        .read(
            "[[listener]]\naddress = \"127.0.0.1\"\n[[listener]]\nadress = \"127.0.0.1:80\"\n[directory]\nldif = \"gone\"\n\
             [timeouts]\nclient = 5\nwbe = \"5s\"\n",
        )
        .expect_err("mistakes");
    let gone = place.path("gone");
    let expected = [
        "test.toml:2:11: listener[1].address: `127.0.0.1` is not an IP address and port; write it like \"0.0.0.0:443\""
            .to_owned(),
        "test.toml:3:1: listener[2]: `address` is missing; add an IP address and port, such as address = \"0.0.0.0:443\""
            .to_owned(),
        "test.toml:4:1: listener[2].adress: there is no such option; did you mean `address`?".to_owned(),
        format!(
            "test.toml:6:8: directory.ldif: there is no file {}; create it or correct the path (a relative one starts \
             where firstcas is started)",
            gone.display()
        ),
        "test.toml:8:10: timeouts.client: `5` has no unit; write it with its unit, \"5s\" or \"5m\"".to_owned(),
        "test.toml:9:1: timeouts.wbe: there is no such option; did you mean `web`?".to_owned(),
    ];
    assert_eq!(errors.to_string().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_unknown_key_is_reported_in_every_table() {
    let place = Place::new();
    for table in ["process", "cache", "routing", "upstream", "timeouts", "limits", "sign_in", "log", "sites.Porto"] {
        let mistakes = place.mistakes(&format!("[{table}]\nqwertyuiop = 1\n"));
        assert_eq!(mistakes, [format!("test.toml:4:1: {table}.qwertyuiop | there is no such option")]);
    }
    for table in ["directory", "directory.ldap", "listener.tls"] {
        let text = format!("[[listener]]\naddress = '127.0.0.1:0'\n[{table}]\nqwertyuiop = 1\n");
        let errors = place.read(&text).expect_err("a mistake");
        assert!(errors.to_string().contains("qwertyuiop: there is no such option"), "{errors}");
    }
    assert_eq!(place.mistakes("[timeout]\n"), ["test.toml:3:2: timeout | there is no such option"]);
}

#[test]
fn broken_toml_is_reported_by_its_place_and_nothing_else_is() {
    let place = Place::new();
    let errors = place.read("[[listener]]\naddress = 127.0.0.1:80\n[directory\n").expect_err("mistakes");
    assert!(errors.mistakes.iter().all(|mistake| mistake.problem.starts_with("this is not TOML")), "{errors}");
    assert!(errors.mistakes[0].place.starts_with("test.toml:2:"), "{errors}");
}

#[test]
fn an_empty_file_lacks_a_listener_and_a_directory() {
    let errors = Place::new().read("").expect_err("mistakes");
    assert_eq!(errors.mistakes.len(), 2, "{errors}");
}

#[test]
fn certificate_and_key_must_be_readable_and_belong_together() {
    let place = Place::new();
    let (other_certificate, other_key) = self_signed();
    place.write("other.key", &other_key);
    place.write("both.pem", &format!("{}{other_certificate}", fs::read_to_string(place.path("ca.pem")).unwrap()));
    place.write("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
    place.write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let problem = |certificate: &str, key: &str| {
        let text = format!(
            "directory.ldif = 'conf/contoso.ldif'\nlistener = [{{ address = '127.0.0.1:0', tls = {{ certificate = \
             '{certificate}', key = '{key}' }} }}]"
        );
        let errors = place.read(&text).expect_err("a mistake");
        assert_eq!(errors.mistakes.len(), 1, "{errors}");
        errors.mistakes[0].problem.replace(&format!("{}/", place.0.path().display()), "")
    };
    assert_eq!(problem("ca.pem", "other.key"), "the private key does not belong to the certificate");
    assert_eq!(
        problem("both.pem", "other.key"),
        "the private key belongs to certificate 2 of the file, not to the first"
    );
    assert_eq!(problem("ca.pem", "ca.pem"), "ca.pem has no private key that can be read");
    assert_eq!(problem("ca.pem", "encrypted.key"), "the private key in encrypted.key asks for a passphrase");
    assert_eq!(problem("other.key", "state/demo/edge.key"), "other.key has no certificate");
    assert_eq!(problem("broken.pem", "state/demo/edge.key"), "a certificate in broken.pem cannot be read");
    assert_eq!(problem("conf", "state/demo/edge.key"), "conf is not a file");
    assert_eq!(problem("gone.pem", "state/demo/edge.key"), "there is no file gone.pem");
}

#[test]
fn listeners_that_could_not_be_bound_together_are_reported() {
    let place = Place::new();
    let count = |one: &str, other: &str| {
        let text = format!(
            "directory.ldif = 'conf/contoso.ldif'\nlistener = [{{ address = '{one}' }}, {{ address = '{other}' }}]"
        );
        place.read(&text).map_or_else(|errors| errors.mistakes.len(), |_| 0)
    };
    assert_eq!(count("127.0.0.1:80", "127.0.0.1:80"), 1);
    assert_eq!(count("127.0.0.1:80", "0.0.0.0:80"), 1);
    assert_eq!(count("127.0.0.1:80", "127.0.0.1:81"), 0);
    assert_eq!(count("127.0.0.1:80", "127.0.0.2:80"), 0);
    assert_eq!(count("127.0.0.1:0", "127.0.0.1:0"), 0);
}

#[test]
fn the_administrators_page_is_for_nobody_else_unless_it_is_said() {
    let place = Place::new();
    assert!(place.with("").unwrap().admin.is_none(), "off unless there is an address");
    let admin = place.with("[admin]\naddress = '[::1]:8090'\nhosts = ['Edge-1.contoso.com']\n").unwrap().admin;
    let hosts = vec!["edge-1.contoso.com".to_owned()];
    assert_eq!(admin, Some(Admin { address: "[::1]:8090".parse().unwrap(), hosts }));
    assert!(place.with("[admin]\naddress = '10.0.0.1:8090'\nallow_remote = true\n").is_ok());
    for (lines, problem) in [
        ("", "`address` is missing"),
        (
            "address = '10.0.0.1:8090'",
            "10.0.0.1:8090 can be reached from other machines, and the page asks for no password",
        ),
        (
            "address = '0.0.0.0:8090'",
            "0.0.0.0:8090 can be reached from other machines, and the page asks for no password",
        ),
        (
            "address = '127.0.0.1:8080'",
            "127.0.0.1:8080 is taken by the listener on 127.0.0.1:8080, where clients come in",
        ),
        ("address = '127.0.0.1:8090'\nhosts = ['a:80']", "`a:80` is not the name of a host"),
        ("address = '127.0.0.1:8090'\nhosts = ['10.0.0.1']", "`10.0.0.1` is not the name of a host"),
    ] {
        let text = format!(
            "directory.ldif = 'conf/contoso.ldif'\nlistener = [{{ address = '127.0.0.1:8080' }}]\n[admin]\n{lines}\n"
        );
        let errors = place.read(&text).expect_err(lines);
        assert_eq!(errors.mistakes[0].problem, problem);
        assert_eq!(errors.mistakes.len(), 1, "{errors}");
    }
}

#[test]
fn a_listener_has_as_many_certificates_as_are_listed_and_the_first_is_the_default() {
    let place = Place::new();
    let (certificate, key) = self_signed();
    place.write("rsa.pem", &certificate);
    place.write("rsa.key", &key);
    let read = |tls: &str| {
        place.read(&format!("directory.ldif = 'conf/contoso.ldif'\n[[listener]]\naddress = '127.0.0.1:0'\n{tls}"))
    };
    let edge = "certificate = 'state/demo/edge.pem'\nkey = 'state/demo/edge.key'\n";
    let rsa = "certificate = 'rsa.pem'\nkey = 'rsa.key'\n";
    for (tls, files) in [
        (format!("[listener.tls]\n{edge}"), &["state/demo/edge.pem"][..]),
        (format!("[listener.tls]\n{edge}[[listener.tls.certificates]]\n{rsa}"), &["state/demo/edge.pem", "rsa.pem"]),
        (
            format!("[[listener.tls.certificates]]\n{rsa}[[listener.tls.certificates]]\n{edge}"),
            &["rsa.pem", "state/demo/edge.pem"],
        ),
    ] {
        let config = read(&tls).unwrap();
        let certificates = config.listeners[0].tls.as_ref().unwrap().certificates.iter();
        let paths: Vec<_> = certificates.map(|files| files.certificate.clone()).collect();
        assert_eq!(paths, files.iter().map(|file| place.path(file)).collect::<Vec<_>>(), "{tls}");
    }

    let problems = |tls: &str| {
        let errors = read(tls).expect_err("a mistake");
        errors.mistakes.iter().map(|mistake| format!("{} | {}", mistake.place, mistake.problem)).collect::<Vec<_>>()
    };
    let others = "[[listener.tls.certificates]]\ncertificate = 'gone.pem'\n[[listener.tls.certificates]]\n\
                  certificate = 'rsa.pem'\nkey = 'state/demo/edge.key'\n";
    assert_eq!(
        problems(&format!("[listener.tls]\n{edge}{others}")),
        [
            "test.toml:7:1: listener[1].tls.certificates[1] | `key` is missing",
            "test.toml:8:15: listener[1].tls.certificates[1].certificate | there is no file gone.pem",
            "test.toml:11:7: listener[1].tls.certificates[2].key | the private key does not belong to the certificate",
        ]
        .map(|mistake| mistake.replace("gone.pem", &place.path("gone.pem").display().to_string()))
    );
}

#[test]
fn client_certificates_need_an_authority() {
    let place = Place::new();
    let read = |options: &str| {
        place.read(&format!(
            "directory.ldif = 'conf/contoso.ldif'\n[[listener]]\naddress = '127.0.0.1:0'\n[listener.tls]\n\
             certificate = 'state/demo/edge.pem'\nkey = 'state/demo/edge.key'\n{options}"
        ))
    };
    for (options, required) in [
        ("", None),
        ("client_ca = 'ca.pem'", Some(false)),
        ("client_ca = 'ca.pem'\nclient_certificate = 'optional'", Some(false)),
        ("client_ca = 'ca.pem'\nclient_certificate = 'required'", Some(true)),
    ] {
        let tls = read(options).unwrap().listeners.remove(0).tls.unwrap();
        assert_eq!(tls.clients.map(|clients| clients.required), required, "{options}");
    }
    for (options, problem) in [
        ("client_certificate = 'required'", "without client_ca no client certificate is believed"),
        ("client_ca = 'ca.pem'\nclient_certificate = 'maybe'", "`maybe` is not known"),
        ("client_ca = 'password'", "has no certificate"),
    ] {
        let errors = read(options).expect_err("a mistake");
        assert_eq!(errors.mistakes.len(), 1, "{errors}");
        assert!(errors.mistakes[0].problem.contains(problem), "{errors}");
    }
}

#[test]
fn a_listener_with_tls_does_not_send_its_clients_to_https() {
    let place = Place::new();
    let text = "directory.ldif = 'conf/contoso.ldif'\n[[listener]]\naddress = '127.0.0.1:0'\nredirect_to_https = \
                'https://mail.contoso.com'\ntls = { certificate = 'state/demo/edge.pem', key = 'state/demo/edge.key' }";
    let errors = place.read(text).expect_err("a mistake");
    assert_eq!(errors.mistakes[0].problem, "a listener with TLS has no reason to send its clients to https");
}

#[test]
fn a_listener_for_balancers_says_who_they_are() {
    let place = Place::new();
    let listener = |keys: &str| {
        format!("directory.ldif = 'conf/contoso.ldif'\nlistener = [{{ address = '127.0.0.1:0', {keys} }}]\n")
    };
    let good =
        place.read(&listener("proxy_protocol = true, trusted_proxies = ['10.0.0.0/8', '::1', '::ffff:192.0.2.1']"));
    let good = good.unwrap().listeners.remove(0);
    for (peer, is_trusted) in [
        ("10.1.2.3", true),
        ("11.1.2.3", false),
        ("::1", true),
        ("::2", false),
        ("192.0.2.1", true),
        ("192.0.2.2", false),
    ] {
        assert_eq!(good.trusts(peer.parse().unwrap()), is_trusted, "{peer}");
    }
    for (keys, problem) in [
        ("proxy_protocol = true", "anybody could say that he is somebody else"),
        ("trusted_proxies = ['10.0.0.0/33']", "`10.0.0.0/33` is not an IP address or network"),
        ("trusted_proxies = ['balancer']", "`balancer` is not an IP address or network"),
        ("trusted_proxies = ['0.0.0.0/0']", "everybody would be trusted"),
    ] {
        let mistakes = place.read(&listener(keys)).unwrap_err().to_string();
        assert!(mistakes.contains(problem), "{keys}: {mistakes}");
    }
}

#[test]
fn a_bind_password_is_taken_from_a_file_or_the_environment_and_never_from_the_configuration() {
    let place = Place::new();
    let ldap = |line: &str| {
        place.read(&format!(
            "listener = [{{ address = '127.0.0.1:0' }}]\n[directory.ldap]\nurls = ['ldaps://dc1']\nbind_dn = 'a'\n{line}"
        ))
    };
    let password = |line: &str| match ldap(line).unwrap().directory {
        Directory::Ldap { forest, .. } => match forest.account {
            ldap::Account::Password { password, .. } => password,
            other @ (ldap::Account::Anonymous | ldap::Account::Keytab(_)) => panic!("a password, not {other:?}"),
        },
        Directory::Ldif(_) => panic!("LDAP servers"),
    };
    assert_eq!(password("bind_password_file = 'password'").expose(), b"Pass-word1");
    assert_eq!(password("bind_password_env = 'BIND'").expose(), b"from the environment");

    let errors = ldap("bind_password = 'Pass-word1'").expect_err("a mistake");
    assert_eq!(errors.mistakes[0].problem, "a password does not belong into the configuration file");
    assert!(!format!("{errors} {errors:?}").contains("Pass-word1"));
    let errors = ldap("bind_password = 'Pass-word1").expect_err("broken TOML");
    assert!(!format!("{errors} {errors:?}").contains("Pass-word1"));
    assert!(ldap("").is_err());
    assert!(ldap("bind_password_env = 'UNSET'").is_err());
    assert!(ldap("bind_password_env = 'BIND'\nbind_password_file = 'password'").is_err());
}

#[test]
fn passwords_do_not_travel_to_domain_controllers_in_clear() {
    let place = Place::new();
    let ldap = |lines: &str| {
        place.read(&format!(
            "listener = [{{ address = '127.0.0.1:0' }}]\n[directory.ldap]\nbind_dn = 'a'\nbind_password_env = 'BIND'\n{lines}"
        ))
    };
    assert!(ldap("urls = ['ldap://dc1']").is_err());
    assert!(ldap("urls = ['ldap://dc1']\nstart_tls = true").is_ok());
    assert!(ldap("urls = ['ldap://dc1']\nallow_plain = true").is_ok());
    assert!(ldap("urls = ['ldap://127.0.0.1:3890', 'ldaps://dc1']").is_ok());
    assert!(ldap("urls = ['ldaps://dc1']\nstart_tls = true").is_err());
    assert!(ldap("urls = []").is_err());
    assert!(ldap("").is_err());
}

#[test]
fn the_edge_signs_in_for_users_only_if_it_is_told_to() {
    let place = Place::new();
    assert_eq!(place.with("").unwrap().sign_in, None);
    let by_default = SignIn {
        by: vec![SignInBy::Password],
        keytab: None,
        account: None,
        pass_basic_on: false,
        timeout: Duration::from_secs(10),
        users_max: 20_000,
    };
    assert_eq!(place.with("[sign_in]").unwrap().sign_in, Some(by_default.clone()));
    let explicit = uncommented();
    let explicit = explicit.split("\n[sign_in]\n").nth(1).expect("the table").split("\n[").next().unwrap();
    let explicit: Vec<_> =
        explicit.lines().filter(|line| !line.starts_with("keytab =") && !line.starts_with("account =")).collect();
    assert_eq!(place.with(&format!("[sign_in]\n{}", explicit.join("\n"))).unwrap().sign_in, Some(by_default));
}

#[test]
fn the_edges_own_account_is_the_first_of_its_keytab_that_is_no_service() {
    let place = Place::new();
    let account = |lines: &str| {
        let sign_in =
            place.with(&format!("[sign_in]\nby = ['delegation', 'password']\n{lines}")).unwrap().sign_in.unwrap();
        assert_eq!(sign_in.by, [SignInBy::Delegation, SignInBy::Password]);
        sign_in.account.unwrap()
    };
    assert_eq!(account("keytab = 'firstcas.keytab'"), "firstcas@CONTOSO.COM");
    assert_eq!(account("keytab = 'firstcas.keytab'\naccount = 'another@CONTOSO.COM'"), "another@CONTOSO.COM");
    assert_eq!(account("keytab = 'http.keytab'"), "HTTP/mail.contoso.com@CONTOSO.COM", "there is no other");
}

#[test]
fn a_mistake_in_how_users_are_signed_in_is_told_with_its_cure() {
    let place = Place::new();
    fs::write(place.path("another.keytab"), keytab_of(&[&["firstcas"]])).unwrap();
    let ldap = "listener = [{ address = '127.0.0.1:0' }]\n[directory.ldap]\nurls = ['ldaps://dc1']\n";
    let by_keytab = format!("{ldap}bind_keytab = 'firstcas.keytab'\n");
    let of_accounts = format!(
        "{ldap}bind_dn = 'CN=firstcas'\nbind_password_file = 'password'\n[[directory.account_forest]]\n\
         urls = ['ldaps://dc1']\nbind_keytab = 'firstcas.keytab'\n"
    );
    let file = "listener = [{ address = '127.0.0.1:0' }]\ndirectory.ldif = 'conf/contoso.ldif'\n".to_owned();
    for (rest, lines, told) in [
        (&file, "by = ['ntlm']", "by[1]: `ntlm` is not known; write \"password\" or \"delegation\""),
        (&file, "by = []", "by: nobody could be signed in; write by = [\"password\"], or remove [sign_in]"),
        (
            &file,
            "by = ['password', 'delegation']",
            "by: delegation needs the edge's own account; add keytab, the file with the keys of the edge's own account, or \
             take \"delegation\" out of by",
        ),
        (
            &file,
            "by = ['delegation']\nkeytab = 'password'",
            "keytab: PLACE/password: not a keytab of MIT Kerberos, version 2, which would begin with the bytes 05 02; export \
             it again, as a binary file",
        ),
        (
            &file,
            "by = ['delegation']\nkeytab = 'gone.keytab'",
            "keytab: there is no file PLACE/gone.keytab; create it or correct the path (a relative one starts where \
             firstcas is started)",
        ),
        (
            &file,
            "keytab = 'firstcas.keytab'\naccount = 'edge@CONTOSO.COM'",
            "account: PLACE/firstcas.keytab has no key of edge@CONTOSO.COM; write it as `klist -kt` shows it, or remove the \
             line",
        ),
        (
            &file,
            "account = 'firstcas@CONTOSO.COM'",
            "account: the account needs a keytab; add keytab, the file with its keys, or remove this line",
        ),
        (&file, "users_max = 0", "users_max: 0 is out of range; write a whole number from 1 to 1000000"),
        (
            &by_keytab,
            "keytab = 'another.keytab'",
            "keytab: only one keytab can be used, and the directory's bind_keytab is PLACE/firstcas.keytab; name the same \
             file in both places",
        ),
        (
            &of_accounts,
            "keytab = 'another.keytab'",
            "keytab: only one keytab can be used, and the directory's bind_keytab is PLACE/firstcas.keytab; name the same \
             file in both places",
        ),
    ] {
        let errors = place.read(&format!("{rest}[sign_in]\n{lines}\n")).expect_err(lines).to_string();
        let (_, mistake) = errors.split_once("sign_in.").expect(&errors);
        assert_eq!(mistake.replace(&place.0.path().display().to_string(), "PLACE").trim_end(), told);
    }
    let same = place.read(&format!("{by_keytab}[sign_in]\nkeytab = 'firstcas.keytab'\n")).unwrap();
    assert_eq!(same.client_keytab(), Some(&*place.path("firstcas.keytab")));
}

#[test]
fn a_sign_in_by_kerberos_needs_tls_and_one_keytab_for_all_forests() {
    let place = Place::new();
    std::fs::write(place.path("another.keytab"), "").unwrap();
    let problems = |lines: &str| {
        let text = format!(
            "listener = [{{ address = '127.0.0.1:0' }}]\n[directory.ldap]\nbind_keytab = 'http.keytab'\n{lines}"
        );
        let mistakes = place.read(&text).map_or_else(|errors| errors.mistakes, |_| vec![]);
        mistakes
            .into_iter()
            .map(|mistake| mistake.problem)
            .filter(|it| !it.contains("built without"))
            .collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    let without_tls = ["a sign-in by Kerberos needs TLS"];
    assert_eq!(problems("urls = ['ldaps://dc1']"), none);
    assert_eq!(problems("urls = ['ldap://dc1']\nstart_tls = true"), none);
    assert_eq!(problems("urls = ['ldaps://dc1', 'ldap://dc2']\nallow_plain = true"), without_tls);
    assert_eq!(problems("urls = ['ldap://127.0.0.1:389']"), without_tls);
    assert_eq!(problems("domain = 'contoso.com'\nca = 'ca.pem'"), none);
    assert_eq!(problems("domain = 'contoso.com'\nca = 'ca.pem'\nstart_tls = true"), none);
    let without_ca = ["servers that DNS names are told from impostors by nothing but their certificates"];
    assert_eq!(problems("domain = 'contoso.com'"), without_ca);
    assert_eq!(problems("domain = 'contoso.com'\nstart_tls = true"), without_ca);
    assert_eq!(problems("domain = 'contoso.com'\nallow_plain = true"), without_tls);

    let forests = |keytab: &str| {
        problems(&format!(
            "urls = ['ldaps://dc1']\n[[directory.account_forest]]\nurls = ['ldaps://dc1']\nbind_keytab = '{keytab}'"
        ))
    };
    assert_eq!(forests("http.keytab"), none);
    let two = forests("another.keytab");
    assert!(two.len() == 1 && two[0].starts_with("only one keytab can be used"), "{two:?}");
}

#[test]
fn a_host_with_dots_and_no_quotes_is_explained() {
    assert_eq!(
        Place::new().mistakes("[resolve]\ncas-1.contoso.com = '10.1.0.11'"),
        ["test.toml:4:1: resolve.\"cas-1\" | the dots of a bare name make tables of it"]
    );
}

#[test]
fn values_that_cannot_be_meant_are_refused() {
    let place = Place::new();
    for line in [
        "process.threads = 0",
        "process.threads = 1000000",
        "cache.entries_max = 0",
        "cache.found_lifetime = '0s'",
        "timeouts.activesync = '1ms'",
        "timeouts.rpc = '400d'",
        "limits.header = '1 KiB'",
        "limits.owa_body = 0",
        "upstream.connect_timeout = '1h'",
        "upstream.total_connect_timeout = '1s'",
        "upstream.insecure = 'yes'",
        "upstream.fingerprints = []",
        "upstream.fingerprints = ['12']",
        "upstream = { insecure = true, ca = 'ca.pem' }",
        "health.interval = '500ms'",
        "health.interval = '2h'",
        "health.timeout = '0s'",
        "health.fall = 0",
        "health.rise = 0",
        "health.slow_start = '2h'",
        "health.checks_max = 0",
        "routing.open_paths = ['/owa']",
        "routing.open_paths = ['/a/b']",
        "routing.open_paths = ['..']",
        "routing.open_paths = '/PowerShell'",
        "routing.activesync_redirect_from = 12.1",
        "routing.activesync_redirect_from = 'twelve'",
        "routing.local_site = ''",
        "resolve.\"a:0\" = '10.0.0.1:1'",
        "resolve.\"a b\" = '10.0.0.1'",
        "resolve.\"a:80\" = 'b:80'",
        "resolve = { a = '10.0.0.1', A = '10.0.0.2' }",
        "sites = { Porto = {}, porto = {} }",
        "sites.Porto = true",
        "log.format = 'xml'",
        "log.filter = 'inof'",
        "log.filter = 'info,firstcas=loud'",
        "log = []",
    ] {
        let mistakes = place.mistakes(line);
        assert_eq!(mistakes.len(), 1, "{line}: {mistakes:?}");
        assert!(mistakes[0].starts_with("test.toml:3:"), "{line}: {mistakes:?}");
    }
}

#[test]
fn a_site_takes_from_upstream_what_it_does_not_say_itself() {
    let place = Place::new();
    let config = place
        .with("upstream = { ca = 'ca.pem', allow_tls_1_0 = true }\nsites.A.insecure = true\nsites.B = {}")
        .unwrap();
    assert_eq!(config.sites["a"], UpstreamTls { trust: Trust::Anything, allow_tls_1_0: true });
    assert_eq!(config.sites["b"], config.upstream.tls);
}

proptest! {
    #[test]
    fn no_bytes_make_loading_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let place = TempDir::new().unwrap();
        let path = place.path().join("f.toml");
        fs::write(&path, bytes).unwrap();
        prop_assert!(Config::load(&path).is_err());
    }

    #[test]
    fn no_edit_of_the_sample_makes_reading_panic(at in 0_usize..30_000, cut in 0_usize..40, insert in "[\\[\\]{}=\"'#.,a-z0-9 \n]{0,6}") {
        let surroundings = Surroundings { working_directory: "/nonexistent".into(), variable: |_| None };
        let mut text: Vec<char> = uncommented().chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, insert.chars());
        let _ = read(Path::new("f.toml"), &text.into_iter().collect::<String>(), &surroundings);
    }
}
