//! Contract ⇄ model for API keys.

use postrider_proto::v1;

use super::{ALL_TENANTS, time, timestamp};
use crate::{
    api::status::{Failure, Violations},
    limits::API_KEY_TENANTS_MAX,
    model::{
        credentials::{ApiKey, ApiKeyId, ApiKeySpec, Right, Rights, TenantScope, key_name},
        ids::Tenant,
        time::Timestamp,
    },
    store::KnownKey,
};

/// What a caller decided about a key. Whether its time has passed already depends on `now`.
pub(in crate::api) fn create(request: v1::CreateKeyRequest, now: Timestamp) -> Result<ApiKeySpec, Failure> {
    let mut violations = Violations::default();
    let Some(key) = request.key else {
        violations.add("key", "must be set");
        return Err(violations.into());
    };
    let name = violations.note("key.name", key_name(&key.name));
    let tenants = tenants(&mut violations, &key.tenants);
    let rights = rights(&mut violations, &key.rights);
    let expire_time = key.expire_time.and_then(|time| timestamp(&mut violations, "key.expire_time", time));
    if expire_time.is_some_and(|time| time <= now) {
        violations.add("key.expire_time", "must be in the future");
    }
    violations.check()?;
    let (name, tenants) = (name.expect("no violations"), tenants.expect("no violations"));
    Ok(ApiKeySpec { name, tenants, rights, expire_time })
}

fn tenants(violations: &mut Violations, names: &[String]) -> Option<TenantScope> {
    if let [only] = names
        && only == ALL_TENANTS
    {
        return Some(TenantScope::All);
    }
    if names.len() > API_KEY_TENANTS_MAX {
        violations.add("key.tenants", format!("must not be more than {API_KEY_TENANTS_MAX}; `-` alone is all"));
        return None;
    }
    let read = |(index, name): (usize, &String)| {
        if name.is_empty() {
            // Elsewhere that means `default`; whom a key speaks for is better said.
            violations.add(format!("key.tenants[{index}]"), "must not be empty");
            return None;
        }
        violations.note(&format!("key.tenants[{index}]"), name.parse::<Tenant>())
    };
    let tenants: Vec<_> = names.iter().enumerate().filter_map(read).collect();
    let scope = TenantScope::only(tenants);
    if names.is_empty() {
        violations.add("key.tenants", "must name a tenant, or be `-` for all");
    }
    scope
}

fn rights(violations: &mut Violations, rights: &[i32]) -> Rights {
    if rights.is_empty() {
        violations.add("key.rights", "must not be empty");
    }
    let read = |right: &i32| match v1::Right::try_from(*right) {
        Ok(v1::Right::Publish) => Some(Right::Publish),
        Ok(v1::Right::Manage) => Some(Right::Manage),
        Ok(v1::Right::Read) => Some(Right::Read),
        Ok(v1::Right::Operate) => Some(Right::Operate),
        Ok(v1::Right::Unspecified) | Err(_) => {
            violations.add("key.rights", "must be rights that there are");
            None
        }
    };
    rights.iter().filter_map(read).collect()
}

/// Which key a caller means.
pub(in crate::api) fn id(text: &str) -> Result<ApiKeyId, Failure> {
    let mut violations = Violations::default();
    let id = violations.note("id", text.parse());
    violations.check()?;
    Ok(id.expect("no violations"))
}

/// A key as callers see it.
pub(in crate::api) fn reply(key: &ApiKey) -> v1::Key {
    let ApiKeySpec { name, tenants, rights, expire_time } = &key.spec;
    let tenants =
        if tenants.is_all() { vec![ALL_TENANTS.to_owned()] } else { tenants.names().map(str::to_owned).collect() };
    let right = |right| match right {
        Right::Publish => v1::Right::Publish,
        Right::Manage => v1::Right::Manage,
        Right::Read => v1::Right::Read,
        Right::Operate => v1::Right::Operate,
    };
    v1::Key {
        id: key.id.to_string(),
        name: name.to_string(),
        tenants,
        rights: rights.iter().map(|one| right(one).into()).collect(),
        create_time: Some(time(key.create_time)),
        expire_time: expire_time.map(time),
        last_use_time: None,
    }
}

/// A key as callers see it, with what is known of its use.
pub(in crate::api) fn known_reply(known: &KnownKey) -> v1::Key {
    v1::Key { last_use_time: known.last_use().map(time), ..reply(&known.key) }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn good() -> v1::Key {
        let expire_time = Some(prost_types::Timestamp { seconds: 100, nanos: 0 });
        let (tenants, rights) = (vec!["b".into(), "a".into(), "b".into()], vec![3, 1, 3]);
        v1::Key { name: " ci ".into(), tenants, rights, expire_time, ..v1::Key::default() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_key_is_taken_as_it_is_meant() {
        let spec = create(v1::CreateKeyRequest { key: Some(good()) }, at(99)).unwrap();
        assert_eq!(
            (&*spec.name, spec.tenants.to_string(), spec.rights.to_string()),
            ("ci", "a,b".into(), "publish,read".into())
        );
        assert_eq!(spec.expire_time, Some(at(100)));
        let all = v1::Key { tenants: vec!["-".into()], expire_time: None, ..good() };
        assert!(create(v1::CreateKeyRequest { key: Some(all) }, at(99)).unwrap().tenants.is_all());
    }

    #[test]
    fn every_field_is_checked() {
        let long = "x".repeat(129);
        let many = (0..257).map(|n| format!("t{n}")).collect();
        let cases: Vec<(v1::Key, &[&str])> = vec![
            (v1::Key::default(), &["key.name", "key.tenants", "key.rights"]),
            (v1::Key { name: long, ..good() }, &["key.name"]),
            (v1::Key { name: "a\nb".into(), ..good() }, &["key.name"]),
            (v1::Key { tenants: vec!["a".into(), "-".into()], ..good() }, &["key.tenants[1]"]),
            (v1::Key { tenants: vec![String::new()], ..good() }, &["key.tenants[0]"]),
            (v1::Key { tenants: many, ..good() }, &["key.tenants"]),
            (v1::Key { rights: vec![1, 0], ..good() }, &["key.rights"]),
            (v1::Key { rights: vec![9], ..good() }, &["key.rights"]),
            (
                v1::Key { expire_time: Some(prost_types::Timestamp { seconds: 50, nanos: 0 }), ..good() },
                &["key.expire_time"],
            ),
        ];
        for (key, expected) in cases {
            let refused = create(v1::CreateKeyRequest { key: Some(key) }, at(50)).unwrap_err().into_status();
            let details = refused.get_error_details();
            let fields: Vec<_> =
                details.bad_request().unwrap().field_violations.iter().map(|it| it.field.as_str()).collect();
            assert_eq!(fields, expected);
        }
        assert!(create(v1::CreateKeyRequest::default(), at(0)).is_err());
        assert!(id("key_x").is_err());
    }
}
