//! The audit log: what is answered is there, also after the process has ended, until it is too old or erased.

use std::collections::BTreeSet;

use postrider_server::{
    model::{
        audit::{About, AuditEnd, AuditEntry, AuditNo, AuditQuery, Principal},
        credentials::ApiKeyId,
        ids::Tenant,
    },
    store::{AuditStep, Erase, Erased},
};

use crate::fixture::{Engine, Fixture, Limits, at};

const WEBHOOK: &str = "wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80";

async fn audit(fixture: &Fixture, step: AuditStep) -> AuditNo {
    fixture.store.audit(step).await.expect("the store answers")
}

/// A call of this method for this tenant, so many seconds after the start.
fn call(method: &str, tenant: &str, seconds: u64) -> AuditEntry {
    AuditEntry { about: About::named(tenant), ..AuditEntry::new(method, Principal::Offline, at(seconds)) }
}

async fn begin(fixture: &Fixture, entry: &AuditEntry) -> AuditNo {
    audit(fixture, AuditStep::Begin(entry.clone().into())).await
}

async fn end(fixture: &Fixture, no: AuditNo, end: &AuditEnd) {
    audit(fixture, AuditStep::End(no, end.clone().into())).await;
}

/// All entries that are wanted, read in pages of two.
async fn list(fixture: &Fixture, query: &AuditQuery) -> Vec<(AuditNo, AuditEntry)> {
    let (mut before, mut found) = (None, Vec::new());
    loop {
        let page = fixture.store.audited(query, before, 2).await.expect("the store answers");
        assert!(page.entries.len() <= 2);
        found.extend(page.entries);
        let Some(next) = page.next else { return found };
        assert!(before.is_none_or(|before| next < before), "it goes on");
        before = Some(next);
    }
}

pub(crate) async fn entries_are_kept_with_what_calls_led_to<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (done, cut_off) = (call("s/done", "acme", 1), call("s/cut", "", 2));
    let one = begin(&fixture, &done).await;
    let two = begin(&fixture, &cut_off).await;
    assert!(one < two);
    let ending = AuditEnd { resource: WEBHOOK.into(), fields: Box::new(["url".into()]), ..AuditEnd::new(5, at(3)) };
    end(&fixture, one, &ending).await;
    end(&fixture, AuditNo(99), &ending).await;
    for _ in 0..2 {
        let expected = vec![(two, cut_off.clone()), (one, done.clone().ended(ending.clone()))];
        assert_eq!(list(&fixture, &AuditQuery::default()).await, expected);
        fixture.reopen::<E>().await;
    }
    assert!(begin(&fixture, &cut_off).await > two, "numbers are never used again");
}

pub(crate) async fn entries_are_found_newest_first_page_by_page<E: Engine>() {
    let fixture = Fixture::new::<E>();
    for n in 0..7 {
        let tenant = if n % 2 == 0 { "even" } else { "odd" };
        let no = begin(&fixture, &call("s/m", tenant, n)).await;
        end(&fixture, no, &AuditEnd::new(i32::from(n == 3), at(n))).await;
    }
    let seconds = async |query: AuditQuery| -> Vec<u64> {
        let found = list(&fixture, &query).await;
        found.iter().map(|(_, entry)| entry.time.since(at(0)).as_secs()).collect()
    };
    assert_eq!(seconds(AuditQuery::default()).await, [6, 5, 4, 3, 2, 1, 0]);
    let odd = AuditQuery { tenant: Some("odd".parse().expect("a tenant")), ..AuditQuery::default() };
    assert_eq!(seconds(odd.clone()).await, [5, 3, 1]);
    assert_eq!(seconds(AuditQuery { failed: true, ..odd }).await, [3]);
    let between = AuditQuery { from: Some(at(2)), until: Some(at(4)), ..AuditQuery::default() };
    assert_eq!(seconds(between).await, [3, 2]);
    assert!(seconds(AuditQuery { principal: "anonymous".into(), ..AuditQuery::default() }).await.is_empty());
}

pub(crate) async fn the_oldest_entries_go<E: Engine>() {
    const DAY: u64 = 24 * 60 * 60;
    let mut fixture = Fixture::with::<E>(Limits { audit_entries_max: 5, ..Limits::default() });
    let mut numbers = Vec::new();
    for n in 0..8 {
        numbers.push(begin(&fixture, &call("s/m", "", n)).await);
    }
    let kept = async |fixture: &Fixture| -> Vec<AuditNo> {
        list(fixture, &AuditQuery::default()).await.iter().rev().map(|(no, _)| *no).collect()
    };
    fixture.upkeep(at(10)).await;
    assert_eq!(kept(&fixture).await, numbers[3..], "they are too many");
    fixture.upkeep(at(DAY + 5)).await;
    assert_eq!(kept(&fixture).await, numbers[6..], "they are too old");
    end(&fixture, numbers[0], &AuditEnd::new(0, at(9))).await;
    fixture.upkeep(at(2 * DAY)).await;
    assert!(kept(&fixture).await.is_empty());
    fixture.reopen::<E>().await;
    assert!(begin(&fixture, &call("s/m", "", 9)).await > numbers[7]);
}

/// Whoever writes very much pushes out nothing but what they wrote themselves.
pub(crate) async fn nobody_is_pushed_out_by_others<E: Engine>() {
    let mut fixture = Fixture::with::<E>(Limits { audit_entries_max: 12, ..Limits::default() });
    let by = |principal: Principal, seconds| AuditEntry { principal, ..call("s/m", "acme", seconds) };
    let key = |n| Principal::Key { id: ApiKeyId::from_bytes([n; 12]), name: "ci".into() };
    let claims = |n| Principal::Unauthenticated(Some(ApiKeyId::from_bytes([n; 12])));
    let (mut others, mut flooder, mut strangers) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..3 {
        others.push(begin(&fixture, &by(key(1), n)).await);
        others.push(begin(&fixture, &by(Principal::Certificate("a.example".into()), n)).await);
    }
    let kept = async |fixture: &Fixture| -> BTreeSet<AuditNo> {
        list(fixture, &AuditQuery::default()).await.into_iter().map(|(no, _)| no).collect()
    };
    for round in 0..4 {
        for n in 0..50 {
            flooder.push(begin(&fixture, &by(key(9), 10 + n)).await);
            if round == 3 {
                strangers.push(begin(&fixture, &by(claims(u8::try_from(n).expect("small")), 10 + n)).await);
            }
        }
        fixture.upkeep(at(100)).await;
        let most = if round == 3 { 3 } else { 6 };
        let newest = |all: &[AuditNo]| all.iter().rev().take(most).copied().collect::<Vec<_>>();
        let expected: BTreeSet<AuditNo> =
            others.iter().copied().chain(newest(&flooder)).chain(newest(&strangers)).collect();
        assert_eq!(kept(&fixture).await, expected, "{round}");
        fixture.reopen::<E>().await;
    }
}

pub(crate) async fn an_erased_tenant_is_not_named<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let tenant: Tenant = "acme".parse().expect("a tenant");
    let with = |resource: &str| AuditEntry { resource: resource.into(), ..call("s/m", "acme", 1) };
    for n in 0..10 {
        begin(&fixture, &with(if n % 2 == 0 { WEBHOOK } else { "acme.order" })).await;
    }
    let other = begin(&fixture, &call("s/m", "other", 2)).await;
    let erasing = begin(&fixture, &call("s/EraseTenant", "acme", 3)).await;
    let erase = Erase::Tenant { tenant: tenant.clone(), request_id: String::new(), time: at(900) };
    let erased = fixture.store.erase(erase).await.expect("the store answers");
    let Erased::Decided(erasure) = erased else { panic!("{erased:?}") };
    let check = async |fixture: &Fixture, entries: usize| {
        let all = list(fixture, &AuditQuery::default()).await;
        assert_eq!(all.len(), entries);
        for (no, entry) in all {
            let text = format!("{entry:?}");
            assert!(!text.contains("acme"), "{text}");
            assert_eq!(entry.about == About::Erased, no != other, "{text}");
        }
        let query = AuditQuery { tenant: Some(tenant.clone()), ..AuditQuery::default() };
        assert!(list(fixture, &query).await.is_empty());
    };
    check(&fixture, 12).await;
    let end_of_it = AuditEnd { resource: erasure.id.to_string().into(), erased: true, ..AuditEnd::new(0, at(901)) };
    end(&fixture, erasing, &end_of_it).await;
    let finished = async || {
        let now = fixture.store.erasure(&tenant, erasure.id).await.expect("the store answers");
        now.expect("it is remembered").finish_time.is_some()
    };
    while !finished().await {
        fixture.upkeep(at(902)).await;
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        check(&fixture, 12).await;
        let all = list(&fixture, &AuditQuery::default()).await;
        let by_whom = &all.iter().find(|(no, _)| *no == erasing).expect("who erased it remains").1;
        assert_eq!((&by_whom.principal, &*by_whom.resource), (&Principal::Offline, &*erasure.id.to_string()));
        assert_eq!(all.iter().filter(|(_, entry)| *entry.resource == *WEBHOOK).count(), 5, "ids remain");
        fixture.reopen::<E>().await;
    }
}
