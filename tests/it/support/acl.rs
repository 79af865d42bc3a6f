//! Permissions on topics. Kafka's own tool is a JVM that takes seconds of CPU, so the three requests are written here,
//! in the version that needs no tagged fields.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::{PrivateKafka, Topic, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const DESCRIBE_ACLS: i16 = 29;
const CREATE_ACLS: i16 = 30;
const DELETE_ACLS: i16 = 31;
const VERSION: i16 = 1;

const TOPIC: i8 = 2;
const LITERAL: i8 = 3;
const DENY: i8 = 2;
/// Tests do not say who they are.
const EVERYBODY: &str = "User:ANONYMOUS";

/// What may be forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Nobody can even see the topic.
    All = 2,
    Write = 4,
}

/// A broker that asks for permissions, and allows everything that nobody has forbidden. One for all tests that forbid
/// something on topics of their own.
pub async fn strict_kafka() -> &'static PrivateKafka {
    static KAFKA: OnceCell<PrivateKafka> = OnceCell::const_new();
    let settings = [
        "--config",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "--config",
        "allow.everyone.if.no.acl.found=true",
    ];
    KAFKA.get_or_init(|| PrivateKafka::start_with(&settings)).await
}

/// Forbids everybody to do this with a topic, or allows it again. Returns when the broker acts by it.
pub async fn forbid(topic: &Topic, operation: Operation, forbidden: bool) {
    let rule = |names: &mut Vec<u8>| {
        names.push(TOPIC.cast_unsigned());
        text(names, &topic.name);
        names.push(LITERAL.cast_unsigned());
        text(names, EVERYBODY);
        text(names, "*");
        names.extend([operation as u8, DENY.cast_unsigned()]);
    };
    let mut one = 1_i32.to_be_bytes().to_vec();
    rule(&mut one);
    let answer = ask(topic, if forbidden { CREATE_ACLS } else { DELETE_ACLS }, &one).await;
    // The time that the client was held back, how many results, and the error of the first.
    assert_eq!(answer[4..10], [0, 0, 0, 1, 0, 0], "forbid {operation:?} {forbidden}: {answer:?}");
    // The controller has it, and the broker learns of it.
    let mut filter = Vec::new();
    rule(&mut filter);
    wait_until("the broker knows the rule", PATIENCE, async || {
        let answer = ask(topic, DESCRIBE_ACLS, &filter).await;
        // The same, no error, no message (null or empty), and how many topics have such a rule.
        let known = answer[8..12] != [0; 4];
        if answer[4..6] == [0, 0] && known == forbidden { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

/// One request on a connection of its own; the answer without its head.
async fn ask(topic: &Topic, request: i16, body: &[u8]) -> Vec<u8> {
    let exchange = async {
        let mut stream = TcpStream::connect(&topic.bootstrap).await?;
        let mut frame = [request, VERSION].map(i16::to_be_bytes).concat();
        frame.extend(1_i32.to_be_bytes());
        text(&mut frame, "test");
        frame.extend(body);
        stream.write_i32(i32::try_from(frame.len()).expect("a short one")).await?;
        stream.write_all(&frame).await?;
        let length = usize::try_from(stream.read_i32().await?).expect("a length");
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.split_off(4))
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await;
    answer.expect("the broker answers").expect("the broker answers")
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(i16::try_from(text.len()).expect("a short text").to_be_bytes());
    bytes.extend(text.as_bytes());
}
