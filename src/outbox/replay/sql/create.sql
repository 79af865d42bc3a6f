-- Notes a replay that begins. $1 uuid: its id. $2 jsonb: the filter. $3 text: the topic of the copies, or null. $4
-- boolean: new event ids. $5 int: copies per second, or null. $6 bigint: the highest id to copy. $7 bigint: how many
-- match. $8 text: who. $9 text: why, or null. $10 uuid: the process that works on it. Returns when it began. A repeat
-- fails on the primary key.
insert into outbox_replays (id, filter, to_topic, new_ids, rate, upto_id, matched, actor, reason, runner)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
returning created_at
