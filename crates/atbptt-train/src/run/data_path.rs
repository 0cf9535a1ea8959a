//! Paths in settings: from the root, and whole whatever their bytes are.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The path of a file or folder as settings hold it: absolute, so that a run can go on from another working directory, and
/// with all its bytes, also where a name is not UTF-8 (which JSON's text cannot hold).
///
/// ```
/// use atbptt_train::run::DataPath;
///
/// let path = DataPath::new("data")?;
/// assert!(path.path().is_absolute());
/// let json = serde_json::to_string(&path)?;
/// assert_eq!(serde_json::from_str::<DataPath>(&json)?, path);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct DataPath(PathBuf);

/// Text where it can be.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    /// On Unix, the path's bytes.
    Bytes(Vec<u8>),
}

impl DataPath {
    /// `path`, from the working directory if it is relative.
    ///
    /// # Errors
    ///
    /// The operating system's, when `path` is empty or there is no working directory.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        std::path::absolute(path).map(Self)
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for DataPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

impl From<DataPath> for Written {
    fn from(DataPath(path): DataPath) -> Self {
        match path.into_os_string().into_string() {
            Ok(text) => Self::Text(text),
            #[cfg(unix)]
            Err(name) => Self::Bytes(std::os::unix::ffi::OsStringExt::into_vec(name)),
            #[cfg(not(unix))]
            Err(name) => Self::Text(name.to_string_lossy().into_owned()),
        }
    }
}

impl From<Written> for DataPath {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(text) => Self(text.into()),
            #[cfg(unix)]
            Written::Bytes(bytes) => {
                let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(bytes);
                Self(name.into())
            }
            #[cfg(not(unix))]
            Written::Bytes(bytes) => Self(String::from_utf8_lossy(&bytes).into_owned().into()),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_utf8_survives_settings() {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"/data/caf\xe9");
        let path = DataPath::new(name).unwrap();
        let json = serde_json::to_string(&path).unwrap();
        let back: DataPath = serde_json::from_str(&json).unwrap();
        assert_eq!(back.path().as_os_str(), name);
        assert_eq!(
            serde_json::to_string(&DataPath::new("/data/x").unwrap()).unwrap(),
            "\"/data/x\""
        );
    }
}
