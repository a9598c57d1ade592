//! How many different TLS settings webhooks may have: all of them are in memory, together with everything else about webhooks.

use std::{collections::BTreeMap, sync::Arc};

use super::change::Change;
use crate::{
    model::{
        ids::{Tenant, WebhookNo},
        tls::TlsSettings,
    },
    store::{
        TlsChange,
        types::{ConfigAnswer, ConfigStep},
    },
};

impl Change<'_> {
    /// Why a webhook cannot have these settings; `None`: it can. What else this transaction does counts.
    pub(super) fn tls_excess(
        &self,
        no: WebhookNo,
        tenant: &Tenant,
        settings: Option<&Arc<TlsSettings>>,
    ) -> Option<ConfigAnswer> {
        let settings = settings?;
        let changes = self.tls_changes(no, tenant, settings);
        let config = &self.shared.config;
        let [all, own] = self.shared.catalog.tls_bytes(tenant, &changes);
        let (of_tenant, limit, bytes) = if !own.fit(config.tls_tenant_bytes_max) {
            (true, config.tls_tenant_bytes_max, own)
        } else if !all.fit(config.tls_bytes_max) {
            (false, config.tls_bytes_max, all)
        } else {
            return None;
        };
        Some(ConfigAnswer::TooMuchTls { of_tenant, limit, needed: bytes.then })
    }

    /// What the webhooks that this transaction touches have after it, and that one.
    fn tls_changes(&self, no: WebhookNo, tenant: &Tenant, settings: &Arc<TlsSettings>) -> Vec<TlsChange> {
        let mut after = BTreeMap::new();
        for (_, step) in &self.steps {
            match step {
                ConfigStep::Put(webhook) => {
                    after.insert(webhook.no, (webhook.tenant.clone(), webhook.settings.tls.clone()));
                }
                ConfigStep::Removed(no) => {
                    // One that came and went in this transaction takes nothing.
                    if let Some(known) = self.shared.catalog.webhook(*no) {
                        after.insert(*no, (known.webhook.tenant.clone(), None));
                    } else {
                        after.remove(no);
                    }
                }
            }
        }
        after.insert(no, (tenant.clone(), Some(settings.clone())));
        after.into_iter().map(|(webhook, (tenant, after))| TlsChange { webhook, tenant, after }).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tempfile::TempDir;

    use crate::{
        clock::Clock,
        model::{
            signing::Secret,
            target::Target,
            time::Timestamp,
            webhook::{Settings, Subscription, Webhook, WebhookSpec},
        },
        store::{
            Store as _,
            redb::{Config, RedbStore, open},
            types::ConfigChange,
        },
    };

    use super::*;

    /// About as long as a real one.
    const CERTIFICATE_BYTES: usize = 1_000;

    /// Others for every number.
    fn settings(n: u64) -> Arc<TlsSettings> {
        let certificate = n.to_le_bytes().repeat(CERTIFICATE_BYTES / 8);
        Arc::new(TlsSettings::from_stored(vec![certificate], Vec::new(), None).unwrap())
    }

    fn memory(different: usize) -> usize {
        different * settings(0).memory_bytes()
    }

    /// With room for so many different settings, and so many of one tenant.
    fn opened(dir: &TempDir, all: usize, own: usize) -> RedbStore {
        let config = Config { tls_bytes_max: memory(all), tls_tenant_bytes_max: memory(own), ..Config::default() };
        open(dir.path(), config, Arc::default(), Clock::start()).unwrap()
    }

    async fn create(store: &RedbStore, tenant: &str, tls: Arc<TlsSettings>) -> ConfigAnswer {
        let target = Target::from_stored("https://receiver.example/").unwrap();
        let settings = Settings { tls: Some(tls), ..Settings::new(target, Subscription::All) };
        let spec = WebhookSpec { tenant: tenant.parse().unwrap(), settings, enabled: true };
        let keys = Secret::from_bytes(&[7; 32]).unwrap().into();
        let change = ConfigChange::CreateWebhook { spec, keys, request: None, time: Timestamp::UNIX_EPOCH };
        store.put_config(change).await.unwrap()
    }

    async fn created(store: &RedbStore, tenant: &str, n: u64) -> Webhook {
        let answer = create(store, tenant, settings(n)).await;
        let ConfigAnswer::Created(webhook) = answer else { panic!("{n} of {tenant}: {answer:?}") };
        webhook
    }

    async fn update(store: &RedbStore, webhook: &Webhook, tls: Option<Arc<TlsSettings>>) -> ConfigAnswer {
        let present = store.catalog().webhook(webhook.no).unwrap().webhook;
        let change = ConfigChange::UpdateWebhook {
            tenant: present.tenant.clone(),
            id: present.id,
            expect: present.version,
            settings: Settings { tls, ..present.settings.clone() },
            enabled: true,
            drop_held: false,
            pair: None,
            time: Timestamp::UNIX_EPOCH,
        };
        store.put_config(change).await.unwrap()
    }

    async fn delete(store: &RedbStore, webhook: &Webhook) {
        let (tenant, id) = (webhook.tenant.clone(), webhook.id);
        let change = ConfigChange::DeleteWebhook { tenant, id, expect: None, time: Timestamp::UNIX_EPOCH };
        assert!(matches!(store.put_config(change).await.unwrap(), ConfigAnswer::Deleted { .. }));
    }

    fn held(store: &RedbStore, tenant: &str) -> [usize; 2] {
        store.catalog().tls_bytes(&tenant.parse().unwrap(), &[]).map(|bytes| bytes.now)
    }

    #[tokio::test]
    async fn a_thousand_webhooks_with_equal_settings_share_them() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir, 1, 1);
        let all = join_all((0..1_000).map(|n| create(&store, if n % 2 == 0 { "a" } else { "b" }, settings(7)))).await;
        assert!(all.iter().all(|answer| matches!(answer, ConfigAnswer::Created(_))));
        let check = |store: &RedbStore| {
            let webhooks = store.catalog().list(None, None, 2_000);
            let first = webhooks[0].webhook.settings.tls.clone().unwrap();
            let same = |it: &crate::store::Registered| {
                it.webhook.settings.tls.as_ref().is_some_and(|settings| Arc::ptr_eq(settings, &first))
            };
            assert_eq!(webhooks.iter().filter(|it| same(it)).count(), 1_000);
            assert_eq!((held(store, "a"), held(store, "b")), ([memory(1); 2], [memory(1); 2]));
        };
        check(&store);
        store.close().await.unwrap();
        let store = opened(&dir, 1, 1);
        check(&store);
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_what_goes_gives_its_room_back() {
        let dir = TempDir::new().unwrap();
        let mut store = opened(&dir, 4, 3);
        let refused = |answer: ConfigAnswer, is_tenant: bool| {
            let ConfigAnswer::TooMuchTls { of_tenant, limit, needed } = answer else {
                panic!("not refused: {answer:?}")
            };
            assert_eq!((of_tenant, limit, needed), (is_tenant, memory(3 + usize::from(!is_tenant)), limit + memory(1)));
        };
        // Many at once: what comes in one transaction counts as well.
        let answers = join_all((0..9).map(|n| create(&store, "a", settings(n)))).await;
        let mut own: Vec<Webhook> = Vec::new();
        for answer in answers {
            if let ConfigAnswer::Created(webhook) = answer {
                own.push(webhook);
            } else {
                refused(answer, true);
            }
        }
        assert_eq!(own.len(), 3);
        own.push(created(&store, "a", 1).await);
        let other = created(&store, "b", 100).await;
        refused(create(&store, "b", settings(101)).await, false);
        created(&store, "b", 0).await;
        assert_eq!((held(&store, "a"), held(&store, "b")), ([memory(4), memory(3)], [memory(4), memory(2)]));

        store.close().await.unwrap();
        store = opened(&dir, 4, 3);
        assert_eq!((held(&store, "a"), held(&store, "b")), ([memory(4), memory(3)], [memory(4), memory(2)]));
        refused(create(&store, "a", settings(101)).await, true);
        refused(create(&store, "b", settings(101)).await, false);

        // The only one with its settings may have others in their place; one of two may not.
        assert!(matches!(update(&store, &own[2], Some(settings(50))).await, ConfigAnswer::Updated(_)));
        refused(update(&store, &own[1], Some(settings(51))).await, true);
        refused(update(&store, &own[3], Some(settings(51))).await, true);
        // What is not changed is not asked for again.
        assert!(matches!(update(&store, &own[1], Some(settings(1))).await, ConfigAnswer::Updated(_)));
        delete(&store, &own[3]).await;
        assert!(matches!(update(&store, &own[1], Some(settings(51))).await, ConfigAnswer::Updated(_)));
        assert!(matches!(update(&store, &own[1], None).await, ConfigAnswer::Updated(_)));
        assert_eq!(held(&store, "a"), [memory(3), memory(2)]);
        created(&store, "a", 60).await;
        delete(&store, &other).await;
        assert_eq!((held(&store, "a"), held(&store, "b")), ([memory(3); 2], [memory(3), memory(1)]));
        store.close().await.unwrap();

        // A lower limit takes nothing away.
        store = opened(&dir, 1, 1);
        assert_eq!(held(&store, "a"), [memory(3); 2]);
        assert!(matches!(update(&store, &own[2], Some(settings(70))).await, ConfigAnswer::Updated(_)));
        let more = create(&store, "a", settings(71)).await;
        assert!(matches!(more, ConfigAnswer::TooMuchTls { of_tenant: true, .. }), "{more:?}");
        for registered in store.catalog().list(None, None, 10) {
            delete(&store, &registered.webhook).await;
        }
        assert_eq!((held(&store, "a"), held(&store, "b")), ([0; 2], [0; 2]));
        store.close().await.unwrap();
    }
}
