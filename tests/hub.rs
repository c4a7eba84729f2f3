//! Downloads of published models, from a server on this machine that speaks the part of Hugging Face's protocol that is
//! used: files at `OWNER/NAME/resolve/REVISION/FILE`, redirections, tokens, and the header that says why not.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

use program::{Options, Program, text, walk};

/// What the server says to a path.
#[derive(Clone)]
enum Answer {
    File(Vec<u8>),
    /// A file of which less comes than was announced.
    Cut(Vec<u8>),
    Redirect(String),
    /// A status, and the code that goes with it.
    Refused(u16, &'static str),
}

type Site = Arc<Mutex<BTreeMap<String, Answer>>>;
/// Paths that were asked for, with host and token.
type Asked = Arc<Mutex<Vec<(String, String, Option<String>)>>>;

struct Server {
    port: u16,
    site: Site,
    asked: Asked,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (site, asked) = (Site::default(), Asked::default());
        let (its_site, its_asked) = (site.clone(), asked.clone());
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (site, asked) = (its_site.clone(), its_asked.clone());
                std::thread::spawn(move || serve(&stream, &site, &asked));
            }
        });
        Self { port, site, asked }
    }

    fn says(&self, path: &str, answer: Answer) {
        self.site.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// Puts the files of a folder into `owner/model`.
    fn publish(&self, folder: &Path, names: &[&str]) {
        for name in names {
            self.says(&format!("/owner/model/resolve/main/{name}"), Answer::File(fs::read(folder.join(name)).unwrap()));
        }
    }

    fn asked(&self) -> Vec<(String, String, Option<String>)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Answers one request and closes the connection.
fn serve(mut stream: &TcpStream, site: &Site, asked: &Asked) {
    let lines: Vec<String> =
        BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let header = |name: &str| {
        let named =
            lines.iter().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.to_owned())
    };
    asked.lock().unwrap().push((path.clone(), header("host").unwrap_or_default(), header("authorization")));
    let found = site.lock().unwrap().get(&path).cloned();
    let (head, body) = match found.unwrap_or(Answer::Refused(404, "EntryNotFound")) {
        Answer::File(bytes) => (format!("200 OK\r\nContent-Length: {}", bytes.len()), bytes),
        Answer::Cut(bytes) => (format!("200 OK\r\nContent-Length: {}", bytes.len() + 1000), bytes),
        Answer::Redirect(to) => (format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0"), Vec::new()),
        Answer::Refused(status, code) => {
            (format!("{status} No\r\nX-Error-Code: {code}\r\nContent-Length: 0"), Vec::new())
        }
    };
    let _gone = write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").and_then(|()| stream.write_all(&body));
}

fn import(program: &Program, endpoint: &str, token: Option<&str>) -> Output {
    let mut command = program.command(&["import", "hf:owner/model"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", endpoint).envs(token.map(|token| ("HF_TOKEN", token))).output().unwrap()
}

fn start() -> (Program, Server, String) {
    let program = Program::new(&Options { tracks: 0, ..Options::default() });
    let server = Server::start();
    let endpoint = format!("http://127.0.0.1:{}/", server.port);
    (program, server, endpoint)
}

/// What an import that must fail says.
fn refusal(program: &Program, endpoint: &str) -> String {
    let output = import(program, endpoint, None);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn a_model_is_downloaded_once_and_imported() {
    let (program, server, endpoint) = start();
    server.publish(&golden("checkpoint_base"), &["config.gin", "model.ckpt"]);
    let at = |name: &str| format!("/owner/model/resolve/main/{name}");
    // A small file is elsewhere on the server, a large one on another host.
    server.says("/cache/config.gin", Answer::File(fs::read(golden("checkpoint_base/config.gin")).unwrap()));
    server.says(&at("config.gin"), Answer::Redirect("/cache/config.gin".to_owned()));
    server.says("/cdn/model", Answer::File(fs::read(golden("checkpoint_base/model.ckpt")).unwrap()));
    server.says(&at("model.ckpt"), Answer::Redirect(format!("http://localhost:{}/cdn/model", server.port)));
    let output = import(&program, &endpoint, Some("secret"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(program.path("models/model/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["source"]["place"], "owner/model@main");
    let asked = server.asked();
    let token = |path: &str| &asked.iter().find(|one| one.0 == path).unwrap_or_else(|| panic!("{path} of {asked:?}")).2;
    let bearer = Some("Bearer secret".to_owned());
    assert_eq!([token(&at("config.gin")), token("/cache/config.gin"), token(&at("model.ckpt"))], [&bearer; 3]);
    assert_eq!(*token("/cdn/model"), None, "another host gets no token");
    assert!(asked.iter().any(|one| one.0 == at("model.safetensors")), "it is asked for first: {asked:?}");

    let output = import(&program, &endpoint, None);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let again: Vec<String> = server.asked().into_iter().map(|one| one.0).collect();
    assert_eq!(again, [at("README.md"), at("model.safetensors")], "what is there is not asked for again");
}

#[test]
fn another_family_is_found_by_its_files() {
    let (program, server, endpoint) = start();
    let folder = golden("encoders");
    server.publish(&folder, &["fma_stats.json"]);
    let output = refusal(&program, &endpoint);
    assert!(output.contains("owner/model@main has a `fma_stats.json`, and no file with tensors beside it"), "{output}");
    let asked: Vec<String> = server.asked().into_iter().map(|one| one.0).collect();
    let first = ["config.gin", "config.json", "fma_stats.json"];
    assert_eq!(asked[..3], first.map(|name| format!("/owner/model/resolve/main/{name}")));
}

#[test]
fn a_download_that_breaks_off_leaves_nothing_and_goes_on() {
    let (program, server, endpoint) = start();
    server.publish(&golden("checkpoint_base"), &["config.gin", "model.ckpt"]);
    let whole = fs::read(golden("checkpoint_base/model.ckpt")).unwrap();
    server.says("/owner/model/resolve/main/model.ckpt", Answer::Cut(whole[..whole.len() / 2].to_vec()));
    let message = refusal(&program, &endpoint);
    assert!(message.contains("owner/model@main: `model.ckpt`: the download broke off"), "{message}");
    let files: Vec<String> = walk(&program.path("models"))
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, ["config.gin"], "no half of a file stays");
    server.asked();
    server.publish(&golden("checkpoint_base"), &["model.ckpt"]);
    assert!(import(&program, &endpoint, None).status.success());
    assert!(server.asked().iter().all(|one| !one.0.ends_with("config.gin")), "what is complete is kept");
}

#[test]
fn refusals_say_what_to_do() {
    let (program, server, endpoint) = start();
    let config = "/owner/model/resolve/main/config.gin";
    for (answer, expected) in [
        (Answer::Refused(401, "GatedRepo"), "not open to everybody: set HF_TOKEN, and accept its terms on its page"),
        (Answer::Refused(404, "RepoNotFound"), "there is no such repository, or it is not open to everybody"),
        (Answer::Refused(404, "RevisionNotFound"), "there is no revision `main`"),
        (Answer::Refused(503, ""), "answers with status 503"),
        (Answer::Refused(404, "EntryNotFound"), "has none of `config.gin`, `config.json`, `fma_stats.json`"),
    ] {
        server.says(config, answer);
        let message = refusal(&program, &endpoint);
        assert!(message.contains("owner/model@main") && message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn without_a_network_the_server_is_named_and_the_other_way() {
    let (program, _server, _) = start();
    // A port that nobody listens at: the one of a listener that is gone.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for endpoint in [format!("http://127.0.0.1:{port}"), "https://nowhere.invalid".to_owned()] {
        let message = refusal(&program, &endpoint);
        assert!(message.contains(&format!("`{endpoint}` cannot be reached: ")), "{message}");
        assert!(
            message.contains("HF_ENDPOINT") && message.contains("imported by the name of their folder"),
            "{message}"
        );
    }
}
