//! The folder `.local`: databases, buffer, remembered ports and secrets of this workspace's `dev`.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gravity_test_support::services::supervise::Account;

const FOLDER: &str = ".local";

pub(super) fn create() -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(FOLDER).map_err(|error| format!("{FOLDER}: {error}").into())
}

/// Removes all of it.
pub(super) fn wipe() -> Result<(), Box<dyn Error>> {
    for folder in [PathBuf::from(FOLDER), outside()?] {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", folder.display()).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// An absolute path in the folder.
pub(super) fn path(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    Ok(std::path::absolute(Path::new(FOLDER).join(name))?)
}

/// Where a store keeps its data: in the folder, unless we are root and the account that stores run as cannot get
/// there (a workspace in root's own home).
pub(super) fn store(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let inside = path(name)?;
    if Account::for_servers().is_none() || open_to_all(&inside) {
        return Ok(inside);
    }
    let outside = outside()?;
    fs::create_dir_all(&outside)?;
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755))?;
    Ok(outside.join(name))
}

fn outside() -> Result<PathBuf, Box<dyn Error>> {
    let mut hasher = DefaultHasher::new();
    path("")?.hash(&mut hasher);
    Ok(PathBuf::from(format!(
        "/var/lib/gravity-dev-{:016x}",
        hasher.finish()
    )))
}

/// Whether anybody may pass through every folder above `path`.
fn open_to_all(path: &Path) -> bool {
    let passable =
        |folder: &Path| fs::metadata(folder).is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
    path.ancestors().skip(1).all(passable)
}

/// A secret of 64 hexadecimal digits, made once and readable by us alone.
pub(super) fn secret(name: &str) -> Result<String, Box<dyn Error>> {
    let path = path(name)?;
    if let Ok(text) = fs::read_to_string(&path)
        && text.trim().len() == 64
    {
        return Ok(text.trim().to_owned());
    }
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let _ = fs::remove_file(&path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(text)
}

/// The port a store had last time.
pub(super) fn remembered_port(store: &str) -> Option<u16> {
    fs::read_to_string(Path::new(FOLDER).join(format!("{store}.port")))
        .ok()?
        .trim()
        .parse()
        .ok()
}

pub(super) fn remember_port(store: &str, port: u16) -> Result<(), Box<dyn Error>> {
    Ok(fs::write(
        Path::new(FOLDER).join(format!("{store}.port")),
        format!("{port}\n"),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_closed_when_any_above_it_is() {
        let base = tempfile::tempdir().unwrap();
        let inner = base.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(base.path(), 0o700);
        assert!(!open_to_all(&inner.join("data")));
        mode(base.path(), 0o755);
        assert_eq!(open_to_all(&inner.join("data")), open_to_all(base.path()));
    }
}
