//! The way from a hub's routes to a model, against a server of this test.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const REPOSITORY: &str = "kvq-test/stories";

/// The same files for those who show [`TOKEN`].
const GATED: &str = "kvq-test/gated-stories";
const TOKEN: &str = "hf_secret";

/// Serves the built-in model's files as `REPOSITORY` and `GATED`. With `broken`, the first request for the body of that
/// file ends in its middle.
fn serve(broken: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, broken));
        }
    });
    endpoint
}

fn answer(mut stream: TcpStream, broken: Option<&str>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let mut first = 0;
    let mut last = None;
    let mut is_known = false;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            let (from, to) = range.split_once('-')?;
            (first, last) = (from.parse::<usize>().ok()?, to.parse::<usize>().ok());
        }
        is_known |= line.to_lowercase() == format!("authorization: bearer {TOKEN}");
    }
    let path = request.split(' ').nth(1)?;
    let gated = path.strip_prefix(&format!("/{GATED}/resolve/main/"));
    if gated.is_some() && !is_known {
        let refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(refusal).ok();
    }
    let name = path.strip_prefix(&format!("/{REPOSITORY}/resolve/main/")).or(gated);
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/builtin");
    let Some(bytes) = name.and_then(|name| std::fs::read(assets.join(name)).ok()) else {
        return stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ok();
    };
    let end = last.map_or(bytes.len(), |last| (last + 1).min(bytes.len()));
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{}\r\n\
         ETag: \"etag-of-{}\"\r\nX-Repo-Commit: 0123456789abcdef\r\nConnection: close\r\n\r\n",
        end - first,
        end - 1,
        bytes.len(),
        name?
    );
    stream.write_all(head.as_bytes()).ok()?;
    let breaks = name == broken && last.is_none() && first == 0;
    stream.write_all(&bytes[first..if breaks { end / 2 } else { end }]).ok()
}

fn generate(endpoint: &str, home: &Path, model: &str) -> Output {
    generate_with(endpoint, home, model, "")
}

fn generate_with(endpoint: &str, home: &Path, model: &str, token: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvq"))
        .env("HF_TOKEN", token)
        .args(["generate", "--prompt", "One day, a", "--new-tokens", "12", "--model", model])
        .args(["--json", &home.join("record.json").display().to_string()])
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", home)
        .output()
        .unwrap()
}

/// The record's tokens and the hash of the weights.
fn record(home: &Path) -> (serde_json::Value, serde_json::Value) {
    let text = std::fs::read_to_string(home.join("record.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    (record["runs"][0]["new_token_ids"].clone(), record["model"]["sha256"].clone())
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_model_of_the_hub_is_fetched_once_and_then_taken_from_disk() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = serve(None);
    let output = generate(&endpoint, home.path(), REPOSITORY);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let fetched = record(home.path());
    let own = tempfile::tempdir().unwrap();
    assert!(generate(&endpoint, own.path(), "builtin").status.success());
    assert_eq!(fetched, record(own.path()));
    assert!(files_below(own.path()).len() == 1, "the built-in model needs no hub");
    // The optional files are asked for again, which needs the hub; the others are on disk.
    let paths: Vec<String> = files_below(home.path()).iter().map(|path| path.display().to_string()).collect();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(
            paths.iter().any(|path| path.ends_with(&format!("0123456789abcdef/{name}"))),
            "{name}: {paths:?}"
        );
    }
}

#[test]
fn a_broken_download_is_told_and_goes_on_where_it_stopped() {
    let home = tempfile::tempdir().unwrap();
    let output = generate(&serve(Some("model.safetensors")), home.path(), REPOSITORY);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in ["cannot fetch", REPOSITORY, "model.safetensors", "models/kvq-test/stories/"] {
        assert!(error.contains(part), "no '{part}' in {error}");
    }
    // This server breaks every download that starts anew: only one that goes on can succeed.
    let output = generate(&serve(Some("model.safetensors")), home.path(), REPOSITORY);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let own = tempfile::tempdir().unwrap();
    assert!(generate("http://127.0.0.1:9", own.path(), "builtin").status.success());
    assert_eq!(record(home.path()), record(own.path()));
}

#[test]
fn without_a_hub_or_a_repository_the_error_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    // Port 9 discards, and nothing listens there.
    for (endpoint, model) in
        [("http://127.0.0.1:9".to_owned(), REPOSITORY), (serve(None), "kvq-test/no-such-model")]
    {
        let output = generate(&endpoint, home.path(), model);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        for part in
            ["cannot fetch", model, "config.json", "tokenizer.json and model.safetensors", "work offline"]
        {
            assert!(error.contains(part), "no '{part}' in {error}");
        }
    }
}

#[test]
fn a_repository_behind_a_licence_is_fetched_with_a_token() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = serve(None);
    let refused = generate(&endpoint, home.path(), GATED);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("401"), "{refused:?}");
    let output = generate_with(&endpoint, home.path(), GATED, TOKEN);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
