//! The hash that maps keys to partitions: that of the Java client, and of librdkafka's `murmur2` partitioners.

/// Murmur2 with Kafka's seed.
pub(super) fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = word.iter().rev().fold(0_u32, |k, byte| (k << 8) | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0_u32, |k, byte| (k << 8) | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `UtilsTest` of the Java client.
    #[test]
    fn it_is_the_hash_of_the_java_client() {
        let cases: [(&str, u32); 6] = [
            ("21", (-973_932_308_i32).cast_unsigned()),
            ("foobar", (-790_332_482_i32).cast_unsigned()),
            ("a-little-bit-long-string", (-985_981_536_i32).cast_unsigned()),
            ("a-little-bit-longer-string", (-1_486_304_829_i32).cast_unsigned()),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", (-58_897_971_i32).cast_unsigned()),
            ("abc", 479_470_107),
        ];
        for (text, hash) in cases {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }
}
