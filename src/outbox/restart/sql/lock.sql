-- Locks shards whose bounds are wrong, in an order that cannot deadlock, so that no step of theirs sees half of a
-- change: those that have passed ids which were never drawn (ahead_ids ascend, so the last one tells), and, on request,
-- all of an instance. $1 uuid: the instance. $2 boolean: all of its shards, whatever their bounds are. Materialized,
-- because a sequence must not take part in a statement that locks rows.
with last as materialized (select case when is_called then last_value else last_value - 1 end as id from outbox_events_id_seq)
select s.shard from outbox_shards s
where (s.owner = $1 and $2) or greatest(s.done_id, s.low_id - 1, s.ahead_ids[cardinality(s.ahead_ids)]) > (select id from last)
order by s.shard
for no key update of s
