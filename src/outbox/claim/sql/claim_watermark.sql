-- Reads the next events of shards whose progress is a watermark: what claim.sql reads, but for what is published.
-- Published rows are not written to, so it does not matter who has locked them. $1 smallint[]: shards. $2 bigint[]:
-- their low_id, above done_id, in the same order. $3 bigint: most rows of each. $4 bigint: most bytes of one row. $5
-- bigint[]: the highest ids to claim, in the same order. $6 bigint: most bytes of all rows. $7 int: rows up to this
-- size are not counted. $8 bigint[]: published rows of all these shards that are still PENDING. $9 bigint: the last one
-- of these. Returns what claim.sql returns. Changes nothing but a setting of this transaction. `not in` over an
-- uncorrelated subquery is a hash table, and rows behind the last published one do not look into it.
select id, event_id,
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
  replay_of, dead_letter_of, counted.shard,
  false as busy
from (
  select * from unnest($1::smallint[], $2::bigint[], $5::bigint[]) as u(from_shard, low_id, ceiling)
  where (select set_config('outbox_relay.claimed', '0', true)) <> '' offset 0
) s
cross join lateral (
  select *,
    case
      when (payload_text is not null or payload is null) and (headers_text is not null or headers is null)
        and greatest(octet_length(payload_text), octet_length(headers_text), 0) <= $7
        and greatest(octet_length(event_type), octet_length(payload_raw), octet_length(aggregate_id), octet_length(partition_key),
          octet_length(aggregate_type), octet_length(topic), octet_length(correlation_id), octet_length(causation_id),
          octet_length(source), octet_length(traceparent)) <= $7 / 8 then null
      else outbox_count_claimed(octet_length(event_type)::bigint + coalesce(octet_length(payload_raw), 0)
        + coalesce(octet_length(aggregate_id), 0) + coalesce(octet_length(partition_key), 0)
        + coalesce(octet_length(aggregate_type), 0) + coalesce(octet_length(topic), 0)
        + coalesce(octet_length(correlation_id), 0) + coalesce(octet_length(causation_id), 0)
        + coalesce(octet_length(source), 0) + coalesce(octet_length(traceparent), 0)
        + case when payload is null then 0 else coalesce(octet_length(payload_text), $4 + 1) end
        + case when headers is null then 0 else coalesce(octet_length(headers_text), $4 + 1) end, $4, $6)
    end as takes
  from (
    select *,
      case when current_setting('outbox_relay.claimed') <> 'all' then outbox_json_text(payload, $4) end as payload_text,
      case
        when headers is not null and current_setting('outbox_relay.claimed') <> 'all' then outbox_json_text(headers, $4)
      end as headers_text
    from outbox_claimable c
    where (c.shard, c.id) >= (s.from_shard, s.low_id) and c.shard <= s.from_shard and c.status = 'PENDING' and c.id <= s.ceiling
      and (c.id > $9 or c.id not in (select unnest($8::bigint[])))
    order by c.shard, c.id limit $3
  ) printed
  offset 0
) counted
