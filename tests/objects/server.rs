//! A server that speaks S3, on a port of this machine, over a temporary folder.

use std::net::SocketAddr;
use std::path::PathBuf;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder as Connection;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// The only one who may read.
pub const KEY: &str = "reader";
/// Their password.
pub const SECRET: &str = "a-secret-that-is-never-shown";

/// The server. It ends with this.
pub struct Server {
    folder: TempDir,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    /// With a bucket `music`. Where it is not `open`, only [`KEY`] may read.
    pub fn start(open: bool) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("music")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        if !open {
            builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        }
        let service = builder.build();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let server = Connection::new(TokioExecutor::new());
            while let Ok((socket, _)) = listener.accept().await {
                let connection = server.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
                tokio::spawn(connection);
            }
        });
        Self { folder, address, _runtime: runtime }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where an object of the bucket `music` lies, in a folder that is there.
    pub fn path(&self, key: &str) -> PathBuf {
        let path = self.folder.path().join("music").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Puts an object into the bucket `music`.
    pub fn put(&self, key: &str, content: &[u8]) {
        std::fs::write(self.path(key), content).unwrap();
    }
}
