//! Clients of stores, set up as the environment says.

use std::sync::{Arc, Once};

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::list::PaginatedListStore;
use object_store::{ClientOptions, Error, ObjectStore, RetryConfig};

use super::Patience;
use super::patience::without_queries;
use crate::corpus::address::{Address, Scheme};

/// How long a connection may take to stand.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(5);

/// One bucket, container or host.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) objects: Arc<dyn ObjectStore>,
    /// `None` for the web.
    pub(super) lists: Option<Arc<dyn PaginatedListStore>>,
}

impl Client {
    /// Connects to nothing yet. `variables` are those of the environment.
    pub(super) fn new(address: &Address, variables: &[(String, String)], patience: &Patience) -> Result<Self, String> {
        static CRYPTOGRAPHY: Once = Once::new();
        CRYPTOGRAPHY.call_once(|| {
            // It is only refused where somebody has chosen before, which is as good.
            let _chosen = rustls::crypto::ring::default_provider().install_default();
        });
        let client = match address.scheme() {
            Scheme::S3 => amazon(address, variables, patience),
            Scheme::Gs => google(address, variables, patience),
            Scheme::Az => azure(address, variables, patience),
            Scheme::Http | Scheme::Https => web(address, patience),
        };
        client.map_err(|error| without_queries(&error.to_string()))
    }

    fn listing<S: ObjectStore + PaginatedListStore>(store: S) -> Self {
        let store = Arc::new(store);
        Self { objects: store.clone(), lists: Some(store) }
    }
}

fn options(patience: &Patience) -> ClientOptions {
    ClientOptions::new().with_timeout(patience.answer).with_connect_timeout(CONNECT)
}

/// The client does not ask again by itself: see [`Patience`].
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// The variables of a store: those whose name begins so, in lower case.
fn own<'v>(variables: &'v [(String, String)], prefix: &'v str) -> impl Iterator<Item = (String, &'v str)> {
    let of_store = move |(name, _): &&(String, String)| name.starts_with(prefix);
    variables.iter().filter(of_store).map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
}

fn amazon(address: &Address, variables: &[(String, String)], patience: &Patience) -> Result<Client, Error> {
    let mut builder = AmazonS3Builder::new().with_client_options(options(patience)).with_retry(no_retries());
    for (name, value) in own(variables, "AWS_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_bucket_name(address.authority()).build().map(Client::listing)
}

fn google(address: &Address, variables: &[(String, String)], patience: &Patience) -> Result<Client, Error> {
    let mut builder = GoogleCloudStorageBuilder::new().with_client_options(options(patience)).with_retry(no_retries());
    for (name, value) in own(variables, "SERVICE_ACCOUNT").filter(|(name, _)| name == "service_account") {
        builder = builder.with_config(name.parse()?, value);
    }
    for (name, value) in own(variables, "GOOGLE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_bucket_name(address.authority()).build().map(Client::listing)
}

fn azure(address: &Address, variables: &[(String, String)], patience: &Patience) -> Result<Client, Error> {
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(options(patience)).with_retry(no_retries());
    for (name, value) in own(variables, "AZURE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some((_, endpoint)) = own(variables, "IDENTITY_ENDPOINT").find(|(name, _)| name == "identity_endpoint") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    builder.with_container_name(address.authority()).build().map(Client::listing)
}

fn web(address: &Address, patience: &Patience) -> Result<Client, Error> {
    // Who writes `http://` wants it.
    let options = options(patience).with_allow_http(address.scheme() == Scheme::Http);
    let url = format!("{}://{}/", address.scheme().as_str(), address.authority());
    let store = HttpBuilder::new().with_url(url).with_client_options(options).with_retry(no_retries()).build()?;
    Ok(Client { objects: Arc::new(store), lists: None })
}
