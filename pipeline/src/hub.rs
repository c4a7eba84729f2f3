//! Models in repositories of Hugging Face.

use std::fmt;
#[cfg(not(feature = "hub"))]
use std::path::Path;
use std::path::PathBuf;

/// A repository: `OWNER/NAME`, with `@REVISION` if it is not the main one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    owner: String,
    name: String,
    revision: String,
}

impl Repository {
    /// Reads `OWNER/NAME` or `OWNER/NAME@REVISION`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        match path.split_once('/') {
            Some((owner, name)) if plain(owner) && plain(name) && plain(revision) => {
                Ok(Self { owner: owner.to_owned(), name: name.to_owned(), revision: revision.to_owned() })
            }
            _ => Err(format!("expected `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`, found `hf:{text}`")),
        }
    }

    /// Its name, without the owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder name for its files.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(format!("{}--{}--{}", self.owner, self.name, self.revision))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.owner, self.name, self.revision)
    }
}

/// Downloads the files of a published model to a folder, unless they are there, and returns the folder.
///
/// `HF_ENDPOINT` names another server than `https://huggingface.co`, `HF_TOKEN` gives access to gated repositories.
///
/// # Errors
/// When this program was built without the feature `hub`, or the server does not give the files.
#[cfg(not(feature = "hub"))]
pub fn download(repository: &Repository, folder: &Path) -> Result<PathBuf, String> {
    let _ = folder;
    Err(format!(
        "this omar-flow was built without downloads: build it with `--features hub`, or download the files of \
         {repository} yourself and name their folder"
    ))
}

#[cfg(feature = "hub")]
pub use online::download;

#[cfg(feature = "hub")]
mod online {
    use std::fs::File;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use omar_stages::storage::durable::{publish, temporary_for};

    use super::Repository;

    /// The server that is asked unless `HF_ENDPOINT` names another.
    const ENDPOINT: &str = "https://huggingface.co";
    /// How long a server may take to be reached, and then to begin its answer.
    const PATIENCE: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(60)];

    /// The files of published models, one kind of repository after another: the first file decides whether it is of the
    /// kind, and of the others, of which not all need to be there, the last ones have tensors, of which one is enough.
    const KINDS: [&[&str]; 3] = [
        &["config.gin", "README.md", "model.safetensors", "model.ckpt"],
        &["config.json", "README.md", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"],
        &["fma_stats.json", "README.md", "pretrained_fma.pt"],
    ];

    /// Whether a file has tensors.
    fn has_tensors(name: &str) -> bool {
        [".safetensors", ".ckpt", ".bin", ".pt"].iter().any(|ending| name.ends_with(ending))
    }

    /// See the variant without the feature.
    ///
    /// # Errors
    /// When the server does not give the files, or the disk does not take them.
    pub fn download(repository: &Repository, folder: &Path) -> Result<PathBuf, String> {
        std::fs::create_dir_all(folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
        let server = Server::from_environment();
        // `false` when there is no such file.
        let get = |name: &str| {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(true);
            }
            match server.fetch(repository, name, &path) {
                Ok(()) => Ok(true),
                Err(Refusal::Missing) => Ok(false),
                Err(Refusal::Other(message)) => Err(format!("{repository}: `{name}`: {message}")),
            }
        };
        for (first, others) in KINDS.iter().filter_map(|kind| kind.split_first()) {
            if !get(first)? {
                continue;
            }
            let mut complete = false;
            for name in others.iter().filter(|name| !has_tensors(name)) {
                get(name)?;
            }
            for name in others.iter().filter(|name| has_tensors(name)) {
                complete = complete || get(name)?;
            }
            return if complete {
                Ok(folder.to_owned())
            } else {
                Err(format!("{repository} has a `{first}`, and no file with tensors beside it"))
            };
        }
        let first: Vec<String> = KINDS.iter().filter_map(|kind| kind.first()).map(|name| format!("`{name}`")).collect();
        Err(format!("{repository} has none of {}: it is no published model that is known", first.join(", ")))
    }

    enum Refusal {
        Missing,
        Other(String),
    }

    /// Where files come from.
    struct Server {
        endpoint: String,
        token: Option<String>,
        agent: ureq::Agent,
    }

    impl Server {
        fn from_environment() -> Self {
            let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
            let [connect, answer] = PATIENCE;
            let config = ureq::Agent::config_builder()
                .user_agent(concat!("omar-flow/", env!("CARGO_PKG_VERSION")))
                // What the server says beside the status decides what a refusal means.
                .http_status_as_error(false)
                .timeout_connect(Some(connect))
                .timeout_recv_response(Some(answer))
                // Files are somewhere else on the same server, or on another one, which the token is nothing for.
                .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
                .build();
            let endpoint = endpoint.trim_end_matches('/').to_owned();
            Self { endpoint, token: set("HF_TOKEN"), agent: config.into() }
        }

        fn fetch(&self, repository: &Repository, name: &str, path: &Path) -> Result<(), Refusal> {
            let Repository { owner, name: repo, revision } = repository;
            let endpoint = &self.endpoint;
            let mut request = self.agent.get(format!("{endpoint}/{owner}/{repo}/resolve/{revision}/{name}"));
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| {
                Refusal::Other(format!(
                    "`{endpoint}` cannot be reached: {error}; HF_ENDPOINT names another server, and files that were \
                     downloaded elsewhere are imported by the name of their folder"
                ))
            })?;
            let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
            match (response.status().as_u16(), code) {
                (200, _) => save(response, path).map_err(Refusal::Other),
                (_, "RevisionNotFound") => Err(Refusal::Other(format!("there is no revision `{revision}`"))),
                // Also what the server says of a repository that is there, to those who may not see it.
                (401 | 403, _) | (_, "RepoNotFound") => Err(Refusal::Other(
                    "there is no such repository, or it is not open to everybody: set HF_TOKEN, and accept its terms on \
                     its page"
                        .to_owned(),
                )),
                (404, _) => Err(Refusal::Missing),
                (status, _) => Err(Refusal::Other(format!("`{endpoint}` answers with status {status}"))),
            }
        }
    }

    /// Writes a file, which appears as a whole or not at all.
    fn save(mut response: ureq::http::Response<ureq::Body>, path: &Path) -> Result<(), String> {
        let expected = response.body().content_length();
        let temporary = temporary_for(path);
        let written = File::create(&temporary).and_then(|mut file| {
            let bytes = io::copy(&mut response.body_mut().as_reader(), &mut file)?;
            file.sync_all()?;
            Ok(bytes)
        });
        let complete = match written {
            Ok(bytes) if expected.is_some_and(|expected| expected != bytes) => {
                Err(format!("the download broke off after {bytes} bytes"))
            }
            Ok(_) => publish(&temporary, path).map_err(|error| error.to_string()),
            Err(error) => Err(format!("the download broke off: {error}")),
        };
        if complete.is_err() {
            // Of use to nobody; the error that matters is the other one.
            let _gone = std::fs::remove_file(&temporary);
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::Repository;

    #[test]
    fn repositories_are_read_and_paths_are_not() {
        let repository = Repository::parse("mtg-upf/omar-rq-base").unwrap();
        assert_eq!(
            (repository.name(), repository.to_string()),
            ("omar-rq-base", "mtg-upf/omar-rq-base@main".to_owned())
        );
        assert_eq!(Repository::parse("a/b@v1.0").unwrap().to_string(), "a/b@v1.0");
        for text in ["", "a", "a/", "../b", "a/..", "a/b/c", "a/b@../c", "a/b@"] {
            assert!(Repository::parse(text).is_err(), "{text}");
        }
    }
}
