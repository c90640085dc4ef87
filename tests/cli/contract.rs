//! `docs/contract.md` is the contract of `proto/devicedb/v1` as a page: written by
//! `UPDATE_GOLDEN=1 cargo test --test cli contract`, and compared by `cargo test`.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use devicedb::proto::DESCRIPTORS;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/contract.md");
const PACKAGE: &str = "devicedb.v1";

const OPENING: &str = "\
# The contract

Every call that programs can make, with what it takes and answers. This page is written from \
[`proto/devicedb/v1`](../proto/devicedb/v1), so it is not edited: \
`UPDATE_GOLDEN=1 cargo test --test cli contract` writes it anew. All services are at the one port \
of each node, as gRPC and, where a call has one answer, as [JSON over \
HTTP](scripting.md#json-over-http). Who may call what stands in [security](security.md#roles), and \
what a caller does about an error in [promise 3](promises.md#3-three-outcomes).

Fields of protobuf are never removed, renumbered or given another meaning: what a program sends \
and reads today it can send and read after every upgrade.

";

/// Where a descriptor stands in its file: the numbers of fields and elements that lead to it, as
/// `descriptor.proto` has them.
type At = Vec<i32>;

const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const FIELDS: i32 = 2;
const NESTED: i32 = 3;
const NESTED_ENUMS: i32 = 4;
const METHODS: i32 = 2;
const VALUES: i32 = 2;

/// The comments of one file, by what they stand before.
struct Comments(BTreeMap<At, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Comments {
        let places = file.source_code_info.iter().flat_map(|info| &info.location);
        let told = places.filter_map(|place| {
            let words = place.leading_comments.as_deref()?;
            Some((place.path.clone(), words.split_whitespace().collect::<Vec<_>>().join(" ")))
        });
        Comments(told.collect())
    }

    fn at(&self, at: &[i32]) -> String {
        self.0.get(at).map_or(String::new(), |words| words.replace('|', "\\|"))
    }
}

fn below(at: &[i32], what: i32, nth: usize) -> At {
    at.iter().copied().chain([what, nth as i32]).collect()
}

/// A type of the contract by its short name, with a link to where it stands.
fn linked(full: &str) -> String {
    let name = full.trim_start_matches('.');
    match name.strip_prefix(PACKAGE) {
        Some(short) => {
            let short = short.trim_start_matches('.');
            format!("[{short}](#{})", short.to_lowercase().replace('.', ""))
        }
        None => format!("`{name}`"),
    }
}

fn scalar(of: Type) -> &'static str {
    match of {
        Type::Bool => "bool",
        Type::Bytes => "bytes",
        Type::Double => "double",
        Type::Fixed32 => "fixed32",
        Type::Fixed64 => "fixed64",
        Type::Float => "float",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::String => "string",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        other => panic!("the contract has begun to use {other:?}: say how it is shown"),
    }
}

/// As a field is declared.
fn type_of(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        let is_map = nested.options.as_ref().is_some_and(|options| options.map_entry());
        is_map && field.type_name().ends_with(&format!(".{}", nested.name()))
    });
    if let Some(entry) = entry {
        let [key, value] = [0, 1].map(|nth| one(&entry.field[nth]));
        return format!("map of {key} to {value}");
    }
    let choice = field.oneof_index.filter(|_| !field.proto3_optional());
    match choice.map(|nth| message.oneof_decl[nth as usize].name()) {
        Some(choice) => format!("{}, or another of `{choice}`", one(field)),
        None if field.label() == Label::Repeated => format!("list of {}", one(field)),
        None if field.proto3_optional() => format!("{}, optional", one(field)),
        None => one(field),
    }
}

fn one(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => linked(field.type_name()),
        other => scalar(other).to_owned(),
    }
}

/// What a method takes or answers.
fn passed(name: &str, streams: bool) -> String {
    if streams { format!("stream of {}", linked(name)) } else { linked(name) }
}

fn method(of: &MethodDescriptorProto, words: &str) -> String {
    format!(
        "| `{}` | {} | {} | {words} |\n",
        of.name(),
        passed(of.input_type(), of.client_streaming()),
        passed(of.output_type(), of.server_streaming())
    )
}

fn message(page: &mut String, of: &DescriptorProto, name: &str, at: &[i32], said: &Comments) {
    write!(page, "### {name}\n\n{}\n\n", said.at(at)).unwrap();
    if !of.field.is_empty() {
        *page += "| field | type | number | what it says |\n| --- | --- | --- | --- |\n";
    }
    for (nth, field) in of.field.iter().enumerate() {
        let (words, of_type) = (said.at(&below(at, FIELDS, nth)), type_of(field, of));
        writeln!(page, "| `{}` | {of_type} | {} | {words} |", field.name(), field.number())
            .unwrap();
    }
    if !of.field.is_empty() {
        *page += "\n";
    }
    for (nth, nested) in of.nested_type.iter().enumerate() {
        if !nested.options.as_ref().is_some_and(|options| options.map_entry()) {
            let name = format!("{name}.{}", nested.name());
            message(page, nested, &name, &below(at, NESTED, nth), said);
        }
    }
    for (nth, nested) in of.enum_type.iter().enumerate() {
        let name = format!("{name}.{}", nested.name());
        choice(page, nested, &name, &below(at, NESTED_ENUMS, nth), said);
    }
}

fn choice(page: &mut String, of: &EnumDescriptorProto, name: &str, at: &[i32], said: &Comments) {
    write!(page, "### {name}\n\n{}\n\n", said.at(at)).unwrap();
    *page += "| value | number | what it says |\n| --- | --- | --- |\n";
    for (nth, value) in of.value.iter().enumerate() {
        let words = said.at(&below(at, VALUES, nth));
        writeln!(page, "| `{}` | {} | {words} |", value.name(), value.number()).unwrap();
    }
    *page += "\n";
}

fn contract() -> String {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let files: Vec<_> = set.file.iter().filter(|file| file.package() == PACKAGE).collect();
    assert!(!files.is_empty(), "no file has the package {PACKAGE}");
    let mut page = OPENING.to_owned();
    for file in &files {
        for service in &file.service {
            let name = service.name();
            writeln!(page, "- [{name}](#{})", name.to_lowercase()).unwrap();
        }
    }
    page += "\n";
    for file in &files {
        let said = Comments::of(file);
        for (nth, service) in file.service.iter().enumerate() {
            let at = [SERVICES, nth as i32];
            write!(page, "## {}\n\n{}\n\n", service.name(), said.at(&at)).unwrap();
            page += "| call | takes | answers | what it does |\n| --- | --- | --- | --- |\n";
            for (nth, of) in service.method.iter().enumerate() {
                page += &method(of, &said.at(&below(&at, METHODS, nth)));
            }
            page += "\n";
        }
        if file.service.is_empty() {
            page += "## What several calls have\n\n";
        }
        for (nth, of) in file.message_type.iter().enumerate() {
            message(&mut page, of, of.name(), &[MESSAGES, nth as i32], &said);
        }
        for (nth, of) in file.enum_type.iter().enumerate() {
            choice(&mut page, of, of.name(), &[ENUMS, nth as i32], &said);
        }
    }
    page.trim_end().to_owned() + "\n"
}

#[test]
fn the_page_is_what_the_contract_says() {
    let page = contract();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(PATH, &page).unwrap();
    }
    let held = fs::read_to_string(PATH).unwrap_or_default();
    let line = held.lines().zip(page.lines()).take_while(|(a, b)| a == b).count() + 1;
    assert!(
        held == page,
        "docs/contract.md:{line}: the contract says something else: UPDATE_GOLDEN=1 cargo test \
         --test cli contract\n{}",
        page.lines().nth(line - 1).unwrap_or_default()
    );
}

#[test]
fn the_page_leaves_nothing_unsaid() {
    let silent: Vec<String> = contract()
        .lines()
        .filter(|line| line.starts_with("| `") && line.ends_with("|  |"))
        .map(str::to_owned)
        .collect();
    assert!(silent.is_empty(), "nothing is said of {silent:#?}");
}
