//! The metrics, in the text that Prometheus reads. Everything that is counted elsewhere is read here, when it is asked for.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use super::{certificates::Certificate, process::Process, status};
use crate::{
    directory::ServerState,
    edge::{door::Places, health::DirectoryReport, in_force::InForce, may_be_held},
    events,
    metrics::Histogram,
};

/// The content type and the text, in the form that is accepted: OpenMetrics where it is asked for, else Prometheus' own.
pub(super) fn text(
    in_force: &Arc<InForce>,
    clients: &Arc<Places>,
    certificates: Vec<Certificate>,
    accept: &str,
) -> (&'static str, String) {
    let mut text = String::with_capacity(64 * 1024);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers {
        in_force: in_force.clone(),
        clients: clients.clone(),
        certificates,
    }));
    if let Err(error) = encode(&mut text, &registry) {
        log::warn!("the metrics could not be written: {error}"); // a String takes everything
    }
    if accept.contains("application/openmetrics-text") {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", classic(&text))
    }
}

/// Everything there is a number for.
struct Numbers {
    in_force: Arc<InForce>,
    clients: Arc<Places>,
    certificates: Vec<Certificate>,
}

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        self.requests(&mut sheet)?;
        self.connections(&mut sheet)?;
        self.mail(&mut sheet)?;
        self.sign_ins(&mut sheet)?;
        self.cache(&mut sheet)?;
        self.directory(&mut sheet)?;
        self.servers(&mut sheet)?;
        self.configuration(&mut sheet)?;
        process(&mut sheet)
    }
}

impl Numbers {
    fn requests(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let metrics = &self.in_force.shared.metrics;
        let mut requests = Vec::new();
        metrics.each_request(|site, protocol, outcome, class, count| {
            let labels: [(_, Cow<'static, str>); 4] = [
                ("protocol", protocol.into()),
                ("site", site.to_owned().into()),
                ("decision", outcome.name().into()),
                ("status_class", class.into()),
            ];
            requests.push((labels, count));
        });
        requests.sort_unstable();
        sheet.counter("firstcas_requests", "Requests that have ended, by what became of them", requests)?;
        sheet.histogram(
            "firstcas_request_duration_seconds",
            "How long requests took, those that are held on purpose included",
            metrics.durations(),
        )?;
        sheet.histogram(
            "firstcas_time_to_first_byte_seconds",
            "How long it took until a server's answer began",
            metrics.first_bytes(),
        )?;
        let in_flight = || metrics.in_flight();
        let by_protocol = in_flight().map(|(protocol, count)| ([("protocol", protocol.name())], count));
        sheet.gauge("firstcas_requests_in_flight", "Requests under way", by_protocol)?;
        let held = in_flight().filter(|(protocol, _)| may_be_held(*protocol)).map(|(_, count)| count).sum::<u64>();
        sheet.gauge(
            "firstcas_held_requests",
            "Requests under way of the protocols whose servers hold them on purpose: ActiveSync, EWS, Outlook Anywhere, MAPI",
            alone(held),
        )
    }

    fn connections(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let (clients, clients_max) = self.clients.taken();
        sheet.gauge("firstcas_client_connections", "Open client connections", alone(clients))?;
        sheet.gauge("firstcas_client_connections_max", "As many as there may be", alone(clients_max))?;
        let (new, reused) = self.in_force.shared.metrics.upstream_connections();
        sheet.counter(
            "firstcas_upstream_connections",
            "Connections to servers that requests were passed on over, new ones and ones that were there already",
            [([("reused", "false")], new), ([("reused", "true")], reused)],
        )?;
        let (pinned, pinned_max) = self.in_force.shared.pinned();
        sheet.gauge(
            "firstcas_pinned_connections",
            "Client connections with server connections of their own, for Windows authentication",
            alone(pinned),
        )?;
        sheet.gauge("firstcas_pinned_connections_max", "As many as there may be", alone(pinned_max))
    }

    fn mail(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let mail = &self.in_force.shared.metrics.mail;
        let mut logons = Vec::new();
        mail.each_logon(|protocol, site, outcome, logon, count| {
            let labels: [(_, Cow<'static, str>); 4] = [
                ("protocol", protocol.into()),
                ("site", site.to_owned().into()),
                ("decision", outcome.name().into()),
                ("outcome", logon.name().into()),
            ];
            logons.push((labels, count));
        });
        logons.sort_unstable();
        sheet.counter("firstcas_mail_logons", "Logons over POP3 and IMAP4, by what came of them", logons)?;
        sheet.histogram(
            "firstcas_mail_logon_duration_seconds",
            "How long logons over POP3 and IMAP4 took that ended at a server",
            mail.durations(),
        )?;
        let sessions = mail.sessions();
        let sessions =
            sessions.map(|(protocol, state, count)| ([("protocol", protocol.name()), ("state", state.name())], count));
        sheet.gauge("firstcas_mail_sessions", "Sessions of POP3 and IMAP4: before the logon, and open", sessions)?;
        let begun = mail.begun().map(|(protocol, count)| ([("protocol", protocol.name())], count));
        sheet.counter("firstcas_mail_sessions_begun", "Sessions of POP3 and IMAP4 that have begun", begun)?;
        let passed = mail.passed();
        let passed = passed.map(|(protocol, way, bytes)| ([("protocol", protocol.name()), ("way", way.name())], bytes));
        sheet.counter("firstcas_mail_bytes", "Bytes passed on in sessions of POP3 and IMAP4 that have ended", passed)
    }

    fn sign_ins(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let shared = &self.in_force.shared;
        let counts = shared.metrics.sign_ins();
        let counts = counts.map(|(by, outcome, count)| ([("way", by.name()), ("outcome", outcome.name())], count));
        sheet.counter(
            "firstcas_sign_ins",
            "Users whose Kerberos tickets were asked for, to sign in for them",
            counts,
        )?;
        sheet.gauge(
            "firstcas_sign_in_users",
            "Users whose tickets are kept, or why they get none",
            alone(shared.signed_in_users()),
        )
    }

    fn cache(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let directory = &self.in_force.directory;
        let counters = directory.counters();
        let mut counter = |name, help, counter: &std::sync::atomic::AtomicU64| {
            sheet.counter(name, help, alone(counter.load(Relaxed)))
        };
        counter("firstcas_cache_hits", "Names answered from what is remembered of the directory", &counters.hits)?;
        counter("firstcas_cache_misses", "Names that had to wait for the directory", &counters.misses)?;
        counter(
            "firstcas_cache_stale_answers",
            "Names answered by what was known before, because the directory gave no answer",
            &counters.stale_answers,
        )?;
        counter("firstcas_cache_searches", "Names that the directory was asked for", &counters.searches)?;
        counter("firstcas_cache_refreshes", "Those of them that nobody waited for", &counters.refreshes)?;
        counter("firstcas_mailbox_moves", "Mailboxes that moved while they were known", &counters.moves)?;
        counter("firstcas_directory_binds", "Passwords that the directory was asked about", &counters.binds)?;
        counter(
            "firstcas_passwords_not_asked",
            "Passwords that it was not asked about, because too many of the person's had been wrong",
            &counters.passwords_not_asked,
        )?;
        sheet.gauge("firstcas_cache_entries", "Names that are remembered", alone(directory.entries()))
    }

    fn directory(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let is_up = self.in_force.shared.is_directory_up();
        sheet.gauge("firstcas_directory_up", "Whether the directory answers", alone(u32::from(is_up)))?;
        // One that is asked for by two names of its kind would be there twice, which Prometheus refuses whole.
        let states = self.in_force.directory.behind().servers();
        let states: BTreeMap<_, _> =
            states.iter().map(|state| ((state.url.as_str(), state.asked_for), state)).collect();
        let labels = |state: &ServerState| [("server", state.url.clone()), ("asked_for", state.asked_for.to_owned())];
        let states = || states.values().map(|state| (labels(state), *state));
        let up = states().map(|(labels, state)| (labels, u32::from(state.is_up)));
        sheet.gauge("firstcas_ldap_server_up", "Whether a directory server answers", up)?;
        let searches = states().map(|(labels, state)| (labels, state.searches));
        sheet.counter("firstcas_ldap_searches", "Searches that a directory server was asked to make", searches)?;
        let failures = states().map(|(labels, state)| (labels, state.failures));
        sheet.counter("firstcas_ldap_search_failures", "Those that it gave no result of", failures)?;
        let seconds = states().map(|(labels, state)| (labels, state.duration.as_secs_f64()));
        sheet.counter("firstcas_ldap_search_seconds", "How long it took for all of them together", seconds)
    }

    fn servers(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let servers = status::servers(&self.in_force);
        let by_name: BTreeMap<_, _> = servers.iter().map(|server| (server.name.as_str(), server)).collect();
        let by_name = || by_name.values().map(|server| ([("server", &*server.name), ("site", &*server.site)], *server));
        let up = by_name().map(|(labels, server)| (labels, u32::from(server.is_up)));
        sheet.gauge("firstcas_server_up", "Whether a server that takes clients' requests answers", up)?;
        let in_flight = by_name().map(|(labels, server)| (labels, server.in_flight));
        sheet.gauge(
            "firstcas_server_requests_in_flight",
            "Requests, and sessions of POP3 and IMAP4, that a server has now",
            in_flight,
        )?;
        let requests = by_name().map(|(labels, server)| (labels, server.requests));
        sheet.counter(
            "firstcas_server_requests",
            "Requests, and sessions of POP3 and IMAP4, that a server was given",
            requests,
        )?;
        let directories = by_name().flat_map(|([name, site], server)| {
            let sample = move |it: &DirectoryReport| ([name, site, ("protocol", it.protocol)], u32::from(it.alive));
            server.virtual_directories.iter().map(sample)
        });
        sheet.gauge("firstcas_virtual_directory_up", "Whether a virtual directory gets requests", directories)?;
        let mut ends = BTreeMap::new();
        for it in &self.certificates {
            let labels = [("listener", &*it.listener), ("name", &it.name), ("key", it.key), ("role", it.role)];
            let first: &mut f64 = ends.entry(labels).or_insert(it.ends);
            *first = first.min(it.ends);
        }
        sheet.gauge("firstcas_certificate_expiry_timestamp_seconds", "When a listener's certificate ends", ends)
    }

    fn configuration(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let in_force = &self.in_force;
        let last = in_force.shared.last_reload.lock().clone();
        let at = last.as_ref().map_or(in_force.since, |last| last.at);
        let is_good = last.is_none_or(|last| last.problem.is_none());
        sheet.gauge("firstcas_config_version", "Which configuration is in force", alone(in_force.version))?;
        sheet.gauge(
            "firstcas_config_last_reload_timestamp_seconds",
            "When it was last tried to bring a configuration into force",
            alone(unix(at)),
        )?;
        sheet.gauge(
            "firstcas_config_last_reload_successful",
            "Whether that succeeded; if not, the one before is in force",
            alone(u32::from(is_good)),
        )?;
        let counts = events::counts().map(|(event, count)| ([("event", event.id())], count));
        sheet.counter("firstcas_events", "Events by their id, as in the log", counts)?;
        sheet.gauge("firstcas_build_info", "Which firstcas it is", [([("version", VERSION)], 1_u32)])
    }
}

fn process(sheet: &mut Sheet<'_>) -> fmt::Result {
    let process = Process::now();
    sheet.gauge("process_open_fds", "Open file descriptors", alone(process.open_fds))?;
    sheet.gauge("process_max_fds", "As many as there may be", alone(process.max_fds))?;
    sheet.gauge("process_resident_memory_bytes", "Memory in use", alone(process.resident_bytes))?;
    sheet.counter("process_cpu_seconds", "Processor time, user and system", alone(process.cpu.as_secs_f64()))?;
    sheet.gauge("process_start_time_seconds", "When the process began", alone(process.started))
}

/// Where families are written, one after the other.
struct Sheet<'e>(DescriptorEncoder<'e>);

impl Sheet<'_> {
    fn counter<const N: usize, L: AsRef<str>, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, L); N], V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        each(&mut family, samples, |mut sample, value| sample.encode_counter::<NoLabelSet, V, u64>(&value, None))
    }

    fn gauge<const N: usize, L: AsRef<str>, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, L); N], V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        each(&mut family, samples, |mut sample, value| sample.encode_gauge(&value))
    }

    fn histogram<'h>(
        &mut self,
        name: &str,
        help: &str,
        by_protocol: impl Iterator<Item = (&'static str, &'h Histogram)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let samples = by_protocol.map(|(protocol, histogram)| ([("protocol", protocol)], histogram.read()));
        each(&mut family, samples, |mut sample, (sum, counts)| {
            let count = counts.iter().map(|(_, count)| count).sum();
            sample.encode_histogram::<NoLabelSet>(sum, count, &counts, None)
        })
    }
}

fn each<const N: usize, L: AsRef<str>, V>(
    family: &mut MetricEncoder<'_>,
    samples: impl IntoIterator<Item = ([(&'static str, L); N], V)>,
    write: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in samples {
        let labels = labels.map(|(name, text)| (name, escaped(text.as_ref())));
        write(family.encode_family(&labels)?, value)?;
    }
    Ok(())
}

/// A number that has no labels.
fn alone<V>(value: V) -> [([(&'static str, &'static str); 0], V); 1] {
    [([], value)]
}

/// A label's value as the format wants it; prometheus-client writes what it is given.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}

/// OpenMetrics text in Prometheus' own form, where a counter's family is called as its samples are.
fn classic(openmetrics: &str) -> String {
    let of_counter = |line: &str| Some(line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?.to_owned());
    let counters: HashSet<_> = openmetrics.lines().filter_map(of_counter).collect();
    let mut classic = String::with_capacity(openmetrics.len() + 32 * counters.len());
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        let about = line.strip_prefix("# ").and_then(|rest| {
            let (keyword, rest) = rest.split_once(' ')?;
            let (name, rest) = rest.split_once(' ')?;
            counters.contains(name).then_some((keyword, name, rest))
        });
        match about {
            Some((keyword, name, rest)) => classic.extend(["# ", keyword, " ", name, "_total ", rest, "\n"]),
            None => classic.extend([&line.replacen("{} ", " ", 1), "\n"]),
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_can_hold_whatever_the_directory_calls_a_site() {
        assert_eq!(escaped("C:\\ \"Porto\"\n"), r#"C:\\ \"Porto\"\n"#);
    }

    #[test]
    fn a_counters_family_is_called_as_its_samples_are() {
        let openmetrics = "# HELP a Of a\n# TYPE a counter\na_total 1\n# HELP b Of a\n# TYPE b gauge\nb 1\n# EOF\n";
        let expected = "# HELP a_total Of a\n# TYPE a_total counter\na_total 1\n# HELP b Of a\n# TYPE b gauge\nb 1\n";
        assert_eq!(classic(openmetrics), expected);
    }
}
