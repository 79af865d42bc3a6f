//! Kafka's murmur2, written again from its description and held to figures that the Java client printed
//! (`org.apache.kafka.common.utils.Utils.murmur2` of kafka-clients 4.1.1), so that the test does not trust the library
//! that the relay uses.

/// The hash of the Java client.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).expect("keys are short");
    let mut hash: u32 = 0x9747_b28c ^ length;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("four bytes")).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (n, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * n);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    (hash ^ (hash >> 15)).cast_signed()
}

/// The partition that a Java producer chooses for a key.
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & i32::MAX) % partitions
}

/// Key, hash, partition of 6, partition of 12: printed by the Java class. The first six are in Kafka's own `UtilsTest`
/// or derived from it.
pub const JAVA: &[(&str, i32, i32, i32)] = &[
    ("21", -973_932_308, 0, 0),
    ("foobar", -790_332_482, 0, 6),
    ("a-little-bit-long-string", -985_981_536, 2, 8),
    ("a-little-bit-longer-string", -1_486_304_829, 5, 11),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971, 5, 5),
    ("a", -1_563_381_124, 4, 4),
    ("order-7", 323_129_857, 1, 1),
    ("4711", -1_914_427_126, 4, 10),
    ("90017", 52_207_532, 2, 8),
    ("customer:42", -674_319_663, 5, 5),
    ("ключ-✓", 2_112_660_750, 0, 6),
    ("0123456789012345", 972_695_527, 1, 7),
];

#[test]
fn it_hashes_as_the_java_client_does() {
    for &(key, hash, of_six, of_twelve) in JAVA {
        assert_eq!(murmur2(key.as_bytes()), hash, "hash of {key}");
        assert_eq!(partition(key.as_bytes(), 6), of_six, "partition of {key}");
        assert_eq!(partition(key.as_bytes(), 12), of_twelve, "partition of {key}");
    }
    // One figure over a thousand keys, folded as sum * 31 + hash.
    let sum = (0..1000)
        .fold(0_i64, |sum, n| sum.wrapping_mul(31).wrapping_add(i64::from(murmur2(format!("key-{n}").as_bytes()))));
    assert_eq!(sum, -736_525_418_377_640_100);
}
