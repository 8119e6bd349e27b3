//! Opening the store of a mount: the client of each cloud with its limits, the folder, the memory.
//!
//! Credentials come from the environment as object_store reads them; endpoint, region and allow_http of the
//! mount override it. Nothing is asked of a store here.

use std::io;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use super::local::LocalLayout;
use super::log::{LogLayout, LogOptions};
use super::object::{Conditions, Identity, ObjectLayout, ObjectOptions};
use super::partial::PartialContent;
use super::spec::{Cloud, MountSpec, Options, Place};
use super::store::FileStore;
use crate::error::{Error, Result};

/// How long to wait for a connection. Within a continent it takes less than 0.2 s; a lost SYN is sent again
/// after 1 and 3 s.
const CONNECT_TIMEOUT: &str = "5s";
/// The longest single request: a PUT of 64 MiB at 1 MiB/s, and 30 s. That a store does not answer at all is
/// noticed sooner, by the limit around each call.
const REQUEST_TIMEOUT: &str = "94s";
/// No request is repeated later than this, so that a store that fails fast is reported within 30 s with
/// what it said, and not with "did not answer in time".
const RETRY_TIME: Duration = Duration::from_secs(20);
/// Repetitions of a request: waits of 0.1, 0.3, 0.9, 2.7, 5 and 5 s at most, with jitter.
const RETRIES: usize = 6;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);
const BACKOFF_FACTOR: f64 = 3.0;

/// The store that `spec` names.
///
/// # Errors
/// [`Errno::Inval`](crate::error::Errno::Inval) if it cannot be opened as asked.
pub(super) fn open(spec: &MountSpec) -> Result<Arc<dyn FileStore>> {
    let refuse = |message: String| Error::invalid("mount", message).with("mount", spec.prefix());
    match spec.place() {
        Place::Memory if spec.options().is_log() => Ok(Arc::new(LogLayout::in_memory())),
        Place::Memory => Ok(Arc::new(ObjectLayout::in_memory())),
        Place::Folder(folder) if spec.options().is_log() => match LocalFileSystem::new_with_prefix(folder) {
            // A folder has no conditional overwrite, and acknowledged writes survive power loss there only if
            // they are fsynced.
            Ok(client) => {
                let options = LogOptions { has_if_match: false, ..LogOptions::default() };
                Ok(log_layout(Arc::new(client.with_fsync(true)), Path::ROOT, spec, options))
            }
            Err(error) => {
                let (prefix, folder) = (spec.prefix(), folder.display());
                let message = format!("mount {prefix}: the folder {folder} cannot be opened: {error}");
                Err(refuse(message).caused_by(error))
            }
        },
        Place::Folder(folder) => {
            let opened =
                if spec.is_read_only() { LocalLayout::open_read_only(folder) } else { LocalLayout::open(folder) };
            match opened {
                Ok(layout) => Ok(Arc::new(layout)),
                Err(error) => Err(refuse(folder_message(spec, folder, &error)).caused_by(error)),
            }
        }
        Place::Bucket(cloud, bucket, keys) => {
            let options = spec.options();
            let client = client(*cloud, bucket, options).map_err(|error| {
                refuse(format!("mount {}: the client of {} cannot be set up: {error}", spec.prefix(), spec.url()))
                    .caused_by(error)
            })?;
            let root = Path::parse(keys).map_err(|error| refuse(format!("mount {}: {error}", spec.prefix())))?;
            if options.is_log() {
                return Ok(log_layout(client, root, spec, LogOptions::default()));
            }
            Ok(Arc::new(ObjectLayout::new(client, root, object_options(*cloud, options))))
        }
    }
}

fn log_layout(client: Arc<dyn ObjectStore>, root: Path, spec: &MountSpec, options: LogOptions) -> Arc<dyn FileStore> {
    Arc::new(LogLayout::new(client, root, spec.is_read_only(), options))
}

fn folder_message(spec: &MountSpec, folder: &FsPath, error: &io::Error) -> String {
    let (prefix, folder) = (spec.prefix(), folder.display());
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound {
        format!("mount {prefix}: there is no folder {folder}: make it first")
    } else if kind == io::ErrorKind::NotADirectory {
        format!("mount {prefix}: {folder} is not a folder")
    } else {
        format!("mount {prefix}: the folder {folder} cannot be opened: {error}")
    }
}

fn object_options(cloud: Cloud, options: &Options) -> ObjectOptions {
    let identity = match cloud {
        Cloud::Gcs => Identity::ETagAndGeneration,
        Cloud::S3 | Cloud::Azure => Identity::ETag,
    };
    let conditions = if options.unsafe_overwrite { Conditions::AskedBefore } else { Conditions::Required };
    ObjectOptions { identity, conditions, ..ObjectOptions::default() }
}

fn retry() -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: BACKOFF_FIRST, max_backoff: BACKOFF_LONGEST, base: BACKOFF_FACTOR };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_TIME }
}

/// What the client of any cloud is told. Key by key, because a whole set of options would undo those of the
/// environment.
fn client_config(options: &Options) -> Vec<(ClientConfigKey, &'static str)> {
    let mut config =
        vec![(ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT), (ClientConfigKey::Timeout, REQUEST_TIMEOUT)];
    if options.allow_http {
        config.push((ClientConfigKey::AllowHttp, "true"));
    }
    config
}

fn client(cloud: Cloud, bucket: &str, options: &Options) -> object_store::Result<Arc<dyn ObjectStore>> {
    let config = client_config(options);
    match cloud {
        Cloud::S3 => {
            // Single deletes are part of every S3 look-alike, bulk deletes are not.
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry());
            let mut builder = builder.with_disable_bulk_delete(true).with_http_connector(PartialContent::default());
            for (key, value) in config {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            if let Some(endpoint) = &options.endpoint {
                // The variable AWS_ENDPOINT_URL_S3 would win over the plain endpoint.
                builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint).with_endpoint(endpoint);
            }
            if let Some(region) = &options.region {
                builder = builder.with_region(region);
            }
            Ok(Arc::new(builder.build()?))
        }
        Cloud::Gcs => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry());
            for (key, value) in config {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            Ok(Arc::new(builder.build()?))
        }
        Cloud::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retry());
            for (key, value) in config {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            Ok(Arc::new(builder.build()?))
        }
    }
}
