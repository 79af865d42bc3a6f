-- One portion of a replay: appends copies of the events that match in the next window, in the order of their ids. $1
-- bigint: the last id that was looked at. $2 bigint: the highest id of the replay. $3 bigint: most rows to look at. $4
-- bigint[]: ids. $5 text: topic. $6 text: event type. $7 text: aggregate type. $8 text: aggregate id. $9 text: key. $10
-- timestamptz: created since. $11 timestamptz: created before. A null filter matches everything. $12 bigint: most
-- copies. $13 bigint: most bytes of copies, as stored; the first one always fits. $14 text: the topic of the copies,
-- null for that of each original. $15 boolean: with an event_id of their own. $16 timestamptz: when the replay began;
-- the copies wait since then, which is what the age of the backlog goes by, while created_at stays that of the event.
-- Returns how many copies were made, how many rows the window had, whether the limits of a portion left some of them
-- for the next one, and the last id that is done with. Not to be repeated by itself: it runs in the transaction that
-- locks the replay's row and moves its last_id. Ids are drawn in the order of the select (PostgreSQL sorts before it
-- evaluates the defaults), so copies of a key keep its order. Copies of copies name the first original.
with seen as materialized (
  select id,
    coalesce(pg_column_size(payload), 0) + coalesce(pg_column_size(payload_raw), 0) + coalesce(pg_column_size(headers), 0) as bytes,
    {matches} as matches
  from outbox_current
  where id > $1 and id <= $2 and ($4::bigint[] is null or id = any($4))
  order by id limit $3
),
matching as materialized (
  select id, row_number() over (order by id) as number, sum(bytes) over (order by id) - bytes as bytes_before
  from seen where matches
),
chosen as materialized (
  select id from matching where number <= $12 and (number = 1 or bytes_before < $13)
),
copied as (
  insert into outbox_events (event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload,
    payload_raw, headers, correlation_id, causation_id, source, traceparent, created_at, available_at,
    replay_of)
  select case when $15::boolean then gen_random_uuid() else event_id end, aggregate_type, aggregate_id, event_type, event_version,
    coalesce($14::text, topic), partition_key, payload, payload_raw, headers, correlation_id, causation_id, source, traceparent,
    created_at, $16::timestamptz, coalesce(replay_of, id)
  from outbox_events
  where id = any(array(select id from chosen))
  order by id
  returning id
)
select t.copied, t.seen, t.chosen < t.matching as cut, case when t.chosen < t.matching then t.last_chosen else t.last_seen end as last_id
from (
  select (select count(*) from copied) as copied, (select count(*) from seen) as seen, (select count(*) from chosen) as chosen,
    (select count(*) from matching) as matching, (select max(id) from chosen) as last_chosen, (select max(id) from seen) as last_seen
) t
