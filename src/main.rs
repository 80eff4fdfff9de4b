//! The command line of firstcas. No logic: arguments in, one call into the library, its exit status out.

#![allow(clippy::doc_markdown)] // these doc comments are the help text, which has no use for backticks

use std::{path::PathBuf, process::ExitCode};

use clap::{
    Args, CommandFactory, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use firstcas::{command_line, events::Event, explain::QuestionParts, routing::protocol::Protocol};

/// Measured beside glibc's: less CPU per request, and less memory per held one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Run { file, test: false, upgrade }) => command_line::run(&file.config, upgrade),
        Some(Command::Run { file, test: true, .. }) => command_line::check(&file.config, false),
        Some(Command::Check { file, directory }) => command_line::check(&file.config, directory),
        Some(Command::Events { event, json, markdown }) => command_line::events(event, json, markdown),
        Some(Command::Man { folder }) => command_line::man(Arguments::command(), folder.as_deref()),
        Some(Command::Completions { shell }) => command_line::completions(Arguments::command(), shell),
        Some(Command::Upgrade { file, binary }) => command_line::upgrade(&file.config, binary.as_deref()),
        Some(Command::Explain(question)) => command_line::explain(&question.file.config, question.parts()),
        None => command_line::check(&arguments.file.config, false),
    }
}

/// One door for an Exchange organisation whose mailboxes live in many Active Directory sites.
///
/// firstcas plays the First CAS of Exchange Server 2007: it finds out whose mailbox a request is for, asks the directory
/// where that mailbox lives, and serves it from there.
#[derive(Parser)]
#[command(version, verbatim_doc_comment, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Check the configuration and exit, as `check` does.
    #[arg(short, long, required = true)]
    test: bool,
    #[command(flatten)]
    file: File,
}

#[derive(Subcommand)]
enum Command {
    /// Serve clients until told to stop.
    ///
    /// SIGTERM stops accepting clients, ends sessions of mail that are quiet, and lets requests in flight and mail that is on
    /// its way finish, for as long as process.drain_timeout allows. SIGINT stops at once. SIGHUP brings the configuration into force anew, with its certificates and the directory's
    /// topology; if anything is wrong with it, nothing changes, and the log says why. SIGQUIT hands over to a process that
    /// waits to take this one's place (see `firstcas upgrade`); if none does, it changes nothing. A start while the directory
    /// is away takes the topology that was kept in process.state_dir.
    #[command(verbatim_doc_comment, after_help = "Example:\n  firstcas run -c conf/firstcas.toml")]
    Run {
        #[command(flatten)]
        file: File,
        /// Check the configuration and exit, as `check` does.
        #[arg(short, long)]
        test: bool,
        /// Take the place of the process that runs: wait for it at process.upgrade_socket, where it comes on SIGQUIT.
        #[arg(long, conflicts_with = "test")]
        upgrade: bool,
    },
    /// Replace the running process by a new one, without losing a connection or a request.
    ///
    /// Checks the configuration, has the running process (process.pid_file) start the new program, and hand its listening
    /// sockets over to it (process.upgrade_socket) once that is ready to serve. The old process then serves the clients
    /// that it has: each is let go with its next answer, and held requests may last for process.upgrade_drain_timeout. If
    /// anything goes wrong, the running process goes on as if nothing had happened. Exit status: 0 if a new process
    /// serves, 1 if not.
    #[command(verbatim_doc_comment, after_help = UPGRADE_EXAMPLES)]
    Upgrade {
        #[command(flatten)]
        file: File,
        /// The new program, whose name must begin with firstcas. Default: the one that this command is of.
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Report every mistake of a configuration, with its place and cure.
    ///
    /// Reads all files that the configuration names. With --directory it also reads the whole directory, and reports its
    /// sites and servers, what happens to the mailboxes of each, and everything that would break a user. Exit status: 0 if
    /// the configuration is good and the directory could be read, 1 if not.
    #[command(verbatim_doc_comment, after_help = CHECK_EXAMPLES)]
    Check {
        #[command(flatten)]
        file: File,
        /// Read the whole directory too, and report everything in it that would break a user.
        #[arg(long)]
        directory: bool,
    },
    /// Print how a request would be decided, step by step.
    ///
    /// Asks the directory of the configuration, as the edge would: who the user is, where the mailbox lives, which
    /// servers were considered and why each was kept or dropped, what is decided by which rule, and what the client
    /// sees. Of POP3 and IMAP4 it is a logon that is decided, and one that has to be made at another server is refused.
    /// Exit status: 0 if the request is served, 1 if it is refused.
    #[command(after_help = EXPLAIN_EXAMPLES, verbatim_doc_comment)]
    Explain(Question),
    /// List the events that an administrator should know of: what they mean, and their cure.
    ///
    /// An event has an id that stays the same from version to version; where Exchange has an event for the same thing, it
    /// is Exchange's number (OWA41 is event 41 of source MSExchange OWA). With an id, that event alone and how to find it.
    #[command(after_help = EVENTS_EXAMPLES, verbatim_doc_comment)]
    Events {
        /// The event's id, such as FC121.
        #[arg(value_name = "ID", value_parser = event_parser(), ignore_case = true, hide_possible_values = true)]
        event: Option<Event>,
        /// As JSON: a list of events, also of one.
        #[arg(long)]
        json: bool,
        /// As a table in Markdown, always of all.
        #[arg(long, conflicts_with_all = ["json", "event"])]
        markdown: bool,
    },
    /// Write the manual pages, section 8.
    ///
    /// To standard output the page of firstcas itself; into a folder also one for each command.
    #[command(after_help = MAN_EXAMPLES, verbatim_doc_comment)]
    Man {
        /// The folder, which must be there.
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
    /// Write what a shell needs to complete the command line.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell to write it for.
        shell: Shell,
    },
}

#[derive(Args)]
struct File {
    /// The configuration, in TOML. Relative paths in it start at the current directory.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/firstcas/firstcas.toml")]
    config: PathBuf,
}

#[derive(Args)]
struct Question {
    #[command(flatten)]
    file: File,
    /// Who is signed in: DOMAIN\user, UPN, SMTP address, sAMAccountName or alias.
    #[arg(short, long)]
    user: String,
    /// What the client speaks; may be left out where --url tells it.
    #[arg(short, long, value_parser = protocol_parser(), required_unless_present = "url")]
    protocol: Option<Protocol>,
    /// The URL asked for, whole or from its path on; it may name another mailbox. POP3 and IMAP4 have none.
    #[arg(long)]
    url: Option<String>,
    /// The ActiveSync protocol version of the device, such as 12.1.
    #[arg(long, value_name = "VERSION")]
    eas_version: Option<String>,
}

impl Question {
    fn parts(&self) -> QuestionParts<'_> {
        QuestionParts {
            user: &self.user,
            protocol: self.protocol,
            url: self.url.as_deref(),
            eas_version: self.eas_version.as_deref(),
        }
    }
}

fn protocol_parser() -> impl TypedValueParser<Value = Protocol> {
    let names = Protocol::ALL.iter().map(|protocol| protocol.name()).chain(["availability"]);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Protocol>())
}

fn event_parser() -> impl TypedValueParser<Value = Event> {
    let named = |id: String| Event::ALL.iter().copied().find(|event| event.id().eq_ignore_ascii_case(&id));
    PossibleValuesParser::new(Event::ALL.iter().map(|event| event.id()))
        .try_map(move |id| named(id).ok_or("there is no such event"))
}

const EXAMPLES: &str = "\
Examples:
  firstcas check -c conf/firstcas.toml       report every mistake of a configuration
  firstcas -t -c conf/firstcas.toml          the same
  firstcas check --directory -c conf/firstcas.toml
                                             report what in the directory would break a user, too
  firstcas run -c conf/firstcas.toml         serve
  firstcas upgrade -c conf/firstcas.toml     a new process takes the running one's place
  firstcas explain -c conf/firstcas.toml --user bruno --protocol owa
                                             print how a request would be decided
  firstcas events FC121                      what an event means, and what to do

Exit status: 0 good, 1 mistakes or a refusal, 2 wrong usage.";

const CHECK_EXAMPLES: &str = "\
Examples:
  firstcas check -c conf/firstcas.toml
  firstcas check --directory -c conf/firstcas.toml";

const UPGRADE_EXAMPLES: &str = "\
Examples:
  firstcas upgrade -c /etc/firstcas/firstcas.toml
  firstcas upgrade -c /etc/firstcas/firstcas.toml --binary /opt/firstcas-1.1/bin/firstcas";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  firstcas explain -c conf/firstcas.toml --user 'CONTOSO\\bruno' --protocol owa
  firstcas explain -c conf/firstcas.toml --user carla@contoso.com --protocol activesync --eas-version 12.1
  firstcas explain -c conf/firstcas.toml --user ana --url /owa/bruno@contoso.com/
  firstcas explain -c conf/firstcas.toml --user duarte --protocol imap4";

const MAN_EXAMPLES: &str = "\
Examples:
  firstcas man | man -l -
  firstcas man /usr/local/share/man/man8";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(firstcas completions bash)        for this shell alone
  firstcas completions bash > /usr/share/bash-completion/completions/firstcas
  firstcas completions zsh > /usr/share/zsh/vendor-completions/_firstcas
  firstcas completions fish > /usr/share/fish/vendor_completions.d/firstcas.fish";

const EVENTS_EXAMPLES: &str = "\
Examples:
  firstcas events
  firstcas events FC121
  firstcas events --json | jq -r '.[] | select(.severity == \"error\") | .id'";
