//! A table of ways to write a host, and what each must be taken for: `spellings.txt`. Attempts are held to it too.

use std::{fs, net::IpAddr, path::Path};

use super::{
    address::AddressPolicy,
    target::{NotAllowed, Target, TargetError, TargetHost, TargetRules},
};

/// What stands between `https://` and the path.
pub struct Spelling {
    /// As somebody may write it.
    pub authority: String,
    /// What it must be taken for, in the words of the table.
    pub verdict: String,
}

/// All of them, in the order of the table.
pub fn spellings() -> Vec<Spelling> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/spellings.txt");
    let table = fs::read_to_string(path).expect("the table lies beside this file");
    let rows = table.lines().filter(|line| !line.is_empty() && !line.starts_with("# "));
    let row = |line: &str| {
        let (authority, verdict) = line.split_once(" => ").expect("a row");
        Spelling { authority: unescaped(authority), verdict: verdict.to_owned() }
    };
    rows.map(row).collect()
}

fn unescaped(text: &str) -> String {
    let mut pieces = text.split("\\u{");
    let mut written = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (code, rest) = piece.split_once('}').expect("an escape ends");
        let code = u32::from_str_radix(code, 16).expect("a hexadecimal number");
        written.push(char::from_u32(code).expect("a character"));
        written.push_str(rest);
    }
    written
}

/// What it is taken for, in the words of the table.
fn taken_for(authority: &str, rules: &TargetRules) -> String {
    let url = format!("https://{authority}/hook");
    let stored = Target::from_stored(&url);
    match Target::parse(&url, rules) {
        Err(TargetError::Malformed(_)) => {
            assert!(stored.is_err(), "{authority:?} cannot be stored either");
            "malformed".into()
        }
        Err(TargetError::NotAllowed(NotAllowed::Port(port))) => format!("port {port}"),
        Err(TargetError::NotAllowed(NotAllowed::Localhost)) => "localhost".into(),
        Err(TargetError::NotAllowed(NotAllowed::Address(forbidden))) => format!("forbidden {}", forbidden.address),
        Err(TargetError::NotAllowed(refusal)) => format!("another refusal: {refusal}"),
        Ok(target) => match target.host() {
            TargetHost::Literal(address) => format!("public {}", address.to_canonical()),
            TargetHost::Localhost => "localhost, and let through".into(),
            TargetHost::Name(name) => format!("name {name}"),
        },
    }
}

#[test]
fn hosts_are_taken_for_what_they_are_however_they_are_written() {
    let rules = TargetRules { allow_http: true, policy: AddressPolicy::default() };
    let spellings = spellings();
    let wrong: Vec<_> = spellings
        .iter()
        .map(|spelling| (spelling, taken_for(&spelling.authority, &rules)))
        .filter(|(spelling, taken)| spelling.verdict != *taken)
        .map(|(spelling, taken)| format!("{:?} => {taken}, not {}", spelling.authority, spelling.verdict))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), spellings.len(), wrong.join("\n"));
    assert!(spellings.len() >= 300, "{} spellings", spellings.len());
}

/// What is opened changes the verdict of what lies in it and of nothing else.
#[test]
fn an_opened_range_opens_its_addresses_only() {
    let opened = "10.0.0.0/8".parse().expect("a range");
    let closed = TargetRules { allow_http: true, policy: AddressPolicy::default() };
    let rules = TargetRules { allow_http: true, policy: AddressPolicy::new(vec![opened]) };
    for Spelling { authority, .. } in spellings() {
        let (before, after) = (taken_for(&authority, &closed), taken_for(&authority, &rules));
        let is_opened = before.strip_prefix("forbidden ").is_some_and(|address| {
            // Behind a translator lies another network's 10.0.0.0/8.
            let address: IpAddr = address.parse().expect("an address");
            opened.contains(&address) && !authority.to_ascii_lowercase().contains("ff9b")
        });
        let expected = if is_opened { before.replace("forbidden", "public") } else { before };
        assert_eq!(after, expected, "{authority:?}");
    }
}
