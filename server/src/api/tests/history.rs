//! What is said of what is no longer retained.

use postrider_proto::{error_info as reason, v1};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use v1::delivery_service_server::DeliveryService as _;

use super::{
    services::{deliveries, detail},
    told,
};
use crate::{
    model::{ids::DeliveryId, time::Timestamp},
    store::fake::FakeStore,
};

/// Events accepted before 2096-10-02T07:06:40Z are gone.
const OLDEST: Timestamp = Timestamp::from_micros(4_000_000_000_000_000);

fn expired(status: &Status) {
    assert_eq!(told(status), (Code::OutOfRange, reason::EXPIRED.into(), vec![]));
    let details = status.get_error_details();
    let metadata = &details.error_info().expect("told").metadata;
    assert_eq!(metadata["oldest_time"], "2096-10-02T07:06:40Z");
}

#[tokio::test]
async fn a_delivery_that_expired_is_told_from_one_that_never_was_and_to_its_tenant_alone() {
    let store = FakeStore::new();
    let id = DeliveryId::from_bytes([1; 16]);
    *store.expired.lock() = Some((id, "acme".parse().unwrap()));
    *store.retained_since.lock() = OLDEST;
    let service = deliveries(&store);
    let get = async |tenant: &str, id: DeliveryId| {
        let request = v1::GetDeliveryRequest { tenant: tenant.into(), id: id.to_string() };
        service.get_delivery(Request::new(request)).await.unwrap_err()
    };
    let retry = async |tenant: &str, id: DeliveryId| {
        let request = v1::RetryDeliveryRequest { tenant: tenant.into(), id: id.to_string() };
        service.retry_delivery(Request::new(request)).await.unwrap_err()
    };
    let never = DeliveryId::from_bytes([2; 16]);
    let not_found = (Code::NotFound, reason::DELIVERY_NOT_FOUND.into(), vec![]);
    expired(&get("acme", id).await);
    let event_expired = (Code::FailedPrecondition, reason::EVENT_EXPIRED.into(), vec![]);
    assert_eq!(told(&retry("acme", id).await), event_expired);
    for (tenant, id) in [("other", id), ("acme", never)] {
        assert_eq!(told(&get(tenant, id).await), not_found, "{tenant} {id}");
        assert_eq!(told(&retry(tenant, id).await), not_found, "{tenant} {id}");
    }
}

#[tokio::test]
async fn a_list_of_what_is_gone_says_so_and_one_of_what_is_left_says_since_when() {
    let store = FakeStore::new();
    *store.retained_since.lock() = OLDEST;
    let service = deliveries(&store);
    let list = async |until: i64, event_id: &str, page_token: String| {
        let end_time = (until != 0).then_some(prost_types::Timestamp { seconds: until, nanos: 0 });
        let event_id = event_id.to_owned();
        let request = v1::ListDeliveriesRequest { end_time, event_id, page_token, ..Default::default() };
        service.list_deliveries(Request::new(request)).await.map(tonic::Response::into_inner)
    };
    // Of 2022.
    let old = "evt_017f22e279b07cc398c4dc0c0c07398f";
    let (before, after) = (4_000_000_000, 4_000_000_001);
    expired(&list(before, "", String::new()).await.unwrap_err());
    expired(&list(0, old, String::new()).await.unwrap_err());
    expired(&list(after, old, String::new()).await.unwrap_err());
    for (until, event) in [(0, ""), (after, ""), (0, "mine")] {
        let page = list(until, event, String::new()).await.unwrap();
        assert_eq!(page.oldest_time, Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }));
    }
    let shown = detail("acme").delivery;
    // Something may be left, or come.
    store.page.lock().0.next = Some(shown.key);
    let token = list(before, "", String::new()).await.unwrap().next_page_token;
    store.page.lock().0.next = None;
    assert!(list(before, "", token).await.is_ok(), "the last page of a list");
    store.page.lock().0.deliveries.push(shown);
    assert_eq!(list(before, "", String::new()).await.unwrap().deliveries.len(), 1, "what is pending");
}
