-- Reads the events of a batch that was in flight when its lane stopped, in the order they were sent in, or others by
-- their ids. $1 bigint[]: the ids. $2 bigint: most bytes of one row. $3 bigint: most bytes of all rows. $4 int: rows up
-- to this size are not counted. $5 boolean: `busy` says whether another transaction has locked or changed the row. A
-- batch that was in flight goes out again as it was, whoever has locked a row of it. Returns those that are still
-- PENDING, as claim.sql does. Changes nothing but a setting of this transaction. The status is compared as an
-- expression, so that the planner cannot choose the index of the PENDING rows: with statistics from a quiet moment it
-- believes that index to be almost empty, and a backlog made one batch take seconds.
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
  replay_of, dead_letter_of, shard,
  case
    when $5 and touched then (
      select true from outbox_events l where l.id = counted.id and l.status || '' = 'PENDING' for no key update skip locked
    ) is null
    else false
  end as busy
from (
  select *,
    case
      when (payload_text is not null or payload is null) and (headers_text is not null or headers is null)
        and greatest(octet_length(payload_text), octet_length(headers_text), 0) <= $4
        and greatest(octet_length(event_type), octet_length(payload_raw), octet_length(aggregate_id), octet_length(partition_key),
          octet_length(aggregate_type), octet_length(topic), octet_length(correlation_id), octet_length(causation_id),
          octet_length(source), octet_length(traceparent)) <= $4 / 8 then null
      else outbox_count_claimed(octet_length(event_type)::bigint + coalesce(octet_length(payload_raw), 0)
        + coalesce(octet_length(aggregate_id), 0) + coalesce(octet_length(partition_key), 0)
        + coalesce(octet_length(aggregate_type), 0) + coalesce(octet_length(topic), 0)
        + coalesce(octet_length(correlation_id), 0) + coalesce(octet_length(causation_id), 0)
        + coalesce(octet_length(source), 0) + coalesce(octet_length(traceparent), 0)
        + case when payload is null then 0 else coalesce(octet_length(payload_text), $2 + 1) end
        + case when headers is null then 0 else coalesce(octet_length(headers_text), $2 + 1) end, $2, $3)
    end as takes
  from (
    select *,
      case when current_setting('outbox_relay.claimed') <> 'all' then outbox_json_text(payload, $2) end as payload_text,
      case
        when headers is not null and current_setting('outbox_relay.claimed') <> 'all' then outbox_json_text(headers, $2)
      end as headers_text
    from (
      select * from outbox_claimable
      where id = any($1) and status || '' = 'PENDING' and (select set_config('outbox_relay.claimed', '0', true)) <> ''
      order by id offset 0
    ) found
    offset 0
  ) printed
  offset 0
) counted
