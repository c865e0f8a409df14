//! Checkpoints as they should not be: each kind is refused with a message that says what is wrong and what to do.

use std::path::{Path, PathBuf};

use diffusion::weights::{WeightSource, WeightsError, open_component, open_file, sha256_of_file};
use diffusion::{DType, Device};

const NAME: &str = "diffusion_pytorch_model.safetensors";

/// A file of a header and `data` bytes.
fn file_of(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend((0..data).map(|byte| byte as u8));
    file
}

/// One f32 tensor called `name`, with values 0, 1, 2 …
fn one_tensor(name: &str, count: usize) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[{count}],"data_offsets":[0,{}]}}}}"#, count * 4);
    let mut file = file_of(&header, 0);
    file.extend((0..count).flat_map(|value| (value as f32).to_le_bytes()));
    file
}

fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// The message with which a folder of this one file is refused.
fn refusal(bytes: &[u8]) -> String {
    let folder = folder_with(&[(NAME, bytes)]);
    open_component(folder.path()).map(|_| ()).unwrap_err().to_string()
}

fn names(folder: &Path) -> Vec<String> {
    open_component(folder).unwrap().index().iter().map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn each_kind_of_bad_header_is_refused_with_its_reason() {
    let entry = |offsets: &str| format!(r#""a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
    let second = |offsets: &str| format!(r#""b":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
    let two = |one: &str, two: &str| format!("{{{},{}}}", entry(one), second(two));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "truncated"),
        (vec![1, 2, 3], "truncated"),
        (file_of("{", 0)[..8].to_vec(), "truncated"),
        (u64::MAX.to_le_bytes().to_vec(), "claims 18446744073709551615 bytes"),
        ((1_u64 << 40).to_le_bytes().repeat(4), "claims 1099511627776 bytes"),
        (file_of(&two("[0,8]", "[8,16]"), 15), "truncated"),
        (file_of(&two("[0,8]", "[4,12]"), 12), "overlap"),
        (file_of(&two("[0,8]", "[0,8]"), 8), "overlap"),
        (file_of(&two("[0,8]", "[12,20]"), 20), "belong to no tensor"),
        (file_of(&two("[4,12]", "[12,20]"), 20), "belong to no tensor"),
        (file_of(&two("[0,8]", "[8,16]"), 17), "behind the last tensor"),
        (file_of(&two("[0,8]", "[16,8]"), 16), "claims the bytes 16 to 8"),
        (file_of(&two("[0,8]", "[8,12]"), 12), "claims 4 bytes"),
        (file_of(&two("[0,8]", "[1000000,1000008]"), 16), "truncated"),
        (file_of(&two("[0,8]", "[18446744073709551607,18446744073709551615]"), 16), "truncated"),
        (file_of(&format!("{{{},{}}}", entry("[0,8]"), entry("[8,16]")), 16), "occurs twice"),
        (file_of(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#, 0), "claims 0 bytes"),
        (file_of(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4,0],"data_offsets":[0,0]}}"#, 0), "claims 0 bytes"),
        (file_of(r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, 8), "dtype `F33`"),
        (file_of(r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8), "not valid"),
        (file_of(r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}}"#, 8), "dimensions"),
        (file_of(r#"{"a":{"dtype":"F32","shape":[2]}}"#, 8), "data_offsets"),
        (file_of("[1, 2]", 0), "not valid"),
        (file_of(&"[".repeat(100_000), 0), "not valid"),
        (file_of(&format!(r#"{{"{}":{{"dtype":"F32","shape":[],"data_offsets":[0,4]}}}}"#, "n".repeat(2000)), 4), "name"),
    ];
    for (bytes, expected) in cases {
        let message = refusal(&bytes);
        assert!(message.contains(expected), "expected `{expected}`: {message}");
        assert!(message.len() < 600, "{} bytes of message", message.len());
    }
    let mut not_text = file_of(r#"{"a":1}"#, 0);
    not_text[10] = 0xff;
    assert!(refusal(&not_text).contains("UTF-8"));
}

#[test]
fn pickles_are_known_by_content_and_the_message_says_how_to_convert() {
    for bytes in [
        b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl".as_slice(),
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}",
    ] {
        let message = refusal(bytes);
        assert!(message.contains("pickle") && message.contains("save_file"), "{message}");
    }
    let folder = folder_with(&[("diffusion_pytorch_model.bin", b"PK\x03\x04\x00\x00")]);
    let message = open_component(folder.path()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("diffusion_pytorch_model.bin") && message.contains("save_file"), "{message}");
    assert!(refusal(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n").contains("git lfs pull"));
    assert!(refusal(b"<!DOCTYPE html><html>not found").contains("HTML"));
}

#[test]
fn header_whose_length_looks_like_a_pickle_is_read() {
    let padded = format!("{:<640}", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
    let file = file_of(&padded, 4);
    assert_eq!(file[..2], [0x80, 0x02]);
    assert_eq!(names(folder_with(&[(NAME, &file)]).path()), ["a"]);
}

#[test]
fn tensors_of_no_elements_and_scalars_are_read() {
    let header = r#"{"none":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},"one":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    let folder = folder_with(&[(NAME, &file_of(header, 4))]);
    let source = open_component(folder.path()).unwrap();
    assert_eq!(source.tensor("none", &[0, 3], DType::F32, &Device::Cpu).unwrap().dims(), [0, 3]);
    assert_eq!(source.tensor("one", &[], DType::F16, &Device::Cpu).unwrap().rank(), 0);
}

#[test]
fn files_are_found_in_the_documented_order() {
    let [plain, other, half] = ["plain", "other", "half"].map(|name| one_tensor(name, 1));
    let half_name = "diffusion_pytorch_model.fp16.safetensors";
    assert_eq!(names(folder_with(&[(NAME, &plain), ("model.safetensors", &other), (half_name, &half)]).path()), ["plain"]);
    assert_eq!(names(folder_with(&[("model.safetensors", &other), (half_name, &half)]).path()), ["other"]);
    assert_eq!(names(folder_with(&[(half_name, &half)]).path()), ["half"]);
    let nothing = open_component(folder_with(&[]).path()).map(|_| ()).unwrap_err();
    assert!(matches!(nothing, WeightsError::NoWeights { .. }), "{nothing}");
    let absent = open_component(Path::new("/nowhere/at/all")).map(|_| ()).unwrap_err();
    assert!(matches!(absent, WeightsError::Read { .. }), "{absent}");
}

#[test]
fn shards_are_read_and_their_index_must_be_right() {
    let (first, second) = (one_tensor("a", 2), one_tensor("b", 3));
    let open = |index: &str| {
        let folder = folder_with(&[
            ("x-00001-of-00002.safetensors", &first),
            ("x-00002-of-00002.safetensors", &second),
            ("diffusion_pytorch_model.safetensors.index.json", index.as_bytes()),
        ]);
        let opened = open_component(folder.path());
        opened.map(|source| (source.index().len(), source.digest().unwrap().len())).map_err(|error| error.to_string())
    };
    let right = r#"{"metadata":{"total_size":20},"weight_map":{"a":"x-00001-of-00002.safetensors","b":"x-00002-of-00002.safetensors"}}"#;
    assert_eq!(open(right), Ok((2, 64)));
    for (index, expected) in [
        (r#"{"weight_map":{"a":"../x-00001-of-00002.safetensors"}}"#, "beside the index"),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, "beside the index"),
        (r#"{"weight_map":{"a":"..\\x.safetensors"}}"#, "beside the index"),
        (r#"{"weight_map":{"a":".."}}"#, "beside the index"),
        (r#"{"weight_map":{"a":7}}"#, "beside the index"),
        (r#"{"weight_map":{"a":"x-00002-of-00002.safetensors"}}"#, "not in"),
        (r#"{"weight_map":{"c":"x-00001-of-00002.safetensors"}}"#, "not in"),
        (r#"{"weight_map":{"a":"gone.safetensors"}}"#, "gone.safetensors"),
        (r#"{"weight_map":{}}"#, "names 0 files"),
        ("{}", "weight_map"),
        ("[", "JSON"),
    ] {
        let message = open(index).unwrap_err();
        assert!(message.contains(expected), "{index}: {message}");
    }
}

#[test]
fn same_name_in_two_shards_is_refused() {
    let (first, second) = (one_tensor("a", 2), one_tensor("a", 3));
    let index = r#"{"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}"#;
    let folder =
        folder_with(&[("x-1.safetensors", &first), ("x-2.safetensors", &second), ("model.safetensors.index.json", index.as_bytes())]);
    let error = open_component(folder.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, WeightsError::DuplicateAcrossFiles { .. }), "{error}");
}

#[test]
fn other_shape_than_expected_is_refused_before_reading() {
    let folder = folder_with(&[(NAME, &one_tensor("a", 6))]);
    let weights = open_component(folder.path()).unwrap();
    let get = |name: &str, shape: &[usize]| weights.tensor(name, shape, DType::F32, &Device::Cpu);
    let error = get("a", &[2, 3]).unwrap_err();
    assert_eq!(error.to_string(), "tensor `a` has shape [6]; the configuration says [2, 3]");
    // Larger than any memory: only a check before allocating can answer this.
    assert!(matches!(get("a", &[usize::MAX, usize::MAX]), Err(WeightsError::Shape { .. })));
    assert!(matches!(get("b", &[6]), Err(WeightsError::Missing { .. })));
    assert_eq!(get("a", &[6]).unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn checking_tells_all_that_does_not_fit() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"d":{"dtype":"F64","shape":[1],"data_offsets":[8,16]}}"#;
    let folder = folder_with(&[(NAME, &file_of(header, 16))]);
    let index = open_component(folder.path()).unwrap().index().clone();
    let asked: [(&str, &[usize]); 4] = [("a", &[1 << 30]), ("b", &[2]), ("c", &[3]), ("d", &[1])];
    let message = index.check(asked).unwrap_err().to_string();
    for expected in
        ["2 tensors are missing: b, c", "a (configuration [1073741824], file [2])", "1 is stored as no float of 8 to 32 bits: d (F64)"]
    {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn digest_of_one_file_is_its_sha256() {
    let folder = folder_with(&[(NAME, &one_tensor("a", 1)), ("abc", b"abc")]);
    assert_eq!(sha256_of_file(&folder.path().join("abc")).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    let file: PathBuf = folder.path().join(NAME);
    assert_eq!(open_file(&file).unwrap().digest().unwrap(), sha256_of_file(&file).unwrap());
    assert!(matches!(sha256_of_file(folder.path()), Err(WeightsError::Read { .. })));
}
