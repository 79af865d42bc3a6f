-- Whether a replay takes a row. A null filter matches everything. $4 bigint[]: ids, of which DISCARDED rows go as well,
-- and copies. $5 text: topic. $6 text: event type. $7 text: aggregate type. $8 text: aggregate id. $9 text: key. $10
-- timestamptz: created since. $11 timestamptz: created before.
(case when $4::bigint[] is null then status = 'PUBLISHED' and replay_of is null else status in ('PUBLISHED', 'DISCARDED') end)
  and dead_letter_of is null
  and ($5::text is null or topic = $5)
  and ($6::text is null or event_type = $6)
  and ($7::text is null or aggregate_type = $7)
  and ($8::text is null or aggregate_id = $8)
  and ($9::text is null or outbox_key_of(partition_key, aggregate_id) = outbox_key_of($9, null))
  and ($10::timestamptz is null or created_at >= $10)
  and ($11::timestamptz is null or created_at < $11)
