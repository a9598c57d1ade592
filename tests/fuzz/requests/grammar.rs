//! Messages that have the fields which their descriptors say, with values near every edge.

use std::collections::HashMap;

use postrider_proto::FILE_DESCRIPTOR_SET;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use rand::{Rng as _, RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

/// Messages nest so deep at most; `google.protobuf.Value` could for ever.
const DEPTH_MAX: usize = 6;
/// Most values of a repeated field.
const REPEATED_MAX: usize = 4;
/// Whether a field is there, out of ten.
const PRESENT: f64 = 0.4;

/// A call.
#[derive(Debug)]
pub(super) struct Method {
    /// `/package.Service/Method`.
    pub(super) path: String,
    /// Its request, as descriptors name it.
    pub(super) input: String,
}

/// All messages of the contract.
pub(super) struct Grammar {
    messages: HashMap<String, DescriptorProto>,
    words: Vec<String>,
}

impl Grammar {
    /// Reads the contract: its messages, the calls with one request and one answer, and those with streams. Texts are taken from
    /// `words`, and made up.
    pub(super) fn read(words: Vec<String>) -> (Self, Vec<Method>, Vec<Method>) {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the contract is well-formed");
        let mut grammar = Self { messages: HashMap::new(), words };
        let (mut methods, mut streams) = (Vec::new(), Vec::new());
        for file in set.file {
            for message in &file.message_type {
                grammar.learn(&format!(".{}", file.package()), message);
            }
            for service in &file.service {
                for call in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), call.name());
                    let method = Method { path, input: call.input_type().to_owned() };
                    let is_stream = call.client_streaming() || call.server_streaming();
                    if is_stream { streams.push(method) } else { methods.push(method) }
                }
            }
        }
        (grammar, methods, streams)
    }

    fn learn(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.learn(&name, nested);
        }
        self.messages.insert(name, message.clone());
    }

    /// The bytes of a message of this type.
    pub(super) fn message(&self, name: &str, rng: &mut StdRng) -> Vec<u8> {
        self.nested(name, rng, 0)
    }

    fn nested(&self, name: &str, rng: &mut StdRng, depth: usize) -> Vec<u8> {
        let message = self.messages.get(name).unwrap_or_else(|| panic!("no message {name}"));
        let mut bytes = Vec::new();
        if depth > DEPTH_MAX {
            return bytes;
        }
        for field in message.field.iter().filter(|_| rng.random_bool(PRESENT)).collect::<Vec<_>>() {
            let is_repeated = field.label() == Label::Repeated;
            let times = if is_repeated { rng.random_range(1..=REPEATED_MAX) } else { 1 };
            for _ in 0..times {
                self.field(field, rng, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&self, field: &FieldDescriptorProto, rng: &mut StdRng, depth: usize, bytes: &mut Vec<u8>) {
        let number = u32::try_from(field.number()).expect("field numbers are positive");
        let put = |bytes: &mut Vec<u8>, value: &[u8]| {
            encode_key(number, WireType::LengthDelimited, bytes);
            encode_varint(value.len() as u64, bytes);
            bytes.extend_from_slice(value);
        };
        match field.r#type() {
            Type::Message | Type::Group => put(bytes, &self.nested(field.type_name(), rng, depth + 1)),
            Type::String | Type::Bytes => put(bytes, &self.text(rng)),
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                encode_key(number, WireType::SixtyFourBit, bytes);
                let edges = [0.0, -0.0, 0.1, 1.0, -1.0, 10_000.0, f64::NAN, f64::INFINITY, f64::MIN, f64::MAX];
                bytes.extend(edges.choose(rng).expect("there are some").to_le_bytes());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                encode_key(number, WireType::ThirtyTwoBit, bytes);
                bytes.extend(rng.next_u32().to_le_bytes());
            }
            Type::Bool | Type::Enum => {
                encode_key(number, WireType::Varint, bytes);
                encode_varint(if rng.random_bool(0.95) { rng.random_range(0..5) } else { rng.next_u64() }, bytes);
            }
            Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Sint32 | Type::Sint64 => {
                encode_key(number, WireType::Varint, bytes);
                encode_varint(number_near_an_edge(rng), bytes);
            }
        }
    }

    fn text(&self, rng: &mut StdRng) -> Vec<u8> {
        match rng.random_range(0..20) {
            0 => (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
            1 => "a".repeat(rng.random_range(0..5_000)).into_bytes(),
            2 => "{\"a\":".repeat(rng.random_range(0..200)).into_bytes(),
            _ => self.words.choose(rng).expect("there are words").clone().into_bytes(),
        }
    }
}

fn number_near_an_edge(rng: &mut StdRng) -> u64 {
    const EDGES: &[i64] = &[
        0,
        1,
        -1,
        2,
        10,
        50,
        100,
        1_000,
        1_001,
        65_536,
        86_400,
        999_999_999,
        1_000_000_000,
        1_700_000_000,
        253_402_300_799,
        253_402_300_800,
        -62_135_596_801,
        i32::MAX as i64,
        i32::MIN as i64,
        i64::MAX,
        i64::MIN,
    ];
    if rng.random_bool(0.9) { EDGES.choose(rng).expect("there are some").cast_unsigned() } else { rng.next_u64() }
}
