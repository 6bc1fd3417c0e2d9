//! Where an archive is: how it is written down, and how it is opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::{Host, Url};

use super::ArchiveError;

/// How long one request to a bucket may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchivePlace {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket of a store that speaks Amazon S3's protocol.
    Bucket(Box<Bucket>),
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket's name.
    name: String,
    /// What every key begins with.
    prefix: String,
    /// Where it is, if not at Amazon.
    endpoint: Option<Url>,
    /// The region.
    region: Option<String>,
    /// Who writes; `None` takes the environment's `AWS_…`, or the role of the machine.
    credentials: Option<Credentials>,
}

/// The credentials of a bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's id.
    pub access_key_id: String,
    /// The access key's secret.
    pub secret_access_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Why a text names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Neither of the kinds that there are.
    #[error("`{0}` is no archive; write file:///var/lib/failures, a path with a slash, or s3://bucket/prefix")]
    Kind(String),
    /// An endpoint that is no URL of a server.
    #[error("`{0}` is no endpoint; write one such as https://s3.example")]
    Endpoint(String),
    /// An endpoint over which everyone on the way could read.
    #[error("the endpoint {0} is not encrypted; use https, or say `allow_http = true`")]
    Unencrypted(Url),
    /// Something that only a bucket has.
    #[error("`{0}` belongs to a bucket, not to a directory")]
    NotForDirectories(&'static str),
}

impl fmt::Display for ArchivePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bucket(bucket) => {
                write!(f, "s3://{}/{}", bucket.name, bucket.prefix)?;
                match &bucket.endpoint {
                    Some(endpoint) => write!(f, " at {endpoint}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl ArchivePlace {
    /// Reads `file:///…`, a path with a slash in it, or `s3://bucket/prefix`.
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        let unknown = || PlaceError::Kind(text.to_owned());
        match Url::parse(text) {
            Ok(url) if url.scheme() == "file" => {
                let path = url.to_file_path().map_err(|()| unknown())?;
                Ok(Self::Directory(path))
            }
            Ok(url) if url.scheme() == "s3" => {
                let name = url.host_str().filter(|name| !name.is_empty()).ok_or_else(unknown)?;
                let prefix = Path::from_url_path(url.path()).map_err(|_| unknown())?;
                Ok(Self::Bucket(Box::new(Bucket {
                    name: name.to_owned(),
                    prefix: prefix.to_string(),
                    endpoint: None,
                    region: None,
                    credentials: None,
                })))
            }
            Err(_) if text.contains('/') => Ok(Self::Directory(PathBuf::from(text))),
            _ => Err(unknown()),
        }
    }

    fn bucket(&mut self, what: &'static str) -> Result<&mut Bucket, PlaceError> {
        match self {
            Self::Bucket(bucket) => Ok(bucket),
            Self::Directory(_) => Err(PlaceError::NotForDirectories(what)),
        }
    }

    /// A bucket that is not at Amazon. Without encryption only on this machine, unless `allow_http` says so.
    pub fn with_endpoint(mut self, endpoint: &str, allow_http: bool) -> Result<Self, PlaceError> {
        let invalid = || PlaceError::Endpoint(endpoint.to_owned());
        let url = Url::parse(endpoint).map_err(|_| invalid())?;
        let is_here = match url.host().ok_or_else(invalid)? {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        match url.scheme() {
            "https" => {}
            "http" if is_here || allow_http => {}
            "http" => return Err(PlaceError::Unencrypted(url)),
            _ => return Err(invalid()),
        }
        self.bucket("endpoint")?.endpoint = Some(url);
        Ok(self)
    }

    /// A bucket in this region.
    pub fn with_region(mut self, region: String) -> Result<Self, PlaceError> {
        self.bucket("region")?.region = Some(region);
        Ok(self)
    }

    /// A bucket that is written with these credentials.
    pub fn with_credentials(mut self, credentials: Credentials) -> Result<Self, PlaceError> {
        self.bucket("access_key_id")?.credentials = Some(credentials);
        Ok(self)
    }

    /// The place, opened, and what its keys begin with.
    pub(super) fn open(&self) -> Result<(Arc<dyn ObjectStore>, Path), ArchiveError> {
        let failed = |source| ArchiveError::Place {
            place: self.to_string(),
            act: "opened",
            source,
        };
        match self {
            Self::Directory(path) => {
                make_directory(path).map_err(|source| ArchiveError::Directory {
                    path: path.clone(),
                    source,
                })?;
                let store = LocalFileSystem::new_with_prefix(path).map_err(failed)?;
                Ok((Arc::new(store.with_fsync(true)), Path::default()))
            }
            Self::Bucket(bucket) => {
                let store = bucket.open().map_err(failed)?;
                // It was made by `Path::from_url_path`, and is parsed as it was printed.
                let prefix = Path::parse(&bucket.prefix).map_err(|error| failed(error.into()))?;
                Ok((store, prefix))
            }
        }
    }
}

impl Bucket {
    fn open(&self) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        let mut builder = match &self.credentials {
            Some(credentials) => AmazonS3Builder::new()
                .with_access_key_id(&credentials.access_key_id)
                .with_secret_access_key(&credentials.secret_access_key),
            None => AmazonS3Builder::from_env(),
        };
        // The deliveries' schedule tries again; here only what a lost connection costs.
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: 1,
            retry_timeout: TIMEOUT,
        };
        let plain = self
            .endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.scheme() == "http");
        let mut client = ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(10))
            .with_timeout(TIMEOUT);
        if plain {
            client = client.with_allow_http(true);
        }
        builder = builder
            .with_client_options(client)
            .with_retry(retry)
            .with_bucket_name(&self.name);
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
        }
        Ok(Arc::new(builder.build()?))
    }
}

/// Makes a directory for this user alone: failed orders are somebody's.
fn make_directory(path: &std::path::Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_what_is_none_is_refused() {
        for (text, shown) in [
            ("file:///var/lib/f%20x", "/var/lib/f x"),
            ("./failures", "./failures"),
            ("/tmp/x", "/tmp/x"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("s3://bucket", "s3://bucket/"),
        ] {
            assert_eq!(ArchivePlace::parse(text).unwrap().to_string(), shown);
        }
        for text in ["failures", "", "https://x/y", "s3://", "gs://a/b"] {
            assert!(matches!(ArchivePlace::parse(text), Err(PlaceError::Kind(_))), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_reached_without_encryption() {
        let bucket = || ArchivePlace::parse("s3://bucket/a").unwrap();
        for sound in [
            "http://127.0.0.1:4566",
            "http://[::1]:1",
            "http://localhost:9000",
            "https://s3.example",
        ] {
            assert!(bucket().with_endpoint(sound, false).is_ok(), "{sound}");
        }
        let refused = bucket().with_endpoint("http://minio.internal:9000", false);
        assert!(matches!(refused, Err(PlaceError::Unencrypted(_))));
        assert!(bucket().with_endpoint("http://minio.internal:9000", true).is_ok());
        let directory = ArchivePlace::parse("./x").unwrap().with_region("eu-west-1".to_owned());
        assert_eq!(directory, Err(PlaceError::NotForDirectories("region")));
    }
}
