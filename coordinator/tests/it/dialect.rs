//! How host agents of other versions speak: what an older one does not say yet, and what a newer one
//! says that this build has never heard of.

use grayfin_proto::v1::{Document, FromHost, ToHost};
use prost::Message;
use serde_json::{Map, Value, json};
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstCodec;

/// What documents did not have from the beginning.
const OLDER_LACKS: [&str; 5] = ["compute_group", "unit", "undo", "seen", "chain"];

/// What a newer one might add.
const ADDED: &str = "moon_phase";

/// Fields 1000 (two bytes) and 1001 (a number), as protobuf writes them.
const UNKNOWN: [u8; 8] = [0xc2, 0x3e, 2, b'h', b'i', 0xc8, 0x3e, 7];

/// Whose dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// This build's.
    Same,
    /// An older build's: the same wire version, fewer fields.
    Older,
    /// A newer build's: the same wire version, more fields, codes and kinds of messages.
    Newer,
    /// A build's whose documents this one cannot read.
    Beyond,
}

impl Dialect {
    /// What its hello says about itself.
    pub fn version(self) -> &'static str {
        match self {
            Self::Same => "0.1.0",
            Self::Older => "0.0.9",
            Self::Newer | Self::Beyond => "7.3.0-beta.1",
        }
    }

    /// A code that it gives.
    pub fn code(self) -> &'static str {
        if self == Self::Newer { "GF0699" } else { "GF0603" }
    }

    /// Writes a document.
    pub fn wrap<T: serde::Serialize>(self, value: &T) -> Document {
        let mut value = serde_json::to_value(value).unwrap();
        match self {
            Self::Same | Self::Beyond => {}
            Self::Older => each_object(&mut value, &|object| {
                object.retain(|key, _| !OLDER_LACKS.contains(&key.as_str()));
            }),
            Self::Newer => {
                // Not into every object: some are one choice of several.
                each_object(&mut value, &|object| {
                    if ["alias", "ledger_id", "sha256", "purpose"]
                        .iter()
                        .any(|k| object.contains_key(*k))
                    {
                        object.insert(ADDED.to_owned(), json!({ "phase": ["full", 3] }));
                    }
                });
                value[ADDED] = json!("new");
            }
        }
        let schema = grayfin_types::SCHEMA + u32::from(self == Self::Beyond);
        Document { schema, json: serde_json::to_vec(&value).unwrap() }
    }

    /// Writes a message.
    fn encode(self, message: &FromHost) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        if self != Self::Newer {
            return bytes;
        }
        // One field, whose number fits into a byte: its content grows, and so does the whole.
        let Some((key, mut rest)) = bytes.split_first() else { return UNKNOWN.to_vec() };
        let length = prost::decode_length_delimiter(&mut rest).unwrap();
        assert_eq!(length, rest.len(), "one message in the envelope");
        let mut grown = vec![*key];
        prost::encode_length_delimiter(length + UNKNOWN.len(), &mut grown).unwrap();
        grown.extend_from_slice(rest);
        grown.extend_from_slice(&UNKNOWN);
        grown.extend_from_slice(&UNKNOWN);
        grown
    }
}

fn each_object(value: &mut Value, act: &dyn Fn(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            act(object);
            object.values_mut().for_each(|inner| each_object(inner, act));
        }
        Value::Array(all) => all.iter_mut().for_each(|inner| each_object(inner, act)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Writes a host agent's messages in its dialect.
#[derive(Debug, Clone, Copy)]
pub struct Tongue(pub Dialect);

impl Codec for Tongue {
    type Encode = FromHost;
    type Decode = ToHost;
    type Encoder = Self;
    type Decoder = <ProstCodec<FromHost, ToHost> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<FromHost, ToHost>::default().decoder()
    }
}

impl Encoder for Tongue {
    type Item = FromHost;
    type Error = Status;

    fn encode(&mut self, item: FromHost, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &self.0.encode(&item));
        Ok(())
    }
}
