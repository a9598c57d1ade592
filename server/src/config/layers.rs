//! Where settings come from: the command line, the environment, the configuration file.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, error::ErrorKind, value_parser};
use clap_complete::{Shell, generate};
use toml::de::{DeTable, DeValue};

use super::{
    Problem,
    settings::{self, CONFIG_FILE, Kind, SETTINGS},
};

/// Looks a variable of the environment up. Tests pass a map.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The environment of this process.
#[expect(clippy::disallowed_methods, reason = "this is where the environment enters")]
pub fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Flag(&'static str),
    Variable(String),
    Key { file: PathBuf, line: usize, key: String },
    Default(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Variable(name) => f.write_str(name),
            Self::Key { file, line, key } => write!(f, "{}:{line}: {key}", file.display()),
            Self::Default(name) => write!(f, "default of {name}"),
        }
    }
}

/// The values one setting was given in one place.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) source: Source,
    pub(super) values: Vec<String>,
}

/// The flag that asks for completions instead of a daemon.
const COMPLETIONS: &str = "completions";

/// What the layers together say: for each setting, the values of the uppermost layer that gives any.
pub(super) type Layers = BTreeMap<&'static str, Given>;

/// What the command line asks for instead of running.
#[derive(Debug)]
pub(super) enum Request {
    /// Go on with these settings.
    Run(Layers),
    /// Replace the master key with the one that is in this file, or in this variable.
    RotateMasterKey(Layers, [Option<Given>; 2]),
    /// Make a backup in this folder, with the master key or without.
    Backup(Layers, PathBuf, bool),
    /// Make a data directory of the backup in this folder.
    Restore(Layers, PathBuf),
    /// Look through the data directory, or what is in this folder.
    Check(Layers, Option<PathBuf>),
    /// Print this and end well: help, version or completions.
    Print(String),
}

/// Reads all layers. Problems are added to `problems`, and whatever can be read nevertheless is returned.
pub(super) fn read(
    args: impl IntoIterator<Item = OsString>,
    environment: Environment<'_>,
    problems: &mut Vec<Problem>,
) -> Request {
    let args: Vec<OsString> = args.into_iter().collect();
    let flags = match command().try_get_matches_from(&args) {
        Ok(flags) => flags,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Request::Print(error.render().to_string());
        }
        Err(error) => {
            problems.push(Problem::new("command line", first_paragraph(&error.render().to_string())));
            // What else is wrong should be known at the same time.
            command().ignore_errors(true).try_get_matches_from(&args).unwrap_or_default()
        }
    };

    if let Ok(Some(shell)) = flags.try_get_one::<Shell>(COMPLETIONS) {
        return Request::Print(completions(*shell));
    }
    let mut layers = Layers::new();
    if let Some(path) = file_path(&flags, environment, problems) {
        read_file(&path, &mut layers, problems);
    }
    read_environment(environment, &mut layers, problems);
    read_flags(&flags, &mut layers);
    match flags.subcommand() {
        Some((ROTATE_MASTER_KEY, flags)) => {
            let new_key = new_key(flags, environment, problems);
            Request::RotateMasterKey(layers, new_key)
        }
        Some((BACKUP, flags)) => Request::Backup(layers, folder(flags), is_set(flags, WITH_MASTER_KEY)),
        Some((CHECK, flags)) => Request::Check(layers, flags.try_get_one(FOLDER).ok().flatten().cloned()),
        Some((RESTORE, flags)) => Request::Restore(layers, folder(flags)),
        Some(_) | None => Request::Run(layers),
    }
}

/// The command that replaces the master key.
const ROTATE_MASTER_KEY: &str = "rotate-master-key";
/// Its flag.
const NEW_MASTER_KEY_FILE: &str = "new-master-key-file";

fn rotate_command() -> Command {
    let about = "Encrypts all secrets in the data directory with another master key, while no daemon uses it";
    let help = "File with the new master key; POSTRIDER_NEW_MASTER_KEY can give the key itself. Without either, a new one is made \
                in the data directory, if the present one is there";
    let file = Arg::new(NEW_MASTER_KEY_FILE).long(NEW_MASTER_KEY_FILE).value_name("FILE").help(help);
    Command::new(ROTATE_MASTER_KEY).about(about).arg(file)
}

/// The command that makes a backup.
const BACKUP: &str = "backup";
/// Its flag.
const WITH_MASTER_KEY: &str = "with-master-key";
/// The command that makes a data directory of one.
const RESTORE: &str = "restore";
/// The command that looks through one, or the other.
const CHECK: &str = "check";
/// The folder of a backup.
const FOLDER: &str = "directory";

fn backup_command() -> Command {
    let about = "Makes a backup of the data directory, whether a daemon uses it or not";
    let key = "Put the master key into the backup: whoever has that has the secrets, then. Without this flag a backup can be restored only \
               where the key is given otherwise";
    let key = Arg::new(WITH_MASTER_KEY).long(WITH_MASTER_KEY).action(ArgAction::SetTrue).help(key);
    Command::new(BACKUP).about(about).arg(folder_arg("The folder that it goes to: a new one, or an empty one")).arg(key)
}

fn restore_command() -> Command {
    let about = "Makes a data directory, which must be new or empty, of a backup, and checks every byte of it";
    Command::new(RESTORE).about(about).arg(folder_arg("The backup"))
}

fn check_command() -> Command {
    let about = "Looks through a backup, or a data directory that no daemon uses, and changes nothing: exit code 65 if it is damaged";
    let help = "The backup, or the data directory; without it, that of --data";
    Command::new(CHECK).about(about).arg(folder_arg(help).required(false))
}

fn folder_arg(help: &'static str) -> Arg {
    Arg::new(FOLDER).value_name("DIRECTORY").value_parser(value_parser!(PathBuf)).required(true).help(help)
}

/// The folder that a command names. Empty only if something is wrong with the command line, which is a problem by then.
fn folder(flags: &ArgMatches) -> PathBuf {
    flags.try_get_one::<PathBuf>(FOLDER).ok().flatten().cloned().unwrap_or_default()
}

fn is_set(flags: &ArgMatches, name: &str) -> bool {
    flags.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false)
}

/// Where the key is that is to replace another: a file, or a variable.
fn new_key(flags: &ArgMatches, environment: Environment<'_>, problems: &mut Vec<Problem>) -> [Option<Given>; 2] {
    let given = |source, value| Given { source, values: vec![value] };
    let file = flags.try_get_one::<String>(NEW_MASTER_KEY_FILE).ok().flatten().cloned();
    let text = variable("POSTRIDER_NEW_MASTER_KEY".into(), environment, problems);
    [
        file.map(|file| given(Source::Flag(NEW_MASTER_KEY_FILE), file)),
        text.map(|text| given(Source::Variable("POSTRIDER_NEW_MASTER_KEY".into()), text)),
    ]
}

/// The command line, made from the table of settings.
pub(super) fn command() -> Command {
    let about = "Accepts events over gRPC and delivers them, signed, to webhooks.";
    let after = "Every setting is a flag, an environment variable and a key of the TOML file named by --config; if it is \
                 given in several places, the flag wins over the variable, and that over the file. An empty variable \
                 counts as none. Lists are not merged; `none` is an empty one.\n\
                 Durations: 100ms, 15s, 5m, 24h, 30d. Sizes: 4096, 512KiB, 64MiB, 1GiB.\n\n\
                 `postriderd keys` manages API keys while no daemon runs: see `postriderd keys --help`.\n\n\
                 Exit codes: 0 stopped in order, or done, 64 wrong configuration, 65 damaged, 69 the port cannot be bound, 73 the data directory \
                 cannot be opened, 74 a backup cannot be written, 75 try again later, 78 not with this master key, 70 anything else; 130 and 143 after a second SIGINT or SIGTERM.";
    let file = Arg::new(CONFIG_FILE)
        .long(CONFIG_FILE)
        .value_name("FILE")
        .help("Read settings from this TOML file [env: POSTRIDER_CONFIG]")
        .global(true);
    let completions = Arg::new(COMPLETIONS)
        .long(COMPLETIONS)
        .value_name("SHELL")
        .value_parser(value_parser!(Shell))
        .help("Print a script that completes these flags in a shell, and end");
    let secrets = SETTINGS.iter().filter(|setting| setting.kind == Kind::Secret);
    let secrets: Vec<_> = secrets.map(|setting| format!("{}: {}.", setting.variable(), setting.help)).collect();
    let settings = SETTINGS.iter().filter(|setting| setting.kind != Kind::Secret).map(|setting| {
        let help = format!("{} [default: {}] [env: {}]", setting.help, setting.default, setting.variable());
        let arg = Arg::new(setting.name).long(setting.name).help(help).help_heading(setting.group).global(true);
        match setting.kind {
            Kind::One(value) => arg.value_name(value),
            Kind::Many(value) => arg.value_name(value).action(ArgAction::Append),
            Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL"),
            Kind::Secret => unreachable!("it is no flag"),
        }
    });
    Command::new("postriderd")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .after_help(format!("{after}\n\n{}", secrets.join("\n")))
        .max_term_width(120)
        .arg(file)
        .arg(completions)
        .args(settings)
        .subcommand(rotate_command())
        .subcommand(backup_command())
        .subcommand(restore_command())
        .subcommand(check_command())
}

/// What makes a shell complete the command line.
fn completions(shell: Shell) -> String {
    let mut command = command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn first_paragraph(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    lines.join(" ")
}

fn file_path(flags: &ArgMatches, environment: Environment<'_>, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    if let Ok(Some(path)) = flags.try_get_one::<String>(CONFIG_FILE) {
        return Some(path.into());
    }
    variable("POSTRIDER_CONFIG".into(), environment, problems).map(PathBuf::from)
}

/// A variable's value, unless it is unset, empty or not text.
fn variable(name: String, environment: Environment<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    let Ok(value) = environment(&name)?.into_string() else {
        problems.push(Problem::new(name, "is not valid UTF-8"));
        return None;
    };
    Some(value).filter(|value| !value.is_empty())
}

fn read_environment(environment: Environment<'_>, layers: &mut Layers, problems: &mut Vec<Problem>) {
    for setting in SETTINGS {
        let name = setting.variable();
        if let Some(value) = variable(name.clone(), environment, problems) {
            layers.insert(setting.name, Given { source: Source::Variable(name), values: vec![value] });
        }
    }
}

fn read_flags(flags: &ArgMatches, layers: &mut Layers) {
    for setting in SETTINGS {
        if let Ok(Some(values)) = flags.try_get_many::<String>(setting.name) {
            let values = values.cloned().collect();
            layers.insert(setting.name, Given { source: Source::Flag(setting.name), values });
        }
    }
}

fn read_file(path: &Path, layers: &mut Layers, problems: &mut Vec<Problem>) {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return problems.push(Problem::new(path.display(), format!("cannot be read: {error}"))),
    };
    let line = |offset: usize| text[..offset].matches('\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        let place = error.span().map_or(1, |span| line(span.start));
        problems.push(Problem::new(format_args!("{}:{place}", path.display()), error.message()));
    }
    for (key, value) in table.get_ref() {
        let key_text = key.get_ref().to_string();
        let source = Source::Key { file: path.to_owned(), line: line(key.span().start), key: key_text.clone() };
        let found = settings::in_file(&key_text)
            .and_then(|setting| Ok((setting, values(value.get_ref(), matches!(setting.kind, Kind::Many(_)))?)));
        match found {
            Ok((setting, values)) => drop(layers.insert(setting.name, Given { source, values })),
            Err(problem) => problems.push(Problem::new(source, problem)),
        }
    }
}

/// A TOML value as somebody would write it on the command line.
fn values(value: &DeValue<'_>, list: bool) -> Result<Vec<String>, String> {
    match value {
        DeValue::String(text) => Ok(vec![text.to_string()]),
        DeValue::Integer(number) => Ok(vec![number.to_string()]),
        DeValue::Float(number) => Ok(vec![number.to_string()]),
        DeValue::Boolean(on) => Ok(vec![on.to_string()]),
        DeValue::Array(items) if list => {
            let nested: Result<Vec<_>, _> = items.iter().map(|item| values(item.get_ref(), false)).collect();
            Ok(nested?.concat())
        }
        DeValue::Array(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
            Err(format!("does not take a value of type {}", value.type_str()))
        }
    }
}
