//! WikiText-2 from the network, once: cached, checked, never half written.
//!
//! The three files come from PyTorch's example repository (full 2,088,628 train tokens; Merity et al. 2016,
//! CC BY-SA 3.0). Each is told from any other content by its git blob id, SHA-1 of `blob <length>\0` and the content:
//! the id under which that repository stores it. It guards against truncation and corruption; the connection is HTTPS.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha1::{Digest, Sha1};

use super::text::io_error;
use super::vocabulary::hex;
use super::{Corpus, CorpusOptions, DataError};

/// Where the files are by default.
pub const BASE_URL: &str =
    "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2";

/// A file to fetch: name, length and git blob id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remote {
    name: &'static str,
    bytes: u64,
    blob: &'static str,
}

const FILES: [Remote; 3] = [
    Remote {
        name: "train.txt",
        bytes: 10_797_148,
        blob: "2d84b35af79e411d73ea7cae83c73964c6ac83b4",
    },
    Remote {
        name: "valid.txt",
        bytes: 1_121_681,
        blob: "eec944eb2d9e46061cd34a6913528797db6842fc",
    },
    Remote {
        name: "test.txt",
        bytes: 1_256_449,
        blob: "6f3fc88e4cd88456ea892971f9f12243e8428624",
    },
];

/// Fetches WikiText-2 into a cache folder.
///
/// ```no_run
/// use atbptt_train::data::{Corpus, CorpusOptions, SyntheticConfig, WikiText2};
///
/// let corpus = WikiText2::new()
///     .and_then(|download| download.corpus(&CorpusOptions::default()))
///     .or_else(|offline| {
///         eprintln!("{offline}");
///         Corpus::synthetic(&SyntheticConfig::default())
///     })?;
/// println!("{}", corpus.description());
/// # Ok::<(), atbptt_train::data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct WikiText2 {
    base_url: String,
    cache: PathBuf,
    connect_timeout: Duration,
    read_timeout: Duration,
    progress: bool,
    proxy: Option<ureq::Proxy>,
    files: [Remote; 3],
}

impl WikiText2 {
    /// Downloads from [`BASE_URL`] to the user's cache folder: `$XDG_CACHE_HOME`, `%LOCALAPPDATA%`,
    /// `$HOME/Library/Caches` (macOS) or `$HOME/.cache`, then `atbptt/wikitext-2`.
    ///
    /// # Errors
    ///
    /// [`DataError::NoCacheFolder`] when none of these variables is set; see [`in_cache`](Self::in_cache).
    pub fn new() -> Result<Self, DataError> {
        Ok(Self::in_cache(
            user_cache()?.join("atbptt").join("wikitext-2"),
        ))
    }

    /// Downloads from [`BASE_URL`] to `cache`, through the proxy that the environment names, if any.
    pub fn in_cache(cache: impl Into<PathBuf>) -> Self {
        Self {
            base_url: BASE_URL.to_owned(),
            cache: cache.into(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(15),
            progress: true,
            proxy: ureq::Proxy::try_from_env(),
            files: FILES,
        }
    }

    /// Sets the address of the folder that holds the three files: a mirror.
    pub fn with_base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// Sets how long to wait for a name look-up and a connection, and how long for the next bytes.
    ///
    /// Defaults: 5 s and 15 s, short enough to fall back to the built-in corpus while the user watches.
    pub fn with_timeouts(mut self, connect: Duration, read: Duration) -> Self {
        (self.connect_timeout, self.read_timeout) = (connect, read);
        self
    }

    /// Shows a progress bar on standard error, when that is a terminal (default), or none.
    pub fn with_progress(mut self, shown: bool) -> Self {
        self.progress = shown;
        self
    }

    /// The folder in which the files lie, or will.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Makes sure that the three files are cached and whole; returns their folder.
    ///
    /// A cached file with other content is fetched again. A file appears under its name only once it is complete and
    /// checked, so an interrupted download leaves at most a `.part` file, which a later one removes.
    ///
    /// # Errors
    ///
    /// [`DataError::Download`] offline or on a refused request, [`DataError::Checksum`] on other content,
    /// [`DataError::Io`] when the cache cannot be written.
    pub fn fetch(&self) -> Result<PathBuf, DataError> {
        fs::create_dir_all(&self.cache).map_err(|cause| io_error("create", &self.cache, cause))?;
        for file in &self.files {
            let target = self.cache.join(file.name);
            if !is_whole(&target, file)? {
                self.fetch_file(file, &target)?;
            }
        }
        Ok(self.cache.clone())
    }

    /// [`fetch`](Self::fetch), then [`Corpus::from_folder`].
    ///
    /// # Errors
    ///
    /// Those of the two.
    pub fn corpus(&self, options: &CorpusOptions) -> Result<Corpus, DataError> {
        Corpus::from_folder(self.fetch()?, options)
    }

    fn fetch_file(&self, file: &Remote, target: &Path) -> Result<(), DataError> {
        remove_old_parts(&self.cache, file.name);
        let url = format!("{}/{}", self.base_url.trim_end_matches('/'), file.name);
        let failed = |cause: String| DataError::Download {
            url: url.clone(),
            cache: self.cache.clone(),
            cause,
        };
        let agent = ureq::Agent::config_builder()
            .proxy(self.proxy.clone())
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_connect(Some(self.connect_timeout))
            .timeout_recv_response(Some(self.read_timeout))
            .timeout_per_read(Some(self.read_timeout))
            .build()
            .new_agent();
        let response = agent
            .get(&url)
            .call()
            .map_err(|cause| failed(cause.to_string()))?;
        let mut body = response.into_body().into_reader();

        let part = Part::create(&self.cache, file.name)?;
        let mut out = File::create(&part.0).map_err(|cause| io_error("create", &part.0, cause))?;
        let bar = self.bar(file);
        let mut buffer = vec![0; 1 << 16];
        let mut bytes = 0_u64;
        // One byte too many settles that the content is another: no need to read on.
        while bytes <= file.bytes {
            let count =
                read_full(&mut body, &mut buffer).map_err(|cause| failed(cause.to_string()))?;
            if count == 0 {
                break;
            }
            out.write_all(buffer.get(..count).unwrap_or(&buffer))
                .map_err(|cause| io_error("write", &part.0, cause))?;
            bytes += count as u64;
            bar.set_position(bytes);
        }
        out.sync_all()
            .map_err(|cause| io_error("write", &part.0, cause))?;
        drop(out);
        bar.finish_and_clear();

        let got = git_blob_id(&part.0)?;
        if got != file.blob {
            return Err(DataError::Checksum {
                url,
                expected: file.blob.to_owned(),
                got,
                bytes,
            });
        }
        fs::rename(&part.0, target)
            .map_err(|cause| io_error("rename the download to", target, cause))
    }

    fn bar(&self, file: &Remote) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        let template = "WikiText-2 {msg} [{wide_bar}] {bytes}/{total_bytes} ({eta})";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(file.bytes)
            .with_style(style.progress_chars("=> "))
            .with_message(file.name)
    }
}

/// A file under a temporary name; removed when dropped, unless it was renamed before.
struct Part(PathBuf);

impl Part {
    /// A name no other process writes to.
    fn create(folder: &Path, name: &str) -> Result<Self, DataError> {
        let path = folder.join(format!("{name}.{}.part", std::process::id()));
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                Err(io_error("replace", &path, cause))
            }
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After the rename there is nothing to remove, which is no failure.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what interrupted downloads of `name` left more than an hour ago; another process may be writing newer ones.
fn remove_old_parts(folder: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let is_part = found
            .to_str()
            .is_some_and(|found| found.starts_with(name) && found.ends_with(".part"));
        let age = entry
            .metadata()
            .and_then(|data| data.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if is_part && age.is_some_and(|age| age > Duration::from_secs(3600)) {
            // Housekeeping: if it fails, the file just stays.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether `path` exists with the length and content of `file`.
fn is_whole(path: &Path, file: &Remote) -> Result<bool, DataError> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() == file.bytes => {
            Ok(git_blob_id(path)? == file.blob)
        }
        _ => Ok(false),
    }
}

/// Git's name for the content of a file: SHA-1 of `blob <length>\0`, then the content.
fn git_blob_id(path: &Path) -> Result<String, DataError> {
    let read = |cause| io_error("read", path, cause);
    let mut file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {length}\0"));
    let mut buffer = vec![0; 1 << 16];
    loop {
        match read_full(&mut file, &mut buffer).map_err(read)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(buffer.get(..count).unwrap_or(&buffer)),
        }
    }
}

/// Fills `buffer` as far as the reader goes and returns the number of bytes read (short only at the end).
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(filled)
}

/// The user's cache folder, by the customs of the platform.
fn user_cache() -> Result<PathBuf, DataError> {
    let set = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let home = if cfg!(target_os = "macos") {
        "Library/Caches"
    } else {
        ".cache"
    };
    set("XDG_CACHE_HOME")
        .or_else(|| {
            if cfg!(windows) {
                set("LOCALAPPDATA")
            } else {
                None
            }
        })
        .or_else(|| set("HOME").map(|path| path.join(home)))
        .ok_or_else(|| DataError::NoCacheFolder {
            tried: vec!["XDG_CACHE_HOME", "LOCALAPPDATA (Windows)", "HOME"],
        })
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
