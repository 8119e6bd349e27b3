//! The contract explains itself: everything in `proto/mmap.proto` has a comment, and every method's says
//! whether a retry is safe and which reasons it can fail with.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};

use mmap_proto::reason::Reason;
use mmap_proto::v1::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

// Field numbers of descriptor.proto, which the paths of source information are made of.
const FILE_MESSAGES: i32 = 4;
const FILE_ENUMS: i32 = 5;
const FILE_SERVICES: i32 = 6;
const MESSAGE_FIELDS: i32 = 2;
const MESSAGE_NESTED: i32 = 3;
const MESSAGE_ENUMS: i32 = 4;
const MESSAGE_ONEOFS: i32 = 8;
const ENUM_VALUES: i32 = 2;
const SERVICE_METHODS: i32 = 2;

/// Words in capitals that begin like a reason and are none.
const NOT_REASONS: [&str; 1] = ["EXEC"];

fn contract() -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    set.file.into_iter().find(|file| file.name() == "mmap.proto").unwrap()
}

/// Every named thing of the file, with its comment.
fn comments(file: &FileDescriptorProto) -> BTreeMap<String, String> {
    let locations = &file.source_code_info.as_ref().unwrap().location;
    let by_path: BTreeMap<&[i32], &str> =
        locations.iter().map(|location| (location.path.as_slice(), location.leading_comments())).collect();
    let mut names = Vec::new();
    for (index, message) in (0..).zip(&file.message_type) {
        message_names(message, "", &[FILE_MESSAGES, index], &mut names);
    }
    for (index, one) in (0..).zip(&file.enum_type) {
        enum_names(one, "", &[FILE_ENUMS, index], &mut names);
    }
    for (index, service) in (0..).zip(&file.service) {
        names.push((service.name().to_owned(), vec![FILE_SERVICES, index]));
        for (method, one) in (0..).zip(&service.method) {
            let path = vec![FILE_SERVICES, index, SERVICE_METHODS, method];
            names.push((format!("{}.{}", service.name(), one.name()), path));
        }
    }
    let comment = |path: &Vec<i32>| by_path.get(path.as_slice()).copied().unwrap_or_default().trim().to_owned();
    names.iter().map(|(name, path)| (name.clone(), comment(path))).collect()
}

fn message_names(message: &DescriptorProto, parent: &str, path: &[i32], names: &mut Vec<(String, Vec<i32>)>) {
    let name = format!("{parent}{}", message.name());
    names.push((name.clone(), path.to_vec()));
    for (index, field) in (0..).zip(&message.field) {
        names.push((format!("{name}.{}", field.name()), [path, &[MESSAGE_FIELDS, index]].concat()));
    }
    for (index, oneof) in (0..).zip(&message.oneof_decl) {
        // proto3's `optional` is a oneof that the compiler made up.
        if !oneof.name().starts_with('_') {
            names.push((format!("{name}.{}", oneof.name()), [path, &[MESSAGE_ONEOFS, index]].concat()));
        }
    }
    for (index, nested) in (0..).zip(&message.nested_type) {
        message_names(nested, &format!("{name}."), &[path, &[MESSAGE_NESTED, index]].concat(), names);
    }
    for (index, one) in (0..).zip(&message.enum_type) {
        enum_names(one, &format!("{name}."), &[path, &[MESSAGE_ENUMS, index]].concat(), names);
    }
}

fn enum_names(one: &EnumDescriptorProto, parent: &str, path: &[i32], names: &mut Vec<(String, Vec<i32>)>) {
    let name = format!("{parent}{}", one.name());
    names.push((name.clone(), path.to_vec()));
    for (index, value) in (0..).zip(&one.value) {
        names.push((format!("{name}.{}", value.name()), [path, &[ENUM_VALUES, index]].concat()));
    }
}

#[test]
fn everything_in_the_proto_file_has_a_comment() {
    let comments = comments(&contract());
    for name in ["MmapService.Mmap", "MmapRequest.path", "MmapStatsResponse.Prot.exec", "Map.MAP_SHARED"] {
        assert!(comments.contains_key(name), "the walk over the file misses {name}");
    }
    let bare: Vec<&String> = comments.iter().filter(|(_, comment)| comment.is_empty()).map(|(name, _)| name).collect();
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}

#[test]
fn every_method_says_how_it_fails_and_whether_a_retry_is_safe() {
    let file = contract();
    let comments = comments(&file);
    for service in &file.service {
        for method in &service.method {
            let name = format!("{}.{}", service.name(), method.name());
            let comment = &comments[&name];
            assert!(comment.contains("Reasons: "), "{name} does not say how it fails");
            // The pipeline's operations are other methods, and each says it for itself.
            let says_retry = comment.contains("Retry: ");
            assert!(says_retry || method.name() == "MmapPipeline", "{name} does not say whether a retry is safe");
        }
    }
}

/// Words that look like a reason's name.
fn reason_like(comment: &str) -> impl Iterator<Item = &str> {
    comment
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.len() > 3 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .filter(|word| word.starts_with('E') || word.starts_with("SEGV") || word.starts_with("SIG"))
        .filter(|word| !NOT_REASONS.contains(word))
}

#[test]
fn every_reason_in_a_comment_is_one_of_the_contract() {
    let comments = comments(&contract());
    let mut named = BTreeSet::new();
    for (name, comment) in &comments {
        for word in reason_like(comment) {
            assert!(Reason::parse(word).is_some(), "{name} names {word}, which is not a reason");
            named.insert(word);
        }
    }
    assert!(named.len() > 10, "the words are not found: {named:?}");
    assert_eq!(reason_like("fails with EWHAT, SIGBUS or EXEC").collect::<Vec<_>>(), ["EWHAT", "SIGBUS"]);
}
