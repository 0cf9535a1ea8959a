use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::data::{Split, real_data};

/// Content of the small files served here.
const SMALL: [(&str, &str); 3] = [
    ("train.txt", "the cat\nthe dog\n"),
    ("valid.txt", "the cat\n"),
    ("test.txt", "a dog\n"),
];

/// `printf 'the cat\nthe dog\n' | git hash-object --stdin`, and so on.
fn small_files() -> [Remote; 3] {
    [
        Remote {
            name: "train.txt",
            bytes: 16,
            blob: "8482cb1232f4a7cd971fc6288dd993100400441c",
        },
        Remote {
            name: "valid.txt",
            bytes: 8,
            blob: "d563364c09e1001017e21de6eab6892deaacaef5",
        },
        Remote {
            name: "test.txt",
            bytes: 6,
            blob: "6a501266cef5bc8d5d34d0928ff99ed3ae3b5af3",
        },
    ]
}

/// A server on the loopback interface; answers every request with `answer(path)`, a whole HTTP response.
fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/data/", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap() == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            counter.fetch_add(1, Ordering::SeqCst);
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap_or_default();
            // The client may have hung up: its own business.
            let _ = stream.write_all(&answer(path));
        }
    });
    (address, requests)
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn small(path: &str) -> Vec<u8> {
    let (_, body) = SMALL
        .iter()
        .find(|(name, _)| path == format!("/data/{name}"))
        .unwrap();
    ok(body)
}

fn download(cache: &Path, url: &str) -> WikiText2 {
    let mut download = WikiText2::in_cache(cache)
        .with_base_url(url)
        .with_progress(false);
    download.files = small_files();
    download.proxy = None;
    download
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn files_are_fetched_once_and_then_read_from_the_cache() {
    let (url, requests) = serve(small);
    let cache = tempfile::tempdir().unwrap();
    let inner = cache.path().join("not/yet/there");
    let corpus = download(&inner, &url)
        .corpus(&CorpusOptions::default())
        .unwrap();
    assert_eq!(Split::ALL.map(|split| corpus.len(split)), [6, 3, 3]);
    assert_eq!(names(&inner), ["test.txt", "train.txt", "valid.txt"]);
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    assert_eq!(download(&inner, &url).fetch().unwrap(), inner);
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[test]
fn a_corrupted_cached_file_is_fetched_again() {
    let (url, requests) = serve(small);
    let cache = tempfile::tempdir().unwrap();
    download(cache.path(), &url).fetch().unwrap();
    // Same length, other content; and a cut one.
    fs::write(cache.path().join("valid.txt"), "the rat\n").unwrap();
    fs::write(cache.path().join("test.txt"), "a ").unwrap();
    download(cache.path(), &url).fetch().unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 5);
    assert_eq!(
        fs::read_to_string(cache.path().join("valid.txt")).unwrap(),
        "the cat\n"
    );
}

#[test]
fn other_content_is_refused_and_leaves_nothing_behind() {
    let (url, _) = serve(|_| ok("something else\n"));
    let cache = tempfile::tempdir().unwrap();
    let found = download(cache.path(), &url).fetch().unwrap_err();
    assert!(
        matches!(found, DataError::Checksum { bytes: 15, .. }),
        "{found:?}"
    );
    assert!(names(cache.path()).is_empty());
}

#[test]
fn a_connection_cut_half_way_leaves_nothing_behind() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 16\r\nConnection: close\r\n\r\nthe cat\n";
    let (url, _) = serve(move |_| half.as_bytes().to_vec());
    let cache = tempfile::tempdir().unwrap();
    let found = download(cache.path(), &url).fetch().unwrap_err();
    assert!(
        matches!(
            found,
            DataError::Download { .. } | DataError::Checksum { .. }
        ),
        "{found:?}"
    );
    assert!(names(cache.path()).is_empty());
}

#[test]
fn a_refused_request_names_the_address_and_the_status() {
    let (url, _) = serve(|_| b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
    let cache = tempfile::tempdir().unwrap();
    let found = download(cache.path(), &url)
        .fetch()
        .unwrap_err()
        .to_string();
    assert!(
        found.contains("/data/train.txt") && found.contains("404"),
        "{found}"
    );
}

#[test]
fn offline_is_a_typed_error_that_points_to_the_built_in_corpus() {
    // A port that was free a moment ago: nobody listens.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let cache = tempfile::tempdir().unwrap();
    let found = download(cache.path(), &format!("http://{address}"))
        .fetch()
        .unwrap_err();
    assert!(matches!(found, DataError::Download { .. }), "{found:?}");
    assert!(found.to_string().contains("built-in corpus"));
}

#[test]
fn a_silent_server_is_given_up_after_the_timeout() {
    let (url, _) = serve(|_| {
        thread::sleep(Duration::from_secs(5));
        Vec::new()
    });
    let cache = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    let timeout = Duration::from_millis(200);
    let found = download(cache.path(), &url)
        .with_timeouts(timeout, timeout)
        .fetch();
    assert!(
        matches!(found, Err(DataError::Download { .. })),
        "{found:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn parts_of_this_moment_stay_and_old_ones_go() {
    let cache = tempfile::tempdir().unwrap();
    for name in ["train.txt.1.part", "train.txt.2.part", "valid.txt.1.part"] {
        fs::write(cache.path().join(name), "half").unwrap();
    }
    let old = File::options()
        .write(true)
        .open(cache.path().join("train.txt.1.part"))
        .unwrap();
    old.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200))
        .unwrap();
    remove_old_parts(cache.path(), "train.txt");
    assert_eq!(
        names(cache.path()),
        ["train.txt.2.part", "valid.txt.1.part"]
    );
}

/// The complete splits beside the workspace are the very files that this module expects.
#[test]
fn blob_ids_are_those_of_the_real_files() {
    let Some(folder) = real_data("wikitext-2") else {
        return;
    };
    for file in &FILES[1..] {
        assert!(
            is_whole(&folder.join(file.name), file).unwrap(),
            "{}",
            file.name
        );
    }
}
