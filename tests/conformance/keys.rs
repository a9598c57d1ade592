//! API keys: a decision about one is seen as soon as it is answered, and outlives the process.

use postrider_server::{
    model::credentials::{ApiKey, ApiKeyId, ApiKeySecret, ApiKeySpec, Right, TenantScope},
    store::{ConfigAnswer, ConfigChange, KeyAnswer, KeyChange},
};

use crate::fixture::{Engine, Fixture, at};

async fn change(fixture: &Fixture, change: KeyChange) -> KeyAnswer {
    let answer = fixture.store.put_config(ConfigChange::Key(change)).await.expect("the store answers");
    let ConfigAnswer::Key(answer) = answer else { panic!("an answer to something else: {answer:?}") };
    answer
}

/// Creates a key; returns it with the one that its owner has.
async fn create(fixture: &Fixture, name: &str, tenants: TenantScope) -> (ApiKey, ApiKeySecret) {
    let secret = ApiKeySecret::generate(&mut rand::rng());
    let rights = [Right::Publish, Right::Read].into_iter().collect();
    let spec = ApiKeySpec { name: name.into(), tenants, rights, expire_time: Some(at(100)) };
    let create = KeyChange::Create { id: secret.id(), digest: secret.digest(), spec, time: at(1) };
    let answer = change(fixture, create).await;
    let KeyAnswer::Created(key) = answer else { panic!("not created: {answer:?}") };
    (key, secret)
}

async fn revoke(fixture: &Fixture, id: ApiKeyId) -> KeyAnswer {
    change(fixture, KeyChange::Revoke { id }).await
}

fn names(fixture: &Fixture) -> Vec<String> {
    fixture.store.catalog().keys().list(0, 100).iter().map(|known| known.key.spec.name.to_string()).collect()
}

pub(crate) async fn keys_are_found_by_their_ids_and_survive<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    assert!(!fixture.store.catalog().keys().is_locked());
    let some = TenantScope::only(["a", "b"].map(|name| name.parse().expect("a tenant"))).expect("there are some");
    let (one, secret) = create(&fixture, "one", some).await;
    let (two, _) = create(&fixture, "two", TenantScope::All).await;
    assert!(one.no < two.no);
    for _ in 0..2 {
        let keys = fixture.store.catalog().keys();
        assert!(keys.is_locked());
        assert_eq!(names(&fixture), ["one", "two"], "in the order of their creation");
        let found = keys.find(secret.id()).expect("it is there");
        assert_eq!(found.key, one);
        assert!(found.key.digest == secret.digest());
        assert_eq!(keys.list(one.no, 100).len(), 1);
        fixture.reopen::<E>().await;
    }
}

pub(crate) async fn a_revoked_key_is_gone_at_once_and_for_good<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (key, _) = create(&fixture, "one", TenantScope::All).await;
    let held = fixture.store.catalog().keys().find(key.id).expect("it is there");
    assert!(matches!(revoke(&fixture, key.id).await, KeyAnswer::Revoked));
    assert!(held.validity().is_over(), "who uses it is told before the revocation is answered");
    assert!(matches!(revoke(&fixture, key.id).await, KeyAnswer::NotFound));
    for _ in 0..2 {
        let keys = fixture.store.catalog().keys();
        assert!(keys.find(key.id).is_none() && keys.is_empty());
        assert!(keys.is_locked(), "the last key does not open the door again");
        fixture.reopen::<E>().await;
    }
    let (next, _) = create(&fixture, "two", TenantScope::All).await;
    assert!(next.no > key.no, "numbers are never used again");
}
