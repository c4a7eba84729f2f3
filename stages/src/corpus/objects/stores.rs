//! The connections of a process to object stores.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{LazyLock, Mutex, PoisonError};

use object_store::list::{PaginatedListOptions, PaginatedListResult};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};
use tokio::runtime::{Builder, Runtime};

use super::clients::Client;
use super::reader::{FIRST, Object, WHOLE};
use super::{ObjectReader, Patience, Problem, StoreError};
use crate::corpus::address::{Address, Scheme};
use crate::corpus::location::Stat;
use crate::seed;

/// Objects that are looked at together.
const TOGETHER: usize = 64;

/// Where requests run: they wait most of the time, and two threads encrypt gigabytes in a second.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let built = Builder::new_multi_thread().worker_threads(2).thread_name("objects").enable_all().build();
    built.expect("a process that cannot start two threads has ended before")
});

/// Waits for a request on the thread that asks.
pub(super) fn wait<T>(request: impl Future<Output = T>) -> T {
    RUNTIME.block_on(request)
}

/// Lets a request go on while the thread that asks does other things.
pub(super) fn begin<T: Send + 'static>(
    request: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    RUNTIME.spawn(request)
}

/// The stores that a process reads from, each connected to when it is first asked for something.
///
/// Who we are, and where the stores are, is said by variables of the environment: those that start with `AWS_`,
/// `GOOGLE_` and `AZURE_`, as the crate `object_store` documents them.
pub struct Stores {
    variables: Vec<(String, String)>,
    patience: Patience,
    clients: Mutex<HashMap<(Scheme, String), Client>>,
}

/// Shows no variable: they are secrets.
impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Stores {
    /// Set up as these variables say.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>, patience: Patience) -> Self {
        Self { variables: variables.into_iter().collect(), patience, clients: Mutex::default() }
    }

    /// Those of this process, set up as its environment says.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Stores> = LazyLock::new(|| {
            let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
                Some((name.into_string().ok()?, value.into_string().ok()?))
            };
            Stores::new(std::env::vars_os().filter_map(text), Patience::default())
        });
        &SHARED
    }

    /// What is known of an object without reading it.
    ///
    /// # Errors
    /// When there is none, or the store does not answer.
    pub fn stat(&self, address: &Address) -> Result<Stat, StoreError> {
        let (client, key) = self.find(address)?;
        wait(head(&client, &key, address, self.patience)).map(|meta| stat(&meta))
    }

    /// What is known of several objects, which are asked for together.
    pub fn stats(&self, addresses: &[Address]) -> Vec<Result<Stat, StoreError>> {
        let mut stats = Vec::with_capacity(addresses.len());
        for together in addresses.chunks(TOGETHER) {
            let ask = |address: &Address| {
                let (client, key) = self.find(address)?;
                let (address, patience) = (address.clone(), self.patience);
                Ok(begin(async move { head(&client, &key, &address, patience).await.map(|meta| stat(&meta)) }))
            };
            let asked: Vec<_> = together.iter().map(ask).collect();
            stats.extend(asked.into_iter().map(|asked| wait(asked?).expect("a request does not panic")));
        }
        stats
    }

    /// Calls `found` for every object below a folder with its name there, in the order of the store: that of the bytes
    /// of the names for S3, Google and Azure. Returns how many there were. Only two pages, of a thousand names at most,
    /// are held at a time.
    ///
    /// # Errors
    /// When the store does not answer, or does not let us see what it has.
    pub fn list(&self, folder: &Address, found: &mut dyn FnMut(&str, Stat)) -> Result<u64, StoreError> {
        let (client, _) = self.find(folder)?;
        let prefix = prefix(folder);
        let ask = |token: Option<String>| begin(page(client.clone(), folder.clone(), token, None, self.patience));
        let mut count = 0;
        let mut next = Some(ask(None));
        while let Some(asked) = next.take() {
            let PaginatedListResult { result, page_token } = wait(asked).expect("a request does not panic")?;
            next = page_token.map(|token| ask(Some(token)));
            for object in result.objects {
                let name = object.location.as_ref().strip_prefix(&prefix).unwrap_or_default();
                if !name.is_empty() {
                    count += 1;
                    found(name, stat(&object));
                }
            }
        }
        Ok(count)
    }

    /// Looks whether a place can be reached, and says what was found.
    ///
    /// # Errors
    /// When it cannot.
    pub fn reach(&self, address: &Address) -> Result<String, StoreError> {
        if address.scheme().lists() {
            let (client, _) = self.find(address)?;
            let listed = wait(page(client, address.clone(), None, Some(1), self.patience));
            match listed {
                Ok(listed) if !listed.result.objects.is_empty() => {
                    return Ok("answers, and has objects there".to_owned());
                }
                // It may be a single object, and who may read need not be one who may list.
                Ok(_) if !address.key().is_empty() => {}
                Ok(_) => return Ok("answers, and is empty".to_owned()),
                Err(error) if error.problem == Problem::Denied && address.extension().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        self.stat(address).map(|stat| format!("an object of {} bytes", stat.len))
    }

    /// Opens an object: reads its beginning, and notes which version it is.
    ///
    /// # Errors
    /// When there is none, or the store does not answer.
    pub fn open(&self, address: &Address) -> Result<ObjectReader, StoreError> {
        let (client, key) = self.find(address)?;
        let get = |range: Option<GetRange>| {
            let (client, key) = (client.clone(), key.clone());
            move || {
                let (client, key) = (client.clone(), key.clone());
                let options = GetOptions { range: range.clone(), ..GetOptions::default() };
                async move {
                    let answer = client.objects.get_opts(&key, options).await?;
                    let meta = answer.meta.clone();
                    if meta.size > WHOLE && answer.range.end - answer.range.start == meta.size {
                        return Ok((meta, None));
                    }
                    Ok((meta, Some(Vec::from(answer.bytes().await?))))
                }
            }
        };
        let object = |meta: &ObjectMeta| Object {
            client: client.clone(),
            key: key.clone(),
            address: address.clone(),
            patience: self.patience,
            version: meta.into(),
            stat: stat(meta),
        };
        let refused = match wait(self.patience.ask(address, get(Some((0..FIRST).into())))) {
            Ok((meta, beginning)) => return Ok(ObjectReader::new(object(&meta), beginning.unwrap_or_default())),
            Err(error) if error.problem == Problem::Refused => error,
            Err(error) => return Err(error),
        };
        // An empty object has no first byte (416), and some web servers know nothing of parts.
        let meta = wait(head(&client, &key, address, self.patience))?;
        if meta.size == 0 {
            return Ok(ObjectReader::new(object(&meta), Vec::new()));
        }
        if address.scheme().lists() {
            return Err(refused);
        }
        match wait(self.patience.ask(address, get(None)))? {
            (meta, Some(all)) => Ok(ObjectReader::new(object(&meta), all)),
            (meta, None) => {
                let message = format!(
                    "the server does not give parts of files, and the file has {} bytes: {WHOLE} at most are read at once",
                    meta.size
                );
                Err(StoreError::new(address, Problem::Refused, message))
            }
        }
    }

    fn find(&self, address: &Address) -> Result<(Client, Key), StoreError> {
        let refused = |message: String| StoreError::new(address, Problem::Refused, message);
        let key = match address.scheme().lists() {
            true => Key::parse(address.key()),
            false => Key::from_url_path(address.key()),
        };
        let key = key.map_err(|error| refused(error.to_string()))?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (address.scheme(), address.authority().to_owned());
        if let Some(client) = clients.get(&name) {
            return Ok((client.clone(), key));
        }
        let client = Client::new(address, &self.variables, &self.patience)
            .map_err(|message| StoreError::denied(address, &message))?;
        clients.insert(name, client.clone());
        Ok((client, key))
    }
}

/// What the keys of all objects in a folder begin with.
fn prefix(folder: &Address) -> String {
    if folder.key().is_empty() { String::new() } else { format!("{}/", folder.key()) }
}

async fn page(
    client: Client,
    folder: Address,
    page_token: Option<String>,
    max_keys: Option<usize>,
    patience: Patience,
) -> Result<PaginatedListResult, StoreError> {
    let Some(lists) = client.lists else {
        let message = "the web has no listing: name single addresses, or a list of them (`manifest`)";
        return Err(StoreError::new(&folder, Problem::Refused, message));
    };
    let prefix = prefix(&folder);
    let ask = || {
        let options = PaginatedListOptions { page_token: page_token.clone(), max_keys, ..Default::default() };
        lists.list_paginated(Some(&prefix).filter(|prefix| !prefix.is_empty()).map(String::as_str), options)
    };
    let listed = patience.ask(&folder, ask).await;
    listed.map_err(|error| match error.problem {
        Problem::Missing => StoreError { message: "404 Not Found: there is no such bucket".to_owned(), ..error },
        _ => error,
    })
}

async fn head(client: &Client, key: &Key, address: &Address, patience: Patience) -> Result<ObjectMeta, StoreError> {
    patience.ask(address, || client.objects.head(key)).await
}

/// An object counts as changed when its size or its `ETag` does; its time, where the store gives no `ETag`.
fn stat(meta: &ObjectMeta) -> Stat {
    let version = match &meta.e_tag {
        Some(tag) => seed::derive_named(0, tag),
        None => seed::derive(1, &[meta.last_modified.timestamp_micros().cast_unsigned()]),
    };
    Stat { len: meta.size, identity: seed::derive(meta.size, &[version]) }
}
