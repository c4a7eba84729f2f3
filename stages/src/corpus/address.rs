//! Addresses of objects: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`, `https://host/path`.

use std::fmt;

/// Which protocol a store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Amazon S3, and the many that speak like it.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A web server, without encryption.
    Http,
    /// A web server.
    Https,
}

impl Scheme {
    const ALL: [Self; 5] = [Self::S3, Self::Gs, Self::Az, Self::Http, Self::Https];

    /// As written before `://`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Whether the objects below an address can be listed. The web has no listing.
    pub const fn lists(self) -> bool {
        !matches!(self, Self::Http | Self::Https)
    }
}

/// Where an object is, or a folder of objects.
///
/// Keys of buckets and containers are written as they are; addresses of the web are encoded as in a browser
/// (`https://host/a%20b.flac`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    scheme: Scheme,
    /// Bucket, container, or host and port.
    authority: String,
    /// Without `/` at its ends; empty for all of a store.
    key: String,
}

/// What is written is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {message}")]
pub struct AddressError {
    /// As written, without what might be a secret.
    pub text: String,
    /// What was expected, and what was found.
    pub message: String,
}

impl Address {
    /// Whether a text is meant as an address and not as a path: it has a scheme.
    pub fn is_one(text: &str) -> bool {
        let named = |scheme: &str| {
            let of_one = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(of_one)
        };
        text.split_once("://").is_some_and(|(scheme, _)| named(scheme))
    }

    /// Reads an address.
    ///
    /// # Errors
    /// When the scheme is not known, the bucket is missing, it has a password or a query, or a part between two `/` is
    /// empty, `.` or `..`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        let known = Scheme::ALL.into_iter().find(|known| known.as_str() == scheme);
        let wrong = |message: String| AddressError { text: without_secrets(text), message };
        let Some(scheme) = known else {
            let names = Scheme::ALL.map(|known| format!("{}://", known.as_str())).join(", ");
            return Err(wrong(format!("expected an address with one of {names}, found `{scheme}://`")));
        };
        if authority.contains('@') {
            return Err(wrong("credentials come from the environment, not from the address".to_owned()));
        }
        if authority.is_empty() || authority.contains(['?', '#', '\\', ' ']) {
            let what = if scheme.lists() { "a bucket" } else { "a host" };
            return Err(wrong(format!("expected the name of {what} after `://`, found `{authority}`")));
        }
        if !scheme.lists() && key.contains(['?', '#']) {
            let message = "addresses with `?` or `#` cannot be read: a signature would be stored with every row";
            return Err(wrong(message.to_owned()));
        }
        let key = key.strip_suffix('/').unwrap_or(key);
        if !key.is_empty()
            && let Some(part) = key.split('/').find(|part| matches!(*part, "" | "." | ".."))
        {
            return Err(wrong(format!("expected a name between every two `/`, found `{part}`")));
        }
        Ok(Self { scheme, authority: authority.to_owned(), key: key.to_owned() })
    }

    /// Which protocol the store speaks.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Bucket, container, or host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What comes after it, without `/` at the ends; empty for all of a store.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The address of what is called `name` below this one.
    ///
    /// # Errors
    /// As [`Address::parse`].
    pub fn join(&self, name: &str) -> Result<Self, AddressError> {
        let name = match self.scheme.lists() {
            true => name.to_owned(),
            // A name in a list is not encoded.
            false => name.replace('%', "%25").replace('?', "%3F").replace('#', "%23"),
        };
        Self::parse(&format!("{self}/{name}"))
    }

    /// The name of `other` below this one.
    pub fn below(&self, other: &Self) -> Option<String> {
        let same = self.scheme == other.scheme && self.authority == other.authority;
        let rest =
            if self.key.is_empty() { Some(&*other.key) } else { other.key.strip_prefix(&self.key)?.strip_prefix('/') };
        rest.filter(|rest| same && self.scheme.lists() && !rest.is_empty()).map(str::to_owned)
    }

    /// The address without its last part; itself for all of a store.
    #[must_use]
    pub fn parent(&self) -> Self {
        let key = self.key.rsplit_once('/').map_or("", |(parent, _)| parent);
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// The part after the last dot of the name.
    pub fn extension(&self) -> Option<&str> {
        let (stem, extension) = self.key.rsplit('/').next()?.rsplit_once('.')?;
        (!stem.is_empty()).then_some(extension)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority)?;
        if self.key.is_empty() { Ok(()) } else { write!(f, "/{}", self.key) }
    }
}

/// Without a password before `@`, and without a query, in which signatures are.
fn without_secrets(text: &str) -> String {
    let shown = text.split(['?', '#']).next().unwrap_or(text);
    match shown.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or(rest);
            let hidden = authority.rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[hidden..])
        }
        None => shown.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    #[test]
    fn addresses_are_told_from_paths() {
        for text in ["s3://b/k", "ftp://x", "https://h"] {
            assert!(Address::is_one(text), "{text}");
        }
        for text in ["music/a.wav", "/a://b", "C:\\a", "://x", "a b://c"] {
            assert!(!Address::is_one(text), "{text}");
        }
    }

    #[test]
    fn parts_are_found_and_put_together() {
        let root = address("s3://music/jazz/");
        assert_eq!((root.authority(), root.key(), root.to_string().as_str()), ("music", "jazz", "s3://music/jazz"));
        let song = root.join("live/50% a?.flac").expect("a key");
        assert_eq!((song.key(), song.extension()), ("jazz/live/50% a?.flac", Some("flac")));
        assert_eq!(root.below(&song).as_deref(), Some("live/50% a?.flac"));
        assert_eq!(address("s3://music").below(&song).as_deref(), Some("jazz/live/50% a?.flac"));
        assert_eq!(root.below(&address("s3://music/jazz2/a.flac")), None);
        assert_eq!(root.below(&address("gs://music/jazz/a.flac")), None);
        assert_eq!(song.parent().parent(), root);
        let web = address("https://host:8000/x").join("50% a.flac").expect("a name");
        assert_eq!(web.to_string(), "https://host:8000/x/50%25 a.flac");
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_secrets() {
        let error = |text: &str| Address::parse(text).expect_err("refused").to_string();
        assert_eq!(
            error("gcs://b/k"),
            "`gcs://b/k`: expected an address with one of s3://, gs://, az://, http://, https://, found `gcs://`"
        );
        assert_eq!(error("s3:///k"), "`s3:///k`: expected the name of a bucket after `://`, found ``");
        assert_eq!(error("s3://b/a//b"), "`s3://b/a//b`: expected a name between every two `/`, found ``");
        let secret = error("https://me:hunter2@host/a.flac");
        assert!(secret.starts_with("`https://host/a.flac`: credentials come from the environment"), "{secret}");
        let signed = error("https://host/a.flac?sig=hunter2");
        assert!(signed.starts_with("`https://host/a.flac`: addresses with `?`"), "{signed}");
    }
}
