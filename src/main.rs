//! The command line of firstcas. No logic: arguments in, one call into the library, its exit status out.

#![allow(clippy::doc_markdown)] // these doc comments are the help text, which has no use for backticks

use std::{path::PathBuf, process::ExitCode};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use firstcas::{command_line, explain::QuestionParts, routing::protocol::Protocol};

/// Measured beside glibc's: less CPU per request, and less memory per held one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Run { file, test: false }) => command_line::run(&file.config),
        Some(Command::Run { file, test: true }) => command_line::check(&file.config, false),
        Some(Command::Check { file, directory }) => command_line::check(&file.config, directory),
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
    /// SIGTERM stops accepting clients and lets requests in flight finish, for as long as process.drain_timeout allows.
    /// SIGHUP brings the configuration in force anew, with its certificates and the directory's topology; if anything is
    /// wrong with it, nothing changes, and the log says why. A start while the directory is away takes the topology
    /// that was kept in process.state_dir.
    #[command(verbatim_doc_comment, after_help = "Example:\n  firstcas run -c conf/firstcas.toml")]
    Run {
        #[command(flatten)]
        file: File,
        /// Check the configuration and exit, as `check` does.
        #[arg(short, long)]
        test: bool,
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
    /// sees. Exit status: 0 if the request is served, 1 if it is refused.
    #[command(after_help = EXPLAIN_EXAMPLES, verbatim_doc_comment)]
    Explain(Question),
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
    /// The URL asked for, whole or from its path on; it may name another mailbox.
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

const EXAMPLES: &str = "\
Examples:
  firstcas check -c conf/firstcas.toml       report every mistake of a configuration
  firstcas -t -c conf/firstcas.toml          the same
  firstcas check --directory -c conf/firstcas.toml
                                             report what in the directory would break a user, too
  firstcas run -c conf/firstcas.toml         serve
  firstcas explain -c conf/firstcas.toml --user bruno --protocol owa

Exit status: 0 good, 1 mistakes or a refusal, 2 wrong usage.";

const CHECK_EXAMPLES: &str = "\
Examples:
  firstcas check -c conf/firstcas.toml
  firstcas check --directory -c conf/firstcas.toml";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  firstcas explain -c conf/firstcas.toml --user 'CONTOSO\\bruno' --protocol owa
  firstcas explain -c conf/firstcas.toml --user carla@contoso.com --protocol activesync --eas-version 12.1
  firstcas explain -c conf/firstcas.toml --user ana --url /owa/bruno@contoso.com/";
