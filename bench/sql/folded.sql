-- Records that a consumer group has folded: all below the offsets that it has committed. The logs of the bench begin at
-- 0. $1 text: group.
select coalesce(sum(next_offset), 0)::bigint from consumer_partitions where consumer_group = $1
