//! Flags for what a webhook's requests look like, and how that is shown.

use std::{
    fmt, fs,
    io::{self, Read as _},
};

use clap::Args;
use postrider_client::v1::{
    Authorization, BasicCredentials, BearerToken, BodyFormat, HttpMethod, Webhook, authorization::Scheme,
};
use prost_types::{ListValue, Struct, Value, value::Kind};

use super::pairs;
use crate::publish::parse_label;

/// Integers up to this are doubles without loss.
const INTEGERS: u64 = 1 << 53;
/// More is no header, password or token.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What requests look like, where it is not a POST of the body as it is.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of its requests")]
pub(super) struct RequestArgs {
    /// POST, PUT or PATCH, which send the body; or GET, HEAD or DELETE, which send its flat fields in the query.
    #[arg(long, value_parser = parse_method)]
    method: Option<HttpMethod>,
    /// A header to send. Repeatable; all of them together replace those there were. `***` keeps the value it has.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<Hidden<(String, String)>>,
    /// Take headers from a file, one a line; `-` is standard input.
    #[arg(long, value_name = "PATH", value_parser = read_headers)]
    header_file: Option<Hidden<Vec<(String, String)>>>,
    /// A parameter to add to the URL. Repeatable; all of them together replace those there were.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_label)]
    query: Vec<(String, String)>,
    /// A field to add to bodies that lack it, with its value as JSON. Repeatable; all of them together replace those there were.
    #[arg(long = "body-field", value_name = "NAME=JSON", value_parser = parse_field)]
    body_fields: Vec<(String, Value)>,
    /// `json`, or `form` for application/x-www-form-urlencoded.
    #[arg(long, value_parser = parse_body_format)]
    body_format: Option<BodyFormat>,
    /// Authorize with a user name and a password. `***` as the password keeps the one it has.
    #[arg(long, value_name = "USER:PASSWORD", value_parser = hidden, conflicts_with_all = ["basic_file", "bearer", "bearer_file"])]
    basic: Option<Hidden<String>>,
    /// The same from a file; `-` is standard input.
    #[arg(long, value_name = "PATH", value_parser = read_secret, conflicts_with_all = ["bearer", "bearer_file"])]
    basic_file: Option<Hidden<String>>,
    /// Authorize with a token.
    #[arg(long, value_name = "TOKEN", value_parser = hidden, conflicts_with = "bearer_file")]
    bearer: Option<Hidden<String>>,
    /// The same from a file; `-` is standard input.
    #[arg(long, value_name = "PATH", value_parser = read_secret)]
    bearer_file: Option<Hidden<String>>,
    /// Do not repeat attempts that ran into their deadline: the receiver may have done its work.
    #[arg(long, conflicts_with = "retry_on_timeout")]
    no_retry_on_timeout: bool,
    /// Repeat them again.
    #[arg(long)]
    retry_on_timeout: bool,
}

/// Something that is not shown, wherever arguments are.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hidden<T>(pub(super) T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

impl RequestArgs {
    /// Sets what was given, and returns the names of the fields, for an update's mask.
    pub(super) fn apply(self, webhook: &mut Webhook) -> Vec<&'static str> {
        let mut set = Vec::new();
        if let Some(method) = self.method {
            webhook.set_method(method);
            set.push("method");
        }
        let from_file = self.header_file.into_iter().flat_map(|headers| headers.0);
        let headers = from_file.chain(self.headers.into_iter().map(|header| header.0));
        webhook.headers.extend(headers);
        if !webhook.headers.is_empty() {
            set.push("headers");
        }
        if !self.query.is_empty() {
            webhook.query = self.query.into_iter().collect();
            set.push("query");
        }
        if !self.body_fields.is_empty() {
            webhook.body = Some(Struct { fields: self.body_fields.into_iter().collect() });
            set.push("body");
        }
        if let Some(format) = self.body_format {
            webhook.set_body_format(format);
            set.push("body_format");
        }
        let basic = self.basic.or(self.basic_file).map(|basic| basic_credentials(&basic.0));
        let bearer = self.bearer.or(self.bearer_file).map(|token| Scheme::Bearer(BearerToken { token: token.0 }));
        if let Some(scheme) = basic.or(bearer) {
            webhook.authorization = Some(Authorization { scheme: Some(scheme) });
            set.push("authorization");
        }
        if self.retry_on_timeout || self.no_retry_on_timeout {
            webhook.retry_on_timeout = Some(self.retry_on_timeout);
            set.push("retry_on_timeout");
        }
        set
    }
}

fn basic_credentials(text: &str) -> Scheme {
    // Without a colon there is no password; some services want their key as the name alone.
    let (username, password) = text.split_once(':').unwrap_or((text, ""));
    Scheme::Basic(BasicCredentials { username: username.to_owned(), password: password.to_owned() })
}

/// What is shown of a webhook's requests, where they are not as usual.
pub(super) fn properties(webhook: &Webhook) -> [(&'static str, String); 7] {
    let method = webhook.method().as_str_name().trim_start_matches("HTTP_METHOD_");
    let usual = matches!(webhook.method(), HttpMethod::Unspecified | HttpMethod::Post);
    let scheme = webhook.authorization.as_ref().and_then(|authorization| authorization.scheme.as_ref());
    [
        ("method", if usual { String::new() } else { method.to_owned() }),
        ("headers", webhook.headers.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
        ("query", pairs(&webhook.query)),
        ("body fields", webhook.body.as_ref().map_or_else(String::new, body_fields)),
        ("body format", if webhook.body_format() == BodyFormat::Form { "form".into() } else { String::new() }),
        (
            "authorization",
            match scheme {
                None => String::new(),
                Some(Scheme::Basic(basic)) => format!("basic, as {}", basic.username),
                Some(Scheme::Bearer(_)) => "bearer".into(),
            },
        ),
        ("timeouts", if webhook.retry_on_timeout() { String::new() } else { "not repeated".into() }),
    ]
}

fn body_fields(fields: &Struct) -> String {
    let fields = fields.fields.iter().map(|(name, value)| format!("{name}={}", crate::json::value(value)));
    fields.collect::<Vec<_>>().join(", ")
}

fn parse_method(text: &str) -> Result<HttpMethod, String> {
    let known = HttpMethod::from_str_name(&format!("HTTP_METHOD_{}", text.to_ascii_uppercase()));
    known
        .filter(|method| *method != HttpMethod::Unspecified)
        .ok_or_else(|| "must be POST, PUT, PATCH, GET, HEAD or DELETE".into())
}

fn parse_body_format(text: &str) -> Result<BodyFormat, String> {
    let known = BodyFormat::from_str_name(&format!("BODY_FORMAT_{}", text.to_ascii_uppercase()));
    known.filter(|format| *format != BodyFormat::Unspecified).ok_or_else(|| "must be json or form".into())
}

fn parse_header(text: &str) -> Result<Hidden<(String, String)>, String> {
    let (name, value) = text.split_once(':').ok_or("must be NAME: VALUE")?;
    let blanks = [' ', '\t'];
    let header = [name, value].map(|part| part.trim_matches(blanks).to_owned());
    // Not taken away in silence: somebody meant something by them.
    if header.iter().any(|part| part.contains(char::is_control)) {
        return Err("must have no control characters in it, such as the end of a line".into());
    }
    Ok(Hidden(header.into()))
}

#[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
fn hidden(text: &str) -> Result<Hidden<String>, String> {
    Ok(Hidden(text.to_owned()))
}

/// The headers in a file; what is wrong with a line does not repeat it.
fn read_headers(path: &str) -> Result<Hidden<Vec<(String, String)>>, String> {
    let text = read(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let headers = lines.map(|(index, line)| match parse_header(line) {
        // To HTTP it was the rest of the line before once, and is nothing now.
        _ if line.starts_with([' ', '\t']) => Err(format!("line {}: must not begin with a blank", index + 1)),
        Ok(header) => Ok(header.0),
        Err(problem) => Err(format!("line {}: {problem}", index + 1)),
    });
    headers.collect::<Result<_, _>>().map(Hidden)
}

/// The text in a file without the end of its line.
fn read_secret(path: &str) -> Result<Hidden<String>, String> {
    read(path).map(|text| Hidden(text.trim_end_matches(['\r', '\n']).to_owned()))
}

pub(super) fn read(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = match path {
        "-" => io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text),
        path => fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text)),
    };
    match read {
        Ok(bytes) if bytes as u64 == FILE_BYTES_MAX => Err(format!("is larger than {FILE_BYTES_MAX} bytes")),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn parse_field(text: &str) -> Result<(String, Value), String> {
    let (name, json) = text.split_once('=').ok_or("must be NAME=JSON")?;
    let value = serde_json::from_str(json).map_err(|error| format!("its value must be JSON ({error})"))?;
    Ok((name.to_owned(), field_value(&value)?))
}

fn field_value(json: &serde_json::Value) -> Result<Value, String> {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(it) => Kind::BoolValue(*it),
        serde_json::Value::Number(number) => {
            let integer = number.as_u64().or(number.as_i64().map(i64::unsigned_abs));
            if integer.is_some_and(|integer| integer > INTEGERS) {
                return Err(format!("{number} is too large to be sent exactly; make it a string"));
            }
            Kind::NumberValue(number.as_f64().ok_or("must have numbers that are doubles")?)
        }
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.iter().map(field_value).collect::<Result<_, _>>()? })
        }
        serde_json::Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| Ok((name.clone(), field_value(value)?)));
            Kind::StructValue(Struct { fields: fields.collect::<Result<_, String>>()? })
        }
    };
    Ok(Value { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        request: RequestArgs,
    }

    fn applied(arguments: &[&str]) -> Result<(Webhook, Vec<&'static str>), clap::Error> {
        let line = Line::try_parse_from([&["postrider"], arguments].concat())?;
        assert!(!format!("{line:?}").contains("s3cret"), "{line:?}");
        let mut webhook = Webhook::default();
        let set = line.request.apply(&mut webhook);
        Ok((webhook, set))
    }

    fn scheme(arguments: &[&str]) -> Scheme {
        applied(arguments).unwrap().0.authorization.unwrap().scheme.unwrap()
    }

    fn basic(username: &str, password: &str) -> Scheme {
        Scheme::Basic(BasicCredentials { username: username.into(), password: password.into() })
    }

    #[test]
    fn every_flag_sets_its_field() {
        assert_eq!(applied(&[]).unwrap(), (Webhook::default(), vec![]));
        let arguments = [
            "--method=put",
            "--header=X-Key: s3cret: 1",
            "--header=x-b:",
            "--query=a=b=c",
            r#"--body-field=n={"a":[1,-2.5,null,true,"x"]}"#,
            "--body-format=FORM",
            "--bearer=s3cret",
            "--no-retry-on-timeout",
        ];
        let (webhook, set) = applied(&arguments).unwrap();
        let fields = ["method", "headers", "query", "body", "body_format", "authorization", "retry_on_timeout"];
        assert_eq!(set, fields);
        assert_eq!((webhook.method(), webhook.body_format()), (HttpMethod::Put, BodyFormat::Form));
        let headers: Vec<_> = webhook.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(headers, [("X-Key", "s3cret: 1"), ("x-b", "")]);
        assert_eq!(webhook.query["a"], "b=c");
        assert_eq!(body_fields(webhook.body.as_ref().unwrap()), r#"n={"a":[1,-2.5,null,true,"x"]}"#);
        assert_eq!(webhook.retry_on_timeout, Some(false));
        assert_eq!(applied(&["--retry-on-timeout"]).unwrap().0.retry_on_timeout, Some(true));

        let shown = properties(&webhook).map(|(name, value)| format!("{name}: {value}")).join("; ");
        let expected = r#"method: PUT; headers: X-Key, x-b; query: a=b=c; body fields: n={"a":[1,-2.5,null,true,"x"]}; body format: form; authorization: bearer; timeouts: not repeated"#;
        assert_eq!(shown, expected);
        let usual = Webhook { retry_on_timeout: Some(true), method: 1, body_format: 1, ..Webhook::default() };
        assert!(properties(&usual).iter().all(|(_, value)| value.is_empty()), "{:?}", properties(&usual));
    }

    #[test]
    fn secrets_can_come_from_files() {
        let path = std::env::temp_dir().join(format!("postrider-secret-{}", std::process::id()));
        let file = path.to_str().unwrap();
        fs::write(&path, "ravi:s3cret:2\r\n").unwrap();
        assert_eq!(scheme(&["--basic-file", file]), basic("ravi", "s3cret:2"));
        assert_eq!(scheme(&["--bearer-file", file]), Scheme::Bearer(BearerToken { token: "ravi:s3cret:2".into() }));
        fs::write(&path, "X-A: s3cret\n\nx-b: 2").unwrap();
        let (webhook, _) = applied(&["--header-file", file, "--header=x-c:3"]).unwrap();
        assert_eq!(webhook.headers.keys().collect::<Vec<_>>(), ["X-A", "x-b", "x-c"]);
        fs::write(&path, "x-a: 1\ns3cret").unwrap();
        let problem = applied(&["--header-file", file]).unwrap_err().to_string();
        assert!(problem.contains("line 2") && !problem.contains("s3cret"), "{problem}");
        fs::write(&path, "x-a: 1\r\n folded: s3cret\r\n").unwrap();
        let problem = applied(&["--header-file", file]).unwrap_err().to_string();
        assert!(problem.contains("line 2") && !problem.contains("s3cret"), "{problem}");
        fs::remove_file(&path).unwrap();
        assert_eq!(scheme(&["--basic=ravi:s3cret"]), basic("ravi", "s3cret"));
        assert_eq!(scheme(&["--basic=key"]), basic("key", ""));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in [
            &["--method=trace"][..],
            &["--method=unspecified"],
            &["--body-format=xml"],
            &["--header=x"],
            &["--header=x: a\r\ny: b"],
            &["--header=x: a\n"],
            &["--header=x\r\ny: b"],
            &["--header=x: a\0"],
            &["--header=x: a\u{85}"],
            &["--query=x"],
            &["--body-field=x"],
            &["--body-field=x=y"],
            &["--body-field=x=9007199254740993"],
            &["--basic=a:b", "--bearer=c"],
            &["--bearer-file=/nowhere/at/all"],
            &["--retry-on-timeout", "--no-retry-on-timeout"],
        ] {
            assert!(applied(arguments).is_err(), "{arguments:?}");
        }
    }
}
