-- Puts held keys where their events are. A dead letter, or an event without a key, holds nobody but itself: its entry
-- has no key and goes with it.
update outbox_held_keys h set shard = w.shard
from (
  select k.first_id,
    coalesce(
      case when k.partition_key is null then (
        select outbox_shard_of(outbox_key_of(e.partition_key, e.aggregate_id), e.id) from outbox_events e where e.id = k.first_id)
      end,
      outbox_shard_of(k.partition_key, k.first_id)) as shard
  from outbox_held_keys k
) w
where w.first_id = h.first_id and h.shard <> w.shard
