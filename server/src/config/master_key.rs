//! Where the master key is: in one place, and never on a command line, which every process can see.

use std::path::PathBuf;

use super::{
    Problem,
    layers::{Given, Source},
    reader::Reader,
};
use crate::{model::master_key::MasterKey, store::redb::KeySource};

/// The source that the settings name.
pub(super) fn source(reader: &mut Reader<'_>) -> KeySource {
    let file = reader.one("master-key-file", |text| Ok((text != "none").then(|| PathBuf::from(text))));
    let is_given = reader.is_given("master-key");
    let key = reader.secret("master-key", parse);
    if is_given && file.is_some() {
        reader.refuse("master-key-file", "is not needed, as POSTRIDER_MASTER_KEY is given: leave one of them out");
    }
    if reader.switch("require-master-key") && !is_given && file.is_none() {
        reader.refuse("require-master-key", "neither --master-key-file nor POSTRIDER_MASTER_KEY is given");
    }
    match (file, key) {
        (Some(file), _) => KeySource::File(file),
        (None, Some((_, key))) => KeySource::Given("POSTRIDER_MASTER_KEY", key),
        (None, None) => KeySource::Directory,
    }
}

/// The source of the key that replaces that of `present`, a file or a variable; `None`: it is to be made in the data directory.
pub(super) fn new_source(
    present: &KeySource,
    new: [Option<Given>; 2],
    problems: &mut Vec<Problem>,
) -> Option<KeySource> {
    let mut refuse = |source: &Source, problem: &str| problems.push(Problem::new(source, problem));
    let value = |given: &Given| given.values.concat();
    match new {
        [Some(file), None] => Some(KeySource::File(PathBuf::from(value(&file)))),
        [None, Some(text)] => match parse(&value(&text)) {
            Ok(key) => Some(KeySource::Given("POSTRIDER_NEW_MASTER_KEY", key)),
            Err(problem) => {
                refuse(&text.source, &problem);
                None
            }
        },
        [Some(file), Some(_)] => {
            refuse(&file.source, "is not needed, as POSTRIDER_NEW_MASTER_KEY is given: leave one of them out");
            None
        }
        [None, None] => {
            if *present != KeySource::Directory {
                let problem = "give the new key with --new-master-key-file or POSTRIDER_NEW_MASTER_KEY, as the present one is not \
                               in the data directory";
                problems.push(Problem::new("rotate-master-key", problem));
            }
            None
        }
    }
}

fn parse(text: &str) -> Result<MasterKey, String> {
    MasterKey::parse(text).map_err(|error| error.to_string())
}
