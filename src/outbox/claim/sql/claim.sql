-- Reads the next events of shards, lowest id first. $1 smallint[]: shards. $2 bigint[]: their low_id, where to begin,
-- in the same order. $3 bigint: most rows of each. $4 bigint: most bytes of one row. $5 bigint[]: the highest ids to
-- claim, in the same order. $6 bigint: most bytes of all rows; the last row may exceed it. $7 int: rows up to this size
-- are not counted. Returns the events of a shard in id order. `takes` is null for an event that is returned whole. It
-- is the size of a row that has more than $4 bytes, of which only the key and the beginning of the names are returned,
-- and whose payload may not even have been printed. It is -1 for rows behind the one that filled $6: they cost nothing
-- to print or to send, and the caller stops reading at the first of them. `busy`: another transaction has locked or
-- changed the row, so it cannot be settled now. No row is locked otherwise: nobody else claims from a shard whose row
-- in outbox_shards is locked, as fence.sql does, and a lock would be gone long before the event is published.
-- Transactions that refer to the row by a foreign key do not make it busy. Changes nothing but a setting of this
-- transaction. The subqueries are levels that the planner does not merge: a payload is printed once, in the first, and
-- measured and sent as it is. With `shard = s.from_shard` the planner takes the primary key for the order of ids and
-- reads the rows of all shards, published ones included. The order of (shard, id) only the index of the PENDING rows
-- has.
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
  case
    when touched then (
      select true from outbox_events l where l.id = counted.id and l.status || '' = 'PENDING' for no key update skip locked
    ) is null
    else false
  end as busy
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
    order by c.shard, c.id limit $3
  ) printed
  offset 0
) counted
