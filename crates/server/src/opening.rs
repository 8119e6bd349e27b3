//! Opening the core as configured: state directory, mounts, journal; and why that can fail.

use std::path::Path;
use std::sync::Arc;

use mmap_core::error::{Errno, Error};
use mmap_core::journal::{Folder, Level, Options};
use mmap_core::manager::{MmapManager, Recovered};
use mmap_core::state::StateDir;
use mmap_core::vfs::{Mount, MountSpec, Vfs};

use crate::auth::Tokens;
use crate::config::{Auth, Config, Durability};
use crate::tls::Material;

/// Why a server did not start or stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// What was asked for cannot be: exit code 2.
    #[error("{0}")]
    Config(String),
    /// It failed: exit code 1.
    #[error("{0}")]
    Failed(String),
}

/// Reads the files that `config` names, as a start would, and makes nothing of them: what a person should look at. It
/// blocks.
///
/// # Errors
/// A sentence that names the file at fault.
pub fn check_files(config: &Config) -> Result<Vec<String>, String> {
    if let Auth::Jwt(jwt) = &config.auth {
        Tokens::open(jwt)?;
    }
    match &config.tls {
        Some(files) => Ok(Material::read(files)?.warnings),
        None => Ok(Vec::new()),
    }
}

/// The core and its mounts, as configured.
pub(crate) async fn open_core(config: &Config) -> Result<(Arc<MmapManager>, Vec<Arc<Mount>>, Recovered), ServerError> {
    let state = StateDir::open(&config.state_dir).map_err(|error| server_error(&error))?;
    let mounts = match config.mounts.as_slice() {
        [] => vec![default_mount(config)?],
        mounts => mounts.to_vec(),
    };
    let vfs = Vfs::open(&mounts, &config.limits).map_err(|error| server_error(&error))?;
    let mounts = vfs.mounts().to_vec();
    let (manager, recovered) = open_manager(config, vfs, state).await.map_err(|error| server_error(&error))?;
    Ok((manager, mounts, recovered))
}

async fn open_manager(config: &Config, vfs: Vfs, state: StateDir) -> Result<(Arc<MmapManager>, Recovered), Error> {
    let folder = config.journal_folder();
    let level = match config.durability {
        Durability::Memory => {
            require_no_journal(&folder)?;
            return Ok((MmapManager::open(vfs, state, config.limits.clone())?, Recovered::default()));
        }
        Durability::Process => Level::Process,
        Durability::Disk => Level::Disk,
    };
    let options = Options { level, accept_loss: config.accept_journal_loss, ..Options::default() };
    let options = options.for_writes_of(config.limits.max_message);
    let disk = Folder::open(&folder).map_err(|error| {
        let message = format!("the journal's folder {} cannot be opened: {error}", folder.display());
        Error::new(Errno::Io, message).with("path", folder.display()).caused_by(error)
    })?;
    MmapManager::recover(vfs, state, config.limits.clone(), Arc::new(disk), options).await
}

/// What another run acknowledged at another level must not be forgotten because of a flag.
fn require_no_journal(folder: &Path) -> Result<(), Error> {
    let mut entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| Error::new(Errno::Io, format!("{}: {error}", folder.display())))?,
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let shown = folder.display();
    Err(Error::new(
        Errno::Inval,
        format!(
            "{shown} holds the journal of a server at another level of durability, with what it acknowledged and \
             may not have stored: start with --durability process, msync or end what is mapped, and remove the folder \
             after a clean stop; or name another --state-dir"
        ),
    )
    .with("path", shown))
}

/// The folder that is served when nothing is mounted, made if it is missing.
fn default_mount(config: &Config) -> Result<MountSpec, ServerError> {
    let folder = config.default_folder();
    std::fs::create_dir_all(&folder)
        .map_err(|error| ServerError::Failed(format!("the folder {} cannot be made: {error}", folder.display())))?;
    MountSpec::of_folder("/", &folder).map_err(|error| server_error(&error))
}

fn server_error(error: &Error) -> ServerError {
    let sentence = crate::status::chain(error);
    match matches!(error.errno(), Errno::Inval | Errno::NotSup) {
        true => ServerError::Config(sentence),
        false => ServerError::Failed(sentence),
    }
}
