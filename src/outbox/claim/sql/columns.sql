-- What a claim returns of a row, in the order that `rows.rs` knows. A row that is returned whole has no `takes`. Of
-- one that is too large, only the key and the beginning of the names are returned; of one that is not read, nothing.
id, event_id,
  case when takes is null then event_type when takes > 0 then left(event_type, 300) end as event_type, event_version,
  case when takes is null then aggregate_type when takes > 0 then left(aggregate_type, 300) end as aggregate_type,
  case when takes is null then topic when takes > 0 then left(topic, 300) end as topic,
  case when takes is null or takes > 0 then key end as key, key_bytes, takes, created_at, due_in,
  case when takes is null then aggregate_id end as aggregate_id,
  case when takes is null then payload_text end as payload,
  case when takes is null then payload_raw end as payload_raw,
  case when takes is null then headers_text end as headers,
  case when takes is null then correlation_id end as correlation_id,
  case when takes is null then causation_id end as causation_id,
  case when takes is null then source end as source,
  case when takes is null then traceparent end as traceparent,
  replay_of, dead_letter_of, counted.shard
