//! What a message takes up once it is decoded, told from its bytes as they come.
//!
//! Two bytes are an empty fill, which is 144 bytes when decoded, and twice as much while its list grows: what is charged for
//! a call must not be what it is on the wire alone. So the bytes are walked through, before anything is made of them, along
//! the descriptors of the contract: each message, text and number in it is counted. Nothing is kept but where the walk
//! stands. Bytes that no decoder takes end it; the decoder stops there, too.

use std::collections::HashMap;
use std::sync::LazyLock;

use grapevine_proto::v1;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// How many times what is charged for it a message may be once decoded.
pub(super) const DECODED_FACTOR: usize = 4;

/// A message inside another: the largest of ours, and the room that its list has beside.
const MESSAGE_BYTES: usize = 2 * 144;
/// A text in a list, as above; what it says comes to that, with what it costs to keep apart.
const TEXT_BYTES: usize = 2 * 24;
const TEXT_KEPT_BYTES: usize = 16;
/// A number in a list.
const NUMBER_BYTES: usize = 2 * 8;
/// Messages inside one another; deeper ones of ours there are none.
const DEPTH_MAX: usize = 8;

/// A type of messages, by its place among the shapes.
pub(super) type Shape = usize;

/// What there is to know of a field with a length.
#[derive(Clone, Copy, Debug)]
enum Field {
    Message(Shape),
    Text,
    /// Numbers, of so many bytes each at least.
    Packed(usize),
    /// A number that is no list.
    Number,
}

/// The messages of the contract.
#[derive(Debug, Default)]
struct Shapes {
    fields: Vec<HashMap<u32, Field>>,
    /// By the path of the call.
    requests: HashMap<String, Shape>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(Shapes::of_the_contract);

/// The message that a call brings, if it is one of the contract's.
pub(super) fn shape(path: &str) -> Option<Shape> {
    SHAPES.requests.get(path).copied()
}

impl Shapes {
    fn of_the_contract() -> Self {
        let files = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET)
            .expect("invariant: the contract is compiled with its descriptors");
        let messages: Vec<(String, &DescriptorProto)> = files
            .file
            .iter()
            .flat_map(|file| {
                let package = file.package();
                let named = move |message: &'_ _| named(package, message);
                file.message_type.iter().map(move |it| (named(it), it))
            })
            .collect();
        let places: HashMap<&str, Shape> = messages
            .iter()
            .enumerate()
            .map(|(place, (name, _))| (name.as_str(), place))
            .collect();
        let fields = messages
            .iter()
            .map(|(_, message)| fields(message, &places))
            .collect();
        let requests = files.file.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                service.method.iter().map(move |method| {
                    let (package, service) = (file.package(), service.name());
                    let path = format!("/{package}.{service}/{}", method.name());
                    (path, method.input_type())
                })
            })
        });
        let requests = requests
            .filter_map(|(path, input)| Some((path, *places.get(input)?)))
            .collect();
        Self { fields, requests }
    }
}

/// A message's name, as fields and methods refer to it.
fn named(package: &str, message: &DescriptorProto) -> String {
    format!(".{package}.{}", message.name())
}

fn fields(message: &DescriptorProto, places: &HashMap<&str, Shape>) -> HashMap<u32, Field> {
    let field = |kind, of: &str| match kind {
        Type::Message => places.get(of).map_or(Field::Text, |&it| Field::Message(it)),
        Type::String | Type::Bytes | Type::Group => Field::Text,
        Type::Double | Type::Fixed64 | Type::Sfixed64 => Field::Packed(8),
        Type::Float | Type::Fixed32 | Type::Sfixed32 => Field::Packed(4),
        _ => Field::Packed(1),
    };
    message
        .field
        .iter()
        .filter_map(|it| {
            let number = u32::try_from(it.number()).ok()?;
            let kind = field(it.r#type(), it.type_name());
            // A single number has no length: decoders stop there.
            let single = matches!(kind, Field::Packed(_)) && it.label() != Label::Repeated;
            Some((number, if single { Field::Number } else { kind }))
        })
        .collect()
}

/// Where a walk stands.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Within a field's number and kind.
    Tag,
    /// Within a number.
    Number,
    /// Within the length of what a field holds; none is known of it if it is not the contract's.
    Length(Option<Field>),
    /// So many bytes say nothing.
    Skip(usize),
    /// No decoder goes on.
    Broken,
}

/// A walk through one message.
#[derive(Debug)]
pub(super) struct Walk {
    /// The messages that it is in, and where they end.
    within: [(Shape, usize); DEPTH_MAX],
    depth: usize,
    at: usize,
    step: Step,
    /// A varint, as far as it came, and its next bit.
    varint: (u64, u32),
    /// What was counted.
    bytes: usize,
}

impl Walk {
    /// Through a message of so many bytes.
    pub(super) fn new(shape: Option<Shape>, length: usize) -> Self {
        Self {
            within: [(shape.unwrap_or(0), length); DEPTH_MAX],
            depth: 0,
            at: 0,
            step: shape.map_or(Step::Broken, |_| Step::Tag),
            varint: (0, 0),
            bytes: 0,
        }
    }

    /// What the message takes up when decoded, as far as it came.
    pub(super) fn decoded(&self) -> usize {
        self.bytes
    }

    /// Goes on through what came next of it.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.step {
                Step::Broken => return,
                Step::Skip(left) => {
                    let next = left.min(bytes.len());
                    self.at += next;
                    bytes = &bytes[next..];
                    self.step = if next < left {
                        Step::Skip(left - next)
                    } else {
                        Step::Tag
                    };
                    continue;
                }
                // What was inside ends where the next field begins, as decoders see it.
                Step::Tag if self.varint.1 == 0 => self.leave(),
                Step::Tag | Step::Number | Step::Length(_) => {}
            }
            bytes = rest;
            self.at += 1;
            let (value, bit) = self.varint;
            let value = value | u64::from(byte & 0x7f).checked_shl(bit).unwrap_or(0);
            if byte & 0x80 == 0 {
                self.varint = (0, 0);
                self.step = self.stepped(value);
            } else if bit < 63 {
                self.varint = (value, bit + 7);
            } else {
                self.step = Step::Broken;
            }
        }
    }

    /// What comes after a varint.
    fn stepped(&mut self, value: u64) -> Step {
        match self.step {
            Step::Tag => self.tag(value),
            Step::Length(field) => self.held(field, usize::try_from(value).unwrap_or(usize::MAX)),
            _ => Step::Tag,
        }
    }

    fn leave(&mut self) {
        while self.depth > 0 && self.at >= self.within[self.depth].1 {
            self.depth -= 1;
        }
    }

    fn tag(&mut self, tag: u64) -> Step {
        let of = self.within[self.depth].0;
        let field = u32::try_from(tag >> 3)
            .ok()
            .and_then(|number| SHAPES.fields[of].get(&number).copied());
        let number = if field.is_some() { NUMBER_BYTES } else { 0 };
        match tag & 7 {
            0 => {
                self.bytes += number;
                Step::Number
            }
            1 => {
                self.bytes += number;
                Step::Skip(8)
            }
            2 => Step::Length(field),
            // Groups: what is in them is walked through like what is beside them.
            3 | 4 => Step::Tag,
            5 => {
                self.bytes += number;
                Step::Skip(4)
            }
            _ => Step::Broken,
        }
    }

    fn held(&mut self, field: Option<Field>, length: usize) -> Step {
        match field {
            Some(Field::Message(shape)) => {
                self.bytes += MESSAGE_BYTES;
                if self.depth + 1 < DEPTH_MAX {
                    self.depth += 1;
                    self.within[self.depth] = (shape, self.at.saturating_add(length));
                    return Step::Tag;
                }
            }
            Some(Field::Text) if length > 0 => {
                self.bytes += TEXT_BYTES + TEXT_KEPT_BYTES + self.coming(length);
            }
            Some(Field::Text) => self.bytes += TEXT_BYTES,
            Some(Field::Packed(least)) => {
                self.bytes += self.coming(length) / least * NUMBER_BYTES;
            }
            Some(Field::Number) | None => {}
        }
        if length == 0 {
            Step::Tag
        } else {
            Step::Skip(length)
        }
    }

    /// As much of a length as there is in the message: nobody makes anything of more.
    fn coming(&self, length: usize) -> usize {
        length.min(self.within[0].1.saturating_sub(self.at))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const FILLS: &str = "/grapevine.v1.ApplicationService/CommitFill";

    fn decoded(path: &str, message: &[u8]) -> usize {
        let mut whole = Walk::new(shape(path), message.len());
        whole.take(message);
        let mut bytewise = Walk::new(shape(path), message.len());
        message.chunks(1).for_each(|byte| bytewise.take(byte));
        assert_eq!(whole.decoded(), bytewise.decoded(), "frames do not matter");
        whole.decoded()
    }

    fn fill(address: &str, classes: &[&str]) -> v1::Fill {
        v1::Fill {
            address: address.into(),
            classes: classes.iter().map(|&class| class.into()).collect(),
            lease: vec![7; 34].into(),
            ttl_ms: 60_000,
            ..v1::Fill::default()
        }
    }

    #[test]
    fn g10_a_message_is_weighed_as_what_is_made_of_it() {
        // What a message costs is that of the largest, and that of a text a string's.
        assert!(2 * size_of::<v1::Fill>() <= MESSAGE_BYTES);
        assert!(2 * size_of::<v1::Registration>() <= MESSAGE_BYTES);
        assert!(2 * size_of::<v1::ResolveItem>() <= MESSAGE_BYTES);
        assert!(2 * size_of::<String>() <= TEXT_BYTES);
        let empties = [0x0a, 0].repeat(1_000);
        assert_eq!(decoded(FILLS, &empties), 1_000 * MESSAGE_BYTES);
        // One level below: a stream's message, and empty classes of one item.
        let stream = v1::ResolveStreamRequest {
            request: Some(v1::ResolveRequest {
                items: vec![v1::ResolveItem {
                    address: "an-address".into(),
                    classes: vec![String::new(); 1_000],
                    ..v1::ResolveItem::default()
                }],
                ..v1::ResolveRequest::default()
            }),
        };
        let path = "/grapevine.v1.ApplicationService/ResolveStream";
        let texts = 1_001 * TEXT_BYTES + TEXT_KEPT_BYTES + "an-address".len();
        let message = stream.encode_to_vec();
        assert_eq!(decoded(path, &message), 2 * MESSAGE_BYTES + texts);
        // What comes after a message inside is no more in it.
        let fills = v1::CommitFillRequest {
            fills: vec![fill("a", &["b", "c"]), fill("d", &["e", "f"])],
        };
        let text = |length: usize| TEXT_BYTES + TEXT_KEPT_BYTES + length;
        let one = MESSAGE_BYTES + 3 * text(1) + text(34) + NUMBER_BYTES;
        assert_eq!(decoded(FILLS, &fills.encode_to_vec()), 2 * one);
    }

    #[test]
    fn what_is_not_of_the_contract_or_broken_is_walked_through_without_harm() {
        assert_eq!(decoded("/grpc.health.v1.Health/Check", &[0x0a, 0]), 0);
        // Fields that nobody knows: a number, a text, eight and four bytes, and a group.
        let unknown = [
            0xf8, 0x07, 1, 0xfa, 0x07, 2, 0x0a, 0, 0xf9, 0x07, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0xfd,
            0x07, 0x0a, 0, 0, 0, 0xfb, 0x07, 0xfc, 0x07,
        ];
        assert_eq!(decoded(FILLS, &unknown), 0);
        let known = [&unknown[..], &[0x0a, 0]].concat();
        assert_eq!(decoded(FILLS, &known), MESSAGE_BYTES);
        // Lengths beyond the end, a varint without one, and a kind that there is none of.
        assert_eq!(decoded(FILLS, &[0x0a, 0xff, 0xff, 3]), MESSAGE_BYTES);
        assert_eq!(decoded(FILLS, &[0xff; 40]), 0);
        assert_eq!(decoded(FILLS, &[0x0f, 0x0a, 0]), 0);
        let long = [0x0a, 12, 0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(decoded(FILLS, &long) < 1_000, "only what came counts");
        // A fill whose time to live, one number, declares a length: decoders stop there, and make nothing of it.
        let numbers = [0x0a, 4, 5 << 3 | 2, 2, 1, 1];
        assert_eq!(decoded(FILLS, &numbers), MESSAGE_BYTES);
    }
}
