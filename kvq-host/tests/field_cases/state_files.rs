//! State files: whole or not at all, whoever reads them and whatever happens while they are written. Files of another
//! model, policy, version or rotation, cut off, changed, lying, empty, a folder, without permission, on a full disk: a
//! clear error, the cache and the old file as they were, and no memory beyond the file's size.
//!
//! Tests may run as root, who may read and write everything: where permission is the point, a child gives that up.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kvq_codec::KvShape;
use kvq_codec::{Backend, Policy};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::model::{LoadedModel, Message, load, prefill};
use kvq_host::policy::NamedPolicy;
use kvq_host::state::{Origin, STATE_VERSION, State};
use stats_alloc::Region;

use super::program::refusal;
use super::{ALLOCATOR, alone};

fn four_x() -> NamedPolicy {
    NamedPolicy { name: "4x".into(), policy: Policy::FOUR_X }
}

/// The built-in model after `n` tokens that begin with `first`.
fn state_of(model: &LoadedModel, first: u32, n: u32) -> State {
    let tokens: Vec<u32> = (0..n).map(|i| (first + 7 * i) % 500).collect();
    let shape = model.model.config().kv_shape();
    let mut store = PackedStore::new(shape, Policy::FOUR_X, Backend::detect()).unwrap();
    prefill(&*model.model, &mut store, &tokens).unwrap();
    let messages = vec![Message::user("hello"), Message::assistant("there")];
    State::new(Origin::new(&model.info, &four_x(), messages), tokens, &store).unwrap()
}

fn open(state: &State, model: &LoadedModel, policy: &NamedPolicy) -> anyhow::Result<PackedStore> {
    state.open(&*model.model, &model.info, policy, Backend::detect())
}

fn error_of<T>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.err().expect("an error"))
}

#[test]
fn a_state_comes_back_as_it_went() {
    let (model, folder) = (load("builtin", 0).unwrap(), tempfile::tempdir().unwrap());
    let (state, path) = (state_of(&model, 1, 300), folder.path().join("a.state"));
    state.write(&path).unwrap();
    let back = State::read(&path).unwrap();
    assert_eq!(back, state);
    let store = open(&back, &model, &four_x()).unwrap();
    assert_eq!((store.len(), store.cache().policy()), (300, &Policy::FOUR_X));
    let mut snapshot = vec![0; store.cache().snapshot_bytes()];
    store.cache().snapshot_into(&mut snapshot).unwrap();
    assert_eq!(snapshot, state.snapshot);
    // Once more over the old one, and nothing else is left in the folder.
    state_of(&model, 2, 40).write(&path).unwrap();
    assert_eq!(State::read(&path).unwrap().tokens.len(), 40);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn another_model_policy_or_vocabulary_is_refused_with_the_reason() {
    let model = load("builtin", 0).unwrap();
    let state = state_of(&model, 1, 20);
    let mut other = load("builtin", 0).unwrap();
    other.info.sha256 = "0".repeat(64);
    other.info.name = "another".into();
    let error = error_of(open(&state, &other, &four_x()));
    assert!(error.contains("saved with the model `builtin`") && error.contains("another"), "{error}");
    let policy = NamedPolicy { name: "8bit".into(), policy: Policy::EIGHT_BIT };
    let error = error_of(open(&state, &model, &policy));
    assert!(error.contains("policy `4x`") && error.contains("8bit"), "{error}");
    let mut changed = state.clone();
    changed.tokens[3] = 1 << 30;
    assert!(error_of(open(&changed, &model, &four_x())).contains("vocabulary"));
    changed = state.clone();
    changed.tokens.truncate(5);
    assert!(error_of(open(&changed, &model, &four_x())).contains("20 tokens for a text of 5"));
    // The snapshot has checks of its own.
    changed = state.clone();
    let middle = changed.snapshot.len() / 2;
    changed.snapshot[middle] ^= 1;
    assert!(error_of(open(&changed, &model, &four_x())).contains("snapshot"));
    assert!(open(&state, &model, &four_x()).is_ok());
}

#[test]
fn what_is_no_state_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("empty"), []).unwrap();
    std::fs::write(path("text"), "once upon a time").unwrap();
    let state = state_of(&load("builtin", 0).unwrap(), 1, 20);
    state.write(&path("newer")).unwrap();
    let mut bytes = std::fs::read(path("newer")).unwrap();
    bytes[8] += 1;
    std::fs::write(path("newer"), &bytes).unwrap();
    let newer = format!("version {} of the format", STATE_VERSION + 1);
    for (name, expected) in [
        ("empty", "no state file"),
        ("text", "no state file"),
        ("newer", newer.as_str()),
        ("missing", "cannot open"),
        (".", "no file"),
    ] {
        let error = error_of(State::read(&path(name)));
        assert!(error.contains(expected) && error.contains("state file"), "{name}: {error}");
    }
    let error = error_of(state.write(folder.path()));
    assert!(error.contains("folder") && error.contains("nothing was saved"), "{error}");
    assert!(error_of(state.write(&path("no/such/folder"))).contains("cannot write to the folder"));
}

/// Not a test by itself: what [`a_killed_save_leaves_a_whole_file`] kills.
#[test]
#[ignore = "the child process of another test"]
fn save_in_turns_until_killed() {
    let path = PathBuf::from(std::env::var_os("KVQ_TEST_SAVE_TO").expect("the other test sets it"));
    let model = load("builtin", 0).unwrap();
    let states = [state_of(&model, 1, 900), state_of(&model, 2, 901)];
    loop {
        states.iter().for_each(|state| state.write(&path).unwrap());
    }
}

fn start_saving(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "state_files::save_in_turns_until_killed", "--ignored"])
        .env("KVQ_TEST_SAVE_TO", path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_save_leaves_a_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let mut left_over = 0;
    for round in 0..12 {
        let mut child = start_saving(&path);
        // Until the first save of this child is seen, and then into the middle of some later one.
        let before = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
        while std::fs::metadata(&path).and_then(|m| m.modified()).ok() == before {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let state = State::read(&path).unwrap();
        assert!(matches!(state.tokens.len(), 900 | 901));
        left_over = std::fs::read_dir(folder.path()).unwrap().count() - 1;
    }
    // Otherwise no kill has hit a save, and the test has shown nothing.
    assert!(left_over > 0, "no unfinished file was left behind");
}

/// A limit on the size of files stands for a full disk: writes beyond it fail.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let save = |prompt: &str, limit: &str| {
        let command = format!(
            "trap '' XFSZ; ulimit -f {limit}; exec '{}' generate --new-tokens 200 --prompt '{prompt}' --save-state '{}'",
            env!("CARGO_BIN_EXE_kvq"),
            path.display()
        );
        // Into a pipe, which has no limit.
        Command::new("sh").args(["-c", &command]).output().unwrap()
    };
    assert!(save("One day,", "unlimited").status.success());
    let before = std::fs::read(&path).unwrap();
    let output = save("Once upon a time", "16");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("nothing was saved") && error.contains("a.state"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the unfinished file is gone");
}

/// Root may read and write everything, so a child gives that up.
#[cfg(unix)]
#[test]
fn a_file_or_folder_without_permission_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (program, state) = (folder.path().join("kvq"), folder.path().join("a.state"));
    std::fs::copy(env!("CARGO_BIN_EXE_kvq"), &program).unwrap();
    state_of(&load("builtin", 0).unwrap(), 1, 20).write(&state).unwrap();
    mode(&state, 0o000);
    mode(folder.path(), 0o555);
    let is_root = std::fs::File::open(&state).is_ok();
    let kvq = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["generate", "--new-tokens", "2"]).args(arguments);
        if is_root {
            use std::os::unix::process::CommandExt;
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let path = state.display().to_string();
    let (code, error) = kvq(&["--load-state", &path]);
    assert_eq!(code, Some(1));
    assert!(error.contains("--load-state") && error.contains("ermission denied"), "{error}");
    let (code, error) = kvq(&["--prompt", "One day", "--save-state", &path]);
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot write to the folder") && error.contains("ermission denied"), "{error}");
    mode(folder.path(), 0o755);
    mode(&state, 0o644);
    assert_eq!(State::read(&state).unwrap().tokens.len(), 20);
}

/// Room for the text of an error and the path.
const SLACK_BYTES: usize = 16 << 10;

#[test]
#[ignore = "the child process of another test: it counts allocations"]
fn every_cut_every_flip_and_every_lie_is_an_error() {
    // A small cache, so that the file is short and every byte of it can be tried.
    let mut store = PackedStore::new(KvShape::new(1, 1, 8), Policy::FOUR_X, Backend::detect()).unwrap();
    store.append(0, 4, &[0.5; 32], &[1.0; 32]).unwrap();
    let model = load("builtin", 0).unwrap();
    let policy = NamedPolicy { name: "4x".into(), policy: Policy::FOUR_X };
    let origin = Origin::new(&model.info, &policy, vec![Message::user("a")]);
    let state = State::new(origin, vec![5, 6, 7, 8, 9], &store).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    state.write(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();

    let refuse = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let region = Region::new(ALLOCATOR);
        let result = State::read(&path);
        let allocated = region.change().bytes_allocated;
        assert!(result.is_err(), "{what} was read");
        assert!(
            allocated <= bytes.len() + SLACK_BYTES,
            "{what}: {allocated} bytes for a file of {}",
            bytes.len()
        );
    };
    for len in 0..whole.len() {
        refuse(&whole[..len], &format!("a file cut off at {len}"));
    }
    let mut bytes = whole.clone();
    for at in 0..whole.len() {
        bytes[at] ^= 1 << (at % 8);
        refuse(&bytes, &format!("a file with byte {at} changed"));
        bytes[at] = whole[at];
    }
    refuse(&[&whole[..], &[0]].concat(), "a file with a byte more");
    for (at, width) in [(12, 4), (16, 8), (24, 8)] {
        for lie in [1u64 << 63, 1 << 62, 1 << 40, u64::MAX, u64::from(u32::MAX), 1 << 31, 0] {
            bytes[at..at + width].copy_from_slice(&lie.to_le_bytes()[..width]);
            if bytes != whole {
                refuse(&bytes, &format!("a length of {lie} at {at}"));
            }
            bytes.copy_from_slice(&whole);
        }
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(State::read(&path).unwrap(), state);
}

#[test]
fn every_cut_flip_and_lie_is_an_error_within_the_memory_of_the_file() {
    alone("state_files::every_cut_every_flip_and_every_lie_is_an_error");
}

/// SHA-256 put right again after a change, so that what it guards is looked at.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    use sha2::Digest;
    let sum = sha2::Sha256::new().chain_update(&bytes[..32]).chain_update(&bytes[64..]).finalize();
    bytes[32..64].copy_from_slice(&sum);
    bytes
}

/// The CRC-32 of zip and PNG, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

/// A snapshot with bytes changed and both its checksums right.
fn snapshot_with(snapshot: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = snapshot.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = crc32(&bytes[..140]).to_le_bytes();
    bytes[140..144].copy_from_slice(&crc);
    let end = bytes.len() - 4;
    let crc = crc32(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&crc);
    bytes
}

/// As its user meets it: the program, with a file that is wrong in one way, leaves that file and the target as they were.
#[test]
fn the_program_refuses_each_kind_of_wrong_file_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = load("builtin", 0).unwrap();
    let state = state_of(&model, 1, 100);
    let (path, old) = (folder.path().join("a.state"), folder.path().join("old.state"));
    state.write(&path).unwrap();
    state_of(&model, 2, 30).write(&old).unwrap();
    let (whole, before) = (std::fs::read(&path).unwrap(), std::fs::read(&old).unwrap());
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        sealed(bytes)
    };
    // Fields of the snapshot: version at 8, rotation at 12, key_head_dim at 36, n_sink at 44 (docs/FORMAT.md).
    let in_snapshot = |at: usize, with: &[u8]| {
        let snapshot = snapshot_with(&state.snapshot, at, with);
        let mut bytes = whole.clone();
        let from = bytes.len() - snapshot.len();
        bytes[from..].copy_from_slice(&snapshot);
        sealed(bytes)
    };
    let other_model = {
        let (from, to) = (&state.origin.model_identity, "0".repeat(64));
        let at = whole.windows(64).position(|window| window == from.as_bytes()).unwrap();
        changed(at, to.as_bytes())
    };
    let huge = (1u64 << 63).to_le_bytes();
    for (what, bytes, expected) in [
        ("another model", other_model, &["saved with the model `builtin`", "0000"][..]),
        ("another version", changed(8, &[9]), &["version 9", "reads version 1"]),
        ("another version of the snapshot", in_snapshot(8, &[7]), &["snapshot", "version 7"]),
        ("another rotation", in_snapshot(12, &[1, 2, 3, 4]), &["snapshot", "rotation"]),
        ("another shape", in_snapshot(36, &[64]), &["snapshot", "key_head_dim is 32"]),
        ("another policy", in_snapshot(44, &[9]), &["policy `4x`"]),
        ("2^63 tokens", changed(16, &huge), &["speaks of", "cut off or changed"]),
        ("a snapshot of 2^63 bytes", changed(24, &huge), &["speaks of", "cut off or changed"]),
        ("cut off", whole[..whole.len() / 2].to_vec(), &["cut off"]),
        ("cut off in its header", whole[..40].to_vec(), &["cut off in its header"]),
        (
            "a byte changed",
            [&whole[..200], &[whole[200] ^ 4], &whole[201..]].concat(),
            &["checksum is wrong"],
        ),
        ("empty", Vec::new(), &["no state file", "KVQSTATE"]),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let [load, save] = [&path, &old].map(|path| path.to_str().unwrap());
        let (code, error) =
            refusal(&["generate", "--new-tokens", "2", "--load-state", load, "--save-state", save]);
        assert_eq!(code, Some(1), "{what}: {error}");
        assert!(error.contains("--load-state") && error.contains("a.state"), "{what}: {error}");
        for part in expected {
            assert!(error.contains(part), "{what}: no '{part}' in {error}");
        }
        assert!(std::fs::read(&path).unwrap() == bytes && std::fs::read(&old).unwrap() == before, "{what}");
    }
    // The right file under another policy, a folder, and nothing at all.
    std::fs::write(&path, &whole).unwrap();
    let load = path.to_str().unwrap();
    let (_, error) = refusal(&["generate", "--new-tokens", "2", "--load-state", load, "--policy", "8bit"]);
    assert!(error.contains("policy `4x`") && error.contains("pass --policy"), "{error}");
    let place = folder.path().to_str().unwrap();
    let (_, error) = refusal(&["generate", "--new-tokens", "2", "--load-state", place]);
    assert!(error.contains("this is no file"), "{error}");
    let (_, error) = refusal(&["generate", "--new-tokens", "2", "--prompt", "One", "--save-state", place]);
    assert!(error.contains("this is a folder") && error.contains("nothing was saved"), "{error}");
    let missing = folder.path().join("none.state");
    let (_, error) = refusal(&["generate", "--new-tokens", "2", "--load-state", missing.to_str().unwrap()]);
    assert!(error.contains("cannot open"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A store that holds something keeps it when a state is refused.
#[test]
fn a_refused_snapshot_leaves_a_store_as_it_was() {
    let model = load("builtin", 0).unwrap();
    let state = state_of(&model, 1, 300);
    let mut store = open(&state_of(&model, 2, 150), &model, &four_x()).unwrap();
    let snapshot = |store: &PackedStore| {
        let mut bytes = vec![0; store.cache().snapshot_bytes()];
        store.cache().snapshot_into(&mut bytes).unwrap();
        bytes
    };
    let (before, bytes) = (snapshot(&store), store.memory());
    for cut in [0, 1, 143, 144, 1000, state.snapshot.len() - 1] {
        assert!(store.restore(&state.snapshot[..cut]).is_err());
    }
    for at in (0..state.snapshot.len()).step_by(97) {
        let mut changed = state.snapshot.clone();
        changed[at] ^= 0x20;
        assert!(store.restore(&changed).is_err(), "byte {at}");
    }
    assert!(store.restore(&snapshot_with(&state.snapshot, 12, &[5])).is_err());
    assert!(snapshot(&store) == before);
    assert_eq!(store.memory(), bytes);
    store.restore(&state.snapshot).unwrap();
    assert!(snapshot(&store) == state.snapshot);
}

/// What is no regular file is not replaced by one: a pipe, and for root a device, would be gone. A link stays a link.
#[cfg(unix)]
#[test]
fn devices_pipes_and_links_stay_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let state = state_of(&load("builtin", 0).unwrap(), 1, 20);
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [Path::new("/dev/null"), Path::new("/dev/full"), &pipe] {
        let error = error_of(state.write(path));
        assert!(error.contains("no regular file") && error.contains("nothing was saved"), "{error}");
        use std::os::unix::fs::FileTypeExt;
        let kind = std::fs::metadata(path).unwrap().file_type();
        assert!(kind.is_char_device() || kind.is_fifo(), "{}", path.display());
    }
    let (file, link) = (folder.path().join("file.state"), folder.path().join("link.state"));
    std::fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink("file.state", &link).unwrap();
    state.write(&link).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    assert_eq!(State::read(&file).unwrap(), state);
}

/// A disk that is full: 128 KiB of memory, mounted in a namespace of its own, which only root may do. For everyone else
/// [`a_full_disk_leaves_the_old_file`] stands for it.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_without_room_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = "mount -t tmpfs -o size=128k none \"$1\" || exit 77
        \"$2\" generate --prompt 'One day' --new-tokens 8 --save-state \"$1/a.state\" >/dev/null || exit 78
        cp \"$1/a.state\" \"$3/before\"
        head -c 1000000 /dev/zero > \"$1/filler\" 2>/dev/null
        \"$2\" generate --prompt 'Once upon a time' --new-tokens 200 --save-state \"$1/a.state\" >/dev/null
        code=$?
        cp \"$1/a.state\" \"$3/after\"; ls -A \"$1\" > \"$3/left\"; exit $code";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([disk.as_path(), Path::new(env!("CARGO_BIN_EXE_kvq")), folder.path()])
        .output();
    let output = match output {
        Ok(output) if folder.path().join("before").exists() => output,
        other => return println!("no file system may be mounted here: {other:?}"),
    };
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("nothing was saved") && error.contains("No space left on device"), "{error}");
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("before") == read("after"));
    assert_eq!(read("left"), b"a.state\nfiller\n", "the unfinished file is gone");
}
