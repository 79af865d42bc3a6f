-- Holds the key of the event of trial_event.sql, in the same transaction. $1 bigint: its id.
insert into outbox_held_keys (first_id, shard, partition_key, reason, release_at, topic)
select id, shard, 'outbox-relay check ' || id, 'failed', null, topic from outbox_events where id = $1
