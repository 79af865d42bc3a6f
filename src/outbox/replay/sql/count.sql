-- One window of the walk, for counting: how many events would be copied, by topic and type. Changes nothing. $1 bigint:
-- the last id of the window before. $2 bigint: the highest id of the walk. $3 bigint: most rows of the window. $4
-- bigint[]: ids. $5 text: topic. $6 text: event type. $7 text: aggregate type. $8 text: aggregate id. $9 text: key. $10
-- timestamptz: created since. $11 timestamptz: created before. A null filter matches everything. Returns one row for
-- each topic, event type and aggregate type, or one without an event type when nothing matches; each with the rows and
-- the last id of the window, and when its oldest event was created. It is planned for the values given, as
-- list_events.sql is.
with seen as materialized (
  select id, topic, event_type, aggregate_type, created_at,
    {matches} as matches
  from outbox_current
  where id > $1 and id <= $2 and ($4::bigint[] is null or id = any($4))
  order by id limit $3
)
select w.seen, w.last_id, outbox_text(left(g.topic, 250)) as topic, outbox_text(left(g.event_type, 300)) as event_type,
  outbox_text(left(g.aggregate_type, 300)) as aggregate_type, coalesce(g.events, 0) as events, g.oldest
from (select count(*) as seen, max(id) as last_id from seen) w
left join (
  select topic, event_type, aggregate_type, count(*) as events, min(created_at) as oldest
  from seen where matches group by topic, event_type, aggregate_type
) g on true
