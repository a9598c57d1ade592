//! Quotas: how much of the server a tenant may use, and does.

use crate::{
    Client, Error, Pages,
    client::{REPLY_BYTES_MAX, Transport, incomplete, pages},
    v1::{
        GetQuotaRequest, ListQuotasRequest, ListQuotasResponse, Quota, SetQuotaRequest, TenantQuota,
        quota_service_client::QuotaServiceClient,
    },
};

impl Client {
    /// Sets the quota of a tenant, all of it: what is unset is as for all tenants, and -1 is no limit. Returns how it stands.
    pub async fn set_quota(&self, mut quota: Quota) -> Result<TenantQuota, Error> {
        quota.tenant = self.tenant_or(quota.tenant);
        let reply = self.call(self.quota_service().set_quota(SetQuotaRequest { quota: Some(quota) })).await?;
        reply.quota.ok_or_else(|| incomplete("quota"))
    }

    /// Reads the quota of the client's tenant, and what is used of it.
    pub async fn quota(&self) -> Result<TenantQuota, Error> {
        let request = GetQuotaRequest { tenant: self.tenant_or(String::new()) };
        let reply = self.call(self.quota_service().get_quota(request)).await?;
        reply.quota.ok_or_else(|| incomplete("quota"))
    }

    /// Reads one page of the quotas that tenants have of their own, by name.
    pub async fn list_quotas(&self, request: ListQuotasRequest) -> Result<ListQuotasResponse, Error> {
        self.call(self.quota_service().list_quotas(request)).await
    }

    /// All quotas that tenants have of their own, by name, read page by page as the stream is.
    pub fn quotas(&self) -> Pages<'_, TenantQuota> {
        pages(move |page_token| async move {
            let page = self.list_quotas(ListQuotasRequest { page_token, ..Default::default() }).await?;
            Ok((page.quotas, page.next_page_token))
        })
    }

    fn quota_service(&self) -> QuotaServiceClient<Transport> {
        QuotaServiceClient::new(self.transport()).max_decoding_message_size(REPLY_BYTES_MAX)
    }
}
